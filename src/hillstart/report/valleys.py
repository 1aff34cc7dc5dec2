"""The section on the valleys: how low the starts came, and whether they ended in one valley or in several.

Two starts share a valley if the cost has no barrier on the straight line between them, once the hidden nodes of both
are numbered alike.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from hillstart.data.batches import Sample, generator
from hillstart.data.dataset import PictureSet
from hillstart.inference.classifier import Classifier
from hillstart.inference.evaluation import cost_of
from hillstart.network import Network
from hillstart.report import charts
from hillstart.report.landscape import HIGHEST, Landscape, flat
from hillstart.report.matching import CENTRE, matched, shuffled
from hillstart.report.page import Section, floats
from hillstart.report.run import start_names
from hillstart.system.statistics import quantiles

TITLE = "The valleys: where did the starts end?"
LOOK = "Look at the hill between two starts: is it still there once the hidden nodes of both are numbered alike?"

PICTURES = 1000
"""Training pictures on which the cost along a line is measured."""
OTHERS, FINE_OTHERS = 1000, 300
"""Starts that are compared with the chosen one; with more than the second number, lines have fewer points."""
FINE, COARSE = 21, 11
"""Points on a line."""

SAME, RENUMBERED, ANOTHER = range(3)
VERDICTS = ("same valley", "same valley, renumbered", "another valley")

SHARE = 0.05
"""A barrier below this share of the difference between the cost of guessing and the chosen start's is no hill."""
ROUNDING = 1e-5
"""A barrier below this share of the cost of guessing is rounding."""


def section(
    classifier: Classifier,
    val_costs: Sequence[float],
    diverged: int,
    data: PictureSet,
    tested: Mapping[str, float] | None = None,
) -> Section:
    """The section on the valleys in which the starts ended.

    Args:
        classifier: the kept starts, the chosen one first.
        val_costs: the validation costs of all starts that did not diverge, the chosen one's first.
        diverged: the number of starts that diverged.
        tested: the quantiles of the test accuracy over the starts, if every start was evaluated.
    """
    network, names = classifier.network, start_names(classifier.origins)
    S, control = min(network.starts, 1 + OTHERS), int(len(network.w) > 1)
    values: dict[str, Any] = {
        "histogram": _histogram(val_costs) if len(val_costs) > 1 else None,
        "val_costs": [short(quantiles(val_costs)[name]) for name in ("min", "median", "max")],
        "sound": len(val_costs),
        "diverged": diverged,
        "tested": tested,
        "chosen": names[0],
        "others": S - 1,
        "control": control,
        "turned": network.activation in CENTRE,
        "scaled": network.activation == "relu",
        "exact": len(network.w) == 2,
    }
    if S - 1 + control == 0:
        return Section("valleys", TITLE, LOOK, values)

    sample = Sample(data.train, len(data.classes), data.preprocessing, torch.device("cpu"), PICTURES)
    landscape = Landscape(network, *next(sample.batches(PICTURES)))
    starts = [network.pick([s]) for s in range(S)]
    if control:
        starts.insert(1, shuffled(network, generator(0, "shuffled")))
    found = lines(starts[0], starts[1:], landscape, FINE if S - 1 <= FINE_OTHERS else COARSE)
    names = [f"{names[0]} itself, shuffled"] * control + names[1:S]
    before, after = found.barriers
    verdicts, costs = found.verdicts(), found.as_is[:, -1].tolist()
    of_others = [found.verdicts(times)[control:] for times in (1, 0.5, 2)]
    medians = [quantiles(barriers[control:] or [0.0])["median"] for barriers in (before, after)]
    scale = {"own": found.own, "guess": found.guess, "limit": found.limit}
    values |= {name: short(value) for name, value in scale.items()} | {
        "pictures": sample.pictures,
        "points": found.as_is.shape[1],
        "share": f"{100 * SHARE:g}",
        "learned": found.own < found.guess,
        "counts": [(name, of_others[0].count(verdict)) for verdict, name in enumerate(VERDICTS)],
        "together": [sum(verdict != ANOTHER for verdict in verdicts) for verdicts in of_others],
        "check": (short(before[0]), short(after[0])),
        "medians": [short(median) for median in medians],
        "lowered": medians[1] < medians[0],
    }
    order = sorted(range(len(names)), key=lambda s: (s >= control, after[s], before[s]))
    curves = torch.stack([found.as_is, found.renumbered], 1)[order, :, 1:-1]  # the rows hold the costs at the ends
    data_of_script = {name: _rounded(value) for name, value in scale.items()} | {
        "points": found.as_is.shape[1],
        "control": control,
        "verdicts": VERDICTS,
        "starts": [[names[s], *map(_rounded, (costs[s], before[s], after[s])), verdicts[s]] for s in order],
        "curves": floats(curves),
    }
    return Section("valleys", TITLE, LOOK, values, data_of_script)


