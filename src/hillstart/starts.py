"""What became of each start: its costs epoch by epoch, where it stands among the others, and which are kept."""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TRAIN_COST, VAL_COST, VAL_ACCURACY = range(3)


@dataclass(frozen=True)
class Row:
    """One start at the end of its training; costs and accuracy are those of its best epoch by validation cost."""

    seed: int
    eta: float
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

    def __init__(self, seeds: Sequence[int], etas: Sequence[float]):
        self.seeds, self.etas = list(seeds), list(etas)
        self.history = torch.empty(0, len(self.seeds), 3, dtype=torch.float64)

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
        return torch.cat([torch.full((1, len(self.seeds)), math.inf, dtype=torch.float64), costs]).amin(0)

    def diverged(self) -> Bool[Tensor, " S"]:
        """Whether a start's costs have ever ceased to be finite."""
        return ~self.history[:, :, : VAL_COST + 1].isfinite().all(2).all(0)

    def ranking(self) -> list[int]:
        """Places of the starts, the best by validation cost first; diverged ones last; the lower seed on a tie."""
        lowest, diverged = self.lowest().tolist(), self.diverged().tolist()
        return sorted(range(len(self.seeds)), key=lambda s: (diverged[s], lowest[s], self.seeds[s]))

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
            rows.append(Row(self.seeds[s], self.etas[s], epochs, status, train_cost, val_cost, val_accuracy, rank))
        return rows

    def write(self, folder: Path) -> None:
        """`starts.csv`, a row for each start, ranked; `history.csv`, a row for each start and epoch."""
        with (folder / "starts.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, [field.name for field in fields(Row)])
            table.writeheader()
            table.writerows(asdict(row) for row in self.rows())
        with (folder / "history.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["seed", "epoch", "train_cost", "val_cost", "val_accuracy"])
            for epoch, costs in enumerate(self.history.tolist(), 1):
                lines.writerows([seed, epoch, *cost] for seed, cost in zip(self.seeds, costs, strict=True))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Number, minimum, lower quartile, median, upper quartile and maximum, for "best" never stands alone."""
    if not values:
        return {"n": 0}
    at = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1]).double()).tolist()
    return {
        "n": len(values),
        **dict(zip(["min", "lower_quartile", "median", "upper_quartile", "max"], at, strict=True)),
    }
