"""Preprocessing of every input, stored with the network so that prediction does the same."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from itertools import product
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Float32, Real, UInt8
from torch import Tensor

from hillstart.system.errors import InputError
from hillstart.system.schema import whole
from hillstart.system.untrusted import briefly

MAX_SIZE = 1024  # the side of the square that becomes the network's inputs

Size = Annotated[int, *whole(4, MAX_SIZE)]
Grey = Annotated[int, *whole(0, 255, of="a grey level")]


@dataclass(frozen=True)
class Preprocessing:
    """Size, channels and normalisation of every picture, the same in training and in prediction.

    `size`: side of the square in pixels. `channels`: 1 grey, 3 colour. `background`: grey level 0 to 255 behind
    transparent pixels. `mean`, `std`: per channel, of pixel/255; empty: 0 and 1, for inputs from 0 to 1. Raises
    InputError if a value is out of its range.
    """

    noun: ClassVar = "picture"
    size: int
    channels: int
    background: int = 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", self.mean or (0.0,) * self.channels)
        object.__setattr__(self, "std", self.std or (1.0,) * self.channels)
        _check(**vars(self))

    @property
    def inputs(self) -> int:
        """The number of the network's inputs."""
        return self.channels * self.size**2

    @property
    def input_names(self) -> list[str]:
        """The colour, row and column of each input of a network, counted from 1."""
        colours, side = ("grey",) if self.channels == 1 else ("red", "green", "blue"), range(1, self.size + 1)
        return [f"{colour} row {i} column {j}" for colour, i, j in product(colours, side, side)]

    def __str__(self) -> str:
        colour = "colour" if self.channels == 3 else "grey"
        return f"{self.size} x {self.size} pixels in {colour} on the grey level {self.background}"

    def as_dict(self) -> dict[str, Any]:
        """Plain Python data, for JSON."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `as_dict`. Raises InputError for a missing, unknown or invalid entry."""
        names = {field.name for field in fields(cls)}
        if not isinstance(plain, Mapping) or set(plain) != names:
            raise InputError(f"preprocessing: {plain!r} does not hold exactly the entries {', '.join(sorted(names))}.")
        _check(**plain)
        return cls(**{**plain, "mean": tuple(plain["mean"]), "std": tuple(plain["std"])})

    def fitted(self, x: UInt8[Tensor, "N C H W"]) -> "Preprocessing":
        """A copy with the mean and standard deviation of x, which must be the training split alone."""
        # Counting the 256 levels is exact and needs no copy of x in floating point.
        levels = torch.arange(256, dtype=torch.float64) / 255
        mean, std = [], []
        for channel in x.unbind(1):
            share = torch.bincount(channel.flatten(), minlength=256).double().cpu() / channel.numel()
            mean.append(float(share @ levels))
            std.append(float(share @ (levels - mean[-1]).square()) ** 0.5)
        # A channel without contrast carries nothing: dividing by 1 leaves it at zero.
        return replace(self, mean=tuple(mean), std=tuple(s if s > 1e-6 else 1.0 for s in std))

    def normalise(self, x: UInt8[Tensor, "N C H W"] | Float[Tensor, "N C H W"]) -> Float32[Tensor, "N inputs"]:
        """((x / 255) - mean) / std, each picture flattened channel by channel: (N, C*H*W), on the device of x."""
        shift, scale = _constants(self, x.device)
        return (x.flatten(2) - shift).div_(scale).flatten(1).to(torch.float32)


