"""Draw how reliable the probabilities of a run are: `scripts/reliability.py`."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from hillstart.inference.calibration import BINS
from hillstart.report import charts
from hillstart.report.quality import DIAGRAMS, reliability_diagrams
from hillstart.runs.reader import RunRecord
from hillstart.system.console import print_table, visible
from hillstart.system.errors import InputError
from hillstart.system.files import relative, replacing


def parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Do the probabilities of a run's vote mean what they say? A table and a drawing."
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument("--output", type=Path, help="where to draw (default: reliability.svg in RUN)")
    return parser


def main() -> None:
    """Exit code 1 if the run holds no calibration."""
    options = parser().parse_args()
    output = options.output or options.run / "reliability.svg"
    try:
        calibration = RunRecord(options.run).summary["calibration"]
        drawing = charts.alone(reliability_diagrams(calibration))
        with replacing(output, sync=False) as new:
            new.write_text(drawing)
    except (InputError, OSError) as error:
        sys.exit(f"hillstart: {error}")
    except (KeyError, TypeError, ValueError) as error:
        path = options.run / "summary.json"
        sys.exit(f"hillstart: {path} holds no calibration ({error}); give the folder of a run that has ended.")
    bins = [{round(b["high"] * BINS): b for b in calibration["test"][when]["reliability"]} for when in DIAGRAMS]
    lines = []
    for k in sorted(set().union(*bins)):
        cells = [
            (str(b["pictures"]), f"{b['confidence']:.3f}", f"{b['accuracy']:.3f}")
            if (b := of.get(k))
            else ("0", "", "")
            for of in bins
        ]
        lines.append([f"{k / BINS:.2f}", *cells[0], *cells[1]])
    headings = ("up to", *(f"{what}, {when}" for when in DIAGRAMS for what in ("pictures", "mean", "right")))
    print_table(headings, lines, "the vote on the test pictures")
    before, after = (calibration["test"][when]["expected_calibration_error"] for when in DIAGRAMS)
    print(
        f"expected calibration error {before:.4f} before, {after:.4f} after, by a temperature of "
        f"{calibration['temperature']:.3f}; drawn in {visible(str(relative(output)))}"
    )
