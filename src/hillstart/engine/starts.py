"""What became of each start: its costs epoch by epoch, how it ended, and where it stands among the others."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True, order=True)
class Hyperparameters:
    """What may differ from start to start besides the seed: learning rate, momentum and L2 strength."""

    eta: float
    momentum: float = 0.0
    lmbda: float = 0.0


TRAIN_COST, VAL_COST, VAL_ACCURACY = range(3)

FINISHED, STOPPED, DIVERGED = range(3)
STATUS = ("finished", "stopped", "diverged")
"""How a start ended: after the last epoch, before it by `stop`, or with a cost that exploded."""

ACTIVE = "active"
"""In the tables of a run that a signal ended: a start that had not ended."""

VOTERS = 16
"""How many of the best starts are kept, and vote together, when `keep` does not say."""


@dataclass(frozen=True)
class Start:
    """Where a start begins, by its seed, and how it rolls."""

    seed: int
    hyperparameters: Hyperparameters


@dataclass(frozen=True)
class StartResult:
    """One start at its end; costs and accuracy are those of its best epoch by validation cost."""

    start: Start
    epochs: int
    status: str
    train_cost: float
    val_cost: float
    val_accuracy: float

    @property
    def diverged(self) -> bool:
        return self.status == STATUS[DIVERGED]


class History:
    """The costs of S starts, epoch by epoch.

    Attributes:
        figures: (epochs, S, 3): training cost, validation cost, validation accuracy; nan after a start's end.
        epochs: (S,): how many epochs each has rolled.
        status: (S,): `FINISHED`, as long as a start is not ended early, `STOPPED` or `DIVERGED`.
    """

    def __init__(self, starts: Sequence[Start]):
        self.starts = list(starts)
        S = len(self.starts)
        self.figures = torch.empty(0, S, 3, dtype=torch.float64)
        self.epochs: Int64[Tensor, " S"] = torch.zeros(S, dtype=torch.long)
        self.status: Int64[Tensor, " S"] = torch.full((S,), FINISHED)

    @property
    def active(self) -> Bool[Tensor, " S"]:
        """Whether a start has not been ended."""
        return self.status == FINISHED

    def add(self, figures: Float[Tensor, "active 3"]) -> Bool[Tensor, " S"]:
        """Note an epoch of those that roll; True for each start that stands lower on its validation hill than before.

        Args:
            figures: training cost, validation cost, validation accuracy.
        """
        before = self.lowest()
        epoch = torch.full((1, len(self.starts), 3), math.nan, dtype=torch.float64)
        epoch[0, self.active] = figures.double()
        self.figures = torch.cat([self.figures, epoch])
        self.epochs += self.active
        return self.lowest() < before

    def end(self, these: Bool[Tensor, " S"], status: int) -> None:
        """These starts roll no further."""
        self.status[these] = status

    def lowest(self) -> Float[Tensor, " S"]:
        """The lowest validation cost of each start so far; infinite where there is none."""
        costs = self.figures[:, :, VAL_COST].nan_to_num(nan=math.inf)
        return torch.cat([torch.full((1, len(self.starts)), math.inf, dtype=torch.float64), costs]).amin(0)

    def epochs_since_lowest(self) -> Int64[Tensor, " S"]:
        """How many epochs ago each start had its lowest validation cost."""
        return len(self.figures) - 1 - self.figures[:, :, VAL_COST].nan_to_num(nan=math.inf).argmin(0)

    def ranking(self) -> list[int]:
        """Places of the starts, the best by validation cost first; diverged ones last; the lower seed on a tie."""
        rows = self.rows()
        return sorted(range(len(rows)), key=lambda s: standing(rows[s]))

    def rows(self) -> list[StartResult]:
        """A row for each start, in their order."""
        if not len(self.figures):
            return [StartResult(start, 0, STATUS[FINISHED], math.nan, math.inf, math.nan) for start in self.starts]
        best = self.figures[:, :, VAL_COST].nan_to_num(nan=math.inf).argmin(0)
        figures = self.figures[best, torch.arange(len(self.starts))].tolist()
        ends = zip(self.starts, self.epochs.tolist(), self.status.tolist(), figures, strict=True)
        return [StartResult(start, epochs, STATUS[status], *costs) for start, epochs, status, costs in ends]


def standing(row: StartResult) -> tuple[bool, float, int, Hyperparameters]:
    """What rows are ranked by: lowest validation cost first, diverged ones last, the lower seed on a tie."""
    cost = row.val_cost if math.isfinite(row.val_cost) else math.inf
    return row.diverged, cost, row.start.seed, row.start.hyperparameters


def varying(starts: Iterable[Start]) -> list[str]:
    """The hyperparameters in which the starts differ, by name."""
    seen: dict[str, set[float]] = {f.name: set() for f in fields(Hyperparameters)}
    for start in starts:
        for name, values in seen.items():
            values.add(getattr(start.hyperparameters, name))
    return [name for name, values in seen.items() if len(values) > 1]


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Number, minimum, lower quartile, median, upper quartile and maximum, for "best" never stands alone."""
    if not values:
        return {"n": 0}
    at = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1]).double()).tolist()
    return {
        "n": len(values),
        **dict(zip(["min", "lower_quartile", "median", "upper_quartile", "max"], at, strict=True)),
    }


def accuracy_interval(accuracy: float, pictures: int) -> tuple[float, float]:
    """How far the luck of which pictures were taken moves an accuracy on so many: one standard error to either side.

    Wilson's interval (J. Am. Stat. Assoc. 22, 1927) with z = 1. Unlike p -+ sqrt(p (1 - p) / n), which it comes close
    to for many pictures, it has a width where all answers are right or all are wrong, and stays within 0 and 1.
    """
    p, n = accuracy, pictures
    centre, half = (p + 1 / (2 * n)) / (1 + 1 / n), math.sqrt(p * (1 - p) / n + 1 / (4 * n * n)) / (1 + 1 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def standard_error(accuracy: float, pictures: int) -> float:
    """Half the width of `accuracy_interval`: the interval as one number, never 0."""
    low, high = accuracy_interval(accuracy, pictures)
    return (high - low) / 2
