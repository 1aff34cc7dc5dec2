"""Rows of numbers with a label each, from a csv file: the inputs are its columns."""

import csv
import io
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from hillstart.arguments import nearest
from hillstart.data.dataset import Balance, PictureSet, Split, assemble_drawn
from hillstart.data.preprocessing import Standardisation
from hillstart.system.errors import InputError
from hillstart.system.files import open_regular
from hillstart.system.schema import Location, Names, Says, Seed, Share, checked
from hillstart.system.untrusted import briefly

log = logging.getLogger(__name__)

LABELS = frozenset(["label", "labels", "class", "classes", "class_name", "category", "target", "breed", "species", "y"])
"""Headings of the column of labels, in any case."""
LARGEST_FILE = 2**31
"""Bytes; a million pictures of 28 x 28 have as many."""
LONGEST_LABEL = 100
FEWEST = 3
"""Rows of each class, one for each split."""


@checked("data")
def load(
    *,
    root: Location,
    label: Annotated[str | int | None, Says("the heading of a column, or null")] = None,
    columns: Names = None,
    test_fraction: Share = 0.2,
    val_fraction: Share = 0.2,
    seed: Seed = 0,
    balance: Balance = "none",
) -> PictureSet:
    """Read the csv file root, a row per line; inputs are standardised by the training rows.

    `label`: the column of labels; None: the one with a usual heading (`LABELS`), else the last. `columns`: the inputs;
    None: all others. Test and validation are drawn by `seed`, class by class. Raises InputError if a cell is not a
    finite number or a label is missing; rows are counted from 1, below the headings.
    """
    if root is None:
        raise InputError("data.root is null; give the csv file, as in data.root=rows.csv.")
    table = read_table(Path(root))
    if len(table.columns) < 2:
        raise InputError(f"{root}: has one column; give a csv file with a column of labels and columns of numbers.")
    at = table.find_label(None if label is None else str(label))
    if columns is None:
        inputs = tuple(name for name in table.columns if name != at)
    else:
        inputs = tuple(map(table.known, map(str, columns)))
    if at in inputs or len(set(inputs)) < len(inputs) or not inputs:
        raise InputError(f"data.columns: {', '.join(inputs) or 'none'}; list each input once, and not the label, {at}.")
    labels = table.labels(at)
    classes = _classes(table.path, at, labels)
    x = table.numbers(inputs)
    y = torch.tensor([classes.index(name) for name in labels])
    rows = Split(x, y)
    return assemble_drawn(
        rows,
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        seed=seed,
        classes=classes,
        preprocessing=Standardisation(inputs, label=at),
        source=f"rows from {root}",
        files=[table.path.name],
        balance=balance,
    )


def _classes(path: Path, label: str, labels: Sequence[str]) -> tuple[str, ...]:
    counts = Counter(labels)
    another = "data.label=COLUMN names another column"
    if len(counts) < 2:
        raise InputError(f"{path}: column {label} has one value, {labels[0]}; give two classes at least, or {another}.")
    name, fewest = min(counts.items(), key=lambda item: item[1])
    if fewest < FEWEST:
        if 2 * len(counts) > len(labels):
            wrong = f"column {label} has {len(counts)} different values in {len(labels)} rows, too many for classes"
        else:
            wrong = f"class {name} of column {label} has too few rows ({fewest}); give {FEWEST} at least"
        raise InputError(f"{path}: {wrong}; {another}.")
    return tuple(sorted(counts, key=in_order))


def is_name(label: str) -> bool:
    """True if a label is fit for the name of a class."""
    return bool(label) and label.isprintable() and len(label) <= LONGEST_LABEL


def in_order(name: str) -> tuple[bool, int, str]:
    """A key that sorts names of classes: numbers first, by their size."""
    return not name.isdecimal(), len(name) if name.isdecimal() else 0, name


# ---------------------------------------------------------------- a csv file


@dataclass(frozen=True)
class Row:
    """One row of a table, its cells by the names of their columns; rows are counted from 1, below the headings."""

    path: Path
    number: int
    cells: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.path}:{self.number}"


@dataclass(frozen=True)
class Table:
    """A csv file as text; `columns`: the headings, or the numbers of the columns from 1 if there are none."""

    path: Path
    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]

    def rows(self, inputs: Standardisation) -> list[Row]:
        """The rows, for `read_row`; raises InputError if a column of `inputs` is missing."""
        if missing := [name for name in inputs.columns if name not in self.columns]:
            raise InputError(
                f"{self.path}: lacks the column {', '.join(missing)}, an input of the networks; it has "
                f"{', '.join(self.columns):.200}."
            )
        named = (dict(zip(self.columns, cells, strict=True)) for cells in self.cells)
        return [Row(self.path, n, cells) for n, cells in enumerate(named, 1)]

    def known(self, name: str) -> str:
        """The name, if a column has it; else InputError, which tells the nearest one."""
        if name not in self.columns:
            raise InputError(f"{self.path}: has no column {briefly(name)}{nearest(name, self.columns)}.")
        return name

    def find_label(self, name: str | None) -> str:
        """The column of labels: the one of this name; None: the one with a usual heading, else the last."""
        if name is not None:
            return self.known(name)
        usual = [column for column in self.columns if column.lower() in LABELS]
        found = usual[0] if len(usual) == 1 else self.columns[-1]
        why = "by its heading" if len(usual) == 1 else "the last one"
        log.info(f"labels: column {found}, {why}; data.label=COLUMN takes another")
        return found

    def labels(self, column: str) -> list[str]:
        """The labels in a column; raises InputError if one is missing or unfit for a name."""
        k = self.columns.index(column)
        found = [cells[k] for cells in self.cells]
        for n, name in enumerate(found, 1):
            if not is_name(name):
                wrong = f"{briefly(name)!r:.60} is no name of a class" if name else "is empty"
                raise InputError(
                    f"{self.path}: row {n}, column {column}: {wrong}; give the label, or leave the row out."
                )
        return found

    def numbers(self, columns: Sequence[str]) -> Float64[Tensor, "N D"]:
        """The columns as numbers; raises InputError if a cell is not a finite one."""
        found = []
        for name in columns:
            k = self.columns.index(name)
            of_column = [cells[k] for cells in self.cells]
            try:
                values = np.array(of_column).astype(np.float64)
            except ValueError:
                values = np.full(len(of_column), np.nan)
            if not np.isfinite(values).all():
                for n, cell in enumerate(of_column, 1):
                    number(cell, f"{self.path}: row {n}", name)
            found.append(torch.from_numpy(values))
        return torch.stack(found, 1)


