"""The section on the decision boundary: which class each start answers everywhere in the plane of two columns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from markupsafe import Markup
from matplotlib.axes import Axes
from torch import Tensor

from hillstart.data.dataset import PictureSet, Split
from hillstart.data.preprocessing import Standardisation
from hillstart.inference.classifier import Classifier
from hillstart.inference.voting import vote
from hillstart.report import charts
from hillstart.report.page import Section
from hillstart.report.run import start_names

OTHERS = 8
"""Starts besides the chosen one that have a chart each."""
POINTS, FEWER_POINTS = 300, 100
"""Training points in the charts of the chosen start, the vote and the node; and in those of the other starts."""
GRID = 101
MARGIN = 0.08
"""Space around the training points, as a share of their range."""
COLOURS = (charts.MINUS, charts.PLUS, charts.OTHER, "#8a5fbf", "#b03a5b", "#7d7a1e", "#5b6b7a", "#3f8f3a")
"""The colour of each class; a ninth class has the first one again."""


class _Plane(NamedTuple):
    """A grid over the training points, in the units of the columns."""

    x1: Float64[np.ndarray, " G"]
    x2: Float64[np.ndarray, " G"]
    points: Float64[Tensor, "G*G 2"]


def sections(classifier: Classifier, data: PictureSet) -> list[Section]:
    """The section `boundary`; none if the inputs are not two columns of a table."""
    inputs = classifier.preprocessing
    if not isinstance(inputs, Standardisation) or len(inputs.columns) != 2:
        return []
    network, names = classifier.network, start_names(classifier.origins)
    plane = _plane(data.train)
    x = inputs.normalise(plane.points)
    outputs, S = network.forward(x)[-1], network.starts
    some, fewer = _some(data.train, POINTS), _some(data.train, FEWER_POINTS)

    def large(title: str, draw: Callable[[Axes], None]) -> Markup:
        figure, (axes,) = charts.figure(3.9, 3.6)
        draw(axes)
        _draw_points(axes, some)
        axes.set(xlabel=inputs.columns[0], ylabel=inputs.columns[1])
        axes.set_title(title, loc="left")
        return charts.svg(figure, f"{title}: where the answer changes, with training points")

    def small(name: str, of: Float[Tensor, "N n_out"]) -> Markup:
        figure, (axes,) = charts.figure(2.5, 2.4)
        _draw_regions(axes, plane, of)
        _draw_points(axes, fewer)
        axes.set(xticks=[], yticks=[])
        return charts.svg(figure, f"{name}: where the answer changes, with training points")

    main = [large(f"Chosen start, {names[0]}", lambda axes: _draw_regions(axes, plane, outputs[0]))]
    if S > 1:
        main.append(large(f"Vote of the {S} kept starts", lambda axes: _draw_regions(axes, plane, vote(outputs))))
    if len(network.w) > 1:
        z = network.pick([0]).weighted_input(0, x)[0]
        node = _boldest(z, network.w[1][0])
        title = f"Node {classifier.node_name(0, node)} of {names[0]}"
        main.append(large(title, lambda axes: _draw_nodes(axes, plane, z, node)))
    values: dict[str, Any] = {
        "main": main,
        "others": [(names[s], small(names[s], outputs[s])) for s in range(1, min(S, 1 + OTHERS))],
        "kept": S,
        "hidden": len(network.w) > 1,
        "columns": inputs.columns,
        "points": len(some.y),
        "all_points": len(data.train.y),
        "legend": [(name, _in_page(COLOURS[k % len(COLOURS)])) for k, name in enumerate(classifier.classes)],
    }
    look = "Look where the starts draw the line differently: far from the training points they only guess."
    return [Section("boundary", "Decision boundary", look if S > 1 else "Look where the answer changes.", values)]


def _plane(train: Split) -> _Plane:
    low, high = train.x.double().amin(0), train.x.double().amax(0)
    space = torch.where(high > low, MARGIN * (high - low), 1.0)  # a column of one value has no range
    x1, x2 = (torch.linspace(a, b, GRID, dtype=torch.float64) for a, b in zip(low - space, high + space, strict=True))
    return _Plane(x1.numpy(), x2.numpy(), torch.stack([x1.repeat(GRID), x2.repeat_interleave(GRID)], 1))


def _some(train: Split, count: int) -> Split:
    """At most `count` training points, evenly spaced in their order, which keeps the shares of the classes."""
    return train.take(torch.linspace(0, len(train.y) - 1, min(count, len(train.y))).round().long())


def _boldest(z: Float[Tensor, "N n"], w_out: Float[Tensor, "n n_out"]) -> int:
    """The hidden node with the largest weights to the next layer, among those whose z changes its sign in the plane."""
    crosses = (z.amin(0) < 0) & (z.amax(0) > 0)
    return int(torch.where(crosses, w_out.abs().sum(1), -1.0).argmax())


def _draw_regions(axes: Axes, plane: _Plane, outputs: Float[Tensor, "N n_out"]) -> None:
    """Each class where its output is the largest, darker where it leads by more than half; the boundary as a line."""
    for k in range(outputs.shape[1]):
        rest = torch.cat([outputs[:, :k], outputs[:, k + 1 :]], 1).amax(1)
        lead = (outputs[:, k] - rest).double().view(GRID, GRID).numpy()
        for least, alpha in ((0.0, 0.16), (0.5, 0.2)):
            if lead.max() > least:
                colour = COLOURS[k % len(COLOURS)]
                axes.contourf(plane.x1, plane.x2, lead, levels=[least, 2.0], colors=[colour], alpha=alpha)
        if lead.min() < 0 < lead.max():
            axes.contour(plane.x1, plane.x2, lead, levels=[0.0], colors=[charts.INK], linewidths=1.4)


def _draw_nodes(axes: Axes, plane: _Plane, z: Float[Tensor, "N n"], node: int) -> None:
    """One node's straight boundary and its positive side; thin, those of the other nodes of its layer."""
    for j in range(z.shape[1]):
        of_node = z[:, j].double().view(GRID, GRID).numpy()
        if not of_node.min() < 0 < of_node.max():
            continue
        width, colour = (2.2, charts.CHOSEN) if j == node else (0.5, charts.SOFT)
        axes.contour(plane.x1, plane.x2, of_node, levels=[0.0], colors=[colour], linewidths=width, linestyles="solid")
        if j == node:
            top = of_node.max()
            axes.contourf(plane.x1, plane.x2, of_node, levels=[0.0, top], colors=[charts.CHOSEN], alpha=0.14)


def _draw_points(axes: Axes, points: Split) -> None:
    for k in points.y.unique().tolist():
        x = points.x[points.y == k]
        axes.plot(x[:, 0], x[:, 1], "o", color=COLOURS[k % len(COLOURS)], markersize=2.6, markeredgewidth=0)


def _in_page(colour: str) -> str:
    return f"var({charts.COLOURS[colour][0]})" if colour in charts.COLOURS else colour