def short(value: float) -> str:
    """A number in a sentence."""
    return f"{value:.3g}" if math.isfinite(value) else "∞"


def _rounded(value: float) -> float | None:
    """The value to 4 digits; None if JSON has no number for it."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _histogram(val_costs: Sequence[float]) -> Markup:
    """Histogram of the validation costs; the chosen start, the first, is marked."""
    costs, chosen = [cost for cost in val_costs if math.isfinite(cost)], val_costs[0]
    low, high = min(costs), max(costs)
    count = min(60, max(8, round(2 * math.sqrt(len(costs)))))
    made, (axes,) = charts.figure(4.7, 2.5)
    if 0 < 100 * low < high:
        edges = np.geomspace(low, high, count + 1)
        axes.set_xscale("log")
    else:
        edges = np.linspace(low, max(high, 1.001 * low, low + 1e-9), count + 1)
    most = int(np.histogram(costs, edges)[0].max())
    axes.hist(costs, edges.tolist(), color=charts.OTHER, edgecolor=charts.CARD, linewidth=1)
    axes.set_ylim(0, 1.3 * most)
    top = 1.12 * most
    axes.plot([chosen, chosen], [0, top], color=charts.CHOSEN, linewidth=2)
    axes.plot([chosen], [top], "o", color=charts.CHOSEN, markersize=8)
    text = f"chosen: {short(chosen)}"
    axes.annotate(text, (chosen, top), (9, 0), textcoords="offset points", va="center", color=charts.INK)
    axes.set(xlabel="validation cost", ylabel="starts")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    label = (
        f"Histogram of the validation costs of {len(costs)} starts, from {short(low)} to {short(high)}; "
        f"the chosen one, at {short(chosen)}, is marked."
    )
    return charts.svg(made, label)


# ---------------------------------------------------------------- straight lines between networks


@dataclass(frozen=True)
class Lines:
    """Costs on the straight lines from the chosen start to others, as they are and renumbered.

    Attributes:
        guess: the cost of guessing.
    """

    as_is: Float64[Tensor, "S points"]
    renumbered: Float64[Tensor, "S points"]
    guess: float

    @property
    def own(self) -> float:
        """The cost of the chosen start."""
        return float(self.as_is[0, 0])

    @property
    def limit(self) -> float:
        """The highest barrier that is still no hill."""
        return max(0.0, SHARE * (self.guess - self.own))

    @property
    def barriers(self) -> tuple[list[float], list[float]]:
        """The barriers on the lines as they are, and renumbered."""
        tiny = ROUNDING * self.guess
        before, after = (barriers(costs).tolist() for costs in (self.as_is, self.renumbered))
        return [b if b > tiny else 0.0 for b in before], [b if b > tiny else 0.0 for b in after]

    def verdicts(self, times: float = 1.0) -> list[int]:
        """`SAME`, `RENUMBERED` or `ANOTHER` for each start, with a limit so many times as high."""
        limit, pairs = times * self.limit, zip(*self.barriers, strict=True)
        return [SAME if before <= limit else RENUMBERED if after <= limit else ANOTHER for before, after in pairs]


def lines(chosen: Network, others: Iterable[Network], landscape: Landscape, points: int) -> Lines:
    """The lines from one start to each of the others.

    Args:
        points: the number of points on each line, evenly spaced, with both ends.
    """
    t = torch.linspace(0, 1, points, dtype=chosen.w[0].dtype)
    mix = torch.stack([1 - t, t], 1)

    def costs(other: Network) -> Float64[Tensor, " points"]:
        found = landscape.mixtures(torch.cat([flat(chosen), flat(other)]), mix)
        return torch.where(found < HIGHEST, found.double(), torch.inf)

    pairs = [(costs(other), costs(matched(other, chosen))) for other in others]
    as_is, renumbered = (torch.stack(of_starts) for of_starts in zip(*pairs, strict=True))
    return Lines(as_is, renumbered, cost_of_guessing(landscape.y, landscape.cost))


def barriers(costs: Float64[Tensor, "S points"]) -> Float64[Tensor, " S"]:
    """The largest height of the cost on each line above the straight interpolation of its ends, 0 or more.

    As in Entezari, Sedghi, Saukh and Neyshabur 2022; infinite if a cost is.
    """
    t = torch.linspace(0, 1, costs.shape[1], dtype=torch.float64)
    rise = costs - torch.lerp(costs[:, :1], costs[:, -1:], t)
    return rise.nan_to_num(nan=torch.inf, posinf=torch.inf).amax(1)


def cost_of_guessing(y: Float[Tensor, "B n_out"], cost: str) -> float:
    """The lowest cost of one answer to all pictures, which for every cost is the share of each class."""
    shares = y.double().mean(0).clamp(1e-9, 1 - 1e-9)
    return float(cost_of(shares.expand_as(y), y.argmax(-1), cost).mean())
