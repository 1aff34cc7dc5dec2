"""The reliability diagram of a run: how often the vote is right, beside how sure it says it is.

Guo et al. 2017, *On Calibration of Modern Neural Networks*, fig. 1: were every probability true, all bars would end on
the diagonal.
"""

import io
import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from hillstart.calibration import BINS, Bin
from hillstart.closing import show
from hillstart.errors import InputError
from hillstart.files import relative, replacing

# Dark and bright by themselves, so that they are told apart without seeing colours.
RIGHT, GAP = "#0b5394", "#f6b26b"
TITLES = {"before": "outputs as they are", "after": "with the temperature"}


def read(folder: Path) -> dict[str, Any]:
    """`calibration` of the `summary.json` in a run's folder.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder / "summary.json"
    try:
        found = json.loads(path.read_text())["calibration"]
        for when in TITLES:
            found["test"][when] = {
                "expected_calibration_error": float(found["test"][when]["expected_calibration_error"]),
                "reliability": [Bin(**b) for b in found["test"][when]["reliability"]],
            }
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no calibration ({error}); give the folder of a run that has ended.") from error
    return dict(found)


def draw(calibration: dict[str, Any]) -> str:
    """Two diagrams on the test pictures, before and after calibration, as SVG.

    Args:
        calibration: as `read` returns it.
    """
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, when in zip(axes, TITLES, strict=True):
        found = calibration["test"][when]
        bins: list[Bin] = found["reliability"]
        at, wide = [b.low for b in bins], [b.high - b.low for b in bins]
        # Sure beyond what is right: the gap stands above the bar; too modest: within it.
        low = [min(b.accuracy, b.confidence) for b in bins]
        gap = [abs(b.accuracy - b.confidence) for b in bins]
        ax.bar(at, [b.accuracy for b in bins], wide, align="edge", color=RIGHT, edgecolor="white", label="are right")
        ax.bar(at, gap, wide, low, align="edge", color=GAP, alpha=0.8, hatch="//", edgecolor="white",
               label="difference to what is said")  # fmt: skip
        ax.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="right as often as sure")
        pictures = sum(b.pictures for b in bins)
        for b in bins:
            ax.annotate(f"{100 * b.pictures / pictures:.0f}", ((b.low + b.high) / 2, 1.02), ha="center", fontsize=7)
        error = found["expected_calibration_error"]
        ax.set(xlim=(0, 1), ylim=(0, 1.07), aspect="equal", xlabel="how sure: probability of the label")
        ax.set_title(f"{TITLES[when]}: off by {error:.3f}", fontsize=11)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("how often right")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"{pictures} test pictures; above each bar, of every 100 how many are in it", fontsize=9)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "hillstart", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def main() -> None:
    """`scripts/reliability.py`."""
    parser = ArgumentParser(
        description="Do the probabilities of a run's vote mean what they say? A table and a drawing."
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument("--output", type=Path, help="where to draw (default: reliability.svg in RUN)")
    options = parser.parse_args()
    output = options.output or options.run / "reliability.svg"
    try:
        calibration = read(options.run)
        with replacing(output, sync=False) as new:
            new.write_text(draw(calibration))
    except (InputError, OSError) as error:
        sys.exit(f"hillstart: {error}")
    headings = ("up to", *(f"{what}, {when}" for when in TITLES for what in ("pictures", "mean", "right")))
    bins = {when: {round(b.high * BINS): b for b in calibration["test"][when]["reliability"]} for when in TITLES}
    lines = []
    for k in range(1, BINS + 1):
        found = [bins[when].get(k) for when in TITLES]
        if any(found):
            cells = [
                (str(b.pictures), f"{b.confidence:.3f}", f"{b.accuracy:.3f}") if b else ("0", "", "") for b in found
            ]
            lines.append([f"{k / BINS:.2f}", *cells[0], *cells[1]])
    show("the vote on the test pictures", headings, lines)
    errors = [f"{calibration['test'][when]['expected_calibration_error']:.4f}" for when in TITLES]
    print(f"expected calibration error {errors[0]} before, {errors[1]} after, by a temperature of "
          f"{calibration['temperature']:.3f}; drawn in {relative(output)}")  # fmt: skip
