"""The section of the hill and the ball: true costs along one weight and in a plane, and the paths of training."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hillstart.data.batches import Sample
from hillstart.data.dataset import PictureSet
from hillstart.inference.classifier import Classifier
from hillstart.report.landscape import (
    Landscape,
    Plane,
    Point,
    Points,
    flat,
    locate,
    plane_of_path,
    plane_through,
    square,
)
from hillstart.report.page import Section, floats
from hillstart.report.paths import Paths, retrain
from hillstart.report.run import FinishedRun, start_names

PICTURES, FEWEST = 1000, 100
WORK = 5e10
"""Floating-point operations for all points of a plane; above it fewer pictures are used, but at least `FEWEST`."""
SIGMOID = 20
"""Floating-point operations that one sigmoid counts as."""

GRID = 41  # points on each side of a plane
FRAMES = 41  # recorded points that are shown, about
BALLS = 3  # the best kept starts that are shown
VALUES = 41  # points on the line along a weight
WEIGHTS = 10  # that can be chosen for such a line
REACHES = (1.5, 2.5, 4.0, 6.0)
"""Half the length of a line along a weight, in widths of its path: the first at which both ends rise by `RISE`."""
RISE = 1.3

Ends = Float[Tensor, "S P"]
Frames = Float[Tensor, "F S P"]


def section(run: FinishedRun, patience: float) -> Section:
    """The hill under the chosen start and the best of those that were trained in its pack.

    Only when its whole pack is trained again does a start take the same path to the last bit.

    Args:
        patience: seconds that the training may take, as the run took them.
    """
    pack, kept, summary = run.pack, run.classifier.origins, run.summary
    shown = [k for k, start in enumerate(kept) if not pack or start in pack][:BALLS]
    origins = tuple(kept[k] for k in shown)
    classifier = replace(run.classifier, network=run.classifier.network.pick(shown), origins=origins)
    seconds = summary["seconds"] * len(pack or shown) / summary["starts"]
    paths, why_none = None, ""
    if summary["ranks"] > 1:
        why_none = f"The paths downhill are not shown: the starts were shared by {summary['ranks']} devices."
    elif seconds > patience:
        why_none = (
            f"The paths downhill are not shown, because training again takes about {seconds:.0f} seconds; "
            f"python scripts/report.py RUN --patience {2 * seconds:.0f} does it."
        )
    else:
        of = run.trainer
        paths = retrain(run.spec, pack, origins, of.max_epochs, of.max_steps, of.accelerator)
    return section_of(classifier, paths, run.spec.data, why_none)


def section_of(classifier: Classifier, paths: Paths | None, data: PictureSet, why_no_paths: str = "") -> Section:
    """The hill under the kept starts, the best of which is the chosen one.

    Args:
        paths: of the best `BALLS` kept starts, or as many as there are; None: only their ends are shown.
        why_no_paths: in one sentence.
    """
    origins, kept = classifier.origins[:BALLS], flat(classifier.network)[:BALLS]
    landscape = _landscape(classifier, data)
    if paths is not None and not paths.weights.isfinite().all():
        paths, why_no_paths = None, "No paths are shown: trained again without its pack, a start diverged."
    path = drift = None
    if paths is None:
        epochs, best, points = [""], [0] * len(kept), kept[None]
    else:
        starts = [paths.starts.index(start) for start in origins]
        frames, best = _frames(paths, starts)
        points = paths.weights[frames][:, starts]
        epochs = [str(paths.epochs[frame]) for frame in frames]
        path = paths.weights[: frames[-1] + 1, starts[0]]
        drift = (paths.best_weights[starts] - kept).abs().max().item()
    costs = torch.stack([landscape.costs(of_start) for of_start in points.unbind(1)])
    names = [f"seed {start.seed}" for start in origins]
    if len(set(names)) < len(names):
        names = start_names(origins)
    picked = interesting(landscape, kept[0], None if paths is None else kept[0] - points[0, 0])
    lines = _along_weights(landscape, points[:, 0], best[0], list(picked))
    weights = [
        {"name": _label(classifier, index), "why": why, **line}
        for (index, why), line in zip(picked.items(), lines, strict=True)
    ]
    views = _views(landscape, kept, points, names, path)
    lowest, highest = 0.8 * min(weight["lowest"] for weight in weights), max(1.2 * costs[0].max(), 4 * costs[0].min())
    return Section(
        "hill",
        "The hill and the ball",
        "Follow the ball: compare its steps at first with those near the end."
        if paths
        else "Look at how the cost changes on both sides of the place where training ended.",
        {
            "pictures": f"{len(landscape.x):,}",
            "parameters": f"{kept.shape[1]:,}",
            "cost": landscape.cost.replace("_", " "),
            "seed": names[0],
            "moving": len(epochs) > 1,
            "views": views,
            "weights": weights,
            "why_no_paths": why_no_paths,
            "drift": drift,
        },
        {
            "epochs": epochs,
            "names": names,
            "best": best,
            "costs": [_rounded(each) for each in costs],
            "bounds": _log_bounds(lowest, float(highest)),
            "weights": weights,
            "views": views,
        },
    )


def _landscape(classifier: Classifier, data: PictureSet) -> Landscape:
    """The landscape of as many pictures as allow the costs of a plane to be computed in about a second."""
    sizes = classifier.network.sizes
    products = sum(2 * n_in * n_out for n_in, n_out in itertools.pairwise(sizes[1:]))
    limit = int(WORK / (GRID**2 * (products + SIGMOID * sum(sizes[1:]))))
    limit = min(PICTURES, max(FEWEST, limit))
    sample = Sample(data.train, len(data.classes), data.preprocessing, torch.device("cpu"), limit)
    return Landscape(classifier.network, *next(sample.batches()))


def _frames(paths: Paths, starts: Sequence[int]) -> tuple[list[int], list[int]]:
    """The recorded points that are shown, denser at first, where most happens; and the best frame of each start."""
    end = max(paths.last[s] for s in starts)  # others of their pack may have gone on
    n = next((k for k, epoch in enumerate(paths.epochs, 1) if epoch >= end), len(paths.epochs))
    nearest = [min(range(n), key=lambda k: abs(paths.epochs[k] - paths.best[s])) for s in starts]
    if n <= FRAMES:
        shown = set(range(n))
    else:
        shown = {0, *(round((n - 1) ** (k / (FRAMES - 2))) for k in range(FRAMES - 1)), *nearest}
    frames = sorted(shown)
    return frames, [frames.index(k) for k in nearest]


# ---------------------------------------------------------------- in a plane


def _views(
    landscape: Landscape, kept: Ends, points: Frames, names: Sequence[str], path: Float[Tensor, "points P"] | None
) -> list[dict[str, Any]]:
    """The plane nearest to the path of the chosen start, and the plane through three ends, if there are such.

    Args:
        points: of the starts in each frame.
        path: all recorded points of the chosen start.
    """
    views = list[dict[str, Any]]()
    if path is not None and (nearest := plane_of_path(path, kept[0])):
        plane, share = nearest
        view = _map(landscape, plane, kept[:1], points[:, :1])
        view["name"] = f"Path of {names[0]}"
        view["words"] = (
            f"Of all planes, the one nearest to this path: it holds {math.floor(100 * share)} % of it (of the squared "
            f"distances to its end). The ball rolls {_mean_distance(view)} beside the plane on average, at its own "
            "cost, which is written below; the colour under it is the cost in the plane. The ring is the network that "
            "was kept."
        )
        view["axes"] = ("the way training went most", "the way it went besides")
        views.append(view)
    if len(kept) == BALLS and (through := plane_through(*kept)):
        pairs = list(itertools.combinations(kept, 2))
        apart = [(a - b).norm().item() for a, b in pairs]
        between, ends = landscape.costs(torch.stack([(a + b) / 2 for a, b in pairs])), landscape.costs(kept)
        view = _map(landscape, through, kept, points)
        view["name"] = "Three valleys"
        view["words"] = (
            f"The plane through the ends of {names[0]}, {names[1]} and {names[2]}, which lie {min(apart):.3g} to "
            f"{max(apart):.3g} apart. Half-way from one to another the cost is {between.min():.3g} to "
            f"{between.max():.3g}, at the ends {ends.min():.3g} to {ends.max():.3g}."
        )
        if path is not None:
            view["words"] += (
                f" The balls roll on average {_mean_distance(view)} beside this plane: what moves here are "
                "their shadows, and a ball is in the plane only where it was kept, at its ring."
            )
        view["axes"] = (f"from {names[0]} towards {names[1]}", f"at a right angle to that, towards {names[2]}")
        views.append(view)
    return views


def _mean_distance(view: dict[str, Any]) -> str:
    """Mean distance of the balls from the plane, over the shown points, as text."""
    distances = [distance for ball in view["balls"] for distance in ball["beside"]]
    return f"{sum(distances) / len(distances):.2g}"


def _map(landscape: Landscape, plane: Plane, kept: Ends, points: Frames) -> dict[str, Any]:
    """The costs on a square of a plane that holds all balls, and where these are in each frame."""
    ends = plane.coordinates(kept)
    shadows = torch.stack([plane.coordinates(of_start) for of_start in points.unbind(1)])
    beside = torch.stack([plane.distance(of_start) for of_start in points.unbind(1)])
    beside[beside < 1e-6 * points.norm(dim=2).T] = 0.0  # no more than rounding
    all_balls = torch.cat([ends, shadows.flatten(0, 1)])
    low, high = all_balls.amin(0), all_balls.amax(0)
    side = (high - low).max().item() * 1.36
    corner = (low + high - side) / 2
    grid = plane.costs(landscape, square(corner.tolist(), side, GRID))
    lowest, highest = grid.min().item(), landscape.costs(points[0]).max().item()
    return {
        "low": _rounded(corner),
        "side": side,
        "n": GRID,
        "grid": floats(grid),
        # Costs far above all the balls share a colour.
        "bounds": _log_bounds(lowest, min(grid.max().item(), 10 * max(highest, lowest))),
        "balls": [
            {
                "end": _rounded(end),
                "x": _rounded(shadow[:, 0]),
                "y": _rounded(shadow[:, 1]),
                "beside": _rounded(distance),
            }
            for end, shadow, distance in zip(ends, shadows, beside, strict=True)
        ],
    }


def _log_bounds(low: float, high: float) -> list[float]:
    """Bounds of a logarithmic scale, which cannot hold 0."""
    return [max(low, high / 1e6, 1e-12), max(high, 1e-11)]


# ---------------------------------------------------------------- along single weights


def interesting(landscape: Landscape, end: Point, moved: Point | None) -> dict[int, str]:
    """Indices of some weights and biases in a flat vector, and why each is interesting.

    Args:
        moved: the distance of each from where training began; None if it is not known.
    """
    size = (end if moved is None else moved).abs()
    most = "moved most" if moved is not None else "largest"
    found = dict[int, str]()
    layers = list(itertools.pairwise(landscape.sizes))
    biases = first = sum(n_in * n_out for n_in, n_out in layers)
    for l, (n_in, n_out) in reversed(list(enumerate(layers, 1))):  # the upper layers have the steeper valleys
        first -= n_in * n_out
        layer = size[first : first + n_in * n_out].view(n_in, n_out).clone()
        for k in range(2 if l in (1, len(layers)) else 1):
            i, j = divmod(int(layer.argmax()), n_out)
            if layer[i, j] >= 0:
                where = "output" if l == len(layers) else f"hidden{l}"
                found[first + i * n_out + j] = f"{most} into {where}{', elsewhere' * k}"
            layer[i], layer[:, j] = -1, -1
    found.setdefault(biases + int(size[biases:].argmax()), f"{most} of the biases")
    sensitivity = landscape.fisher_diagonal(end)
    found.setdefault(int(sensitivity.argmax()), "felt most by the cost")
    found.setdefault(int(sensitivity.argmin()), "hardly felt by the cost")
    return dict(list(found.items())[:WEIGHTS])


def _along_weights(landscape: Landscape, points: Points, best: int, indices: Sequence[int]) -> list[dict[str, Any]]:
    """The cost along some weights, each with all others as in each frame."""
    w = points[:, indices].T
    middle, span = (w.amax(1) + w.amin(1)) / 2, w.amax(1) - w.amin(1)
    span = torch.maximum(span, middle.abs() / 2).clamp_min(0.5)
    from_middle, reach = torch.linspace(-1, 1, VALUES), torch.full_like(span, REACHES[0])
    for further in REACHES[1:]:
        values = middle[:, None] + (reach * span)[:, None] * from_middle
        end = landscape.along(points[best : best + 1], indices, values)[0]
        reach[torch.minimum(end[:, 0], end[:, -1]) < RISE * end.amin(1)] = further
    values = middle[:, None] + (reach * span)[:, None] * from_middle
    costs = landscape.along(points, indices, values).transpose(0, 1)
    return [
        {
            "w": _rounded(w[k]),
            "low": values[k, 0].item(),
            "high": values[k, -1].item(),
            "lowest": costs[k].min().item(),
            "costs": floats(costs[k]),
        }
        for k in range(len(indices))
    ]


def _label(classifier: Classifier, index: int) -> str:
    """The name of a weight or bias, by the names of its nodes."""
    l, i, j = locate(classifier.network.sizes, index)
    target = classifier.node_name(l, j)
    if i is None:
        return f"bias of {target}"
    return f"{classifier.node_name(l - 1, i) if l else classifier.preprocessing.input_names[i]} → {target}"


def _rounded(values: Tensor) -> list[float]:
    """The values to five digits, more than a drawing can show."""
    return [float(f"{value:.5g}") for value in values.reshape(-1).nan_to_num().tolist()]
