"""The section of the hill and the ball: the real costs along one weight and in a plane, and the paths of training."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hillstart.data.batches import Sample
from hillstart.data.dataset import PictureSet
from hillstart.engine.starts import Start, varying
from hillstart.inference.classifier import Classifier
from hillstart.report.hills import Hill, Plane, along_path, flat, through
from hillstart.report.one_weight import along_weights, interesting, label, rounded
from hillstart.report.page import Section, floats
from hillstart.report.paths import Paths

# Pictures that costs are measured on, and the work that all points of a plane may be: below it, fewer pictures are.
PICTURES, FEWEST = 1000, 100
WORK = 5e10
# What a sigmoid takes, in the floating-point operations of a matrix product.
SIGMOID = 20

GRID = 41
FRAMES = 41
BALLS = 3

Ends = Float[Tensor, "S P"]
Ways = Float[Tensor, "F S P"]


def section(model: Classifier, paths: Paths | None, data: PictureSet, why_no_paths: str = "") -> Section:
    """The hill under the kept starts, the best of which is the chosen one.

    Args:
        paths: of the best `BALLS` kept starts, or as many as there are; None: only their ends are shown.
        why_no_paths: in one sentence.
    """
    kept = flat(model.network)[:BALLS]
    hill = _measured(model, data)
    if paths is not None and not paths.weights.isfinite().all():
        paths, why_no_paths = None, "Trained once more, but not in the same company, a start diverged."
    if paths is None:
        frames, way = [0], kept[None]
        chosen, best = [""], [0] * len(kept)
    else:
        of = [paths.starts.index(start) for start in model.origins[: len(kept)]]
        frames, best = _frames(paths, of)
        way = paths.weights[frames][:, of]
        chosen = [str(paths.epochs[frame]) for frame in frames]
    costs = torch.stack([hill.at(points) for points in way.unbind(1)])
    names = _names(model.origins[: len(kept)])
    moved = None if paths is None else kept[0] - way[0, 0]
    picked = interesting(hill, kept[0], moved)
    lines = along_weights(hill, way[:, 0], best[0], [index for index, _ in picked])
    weights = [
        {"name": label(model, index), "why": why, **line} for (index, why), line in zip(picked, lines, strict=True)
    ]
    views = _views(hill, kept, way, names, None if paths is None else paths.weights[: frames[-1] + 1, of[0]])
    shown: dict[str, Any] = {
        "epochs": chosen,
        "names": names,
        "best": best,
        "costs": [rounded(each) for each in costs],
        "bounds": _bounds(
            0.8 * min(weight["lowest"] for weight in weights), max(1.2 * costs[0].max(), 4 * costs[0].min()).item()
        ),
        "weights": weights,
        "views": views,
    }
    return Section(
        "hill",
        "The hill and the ball",
        "Follow the ball: compare its steps at first with those near the end."
        if paths
        else "Look at how the cost changes on both sides of the place where training ended.",
        {
            "pictures": f"{len(hill.x):,}",
            "parameters": f"{kept.shape[1]:,}",
            "cost": hill.cost.replace("_", " "),
            "seed": names[0],
            "moving": len(frames) > 1,
            "views": views,
            "weights": weights,
            "why_no_paths": why_no_paths,
            "drift": None if paths is None else (paths.best_weights[of] - kept).abs().max().item(),
        },
        shown,
    )


def _measured(model: Classifier, data: PictureSet) -> Hill:
    """The hill over as many pictures as allow a plane of points to be measured in about a second."""
    sizes = model.network.sizes
    products = sum(2 * n_in * n_out for n_in, n_out in itertools.pairwise(sizes[1:]))
    limit = int(WORK / (GRID**2 * (products + SIGMOID * sum(sizes[1:]))))
    limit = min(PICTURES, max(FEWEST, limit))
    sample = Sample(data.train, len(data.classes), data.preprocessing, torch.device("cpu"), limit)
    return Hill(model.network, *next(sample.batches()))


def _frames(paths: Paths, of: Sequence[int]) -> tuple[list[int], list[int]]:
    """The recorded points that are shown, denser at first, where most happens; and the best one of each start."""
    end = max(paths.last[s] for s in of)  # others of their pack may have rolled on
    n = next((k for k, epoch in enumerate(paths.epochs, 1) if epoch >= end), len(paths.epochs))
    nearest = [min(range(n), key=lambda k: abs(paths.epochs[k] - paths.best[s])) for s in of]
    if n <= FRAMES:
        shown = set(range(n))
    else:
        shown = {0, *(round((n - 1) ** (k / (FRAMES - 2))) for k in range(FRAMES - 1)), *nearest}
    frames = sorted(shown)
    return frames, [frames.index(k) for k in nearest]


# ---------------------------------------------------------------- in a plane


def _views(
    hill: Hill, kept: Ends, way: Ways, names: Sequence[str], path: Float[Tensor, "points P"] | None
) -> list[dict[str, Any]]:
    """The plane that the path of the chosen start lies in best, and that through three ends, as far as there are such.

    Args:
        way: where the starts were in each frame.
        path: of the chosen start, all that was recorded.
    """
    found = list[dict[str, Any]]()
    lies = None if path is None else along_path(path, kept[0])
    if lies is not None:
        plane, share = lies
        seen = _map(hill, plane, kept[:1], way[:, :1])
        seen["name"] = f"Path of {names[0]}"
        seen["words"] = (
            f"Of all planes, the one nearest to this path: it holds {_percent(share)} of it (of the squared distances "
            f"to its end). The ball rolls {_mean(seen)} beside the plane on average, at its own cost, which is written "
            "below; the colour under it is the cost in the plane. The ring is the network that was kept."
        )
        seen["axes"] = ("the way training went most", "the way it went besides")
        found.append(seen)
    three = through(*kept) if len(kept) == BALLS else None
    if three is not None:
        pairs = list(itertools.combinations(kept, 2))
        apart = [(a - b).norm().item() for a, b in pairs]
        between, at = hill.at(torch.stack([(a + b) / 2 for a, b in pairs])), hill.at(kept)
        seen = _map(hill, three, kept, way)
        seen["name"] = "Three valleys"
        seen["words"] = (
            f"The plane through the ends of {names[0]}, {names[1]} and {names[2]}, which lie {min(apart):.3g} to "
            f"{max(apart):.3g} apart. Half-way from one to another the cost is {between.min():.3g} to "
            f"{between.max():.3g}, at the ends {at.min():.3g} to {at.max():.3g}."
        ) + (
            f" The balls roll on average {_mean(seen)} beside this plane: what moves here are "
            "their shadows, and a ball is in the plane only where it was kept, at its ring."
            if path is not None
            else ""
        )
        seen["axes"] = (f"from {names[0]} towards {names[1]}", f"at a right angle to that, towards {names[2]}")
        found.append(seen)
    return found


def _mean(seen: dict[str, Any]) -> str:
    """Mean distance of the balls from the plane of a map, over the shown points, as text."""
    beside = [distance for ball in seen["balls"] for distance in ball["beside"]]
    return f"{sum(beside) / len(beside):.2g}"


def _map(hill: Hill, plane: Plane, kept: Ends, way: Ways) -> dict[str, Any]:
    """The costs on a square of a plane that holds all balls, and where these lie in each frame."""
    S = len(kept)
    ends = plane.coordinates(kept)
    shadows = torch.stack([plane.coordinates(points) for points in way.unbind(1)])
    beside = torch.stack([plane.beside(points) for points in way.unbind(1)])
    beside[beside < 1e-6 * way.norm(dim=2).T] = 0.0  # no more than rounding
    everything = torch.cat([ends, shadows.flatten(0, 1)])
    low, high = everything.amin(0), everything.amax(0)
    side = (high - low).max().item() * 1.36
    corner = tuple(((low + high - side) / 2).tolist())
    grid = hill.cut(plane.origin, plane.axes, plane.grid(corner, side, GRID))
    highest = hill.at(way[0]).max().item()
    return {
        "low": rounded(torch.tensor(corner)),
        "side": side,
        "n": GRID,
        "grid": floats(grid),
        # Far above all the balls nothing needs a colour of its own.
        "bounds": _bounds(grid.min().item(), min(grid.max().item(), 10 * max(highest, grid.min().item()))),
        "balls": [
            {
                "end": rounded(ends[s]),
                "x": rounded(shadows[s, :, 0]),
                "y": rounded(shadows[s, :, 1]),
                "beside": rounded(beside[s]),
            }
            for s in range(S)
        ],
    }


def _bounds(low: float, high: float) -> list[float]:
    """Bounds of a logarithmic scale, which cannot hold 0."""
    return [max(low, high / 1e6, 1e-12), max(high, 1e-11)]


# ---------------------------------------------------------------- in words


def _names(starts: Sequence[Start]) -> list[str]:
    """Names of the starts: their seeds, and their varying hyperparameters if seeds repeat."""
    names = [f"seed {start.seed}" for start in starts]
    if len(set(names)) == len(names):
        return names
    rolls = [[f"{key} {getattr(start.hyperparameters, key):g}" for key in varying(starts)] for start in starts]
    return [", ".join([name, *roll]) for name, roll in zip(names, rolls, strict=True)]


def _percent(share: float) -> str:
    return f"{math.floor(100 * share)} %"
