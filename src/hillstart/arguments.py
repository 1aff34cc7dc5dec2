"""Checks of the arguments that users pass to networks from Python: an error names the argument and a valid value."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def nearest(wrong: str, right: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all known ones."""
    right = list(right)
    near = difflib.get_close_matches(wrong, right, n=1, cutoff=0.5)
    return f"; the nearest is {near[0]}" if near else f"; there are {', '.join(right)}"


def named(argument: str, name: str, table: Mapping[str, T]) -> T:
    """The entry of a table under a name; raises ValueError, with the nearest name, if there is none."""
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"{argument}: there is no {name!r}{nearest(str(name), table)}.")
    return table[name]


def check_start(sizes: Any, seeds: Any, dtype: Any) -> None:
    """Raise ValueError unless sizes, seeds and dtype describe networks."""
    if not _whole(sizes, 1) or len(sizes) < 2:
        raise ValueError(f"sizes is {sizes!r}; give the nodes of two or more layers, such as [784, 30, 10].")
    if not _whole(seeds) or not len(seeds):
        raise ValueError(f"seeds is {seeds!r}; give one whole number for each start, such as range(16).")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype!r}; give a floating type, torch.float32 or torch.float64.")


def check_layers(w: Any, b: Any) -> None:
    """Raise ValueError unless w holds (S, n_in, n_out) and b (S, n_out) of each layer, and each fits the next."""
    shapes = [[tuple(getattr(p, "shape", ())) for p in part] for part in (w, b)]
    fits = len(w) == len(b) > 0 and all(len(wl) == 3 and bl == (wl[0], wl[2]) for wl, bl in zip(*shapes, strict=True))
    if not fits or any(one[::2] != other[:2] for one, other in pairwise(shapes[0])):
        raise ValueError(
            f"w has the shapes {shapes[0]} and b {shapes[1]}; give a list of w (S, n_in, n_out) and one of b "
            "(S, n_out), with one tensor for each layer, and S = 1 for one network."
        )


def check_rows(w: Sequence[Tensor], x: Any, y: Any = None) -> None:
    """Raise ValueError unless x is (B, n_in), and y (B, n_out), of the weights' type and on their device."""
    dtype, device = w[0].dtype, w[0].device
    if not _is_matrix(x, w[0].shape[1], device) or x.dtype != dtype:
        raise ValueError(f"x is {described(x)}; give a {dtype} tensor (B, {w[0].shape[1]}) on {device}.")
    if y is None:
        return
    # Zeros and ones may be whole numbers.
    fits = _is_matrix(y, w[-1].shape[2], device) and (y.dtype == dtype or not y.is_floating_point())
    if not fits or len(y) != len(x):
        raise ValueError(
            f"y is {described(y)}; give a {dtype} tensor ({len(x)}, {w[-1].shape[2]}) on {device}, 1 at the class of "
            "each row and 0 elsewhere, as torch.nn.functional.one_hot makes it."
        )


def check_step(S: int, n: Any, **given: Any) -> None:
    """Raise ValueError unless each value is a number or a tensor (S,), and n is above 0."""
    for name, value in given.items():
        number = isinstance(value, int | float) or (isinstance(value, Tensor) and tuple(value.shape) in ((), (S,)))
        if not number:
            raise ValueError(f"{name} is {described(value)}; give a number, or a tensor ({S},) with one of each start.")
    if not isinstance(n, int | float) or not n > 0:
        raise ValueError(f"n is {n!r}; give the number of pictures in the training set.")


def known_device(name: Any) -> torch.device:
    """The device of this name, cuda with its number; raises ValueError if this machine has no such CPU or GPU."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device: {name!r} is not a device; use cpu or cuda.") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: {name} is not supported; use cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {name} is not present on this machine; use cpu.")
    if device == torch.device("cuda"):
        return torch.device("cuda", torch.cuda.current_device())  # as tensors have it
    return device


def check_alike(sizes: Sequence[Sequence[int]]) -> None:
    """Raise ValueError unless there are networks and all have the same sizes."""
    if not sizes or any(one != sizes[0] for one in sizes):
        raise ValueError(f"networks have the sizes {list(sizes)}; give one or more networks of the same sizes.")


def check_indices(starts: Any, S: int) -> None:
    """Raise ValueError unless these are indices of some of S starts."""
    if not _whole(starts, 0) or any(s >= S for s in starts):
        raise ValueError(f"starts is {starts!r}; give indices of starts from 0 to {S - 1}, such as [0].")


def _whole(numbers: Any, least: float = float("-inf")) -> bool:
    try:
        return all(int(n) == n and n >= least for n in numbers)
    except (TypeError, ValueError):
        return False


def _is_matrix(t: Any, columns: int, device: torch.device) -> bool:
    return isinstance(t, Tensor) and t.dim() == 2 and t.shape[1] == columns and t.device == device


def described(value: Any) -> str:
    """A value in a message: the type, shape and device of a tensor, else its type."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} on {value.device}"
    return f"of type {type(value).__name__}"
