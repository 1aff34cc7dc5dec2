"""Quantiles of a sample, and the standard error of an accuracy."""

import math
from collections.abc import Sequence

import torch


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Number, minimum, lower quartile, median, upper quartile and maximum of some values."""
    if not values:
        return {"n": 0}
    names = ("min", "lower_quartile", "median", "upper_quartile", "max")
    at = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1]).double()).tolist()
    return {"n": len(values), **dict(zip(names, at, strict=True))}


def accuracy_interval(accuracy: float, pictures: int) -> tuple[float, float]:
    """One standard error to either side of an accuracy that was measured on so many pictures.

    Wilson's interval (J. Am. Stat. Assoc. 22, 1927) with z = 1. For many pictures it is close to
    p -+ sqrt(p (1 - p) / n); unlike that, it has a width where all answers are right or all wrong, and stays within 0
    and 1.
    """
    p, n = accuracy, pictures
    centre, half = (p + 1 / (2 * n)) / (1 + 1 / n), math.sqrt(p * (1 - p) / n + 1 / (4 * n * n)) / (1 + 1 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def standard_error(accuracy: float, pictures: int) -> float:
    """Half the width of `accuracy_interval`, which is never 0."""
    low, high = accuracy_interval(accuracy, pictures)
    return (high - low) / 2
