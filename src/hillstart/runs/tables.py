"""The tables of a run: `starts.csv`, a row for each start, and `history.csv`, a row for each start and epoch."""

import csv
import io
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from hillstart.engine.starts import (
    FIGURES,
    HYPERPARAMETERS,
    STATUS,
    History,
    Hyperparameters,
    Start,
    StartResult,
    ranking_key,
    varying,
)
from hillstart.system.errors import InputError
from hillstart.system.files import WritingError, on_disk, open_regular, relative, replacing, writing
from hillstart.system.untrusted import briefly

RESULT = [field for field in fields(StartResult) if field.name != "start"]
TEST = ("test_cost", "test_accuracy")
STARTS = ("seed", "eta", *(field.name for field in RESULT if field.name not in TEST), "rank")
"""Columns of `starts.csv`, the results as in `StartResult`; other hyperparameters that vary, `start` and `TEST` follow
them."""

HISTORY = ("seed", "epoch", *FIGURES)
"""Columns of `history.csv`; hyperparameters that vary and `start` follow them."""


@dataclass(frozen=True)
class StartRow:
    """A row of `starts.csv`.

    Attributes:
        result: a hyperparameter without a column has the value that `read_starts` was given for it.
        rank: None in a run that has not ended.
        cells: the text of every column by name; in a multirun also `job` and the options in which its jobs differ.
    """

    result: StartResult
    rank: int | None
    cells: Mapping[str, str]


def read_starts(path: Path, size: int | None = None, shared: Hyperparameters | None = None) -> list[StartRow]:
    """Read the table of starts of a run or multirun, in the order of the file.

    Args:
        size: read so many bytes from its beginning; None: all.
        shared: hyperparameters of a start where the table has no column for them.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with open_regular(path) as file:
            text = file.read(-1 if size is None else size).decode("utf-8-sig")
        lines = list(csv.DictReader(io.StringIO(text, newline="")))
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({briefly(error)}); give the folder of a run.") from error
    required = ["seed", "eta", *(field.name for field in RESULT if field.default is MISSING), "rank"]
    if lines and (missing := [name for name in required if name not in lines[0]]):
        raise InputError(f"{path} lacks columns of a table of starts: {', '.join(missing)}.")
    rows = []
    for number, cells in enumerate(lines, 1):
        try:
            rows.append(_row(cells, shared or Hyperparameters(math.nan)))
        except ValueError as error:
            raise InputError(f"{path}: row {number}: {error}.") from error
    return rows


def _row(cells: dict[str, str], shared: Hyperparameters) -> StartRow:
    if None in cells or None in cells.values():  # the csv module marks a row of another length than the headings so
        raise ValueError("has not as many entries as there are headings; is the file cut off?")
    given = {name: _number(cells, name, float) for name in HYPERPARAMETERS if name == "eta" or cells.get(name)}
    start = Start(_number(cells, "seed", int), replace(shared, **given))
    result: dict[str, Any] = {
        field.name: cells[field.name] if field.type is str else _number(cells, field.name, field.type)
        for field in RESULT
        if cells.get(field.name) or field.default is MISSING
    }
    rank = _number(cells, "rank", int) if cells["rank"] else None
    if rank is not None and cells["status"] not in STATUS:
        raise ValueError(f"status is '{briefly(cells['status'])}'; it must be {', '.join(STATUS[:-1])} or {STATUS[-1]}")
    return StartRow(StartResult(start, **result), rank, cells)


def _number(cells: Mapping[str, str], name: str, kind: Any) -> Any:
    try:
        return kind(cells[name])
    except ValueError:
        raise ValueError(f"{name} is '{briefly(cells[name])}'; it must be a number") from None


def write_starts(path: Path, names: Sequence[str], rows: Iterable[Mapping[str, Any]], *, sync: bool = True) -> None:
    """Replace a table of starts; a row without one of the names has an empty cell there."""
    with replacing(path, sync=sync) as new:
        _write(new, [names, *([row.get(name, "") for name in names] for row in rows)], "w")


def read_history(path: Path) -> Iterator[tuple[dict[str, str], int, list[float]]]:
    """The text of every column by name, the epoch, and the costs and accuracy of every row of `history.csv`.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="") as file:
            for number, cells in enumerate(csv.DictReader(file), 1):
                try:
                    yield cells, int(cells["epoch"]), [float(cells[name]) for name in FIGURES]
                except (KeyError, TypeError, ValueError) as error:
                    raise InputError(
                        f"{path}: row {number} is not an epoch of a start; is the file damaged?"
                    ) from error
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({briefly(error)}); give the folder of a run.") from error


