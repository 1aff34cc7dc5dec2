"""Quantiles of a sample, and the standard error of an accuracy."""

import math
import statistics
from collections.abc import Sequence

import torch


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Number, minimum, lower quartile, median, upper quartile and maximum of some values."""
    if not values:
        return {"n": 0}
    names = ("min", "lower_quartile", "median", "upper_quartile", "max")
    at = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1]).double()).tolist()
    return {"n": len(values), **dict(zip(names, at, strict=True))}


Z_95 = statistics.NormalDist().inv_cdf(0.975)
"""Standard errors to either side of a 95 % interval."""


def accuracy_interval(accuracy: float, pictures: int, z: float = 1.0) -> tuple[float, float]:
    """z standard errors to either side of an accuracy that was measured on so many pictures.

    Wilson's interval (J. Am. Stat. Assoc. 22, 1927). For many pictures it is close to p -+ z sqrt(p (1 - p) / n);
    unlike that, it has a width where all answers are right or all wrong, and stays within 0 and 1.
    """
    p, n, zz = accuracy, pictures, z * z
    centre, half = (p + zz / (2 * n)) / (1 + zz / n), z * math.sqrt(p * (1 - p) / n + zz / (4 * n * n)) / (1 + zz / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def standard_error(accuracy: float, pictures: int) -> float:
    """Half the width of `accuracy_interval`, which is never 0."""
    low, high = accuracy_interval(accuracy, pictures)
    return (high - low) / 2
