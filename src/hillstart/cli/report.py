"""Write the page of a run: `hillstart-report` and `scripts/report.py`."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from hillstart.cli.mistakes import USER_ERRORS, explain
from hillstart.report.write import RETRAINING_SECONDS, write
from hillstart.system.console import visible
from hillstart.system.files import relative


def parser() -> ArgumentParser:
    parser = ArgumentParser(description="Open the box: write report.html for a run that has ended, or for a sweep.")
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run, or the root of a multirun")
    code = "name code of your own that the run used again, such as stop._target_=my.Rule: it is not run otherwise"
    parser.add_argument("named", metavar="KEY._target_=MODULE.CLASS", nargs="*", help=code)
    image = "a picture of your own to be shown on the page; may be given several times"
    parser.add_argument("--image", dest="images", metavar="FILE", action="append", default=[], help=image)
    patience = "train again to show the paths downhill if that takes no longer than this (default: %(default)g)"
    parser.add_argument("--patience", metavar="SECONDS", type=float, default=RETRAINING_SECONDS, help=patience)
    return parser


def main() -> None:
    """Exit code 1 if the page cannot be written."""
    options = parser().parse_intermixed_args()
    try:
        page = write(options.run, pictures=options.images, patience=options.patience, named=options.named)
    except (*USER_ERRORS, OSError) as error:
        sys.exit(f"hillstart: {explain(error)}")
    print(visible(str(relative(page))))
