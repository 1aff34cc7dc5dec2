"""The starts of a run: their hyperparameters, their costs epoch by epoch, their results and their ranking."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from hillstart.system.statistics import quantiles


@dataclass(frozen=True, order=True)
class Hyperparameters:
    """The settings that may differ between starts besides the seed: learning rate, momentum and L2 strength.

    These fields are the only list of hyperparameters per start: grids, tables, checkpoints and messages follow them. A
    field that is added must have a default, for runs that were made without it; its option is an argument of
    `training.optimizer.SGDConfig` of the same name, and the step that uses it (`network.py`) takes it by that name.
    """

    eta: float
    momentum: float = 0.0
    lmbda: float = 0.0


HYPERPARAMETERS = tuple(field.name for field in fields(Hyperparameters))

FIGURES = ("train_cost", "val_cost", "val_accuracy")
"""The measurements of each start after each epoch."""
TRAIN_COST, VAL_COST, VAL_ACCURACY = range(3)

FINISHED, STOPPED, DIVERGED = range(3)
STATUS = ("finished", "stopped", "diverged")
"""The ways in which a start ends: after the last epoch, earlier by `stop`, or with a cost that exploded."""

ACTIVE = "active"
"""In the tables of an interrupted run, the status of a start that had not ended."""

VOTERS = 16
"""The number of best starts that are kept and vote together by default."""


@dataclass(frozen=True)
class Start:
    """The seed of a start, which gives its starting point, and its hyperparameters."""

    seed: int
    hyperparameters: Hyperparameters


@dataclass(frozen=True)
class StartResult:
    """The result of one start; costs and accuracies are those of its best epoch by validation cost.

    Attributes:
        best_epoch: the epoch after which its weights are kept, from 1; 0 if every epoch had the validation cost nan, or
            if a table of an earlier version does not hold it.
        test_cost, test_accuracy: nan unless every start is evaluated on the test pictures. No choice uses them.
    """

    start: Start
    epochs: int
    status: str
    train_cost: float
    val_cost: float
    val_accuracy: float
    best_epoch: int = 0
    test_cost: float = math.nan
    test_accuracy: float = math.nan

    @property
    def diverged(self) -> bool:
        return self.status == STATUS[DIVERGED]


class History:
    """The costs of S starts, epoch by epoch.

    Attributes:
        figures: (epochs, S, 3): training cost, validation cost, validation accuracy; nan after a start has ended.
        epochs: (S,): how many epochs each start was trained.
        status: (S,): `STOPPED` or `DIVERGED` for a start that was ended early, else `FINISHED`.
        test: (S, 2): test cost and accuracy of the kept weights; (S, 0) if they are not measured.
    """

    def __init__(self, starts: Sequence[Start]):
        self.starts = list(starts)
        S = len(self.starts)
        self.figures = torch.empty(0, S, 3, dtype=torch.float64)
        self.epochs: Int64[Tensor, " S"] = torch.zeros(S, dtype=torch.long)
        self.status: Int64[Tensor, " S"] = torch.full((S,), FINISHED)
        self.test: Float[Tensor, "S figures"] = torch.empty(S, 0, dtype=torch.float64)

    @classmethod
    def join(cls, parts: Sequence["History"]) -> "History":
        """The starts of several histories in one; those that ended early have nan in the epochs of the others."""
        joined = cls([start for part in parts for start in part.starts])
        epochs = max(len(part.figures) for part in parts)
        padded = [nn.functional.pad(p.figures, (0, 0, 0, 0, 0, epochs - len(p.figures)), value=math.nan) for p in parts]
        joined.figures = torch.cat(padded, 1)
        for name in ("epochs", "status", "test"):
            setattr(joined, name, torch.cat([getattr(part, name) for part in parts if part.starts]))
        return joined

    @property
    def _val_costs(self) -> Float[Tensor, "epochs S"]:
        """The validation costs, infinite where there is none."""
        return self.figures[:, :, VAL_COST].nan_to_num(nan=math.inf)

    @property
    def active(self) -> Bool[Tensor, " S"]:
        """Mask of the starts that have not been ended early."""
        return self.status == FINISHED

    def add(self, figures: Float[Tensor, "active 3"]) -> Bool[Tensor, " S"]:
        """Append an epoch; returns which starts have a new lowest validation cost.

        Args:
            figures: training cost, validation cost, validation accuracy of each active start.
        """
        before = self.lowest()
        epoch = torch.full((len(self.starts), 3), math.nan, dtype=torch.float64)
        epoch[self.active] = figures.double()
        self.figures = torch.cat([self.figures, epoch.unsqueeze(0)])
        self.epochs += self.active
        return epoch[:, VAL_COST] < before

    def end(self, these: Bool[Tensor, " S"], status: int) -> None:
        """End the starts marked in `these` with this status."""
        self.status[these] = status

    def lowest(self) -> Float[Tensor, " S"]:
        """The lowest validation cost of each start so far; infinite where there is none."""
        none = torch.full((1, len(self.starts)), math.inf, dtype=torch.float64)
        return torch.cat([none, self._val_costs]).amin(0)

    def epochs_since_lowest(self) -> Int64[Tensor, " S"]:
        """Epochs since the lowest validation cost of each start."""
        return len(self.figures) - 1 - self._val_costs.argmin(0)

    def _of_best_epoch(self) -> tuple[Int64[Tensor, " S"], Float[Tensor, "S 3"]]:
        """The epoch with the lowest validation cost of each start, from 0, and its figures."""
        best = self._val_costs.argmin(0)
        return best, self.figures[best, torch.arange(len(self.starts))]

    def ranking(self) -> list[int]:
        """Indices of the starts in the order of `ranking_key`, found without a `StartResult` for each."""
        starts = self.starts
        by_start = np.array(sorted(range(len(starts)), key=lambda s: (starts[s].seed, starts[s].hyperparameters)), int)
        costs = np.full(len(starts), math.inf)
        if len(self.figures):
            costs = self._of_best_epoch()[1][:, VAL_COST].numpy()
            costs = np.where(np.isfinite(costs), costs, math.inf)
        diverged = self.status.numpy() == DIVERGED
        # lexsort is stable, and its last key counts first.
        return by_start[np.lexsort((costs[by_start], diverged[by_start]))].tolist()

    def rows(self) -> list[StartResult]:
        """The result of each start so far, in the order of `starts`."""
        if not len(self.figures):
            return [StartResult(start, 0, STATUS[FINISHED], math.nan, math.inf, math.nan) for start in self.starts]
        best, figures = self._of_best_epoch()
        best_epoch = torch.where(self.lowest().isfinite(), best + 1, 0)
        columns = (
            *(self.epochs.tolist(), [STATUS[status] for status in self.status.tolist()]),
            *figures.T.tolist(),
            best_epoch.tolist(),
            *self.test.T.tolist(),
        )
        return [StartResult(*result) for result in zip(self.starts, *columns, strict=True)]


def progress(figures: Float[Tensor, "epochs S 3"], sound: Bool[Tensor, " S"]) -> dict[str, float]:
    """Metrics after the last of these epochs: of the best start so far, and the quartiles of the starts in that epoch.

    Args:
        figures: as `History.figures`.
        sound: mask of the starts that did not diverge; the others count nowhere.
    """
    figures = figures[:, sound]
    last = figures[-1][~figures[-1, :, VAL_COST].isnan()]
    metrics = {"epoch": float(len(figures)), "active": float(len(last))}
    if figures[:, :, VAL_COST].isfinite().any():
        best = figures.flatten(0, 1)[figures[:, :, VAL_COST].nan_to_num(nan=math.inf).argmin()]
        metrics |= {"val_cost": float(best[VAL_COST]), "val_accuracy": float(best[VAL_ACCURACY])}
    for name, values in zip(FIGURES, last.T.tolist(), strict=True):
        spread = quantiles(values)
        metrics |= {f"{q}_{name}": spread[q] for q in ("lower_quartile", "median", "upper_quartile") if q in spread}
    return metrics


def ranking_key(row: StartResult) -> tuple[bool, float, int, Hyperparameters]:
    """Sort key of the ranking: lowest validation cost first, diverged starts last, the lower seed on a tie."""
    cost = row.val_cost if math.isfinite(row.val_cost) else math.inf
    return row.diverged, cost, row.start.seed, row.start.hyperparameters


def varying(starts: Iterable[Start]) -> list[str]:
    """Names of the hyperparameters in which the starts differ."""
    distinct = {start.hyperparameters for start in starts}
    return [name for name in HYPERPARAMETERS if len({getattr(point, name) for point in distinct}) > 1]
