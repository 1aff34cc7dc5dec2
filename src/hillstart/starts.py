"""What became of each start: its costs epoch by epoch, where it stands among the others, and which are kept."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hillstart.descent import Hyperparameters

TRAIN_COST, VAL_COST, VAL_ACCURACY = range(3)


@dataclass(frozen=True)
class Start:
    """Where a start begins, by its seed, and how it rolls."""

    seed: int
    hyperparameters: Hyperparameters


@dataclass(frozen=True)
class Row:
    """One start at the end of its training; costs and accuracy are those of its best epoch by validation cost."""

    start: Start
    epochs: int
    status: str
    train_cost: float
    val_cost: float
    val_accuracy: float
    rank: int


class Record:
    """The costs of S starts, epoch by epoch.

    Attributes:
        history: (epochs, S, 3): training cost, validation cost, validation accuracy.
    """

    def __init__(self, starts: Sequence[Start]):
        self.starts = list(starts)
        self.history = torch.empty(0, len(self.starts), 3, dtype=torch.float64)

    def add(
        self, train_cost: Float[Tensor, " S"], val_cost: Float[Tensor, " S"], val_accuracy: Float[Tensor, " S"]
    ) -> Bool[Tensor, " S"]:
        """Note one epoch; True for each start that stands lower on the validation hill than ever before."""
        before = self.lowest()
        epoch = torch.stack([train_cost, val_cost, val_accuracy], -1).double().unsqueeze(0)
        self.history = torch.cat([self.history, epoch])
        return self.lowest() < before

    def lowest(self) -> Float[Tensor, " S"]:
        """The lowest validation cost of each start so far; infinite where there is none."""
        costs = self.history[:, :, VAL_COST].nan_to_num(nan=math.inf)
        return torch.cat([torch.full((1, len(self.starts)), math.inf, dtype=torch.float64), costs]).amin(0)

    def diverged(self) -> Bool[Tensor, " S"]:
        """Whether a start's costs have ever ceased to be finite."""
        return ~self.history[:, :, : VAL_COST + 1].isfinite().all(2).all(0)

    def ranking(self) -> list[int]:
        """Places of the starts, the best by validation cost first; diverged ones last; the lower seed on a tie."""
        lowest, diverged = self.lowest().tolist(), self.diverged().tolist()
        return sorted(range(len(self.starts)), key=lambda s: (diverged[s], lowest[s], self.starts[s].seed))

    def rows(self) -> list[Row]:
        """A row for each start, ranked."""
        diverged = self.diverged()
        rows = []
        for rank, s in enumerate(self.ranking(), 1):
            costs = self.history[:, s]
            best = costs[:, VAL_COST].nan_to_num(nan=math.inf).argmin()
            finite = costs[:, : VAL_COST + 1].isfinite().all(1)
            epochs = len(costs) if finite.all() else int(finite.int().argmin()) + 1
            status = "diverged" if diverged[s] else "finished"
            train_cost, val_cost, val_accuracy = costs[best].tolist()
            rows.append(Row(self.starts[s], epochs, status, train_cost, val_cost, val_accuracy, rank))
        return rows

    def varying(self) -> list[str]:
        """The hyperparameters in which the starts differ, by name."""
        return [
            f.name
            for f in fields(Hyperparameters)
            if len({getattr(s.hyperparameters, f.name) for s in self.starts}) > 1
        ]

    def write(self, folder: Path) -> None:
        """`starts.csv`, a row for each start, ranked; `history.csv`, a row for each start and epoch.

        What varies among the starts has a column of its own, behind the others where it has none among them.
        """
        varying = self.varying()
        more = [name for name in varying if name != "eta"]
        with (folder / "starts.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["seed", "eta", "epochs", "status", "train_cost", "val_cost", "val_accuracy", "rank", *more])
            for row in self.rows():
                rolls, costs = row.start.hyperparameters, (row.train_cost, row.val_cost, row.val_accuracy)
                begins = (row.start.seed, rolls.eta, row.epochs, row.status)
                table.writerow([*begins, *costs, row.rank, *(getattr(rolls, name) for name in more)])
        with (folder / "history.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["seed", "epoch", "train_cost", "val_cost", "val_accuracy", *varying])
            differences = [[getattr(start.hyperparameters, name) for name in varying] for start in self.starts]
            for epoch, costs_of_all in enumerate(self.history.tolist(), 1):
                for start, costs, differs in zip(self.starts, costs_of_all, differences, strict=True):
                    table.writerow([start.seed, epoch, *costs, *differs])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Number, minimum, lower quartile, median, upper quartile and maximum, for "best" never stands alone."""
    if not values:
        return {"n": 0}
    at = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1]).double()).tolist()
    return {
        "n": len(values),
        **dict(zip(["min", "lower_quartile", "median", "upper_quartile", "max"], at, strict=True)),
    }


def standard_error(accuracy: float, pictures: int) -> float:
    """How far an accuracy on so many pictures is off by the luck of which pictures they are: sqrt(p (1 - p) / n)."""
    return math.sqrt(accuracy * (1 - accuracy) / pictures)
