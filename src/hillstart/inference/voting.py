"""The outputs of many starts as one prediction: their vote, their agreement, and a calibrated probability.

The vote is the mean of the starts' outputs; its largest is the label. The probability of class k is m_k^(1/T) over the
sum of all classes' m^(1/T), where m are the outputs and T is a temperature fitted on validation pictures: on softmax
outputs of one start that is softmax(z/T), the temperature scaling of Guo et al. 2017, eq. 9. It keeps the order of the
classes, so that a label is the same whatever the temperature.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

UNSURE_BELOW = 0.75
"""A prediction is unsure if a smaller share of the starts than this agrees with it."""

# Sigmoids far below their threshold round to 0; no temperature could correct the logarithm of 0.
SMALLEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Calibration:
    """Temperatures: of the vote, and of each start by itself. Below 1 they sharpen, at 1 they change nothing."""

    vote: float
    starts: tuple[float, ...]


def vote(outputs: Float[Tensor, "S B n_out"]) -> Float[Tensor, "B n_out"]:
    """The mean of the starts' outputs."""
    return outputs.mean(0)


def agreement(outputs: Float[Tensor, "S B n_out"]) -> Float[Tensor, " B"]:
    """The share of the starts whose own label is that of the vote."""
    return (outputs.argmax(-1) == vote(outputs).argmax(-1)).float().mean(0)


def log_outputs(outputs: Float[Tensor, "*any n_out"]) -> Float[Tensor, "*any n_out"]:
    """The logarithm of each output, finite even where an output has rounded to 0."""
    return outputs.clamp_min(SMALLEST).log()


def probabilities(
    outputs: Float[Tensor, "*any n_out"], temperature: float | Float[Tensor, "..."] = 1.0
) -> Float[Tensor, "*any n_out"]:
    """Outputs as probabilities, which sum to 1 over the classes.

    Args:
        temperature: one for all, or a tensor that broadcasts against `outputs`.
    """
    return torch.softmax(log_outputs(outputs) / temperature, -1)
