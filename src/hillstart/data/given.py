"""Data that Python gives to a training, arrays with their labels or a whole `PictureSet`; no file holds them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Int64, Real, UInt8
from torch import Tensor

from hillstart.data.arrays import as_numpy, from_array
from hillstart.data.dataset import Balance, PictureSet, Preset, Split, assemble, assemble_drawn, stratified
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import MAX_SIZE, Preprocessing, Size, Standardisation
from hillstart.data.table import FEWEST, is_name, number
from hillstart.system.errors import InputError
from hillstart.system.machine import parallel_map
from hillstart.system.schema import Flag, Seed, Share, checked, whole
from hillstart.system.untrusted import briefly

FORMS = "(X, y), ((X, y), (X_test, y_test)) or a PictureSet"
SOURCE = "arrays from Python"

_given: ContextVar[Any] = ContextVar("given", default=None)


@contextmanager
def giving(data: Any) -> Iterator[None]:
    """Let the functions below load these data; None: nothing is given."""
    token = _given.set(data)
    try:
        yield
    finally:
        _given.reset(token)


def choice(data: Any) -> str:
    """The file of conf/data that loads these data.

    Raises:
        InputError: they are none of `FORMS`.
    """
    if isinstance(data, PictureSet):
        return "picture_set"
    (X, _), *_ = _pairs(data)
    return "picture_arrays" if _array("X", X).ndim in (3, 4) else "arrays"


@checked("data")
def load(
    *, test_fraction: Share = 0.2, val_fraction: Share = 0.2, seed: Seed = 0, balance: Balance = "none"
) -> PictureSet:
    """Load rows X (N, D) and labels y (N,); inputs are standardised by the training rows.

    Columns have the names that a data frame gives them, else their numbers from 1, as in a csv file without headings.
    Classes are in the order of their labels. Validation, and the test if none is given, are drawn by `seed`, class by
    class.

    Raises:
        InputError: nothing is given, a number is not finite, a label is missing, or X and y do not fit together.
    """
    pairs = _pairs(_taken("arrays"))
    _, columns = _table("X", pairs[0][0])
    return _assembled(
        pairs,
        partial(_numbers, columns=columns),
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        seed=seed,
        preprocessing=Standardisation(columns),
        balance=balance,
    )


@checked("data")
def load_pictures(
    *,
    test_fraction: Share = 0.2,
    val_fraction: Share = 0.2,
    seed: Seed = 0,
    size: Annotated[Size | None, *whole(4, MAX_SIZE, of="null, or a whole number")] = None,
    augment: Preset = "none",
    normalise: Flag = True,
    balance: Balance = "none",
) -> PictureSet:
    """Load pictures X (N, H, W), (N, H, W, C) or (N, C, H, W), of types that `data.arrays` lists, and labels y (N,).

    `size`: side of the square that each is cut and resized to; None: the shorter side of the first. The networks see
    colour if C is 3 or 4. Classes and splits are as in `load`.

    Raises:
        InputError: as `load`, or a picture cannot be used.
    """
    pairs = _pairs(_taken("picture_arrays"))
    with _naming("X"):
        first = from_array(_pictures(pairs[0][0])[0])
    side = size or min(first.size)
    if not 4 <= side <= MAX_SIZE:
        raise InputError(f"data.size is null, but the pictures of X have a side of {side}; give data.size=32 or so.")
    preprocessing = Preprocessing(side, channels=3 if first.mode.startswith("RGB") else 1)
    return _assembled(
        pairs,
        partial(_pixels, preprocessing=preprocessing),
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        seed=seed,
        preprocessing=preprocessing,
        augment=augment,
        normalise=normalise,
        balance=balance,
    )


@checked("data")
def load_picture_set() -> PictureSet:
    """The PictureSet that Python gives, as it is.

    Raises:
        InputError: none is given.
    """
    data: PictureSet = _taken("picture_set")
    return replace(data, files=data.files or [split.sha256 for split in (data.train, data.val, data.test)])


def _taken(wanted: str) -> Any:
    data = _given.get()
    if data is None:
        raise InputError(
            f"data={wanted}: these data come from Python, and no file holds them; give them again, as in "
            'hillstart.train("resume=RUN", data=(X, y)) or hillstart.open_run(RUN, data=(X, y)).report().'
        )
    if (found := choice(data)) != wanted:
        raise InputError(f"data={wanted}: what is given is for data={found}; give such as the run had.")
    return data


def _pairs(data: Any) -> list[tuple[Any, Any]]:
    """The pair of X and y, and that of the test if there is one."""
    nested = isinstance(data, tuple) and len(data) > 0 and isinstance(data[0], tuple)
    pairs = list(data) if nested else [data]
    if len(pairs) > 2 or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise InputError(f"data is not one of {FORMS}; give one of these, or the name of a file of conf/data.")
    return pairs


def _assembled(
    pairs: list[tuple[Any, Any]],
    read: Callable[[str, Any], Tensor],
    *,
    test_fraction: float,
    val_fraction: float,
    seed: int,
    **options: Any,
) -> PictureSet:
    """X and y, read, checked and split."""
    (X, y), *test = pairs
    x = read("X", X)
    known, codes = np.unique(_labels("y", y, len(x)), return_inverse=True)
    _check_classes(known, codes, FEWEST - len(test))
    rows = Split(x, torch.from_numpy(codes))
    options |= {"classes": tuple(map(str, known)), "source": SOURCE}
    if not test:
        return assemble_drawn(
            rows, test_fraction=test_fraction, val_fraction=val_fraction, seed=seed, **options, files=[rows.sha256]
        )
    (X_test, y_test), rest_and_part = test[0], stratified(rows.y, val_fraction, seed)
    x_test = read("X_test", X_test)
    tested = Split(x_test, _codes(_labels("y_test", y_test, len(x_test)), known))
    train, val = map(rows.take, rest_and_part)
    return assemble(train=train, val=val, test=tested, **options, files=[rows.sha256, tested.sha256])


# ---------------------------------------------------------------- X


def _table(name: str, X: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows and the names of their columns."""
    rows = _array(name, X)
    if rows.ndim != 2 or 0 in rows.shape:
        raise InputError(f"data: {name} has shape {rows.shape}; give rows (N, D), or pictures (N, H, W) and so on.")
    columns = tuple(map(str, getattr(X, "columns", range(1, rows.shape[1] + 1))))
    if len({*columns}) < len(columns):
        raise InputError(f"data: two columns of {name} have the same name; rename one.")
    return rows, columns


