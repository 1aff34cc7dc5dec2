"""The reliability diagram of a run: how often the vote is right, beside how sure it says it is.

Guo et al. 2017, *On Calibration of Modern Neural Networks*, fig. 1: were every probability true, all bars would end on
the diagonal.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hillstart.inference.calibration import Bin
from hillstart.report import charts
from hillstart.runs.reader import RunRecord
from hillstart.system.errors import InputError

TITLES = {"before": "outputs as they are", "after": "with the temperature"}


def read(folder: Path) -> dict[str, Any]:
    """Read `calibration` from the `summary.json` of a run.

    Raises:
        InputError: it is missing or damaged.
    """
    path, summary = folder / "summary.json", RunRecord(folder).summary
    try:
        return with_bins(summary["calibration"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no calibration ({error}); give the folder of a run that has ended.") from error


def with_bins(calibration: dict[str, Any]) -> dict[str, Any]:
    """The same, with `Bin`s in place of plain data on the test pictures."""
    test = {
        when: {
            "expected_calibration_error": float(calibration["test"][when]["expected_calibration_error"]),
            "reliability": [Bin(**b) for b in calibration["test"][when]["reliability"]],
        }
        for when in TITLES
    }
    return calibration | {"test": test}


def draw(calibration: dict[str, Any], titles: Mapping[str, str] = TITLES) -> Figure:
    """Diagrams on the test pictures, side by side.

    Args:
        calibration: as `with_bins` returns it.
        titles: of those that are drawn.
    """
    figure, axes = charts.figure(4.5 * len(titles), 4.7, columns=len(titles))
    for ax, (when, title) in zip(axes, titles.items(), strict=True):
        found = calibration["test"][when]
        bins: list[Bin] = found["reliability"]
        at, wide = [b.low for b in bins], [b.high - b.low for b in bins]
        # Sure beyond what is right: the gap stands above the bar; too modest: within it.
        low = [min(b.accuracy, b.confidence) for b in bins]
        gap = [abs(b.accuracy - b.confidence) for b in bins]
        ax.bar(at, [b.accuracy for b in bins], wide, align="edge", color=charts.OTHER, edgecolor=charts.CARD,
               label="are right")  # fmt: skip
        ax.bar(at, gap, wide, low, align="edge", facecolor="none", hatch="////", edgecolor=charts.CHOSEN, linewidth=0,
               label="gap")  # fmt: skip
        ax.plot([0, 1], [0, 1], color=charts.INK, linestyle="--", linewidth=1, label="as right as sure")
        pictures = sum(b.pictures for b in bins)
        for b in bins:
            ax.annotate(f"{100 * b.pictures / pictures:.0f}", ((b.low + b.high) / 2, 1.02), ha="center", fontsize=7.5,
                        color=charts.SOFT)  # fmt: skip
        ax.set(
            xlim=(0, 1),
            ylim=(0, 1.07),
            aspect="equal",
            xlabel=f"how sure: probability of the label; {pictures} test pictures",
        )
        ax.set_title(f"{title}: off by {found['expected_calibration_error']:.3f}", loc="left")
        ax.set_ylabel("how often right")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, **charts.LEGEND)
    return figure
