"""The section on the valleys: how low the starts came, and whether they ended in one valley or in several."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from hillstart.data.batches import Sample, generator
from hillstart.data.dataset import PictureSet
from hillstart.engine.starts import Start, varying
from hillstart.inference.classifier import Classifier
from hillstart.network import Network
from hillstart.report import charts
from hillstart.report.lines import ANOTHER, SHARE, VERDICTS, lines
from hillstart.report.matching import CENTRE, shuffled
from hillstart.report.page import Section, floats
from hillstart.system.statistics import quantiles

TITLE = "The valleys: where did the starts end?"
LOOK = "Look at the hill between two starts: is it still there once the hidden nodes of both are numbered alike?"

# Training pictures that the cost along a line is measured on.
PICTURES = 1000
# Other starts that are looked at, and up to how many the lines have the finer points: the page is to stay small.
OTHERS, FINE_OTHERS = 1000, 300
FINE, COARSE = 21, 11
# Of these, how many are renumbered at once.
AT_ONCE = 64


def section(model: Classifier, val_costs: Sequence[float], diverged: int, data: PictureSet) -> Section:
    """The section on the valleys in which the starts ended.

    Args:
        model: the kept starts, the chosen one first.
        val_costs: of all sound starts, the chosen one's first.
        diverged: how many more there were.
    """
    network, names = model.network, _named(model.origins)
    S, control = min(network.starts, 1 + OTHERS), int(len(network.w) > 1)
    values: dict[str, Any] = {
        "histogram": _histogram(val_costs) if len(val_costs) > 1 else None,
        "val_costs": [short(quantiles(val_costs)[name]) for name in ("min", "median", "max")],
        "sound": len(val_costs),
        "diverged": diverged,
        "chosen": names[0],
        "others": S - 1,
        "control": control,
        "turned": network.activation in CENTRE,
        "scaled": network.activation == "relu",
        "exact": len(network.w) == 2,
    }
    if S - 1 + control == 0:
        return Section("valleys", TITLE, LOOK, values)

    def ends() -> Iterator[Network]:
        if control:
            yield shuffled(chosen, generator(0, "shuffled"))
        for first in range(1, S, AT_ONCE):
            yield network.pick(range(first, min(first + AT_ONCE, S)))

    chosen = network.pick([0])
    sample = Sample(data.train, len(data.classes), data.preprocessing, network.w[0].device, PICTURES)
    found = lines(chosen, ends(), sample, FINE if S - 1 <= FINE_OTHERS else COARSE)
    names = [f"{names[0]} itself, shuffled"] * control + names[1:S]
    before, after = found.barriers
    verdicts, costs = found.verdicts(), found.as_is[:, -1].tolist()
    of_others = [found.verdicts(times)[control:] for times in (1, 0.5, 2)]
    medians = [quantiles(those[control:] or [0.0])["median"] for those in (before, after)]
    values |= {
        "pictures": sample.pictures,
        "points": found.as_is.shape[1],
        "own": short(found.own),
        "guess": short(found.guess),
        "limit": short(found.limit),
        "share": f"{100 * SHARE:g}",
        "learned": found.own < found.guess,
        "counts": [(name, of_others[0].count(verdict)) for verdict, name in enumerate(VERDICTS)],
        "together": [sum(verdict != ANOTHER for verdict in those) for those in of_others],
        "check": (short(before[0]), short(after[0])),
        "medians": [short(median) for median in medians],
        "lowered": medians[1] < medians[0],
    }
    order = sorted(range(len(names)), key=lambda s: (s >= control, after[s], before[s]))
    rows = [[names[s], *map(_rounded, (costs[s], before[s], after[s])), verdicts[s]] for s in order]
    curves = torch.stack([found.as_is, found.renumbered], 1)[order, :, 1:-1]
    return Section(
        "valleys",
        TITLE,
        LOOK,
        values,
        {
            "points": found.as_is.shape[1],
            "own": _rounded(found.own),
            "guess": _rounded(found.guess),
            "limit": _rounded(found.limit),
            "verdicts": VERDICTS,
            "starts": rows,
            "curves": floats(curves),  # without the ends, which the rows have
        },
    )


def short(value: float) -> str:
    """A number in a sentence."""
    if not math.isfinite(value):
        return "∞"
    return f"{value:.3g}"


def _named(starts: Sequence[Start]) -> list[str]:
    """Names of the starts: their seeds, and the hyperparameters in which they differ."""
    differing = varying(starts)
    return [
        ", ".join([f"seed {start.seed}", *(f"{name} {getattr(start.hyperparameters, name):g}" for name in differing)])
        for start in starts
    ]


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
    axes.plot([chosen, chosen], [0, 1.12 * most], color=charts.CHOSEN, linewidth=2)
    axes.plot([chosen], [1.12 * most], "o", color=charts.CHOSEN, markersize=8)
    said = f"chosen: {short(chosen)}"
    axes.annotate(said, (chosen, 1.12 * most), (9, 0), textcoords="offset points", va="center", color=charts.INK)
    axes.set_xlabel("validation cost")
    axes.set_ylabel("starts")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    label = (
        f"Histogram of the validation costs of {len(costs)} starts, from {short(low)} to {short(high)}; "
        f"the chosen one, at {short(chosen)}, is marked."
    )
    return charts.svg(made, label)
