"""Evaluates answers to labelled pictures: confusion matrix, accuracy by class, baseline, cost, calibration."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from hillstart.inference.calibration import before_and_after, error_by_chance
from hillstart.inference.voting import SMALLEST, log_outputs, probabilities
from hillstart.network import COSTS
from hillstart.system.statistics import Z_95, accuracy_interval


def confusion(outputs: Float[Tensor, "N n_out"], y: Int64[Tensor, " N"]) -> Int64[Tensor, "n_out n_out"]:
    """The number of pictures of each class (row) that were given each answer (column)."""
    n_out = outputs.shape[-1]
    return torch.bincount(y * n_out + outputs.argmax(-1), minlength=n_out**2).view(n_out, n_out)


def counted(outputs: Float[Tensor, "N n_out"], y: Int64[Tensor, " N"], classes: tuple[str, ...]) -> dict[str, Any]:
    """The confusion matrix, and what follows from it, as plain data.

    Returns:
        `confusion` with a row for each class on the pictures and a column for each answer; `by_class` with the
        `pictures` and the `accuracy` of each class, None without pictures; `majority` with the `class` that most
        pictures have, and the `accuracy` of giving this answer always.
    """
    counts = confusion(outputs, y)
    pictures, right = counts.sum(1).tolist(), counts.diagonal().tolist()
    most = max(range(len(classes)), key=pictures.__getitem__)
    return {
        "confusion": counts.tolist(),
        "by_class": {
            name: {"pictures": n, "accuracy": k / n if n else None}
            for name, n, k in zip(classes, pictures, right, strict=True)
        },
        "majority": {"class": classes[most], "accuracy": pictures[most] / len(y)},
    }


def evaluated(
    outputs: Float[Tensor, "N n_out"], y: Int64[Tensor, " N"], classes: tuple[str, ...], cost: str, temperature: float
) -> dict[str, Any]:
    """Everything that one answer to each labelled picture can be measured by, as plain data.

    Args:
        outputs: of the vote or of one start.
        cost: the kind, a key of `COSTS`.
    """
    N, found = len(y), counted(outputs, y, classes)
    accuracy = sum(row[k] for k, row in enumerate(found["confusion"])) / N
    calibration = before_and_after(outputs.unsqueeze(0), y, temperature)
    for when, T in (("before", 1.0), ("after", temperature)):
        calibration[when]["by_chance"] = error_by_chance(probabilities(outputs, T))
    return {
        "pictures": N,
        "accuracy": accuracy,
        "interval": list(accuracy_interval(accuracy, N, Z_95)),
        "cost": float(cost_of(outputs, y, cost).mean()),
        **found,
        "calibration": {"temperature": temperature, **calibration},
    }


def cost_of(outputs: Float[Tensor, "N n_out"], y: Int64[Tensor, " N"], cost: str) -> Float[Tensor, " N"]:
    """The cost of each picture, from outputs a^L. A sigmoid that has rounded to 1 counts as the number next to 1."""
    if COSTS[cost].is_softmax:
        z = log_outputs(outputs.double())
    else:
        z = outputs.double().clamp(SMALLEST, 1 - torch.finfo(torch.float32).eps / 4).logit()
    return COSTS[cost].value(z, one_hot(y, outputs.shape[-1]).double())