def read_table(path: Path) -> Table:
    """Read a csv file, separated by commas, semicolons or tabs.

    A column without a heading is left out, as those that count the rows are. A first row that holds a number is a row,
    unless one of its cells is a usual heading of labels.

    Raises:
        InputError: the file cannot be read, holds no rows, or a row has another number of cells than the first.
    """
    with opened_csv(path) as file:
        first = file.readline()
        file.seek(0)
        separator = max(",;\t", key=first.count)
        lines = [
            tuple(map(str.strip, row)) for row in csv.reader(file, delimiter=separator) if any(map(str.strip, row))
        ]
    head = lines[0] if lines else ()
    headed = bool({*map(str.lower, head)} & LABELS) or not any(map(_is_number, head))
    columns, rows = (head, lines[1:]) if headed else (tuple(str(k) for k in range(1, len(head) + 1)), lines)
    if not rows:
        raise InputError(f"{path}: holds no rows; give a csv file with headings and numbers.")
    for n, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise InputError(f"{path}: row {n} has {len(row)} cells where the first line has {len(columns)}; mend it.")
    if twice := [name for name, count in Counter(filter(None, columns)).items() if count > 1]:
        raise InputError(f"{path}: two columns are called {briefly(twice[0])}; rename one.")
    if all(columns):
        return Table(path, columns, tuple(rows))
    kept = [k for k, name in enumerate(columns) if name]
    log.info(f"{path}: {len(columns) - len(kept)} without a heading left out")
    return Table(path, tuple(columns[k] for k in kept), tuple(tuple(row[k] for k in kept) for row in rows))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@contextmanager
def opened_csv(path: Path) -> Iterator[io.TextIOWrapper]:
    """A csv file in UTF-8, opened to be read; raises InputError if it cannot be, also from within."""
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            if path.stat().st_size > LARGEST_FILE:
                raise InputError(f"{path}: is larger than {LARGEST_FILE >> 30} GiB; give a smaller one.")
            yield file
    except InputError:
        raise
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({briefly(error)}); give a csv file in UTF-8.") from error


# ---------------------------------------------------------------- one row

RowSource = Row | Mapping[str, Any] | Sequence[float] | np.ndarray | Tensor


def is_row(sources: object) -> bool:
    """True if a value is one row; False for a collection of rows."""
    if isinstance(sources, np.ndarray | Tensor):
        return sources.ndim < 2
    return isinstance(sources, str | bytes | os.PathLike | Row | Mapping) or not isinstance(sources, Iterable)


def read_row(source: RowSource, inputs: Standardisation) -> Float64[Tensor, " D"]:
    """The inputs of one row, given by the names of the columns in any order, or as numbers in the order of `inputs`.

    Raises:
        InputError: a column is missing, a cell is not a finite number, or the count of numbers is not D.
    """
    head = f"{source.path}: row {source.number}" if isinstance(source, Row) else "a row"
    cells: Any = source.cells if isinstance(source, Row) else source
    if isinstance(cells, Mapping):
        if missing := [name for name in inputs.columns if name not in cells]:
            raise InputError(f"{head}: lacks the column {', '.join(missing)}, an input of the networks.")
        cells = [cells[name] for name in inputs.columns]
    elif (
        isinstance(cells, str | bytes)
        or not hasattr(cells, "__len__")
        or getattr(cells, "ndim", 1) != 1
        or len(cells) != len(inputs.columns)
    ):
        raise InputError(f"{head}: is not {len(inputs.columns)} numbers; give those of {inputs}.")
    values = [number(cell, head, name) for name, cell in zip(inputs.columns, cells, strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def number(cell: Any, where: str, column: str) -> float:
    """The number in a cell; raises InputError if it is not a finite one."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = None
    if value is not None and np.isfinite(value):
        return value
    is_empty = cell is None or (isinstance(cell, str) and not cell)  # pandas.NA cannot be compared
    wrong = "is empty" if is_empty else f"{briefly(cell)!r:.40} is not a {'finite ' * (value is not None)}number"
    raise InputError(f"{where}, column {column}: {wrong}; give a number, or leave out the row or the column.")
