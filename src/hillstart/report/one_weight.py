"""Single weights and biases of the chosen start: which are worth a look, what they are called, the cost along each."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hillstart.inference.classifier import Classifier
from hillstart.report.hills import Hill, Point, Points, place
from hillstart.report.page import floats

VALUES = 41
WEIGHTS = 10
# How far a line goes from the middle of where training went, in parts of its width: on, until both sides of a valley
# have risen so much.
REACHES = (1.5, 2.5, 4.0, 6.0)
RISE = 1.3


def interesting(hill: Hill, end: Point, moved: Point | None) -> list[tuple[int, str]]:
    """Places of some weights and biases in a flat vector, and why each is worth a look."""
    size = (end if moved is None else moved).abs()
    most = "moved most" if moved is not None else "largest"
    feeling = hill.feeling(end)
    found = dict[int, str]()
    layers = list(itertools.pairwise(hill.sizes))
    biases = sum(n_in * n_out for n_in, n_out in layers)
    first = biases
    for l, (n_in, n_out) in reversed(list(enumerate(layers, 1))):  # the upper layers have the steeper valleys
        first -= n_in * n_out
        layer = size[first : first + n_in * n_out].view(n_in, n_out).clone()
        for k in range(2 if l in (1, len(layers)) else 1):
            i, j = divmod(int(layer.argmax()), n_out)
            if layer[i, j] >= 0:
                found[first + i * n_out + j] = f"{most} in layer {l}" if not k else f"{most} elsewhere in layer {l}"
            layer[i], layer[:, j] = -1, -1
    found.setdefault(biases + int(size[biases:].argmax()), f"{most} of the biases")
    found.setdefault(int(feeling.argmax()), "felt most by the cost")
    found.setdefault(int(feeling.argmin()), "hardly felt by the cost")
    return list(found.items())[:WEIGHTS]


def along_weights(hill: Hill, way: Points, best: int, indices: Sequence[int]) -> list[dict[str, Any]]:
    """The cost along some weights, each with all others as in each frame."""
    w = way[:, indices].T
    middle, span = (w.amax(1) + w.amin(1)) / 2, w.amax(1) - w.amin(1)
    span = torch.maximum(span, middle.abs() / 2).clamp_min(0.5)
    from_middle, reach = torch.linspace(-1, 1, VALUES), torch.full_like(span, REACHES[0])
    for further in REACHES[1:]:
        values = middle[:, None] + (reach * span)[:, None] * from_middle
        end = hill.along(way[best : best + 1], indices, values)[0]
        reach[torch.minimum(end[:, 0], end[:, -1]) < RISE * end.amin(1)] = further
    values = middle[:, None] + (reach * span)[:, None] * from_middle
    costs = hill.along(way, indices, values).transpose(0, 1)
    return [
        {"w": rounded(w[k]), "low": values[k, 0].item(), "high": values[k, -1].item(),
         "lowest": costs[k].min().item(), "costs": floats(costs[k])}
        for k in range(len(indices))
    ]  # fmt: skip


def label(model: Classifier, index: int) -> str:
    """A weight or bias in words; nodes, rows and columns are counted from 1."""
    l, i, j = place(model.network.sizes, index)
    last = l == len(model.network.sizes) - 2
    to = f"“{model.classes[j]}”" if last else f"node {j + 1}"
    if i is None:
        return f"bias of {to}" + ("" if last or len(model.network.sizes) == 3 else f", layer {l + 1}")
    if l:
        return f"node {i + 1} → {to}" + ("" if last else f", layer {l + 1}")
    side = model.preprocessing.size
    channel, pixel = divmod(i, side * side)
    colour = f"{('red', 'green', 'blue')[channel]} of the " if model.preprocessing.channels == 3 else ""
    return f"{colour}pixel in row {pixel // side + 1}, column {pixel % side + 1} → {to}"


def rounded(values: Tensor) -> list[float]:
    """The values to five digits, more than a drawing can show."""
    return [float(f"{value:.5g}") for value in values.reshape(-1).nan_to_num().tolist()]
