"""Write the page for a class: `hillstart-page`, `scripts/page.py` and `make page`."""

import sys
from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory

from hillstart.cli.mistakes import USER_ERRORS, explain, one_sentence
from hillstart.cli.train import TrainingTask, run
from hillstart.cli.words import quoted
from hillstart.report.lesson import write_lesson
from hillstart.system.console import visible
from hillstart.system.files import relative

TRAINING = ["trainer.accelerator=cpu", "descent.eta=0.3", "descent.momentum=0", "descent.lmbda=0"]
"""Options of the training on the default drawings: plain steps down the gradient, as the page explains them."""
SILENT = ["report=false", "logger=none", "hydra/job_logging=none", "hydra/hydra_logging=none"]


def parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Train networks on drawn lions and ducks, and write a page for a class about them: one neuron, a "
        "network, the gradient, the hill and its valleys, learning. The page is one file, for any web server or none."
    )
    default = Path("docs/index.html")
    parser.add_argument("page", metavar="FILE", nargs="?", type=Path, default=default, help="default: %(default)s")
    return parser


def main() -> None:
    """Exit code 1 if the page cannot be written."""
    page: Path = parser().parse_args().page
    print("training the networks of the page ...", file=sys.stderr)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as folder:
            with one_sentence():
                run(TrainingTask(traceback=True), [f"hydra.run.dir={quoted(Path(folder))}", *TRAINING, *SILENT])
            print("writing the page ...", file=sys.stderr)
            write_lesson(Path(folder), page)
    except (*USER_ERRORS, OSError) as error:
        sys.exit(f"hillstart: {explain(error)}")
    print(visible(str(relative(page))))
