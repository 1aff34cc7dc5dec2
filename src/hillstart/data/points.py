"""Points of the plane in two classes, drawn from a seed: the toy problems on which a boundary can be seen."""

import math
from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Le
from jaxtyping import Float64, Int64
from torch import Tensor

from hillstart.data.dataset import PictureSet, Split, assemble_drawn
from hillstart.data.preprocessing import Standardisation
from hillstart.system.errors import InputError
from hillstart.system.schema import Says, Seed, Share, checked, one_of, whole

Drawn = tuple[Float64[Tensor, "N 2"], Int64[Tensor, " N"]]


def _xor(rows: int, noise: float, seed: int) -> Drawn:
    """Four squares about the origin, of side 2; class 1 where the signs of x1 and x2 differ."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(rows, 2, generator=g, dtype=torch.float64) * 4 - 2
    y = (x.prod(1) < 0).long()
    return x + noise * torch.randn(rows, 2, generator=g, dtype=torch.float64), y


def _spiral(rows: int, noise: float, seed: int) -> Drawn:
    """Two arms of 1.25 turns about the origin, up to a radius of 2."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(rows) % 2
    t = torch.rand(rows, generator=g, dtype=torch.float64).sqrt()  # evenly dense along an arm
    angle = 2.5 * math.pi * t + math.pi * y
    x = 2 * t.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)
    return x + noise * torch.randn(rows, 2, generator=g, dtype=torch.float64), y


def _moons(rows: int, noise: float, seed: int) -> Drawn:
    """Two half circles, one in the other's arms (scikit-learn's `make_moons`)."""
    from sklearn.datasets import make_moons

    x, y = make_moons(rows, noise=noise, random_state=seed)
    return torch.from_numpy(x), torch.from_numpy(y)


def _circles(rows: int, noise: float, seed: int) -> Drawn:
    """A circle within another of twice its radius (scikit-learn's `make_circles`)."""
    from sklearn.datasets import make_circles

    x, y = make_circles(rows, noise=noise, factor=0.5, random_state=seed)
    return torch.from_numpy(x), torch.from_numpy(y)


KINDS: dict[str, tuple[Callable[[int, float, int], Drawn], tuple[str, str]]] = {
    "xor": (_xor, ("0", "1")),
    "moons": (_moons, ("upper", "lower")),
    "circles": (_circles, ("outer", "inner")),
    "spiral": (_spiral, ("first", "second")),
}
"""The function that draws each, and the names of its classes."""


@checked("data")
def load(
    *,
    name: Annotated[str, *one_of(KINDS)] = "xor",
    rows: Annotated[int, *whole(20, 10**6)] = 2000,
    noise: Annotated[float, Ge(0), Le(1), Says("a number from 0 to 1, such as 0.1")] = 0.1,
    test_fraction: Share = 0.2,
    val_fraction: Share = 0.2,
    seed: Seed = 0,
) -> PictureSet:
    """Draw the named points; the same seed gives the same points.

    `rows`: points in all three splits together; `noise`: standard deviation of what is added to both coordinates.
    """
    draw, classes = KINDS[name]
    try:
        x, y = draw(rows, noise, seed)
    except ModuleNotFoundError as error:
        raise InputError(f"data={name} needs scikit-learn; pip install 'hillstart[sklearn]' brings it.") from error
    points = Split(x.double(), y.long())
    return assemble_drawn(
        points,
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        seed=seed,
        classes=classes,
        preprocessing=Standardisation(("x1", "x2")),
        source=f"{name}: {rows} points drawn from seed {seed}",
    )
