"""Draw how reliable the probabilities of a run are: `scripts/reliability.py`."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from hillstart.inference.calibration import BINS
from hillstart.report import charts
from hillstart.report.reliability import TITLES, draw, read
from hillstart.runs.summary import show
from hillstart.system.console import visible
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
        calibration = read(options.run)
        with replacing(output, sync=False) as new:
            new.write_text(charts.alone(draw(calibration)))
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
          f"{calibration['temperature']:.3f}; drawn in {visible(str(relative(output)))}")  # fmt: skip