class Tables:
    """Writes both tables of a run, pack by pack; each hyperparameter that varies among the starts has a column.

    If any varies, seeds occur several times, and both tables have a column `start`: the index among all starts. Ranks
    are known when the run has ended: until then their column is empty, and the rows are in the order they came. All
    methods that write raise a WritingError if they cannot.

    Args:
        test: the starts have test figures.

    Attributes:
        sizes: bytes of both tables that were written completely.
    """

    def __init__(self, folder: Path, starts: Sequence[Start], test: bool = False):
        self.starts, self.history = folder / "starts.csv", folder / "history.csv"
        self._varying, self._index = varying(starts), {start: index for index, start in enumerate(starts)}
        index = ("start",) if self._varying else ()
        self._columns = (*STARTS, *(name for name in self._varying if name != "eta"), *index, *(TEST if test else ()))
        self._history_columns = (*HISTORY, *self._varying, *index)
        self._shared = starts[0].hyperparameters
        self.sizes = (0, 0)

    def begin(self) -> None:
        """Replace both tables by empty ones."""
        self.sizes = (0, 0)
        for table, names in ((self.starts, self._columns), (self.history, self._history_columns)):
            with replacing(table, sync=False) as new:
                _write(new, [names], "w")
        self.sizes = self._sizes()

    def cut(self, sizes: tuple[int, int]) -> None:
        """Cut both tables to these sizes in bytes, and continue there.

        Raises:
            WritingError: one of them is missing or shorter.
        """
        for table, size in zip((self.starts, self.history), sizes, strict=True):
            there = table.stat().st_size if table.is_file() else 0
            if there < size:
                raise WritingError(
                    f"{relative(table)} cannot be written: {there} of its {size} bytes are left; "
                    "put the file back, or begin a new run."
                )
            with writing(table):
                if table.stat().st_nlink > 1:  # a copy made of hard links must keep its rows
                    with replacing(table, sync=False) as new:
                        shutil.copyfile(table, new)
                os.truncate(table, size)
        self.sizes = sizes

    def sync(self) -> None:
        """Wait until both tables are on the disk."""
        for table in (self.starts, self.history):
            with writing(table):
                on_disk(table)

    def add(self, rows: Iterable[StartResult], history: History, indices: Sequence[int]) -> None:
        """Append these rows, and the epochs of the starts at `indices` of `history`.

        What an earlier call wrote only in part is cut off first. Unless `begin` or `cut` was called before, the first
        call replaces both tables.
        """
        if self.sizes == (0, 0):
            self.begin()
        self.cut(self.sizes)
        # Tables of a run that an earlier version began have fewer columns; those of history.csv are the first of ours.
        columns, n = _headings(self.starts), len(_headings(self.history))
        _write(self.starts, ([self._cells(row).get(name, "") for name in columns] for row in rows), "a")
        _write(self.history, (cells[:n] for cells in self._epochs(history, indices)), "a")
        self.sizes = self._sizes()

    def _sizes(self) -> tuple[int, int]:
        return self.starts.stat().st_size, self.history.stat().st_size

    def end(self, rows: Iterable[StartResult]) -> None:
        """Replace the rows by all rows, ranked."""
        ranked = enumerate(sorted(rows, key=ranking_key), 1)
        write_starts(self.starts, self._columns, (self._cells(row, rank) for rank, row in ranked), sync=False)

    def read(self, size: int | None = None) -> list[StartResult]:
        """The results in the first `size` bytes of `starts.csv`, or in all of it; raises as `read_starts`."""
        return [row.result for row in read_starts(self.starts, size, self._shared)]

    def _cells(self, row: StartResult, rank: int | str = "") -> dict[str, Any]:
        return {
            "seed": row.start.seed,
            **asdict(row.start.hyperparameters),
            **{field.name: getattr(row, field.name) for field in RESULT},
            "rank": rank,
            "start": self._index.get(row.start, ""),
        }

    def _epochs(self, history: History, indices: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        figures, epochs = history.figures[:, list(indices)].tolist(), history.epochs.tolist()
        for epoch, of_all in enumerate(figures, 1):
            for s, costs in zip(indices, of_all, strict=True):
                if epoch <= epochs[s]:
                    start = history.starts[s]
                    varying_values = (getattr(start.hyperparameters, name) for name in self._varying)
                    yield (start.seed, epoch, *costs, *varying_values, self._index[start])


def _headings(path: Path) -> list[str]:
    with writing(path), path.open(newline="") as file:
        return next(csv.reader(file), [])


def _write(path: Path, lines: Iterable[Sequence[Any]], mode: str) -> None:
    with writing(path), path.open(mode, newline="") as file:
        csv.writer(file).writerows(lines)
