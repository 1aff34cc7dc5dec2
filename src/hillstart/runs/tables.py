"""The tables of a run: `starts.csv`, a row for each start, and `history.csv`, a row for each start and epoch."""

import csv
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hillstart.engine.starts import History, Start, StartResult, standing, varying
from hillstart.system.errors import InputError
from hillstart.system.files import WritingError, on_disk, open_regular, relative, replacing, writing

STARTS = ("seed", "eta", "epochs", "status", "train_cost", "val_cost", "val_accuracy", "rank")
HISTORY = ("seed", "epoch", "train_cost", "val_cost", "val_accuracy")


class Tables:
    """Both tables in a folder, growing as starts are done; what varies among the starts has a column of its own.

    The ranks are known at the end only: until then that column is empty and the rows stand in the order they came.
    Whatever cannot be written raises a WritingError.

    Attributes:
        sizes: of both, in bytes, as far as they were written whole.
    """

    def __init__(self, folder: Path, starts: Sequence[Start]):
        self.starts, self.history = folder / "starts.csv", folder / "history.csv"
        self._varying, self._alike = varying(starts), starts[0].hyperparameters
        self._more = [name for name in self._varying if name != "eta"]
        self.sizes = (0, 0)

    def begin(self) -> None:
        """Empty tables, in place of those that are there."""
        self.sizes = (0, 0)
        for table, names in ((self.starts, (*STARTS, *self._more)), (self.history, (*HISTORY, *self._varying))):
            with replacing(table, sync=False) as new:
                _write(new, [names], "w")
        self.sizes = self._sizes()

    def cut(self, sizes: tuple[int, int]) -> None:
        """Go on behind what lies in the first so many bytes of both.

        Raises:
            WritingError: one of them is missing, or shorter.
        """
        for table, size in zip((self.starts, self.history), sizes, strict=True):
            there = table.stat().st_size if table.is_file() else 0
            if there < size:
                raise WritingError(
                    f"{relative(table)} cannot be written: of the {size} bytes that it had, {there} are there; "
                    "put the file back, or begin a new run."
                )
            with writing(table):
                if table.stat().st_nlink > 1:  # its other name, in a copy made of links say, keeps what it has
                    with replacing(table, sync=False) as new:
                        shutil.copyfile(table, new)
                os.truncate(table, size)
        self.sizes = sizes

    def sync(self) -> None:
        """Wait until what was added lies on the disk."""
        for table in (self.starts, self.history):
            with writing(table):
                on_disk(table)

    def add(self, rows: Iterable[StartResult], history: History, places: Sequence[int]) -> None:
        """Append the rows and the history of these places of a record; all of it, or nothing that counts.

        The first time the tables are begun anew, unless `begin` or `cut` was called before.
        """
        if self.sizes == (0, 0):
            self.begin()
        self.cut(self.sizes)
        _write(self.starts, (self._line(row, "") for row in rows), "a")
        _write(self.history, self._epochs(history, places), "a")
        self.sizes = self._sizes()

    def _sizes(self) -> tuple[int, int]:
        return self.starts.stat().st_size, self.history.stat().st_size

    def end(self, rows: Iterable[StartResult]) -> None:
        """All rows, ranked."""
        ranked = enumerate(sorted(rows, key=standing), 1)
        lines = [(*STARTS, *self._more), *(self._line(row, rank) for rank, row in ranked)]
        with replacing(self.starts, sync=False) as new:
            _write(new, lines, "w")

    def read(self, size: int | None = None) -> list[StartResult]:
        """The rows that lie in the first `size` bytes of `starts.csv`, or in all of it.

        Raises:
            InputError: it is missing or damaged.
        """
        try:
            with open_regular(self.starts) as file:
                text = file.read(-1 if size is None else size).decode()
            return [self._row(line) for line in csv.DictReader(text.splitlines())]
        except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
            raise InputError(f"{self.starts} cannot be read back as the table of the run's starts.") from error

    def _line(self, row: StartResult, rank: int | str) -> tuple[Any, ...]:
        rolls = row.start.hyperparameters
        costs = (row.train_cost, row.val_cost, row.val_accuracy)
        begins = (row.start.seed, rolls.eta, row.epochs, row.status)
        return (*begins, *costs, rank, *(getattr(rolls, name) for name in self._more))

    def _row(self, line: dict[str, str]) -> StartResult:
        rolls = {name: float(line[name]) for name in ("eta", *self._more)}
        start = Start(int(line["seed"]), replace(self._alike, **rolls))
        costs = (float(line[name]) for name in ("train_cost", "val_cost", "val_accuracy"))
        return StartResult(start, int(line["epochs"]), line["status"], *costs)

    def _epochs(self, history: History, places: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        differs = {p: [getattr(history.starts[p].hyperparameters, name) for name in self._varying] for p in places}
        figures, epochs = history.figures[:, list(places)].tolist(), history.epochs.tolist()
        for epoch, of_all in enumerate(figures, 1):
            for p, costs in zip(places, of_all, strict=True):
                if epoch <= epochs[p]:
                    yield (history.starts[p].seed, epoch, *costs, *differs[p])


def _write(path: Path, lines: Iterable[Sequence[Any]], mode: str) -> None:
    with writing(path), path.open(mode, newline="") as file:
        csv.writer(file).writerows([_plain(v) for v in line] for line in lines)


def _plain(value: Any) -> Any:
    return "nan" if isinstance(value, float) and math.isnan(value) else value