@dataclass(frozen=True)
class Standardisation:
    """Names, means and standard deviations of the columns of a table, the same in training and in prediction.

    `mean`, `std`: empty: 0 and 1. `label`: name of the column of labels, which is no input; empty if there was none.

    Raises:
        InputError: they are not of the same columns, or a number is not finite, or a std is not above 0.
    """

    noun: ClassVar = "row"
    columns: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    label: str = ""

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in (*self.columns, self.label)):
            raise InputError("preprocessing.columns: holds something that is not a name.")
        object.__setattr__(self, "mean", self.mean or (0.0,) * len(self.columns))
        object.__setattr__(self, "std", self.std or (1.0,) * len(self.columns))
        for name, values, least in (("mean", self.mean, -math.inf), ("std", self.std, 0.0)):
            _check_numbers(name, values, len(self.columns), least)

    @property
    def inputs(self) -> int:
        """The number of the network's inputs."""
        return len(self.columns)

    @property
    def input_names(self) -> list[str]:
        """The names of the columns."""
        return list(self.columns)

    def __str__(self) -> str:
        return f"the columns {', '.join(self.columns)}"

    def as_dict(self) -> dict[str, Any]:
        """Plain Python data, for JSON."""
        numbers = {name: list(getattr(self, name)) for name in ("columns", "mean", "std")}
        return numbers | ({"label": self.label} if self.label else {})

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Standardisation":
        """The inverse of `as_dict`. Raises InputError for a missing, unknown or invalid entry."""
        lists = {name: of for name, of in plain.items() if name != "label"}
        if set(lists) != {"columns", "mean", "std"} or not all(isinstance(of, list) for of in lists.values()):
            raise InputError("preprocessing: does not hold exactly the lists columns, mean and std.")
        if not all(len(of) == len(lists["columns"]) for of in lists.values()):
            raise InputError("preprocessing: its lists columns, mean and std are not of the same length.")
        return cls(**{name: tuple(values) for name, values in lists.items()}, label=plain.get("label", ""))

    def fitted(self, x: Real[Tensor, "N D"]) -> "Standardisation":
        """A copy with the mean and standard deviation of each column of x, which must be the training rows alone."""
        x = x.double()
        std = x.std(0, correction=0)
        # A column of one value carries nothing: dividing by 1 leaves it at zero.
        std = torch.where(std > 1e-12 * x.abs().amax(0), std, 1.0)
        return replace(self, mean=tuple(x.mean(0).tolist()), std=tuple(std.tolist()))

    def normalise(self, x: Real[Tensor, "N D"]) -> Float32[Tensor, "N D"]:
        """(x - mean) / std, on the device of x."""
        shift, scale = _columns(self, x.device)
        return ((x - shift) / scale).to(torch.float32)


def _check(size: Any, channels: Any, background: Any, mean: Any, std: Any) -> None:
    """Raise InputError for a value out of its range. Types are strict: 127.5 or True is not a grey level."""
    for name, value, right, what in (
        ("size", size, range(1, MAX_SIZE + 1), f"a side from 1 to {MAX_SIZE} pixels"),
        ("channels", channels, (1, 3), "1 (grey) or 3 (colour)"),
        ("background", background, range(256), "a grey level from 0 to 255"),
    ):
        if type(value) is not int or value not in right:
            raise InputError(f"preprocessing.{name} is {value!r}; it must be {what}.")
    for name, values, least in (("mean", mean, -math.inf), ("std", std, 0.0)):
        _check_numbers(name, values, channels, least)


def _check_numbers(name: str, values: Any, count: int, least: float) -> None:
    valid = isinstance(values, list | tuple) and len(values) == count
    if not valid or not all(type(v) in (int, float) and math.isfinite(v) and v > least for v in values):
        above = " above 0" if name == "std" else ""
        raise InputError(f"preprocessing.{name} is {briefly(values)}; it must be {count} finite numbers{above}.")


@lru_cache(maxsize=16)
def _constants(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and std in pixel units, cached on the device; a transfer at every step would stall it."""
    pixel = torch.tensor([preprocessing.mean, preprocessing.std], dtype=torch.float64).unsqueeze(-1) * 255
    shift, scale = pixel.to(device, torch.float32)
    return shift, scale


@lru_cache(maxsize=16)
def _columns(preprocessing: Standardisation, device: torch.device) -> tuple[Tensor, Tensor]:
    shift, scale = torch.tensor([preprocessing.mean, preprocessing.std], dtype=torch.float64).to(device)
    return shift, scale
