"""The section on how all starts learned: their curves as a fan with the chosen one in front, and how each ended."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hillstart.engine.starts import TRAIN_COST, VAL_ACCURACY, VAL_COST
from hillstart.report import charts
from hillstart.report.finished_run import FinishedRun
from hillstart.report.page import Section
from hillstart.runs.tables import STARTS, StartRow
from hillstart.system.statistics import accuracy_interval, quantiles

SINGLE = 100
"""Up to so many starts each has a line of its own; more are shown as bands."""
ROWS = 100
STEEP = 20.0
"""Costs that fall by more than this factor are drawn on a logarithmic scale."""


def section(run: FinishedRun) -> Section:
    """The fan of curves, the ranked table, and what became of starts that diverged."""
    varying = [name for name in run.rows[0].cells if _tells_apart(run, name)]
    settings = [name for name in varying if name != "job"]
    shown = run.rows[:ROWS]
    return Section(
        "learning",
        "How the starts learned",
        _look(len(run.rows), settings),
        {
            "charts": _fan(run),
            "starts": len(run.rows),
            "diverged": [(row, _last_epochs(run, row)) for row in run.diverged[:ROWS]],
            "diverged_count": len(run.diverged),
            "varying": varying,
            "rows": shown,
            "summary": run.summary,
            "spread": quantiles([row.result.val_accuracy for row in run.sound]),
            "settings": settings,
            "interval": accuracy_interval,
            "jobs": run.jobs,
        },
    )


def _tells_apart(run: FinishedRun, name: str) -> bool:
    of_every_start = {*STARTS} - {"eta"}
    return name not in of_every_start and len({row.cells.get(name) for row in run.rows}) > 1


def _last_epochs(run: FinishedRun, row: StartRow) -> list[float]:
    costs = run.history[list(run.rows).index(row), :, TRAIN_COST]
    return [float(cost) for cost in costs[: row.result.epochs][-3:]]


def _look(starts: int, settings: Sequence[str]) -> str:
    if starts == 1:
        return "See how its cost and its right answers change from epoch to epoch."
    if settings:
        return (
            f"See how far the curves lie apart: the starts differ in {', '.join(settings)} and in the random numbers "
            "they began with."
        )
    return (
        "See how far the curves lie apart: all starts saw the same pictures in the same order, only the random numbers "
        "they began with differ."
    )


def _fan(run: FinishedRun) -> list[Markup]:
    sound = run.history[: len(run.sound)]
    others = f"and of {len(sound) - 1} others" if len(sound) > 1 else ""
    drawn = []
    for what, curves in (
        ("Cost on validation pictures", sound[:, :, VAL_COST]),
        ("Right answers on validation pictures, in %", 100 * sound[:, :, VAL_ACCURACY]),
    ):
        figure, (axes,) = charts.figure(5.2, 3.6)
        _curves(axes, curves)
        axes.set_xlabel("epoch")
        axes.set_title(what, loc="left")
        drawn.append(charts.svg(figure, f"{what}, of the chosen start {others}, epoch by epoch"))
    return drawn


def _curves(axes: Axes, curves: Any) -> None:
    epochs = np.arange(1, curves.shape[1] + 1)
    marker = "o" if len(epochs) == 1 else None
    if len(curves) <= SINGLE:
        for curve in curves[1:]:
            axes.plot(epochs, curve, color=charts.OTHER, alpha=0.45, linewidth=0.8, marker=marker)
    else:
        # Of starts that ended early the last figures count on, or the band would tell of those left alone.
        filled = _held(curves)
        for low, high, alpha in ((0, 1, 0.15), (0.25, 0.75, 0.3)):
            bottom, top = np.nanquantile(filled, [low, high], axis=0)
            axes.fill_between(epochs, bottom, top, color=charts.OTHER, alpha=alpha, linewidth=0)
        axes.plot(epochs, np.nanmedian(filled, axis=0), color=charts.OTHER, linewidth=1.5)
    axes.plot(epochs, curves[0], color=charts.CHOSEN, linewidth=2.2, marker=marker)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=charts.LINE, linewidth=0.6)
    lowest, highest = np.nanmin(curves), np.nanmax(curves)
    if lowest > 0 and highest / lowest > STEEP:
        axes.set_yscale("log")
    names = {"chosen start": charts.CHOSEN}
    if len(curves) > 1:
        names["other starts" if len(curves) <= SINGLE else "all, half and median of all starts"] = charts.OTHER
    handles = [axes.plot([], [], color=color, linewidth=2, label=name)[0] for name, color in names.items()]
    axes.legend(handles=handles, loc="best", **charts.LEGEND)


def _held(curves: Any) -> Any:
    held = curves.copy()
    for epoch in range(1, held.shape[1]):
        ended = np.isnan(held[:, epoch])
        held[ended, epoch] = held[ended, epoch - 1]
    return held
