"""The section on how all starts learned: their curves as a fan with the chosen one in front, and how each ended."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hillstart.engine.starts import TRAIN_COST, VAL_ACCURACY, VAL_COST
from hillstart.report import charts
from hillstart.report.page import Section
from hillstart.report.run import FinishedRun
from hillstart.runs.tables import STARTS, TEST
from hillstart.system.statistics import accuracy_interval, quantiles

SINGLE = 100
"""The largest number of starts that have a line each; more are shown as bands."""
ROWS = 100
STEEP = 20.0
"""Costs that fall by more than this factor are drawn on a logarithmic scale."""

Curves = Float[np.ndarray, "S E"]


def section(run: FinishedRun) -> Section:
    """The fan of curves, the ranked table, and the starts that diverged."""
    same_in_all = {*STARTS, *TEST, "start"} - {"eta"}
    varying = [
        name
        for name in run.rows[0].cells
        if name not in same_in_all and len({row.cells.get(name) for row in run.rows}) > 1
    ]
    settings = [name for name in varying if name != "job"]
    costs = run.history[len(run.sound) :, :, TRAIN_COST].tolist()
    return Section(
        "learning",
        "How the starts learned",
        _look(len(run.rows), settings, run.spec.data.preprocessing.noun),
        {
            "charts": _fan(run),
            "starts": len(run.rows),
            "diverged": [
                (row, of_start[: row.result.epochs][-3:])
                for row, of_start in zip(run.diverged[:ROWS], costs[:ROWS], strict=True)
            ],
            "diverged_count": len(run.diverged),
            "varying": varying,
            "rows": run.rows[:ROWS],
            "summary": run.summary,
            "spread": quantiles([row.result.val_accuracy for row in run.sound]),
            "settings": settings,
            "groups": run.groups[:ROWS],
            "interval": accuracy_interval,
        },
    )


def _look(starts: int, settings: Sequence[str], noun: str) -> str:
    if starts == 1:
        return "See how its cost and its right answers change from epoch to epoch."
    if settings:
        return (
            f"See how far the curves lie apart: the starts differ in {', '.join(settings)} and in the random numbers "
            "they began with."
        )
    return (
        f"See how far the curves lie apart: all starts saw the same {noun}s in the same order, only the random numbers "
        "they began with differ."
    )


def _fan(run: FinishedRun) -> list[Markup]:
    sound = run.history[: len(run.sound)]
    others = f"and of {len(sound) - 1} others" if len(sound) > 1 else ""
    drawn, noun = [], run.spec.data.preprocessing.noun
    for what, curves in (
        (f"Cost on validation {noun}s", sound[:, :, VAL_COST]),
        (f"Right answers on validation {noun}s, in %", 100 * sound[:, :, VAL_ACCURACY]),
    ):
        figure, (axes,) = charts.figure(5.2, 3.6)
        _curves(axes, curves)
        axes.set_xlabel("epoch")
        axes.set_title(what, loc="left")
        drawn.append(charts.svg(figure, f"{what}, of the chosen start {others}, epoch by epoch"))
    return drawn


def _curves(axes: Axes, curves: Curves) -> None:
    epochs = np.arange(1, curves.shape[1] + 1)
    marker = "o" if len(epochs) == 1 else None
    names = {"chosen start": charts.CHOSEN}
    if len(curves) <= SINGLE:
        for curve in curves[1:]:
            axes.plot(epochs, curve, color=charts.OTHER, alpha=0.45, linewidth=0.8, marker=marker)
            names["other starts"] = charts.OTHER
    else:
        # Starts that have ended still count, or the band would show only those that went on.
        filled = fill_forward(curves)
        for low, high, alpha in ((0, 1, 0.15), (0.25, 0.75, 0.3)):
            bottom, top = np.nanquantile(filled, [low, high], axis=0)
            axes.fill_between(epochs, bottom, top, color=charts.OTHER, alpha=alpha, linewidth=0)
        axes.plot(epochs, np.nanmedian(filled, axis=0), color=charts.OTHER, linewidth=1.5)
        names["all, half and median of all starts"] = charts.OTHER
    axes.plot(epochs, curves[0], color=charts.CHOSEN, linewidth=2.2, marker=marker)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=charts.LINE, linewidth=0.6)
    lowest, highest = np.nanmin(curves), np.nanmax(curves)
    if lowest > 0 and highest / lowest > STEEP:
        axes.set_yscale("log")
    handles = [axes.plot([], [], color=color, linewidth=2, label=name)[0] for name, color in names.items()]
    axes.legend(handles=handles, loc="best", **charts.LEGEND)


def fill_forward(curves: Curves) -> Curves:
    """The curves with each nan replaced by the last number before it."""
    last = np.maximum.accumulate(np.where(np.isnan(curves), 0, np.arange(curves.shape[1])), axis=1)
    return np.take_along_axis(curves, last, 1)
