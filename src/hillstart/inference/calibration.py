"""Calibration: whether a probability of 0.8 is right in 80 % of cases, and temperatures that improve it.

Guo et al. 2017, *On Calibration of Modern Neural Networks*: expected calibration error (eq. 3), reliability diagram
(sec. 2), temperature scaling (sec. 4.2).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from scipy.optimize import brentq
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from hillstart.inference.voting import Calibration, log_outputs, probabilities, vote

BINS = 15
"""Number of bins of equal width from 0 to 1, as in the paper."""

# Bounds: a temperature beyond them means useless outputs or too few pictures to fit it on.
COLDEST, HOTTEST = 1 / 64, 64.0


@dataclass(frozen=True)
class Bin:
    """Pictures whose label was given a probability above `low` and up to `high`.

    Attributes:
        confidence: mean of those probabilities.
        accuracy: the share of the pictures whose label was right; on the diagonal of the diagram both are equal.
    """

    low: float
    high: float
    pictures: int
    confidence: float
    accuracy: float


def temperature_of(outputs: Float[Tensor, "N n_out"], y: Int64[Tensor, " N"]) -> float:
    """The temperature that makes the right classes most likely, between `COLDEST` and `HOTTEST`.

    Each picture counts N + 1 times of N + 2 as its class and once as any other, by Laplace's rule as in Platt 1999,
    sec. 2.2: else a network without a mistake on these pictures would be taken to make none at all. The mean cost is
    convex in 1/T, so the root of its slope is the minimum.
    """
    log_m = log_outputs(outputs.double())
    N, n_out = log_m.shape
    wanted = torch.full_like(log_m, 1 / ((N + 2) * (n_out - 1)))
    wanted[torch.arange(N), y] = (N + 1) / (N + 2)
    target = float((wanted * log_m).sum(-1).mean())

    def slope(inverse: float) -> float:
        return float((torch.softmax(inverse * log_m, -1) * log_m).sum(-1).mean()) - target

    coldest, hottest = 1 / COLDEST, 1 / HOTTEST
    if slope(coldest) <= 0:
        return COLDEST
    if slope(hottest) >= 0:
        return HOTTEST
    return 1 / brentq(slope, hottest, coldest, xtol=1e-6)


def calibrate(outputs: Float[Tensor, "S N n_out"], y: Int64[Tensor, " N"]) -> Calibration:
    """The temperatures of the vote and of each start, fitted on validation pictures and their classes y."""
    of_vote = temperature_of(vote(outputs), y)
    return Calibration(of_vote, tuple(temperature_of(o, y) for o in outputs) if len(outputs) > 1 else (of_vote,))


def expected_calibration_error(p: Float[Tensor, "N n_out"], y: Int64[Tensor, " N"]) -> float:
    """The distance of confidence and accuracy, averaged over the pictures: sum over the bins of share x distance."""
    return float(
        multiclass_calibration_error(p, y, num_classes=p.shape[1], n_bins=BINS, norm="l1", validate_args=False)
    )


def reliability(p: Float[Tensor, "N n_out"], y: Int64[Tensor, " N"]) -> list[Bin]:
    """The reliability diagram as numbers: confidence and accuracy of each bin that holds a picture."""
    confidence, label = p.double().max(-1)
    index, edges = _binned(confidence)
    n = torch.bincount(index, minlength=BINS)
    means = (torch.bincount(index, values, BINS) / n for values in (confidence, (label == y).double()))
    columns = (edges[:-1], edges[1:], n, *means)
    return [Bin(*row) for row in zip(*(column.tolist() for column in columns), strict=True) if row[2]]


def _binned(confidence: Float[Tensor, " N"]) -> tuple[Int64[Tensor, " N"], Float[Tensor, " edges"]]:
    """The index of the bin of each picture, and the edges of the bins."""
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    return (torch.bucketize(confidence, edges) - 1).clamp(0, BINS - 1), edges


def error_by_chance(p: Float[Tensor, "N n_out"], draws: int = 400) -> float:
    """The expected calibration error that probabilities without any error exceed in 5 % of sets of so many pictures.

    By consistency resampling (Broecker and Smith 2007): answers are drawn as right with the probability of their label.
    The random numbers are seeded, so the same probabilities always give the same figure.
    """
    confidence = p.double().max(-1).values
    index, g = _binned(confidence)[0], torch.Generator().manual_seed(0)
    errors = torch.empty(draws, dtype=torch.float64)
    for k in range(draws):
        right = (torch.rand(len(confidence), generator=g, dtype=torch.float64) < confidence).double()
        errors[k] = torch.bincount(index, right - confidence, BINS).abs().sum() / len(confidence)
    return float(errors.quantile(0.95))


def before_and_after(outputs: Float[Tensor, "S N n_out"], y: Int64[Tensor, " N"], temperature: float) -> dict[str, Any]:
    """The calibration error and the reliability diagram of the vote at T = 1 and at the temperature."""
    return {
        when: {
            "expected_calibration_error": expected_calibration_error(p, y),
            "reliability": [vars(b) for b in reliability(p, y)],
        }
        for when, p in (("before", probabilities(vote(outputs))), ("after", probabilities(vote(outputs), temperature)))
    }