def _numbers(name: str, X: Any, columns: tuple[str, ...]) -> Real[Tensor, "N D"]:
    """Rows of finite numbers; float64, float32 and uint8 stay what they are."""
    rows, own = _table(name, X)
    if own != columns:
        raise InputError(
            f"data: {name} has the columns {', '.join(own):.100}, X has {', '.join(columns):.100}; give the same in "
            "the same order."
        )
    found = rows
    if rows.dtype not in (np.float64, np.float32, np.uint8):
        if rows.dtype.kind not in "biufO":
            raise InputError(f"data: {name} is of type {rows.dtype}; give numbers.")
        try:
            found = rows.astype(np.float64)
        except (TypeError, ValueError):
            found = np.full(rows.shape, np.nan)
    if not np.isfinite(found).all():
        for n, row in enumerate(rows, 1):
            for column, cell in zip(columns, row, strict=True):
                number(cell, f"data: {name}: row {n}", column)
    return torch.tensor(found)


def _pixels(name: str, X: Any, preprocessing: Preprocessing) -> UInt8[Tensor, "N C H W"]:
    with _naming(name):
        pictures, side = _pictures(X), preprocessing.size
        if (pictures.dtype, pictures.shape[1:], preprocessing.channels) == (np.uint8, (side, side), 1):
            return torch.tensor(pictures).unsqueeze(1)  # reading would change no pixel
        return torch.stack(list(parallel_map(lambda picture: read_picture(picture, preprocessing), pictures, 64)))


def _pictures(X: Any) -> np.ndarray:
    pictures = _array("X", X)
    if pictures.ndim not in (3, 4) or 0 in pictures.shape:
        raise InputError(f"has shape {pictures.shape}; give pictures (N, H, W), (N, H, W, C) or (N, C, H, W).")
    return pictures


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Name the array that a mistake is in."""
    try:
        yield
    except InputError as error:
        raise InputError(f"data: {name}: {error}") from error


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(as_numpy(values) if isinstance(values, Tensor) else values)
    except ValueError as error:
        raise InputError(f"data: {name} is not an array ({briefly(error)}); give rows of the same length.") from error


# ---------------------------------------------------------------- y


def _labels(name: str, y: Any, rows: int) -> np.ndarray:
    """The labels of so many rows: texts, whole numbers or booleans."""
    found = _array(name, y)
    if found.shape != (rows,):
        raise InputError(f"data: {name} has shape {found.shape}; give a label for each of the {rows} rows, ({rows},).")
    values: list[Any] = found.tolist()
    for n, value in enumerate(values, 1):
        is_whole = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
        if not (is_name(value) if isinstance(value, str) else is_whole):
            raise InputError(
                f"data: {name}: row {n}: {briefly(repr(value)):.60} is no label; give a text, a whole number or a "
                "boolean, or leave the row out."
            )
    return np.array([int(value) if isinstance(value, float) else value for value in values])


def _check_classes(known: np.ndarray, codes: Int64[np.ndarray, " N"], fewest: int) -> None:
    if len(known) < 2:
        raise InputError(f"data: y holds one class, {known[0]}; give two at least, to tell apart.")
    counts = np.bincount(codes)
    if (rarest := counts.min()) < fewest:
        wrong = f"class {known[counts.argmin()]} has too few rows ({rarest}); give {fewest} at least"
        raise InputError(f"data: y has {len(known)} different labels in {len(codes)} rows, and {wrong}.")


def _codes(labels: np.ndarray, known: np.ndarray) -> Int64[Tensor, " N"]:
    """The indices of labels of the test among the classes."""
    if len(new := np.setdiff1d(labels, known)):
        raise InputError(f"data: y_test holds {new[0]}, which is no label of y; give rows of the same classes.")
    return torch.from_numpy(np.searchsorted(known, labels))
