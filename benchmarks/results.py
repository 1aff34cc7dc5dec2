"""`make results`: runs the recipes of conf/experiment as a user would, and writes a table of their results."""

import json
import re
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from datetime import date
from functools import partial
from pathlib import Path

import torch

from benchmarks.command import machine
from benchmarks.timing import Row, seconds
from hillstart.config.conf import conf_folder
from hillstart.inference import model_file
from hillstart.system.console import end
from hillstart.system.errors import InputError
from hillstart.system.files import replacing

ABOUT = """Runs each recipe of conf/experiment, which takes six minutes on 2 cores, and writes a table of the results.
Exit code 1 if a median is outside the range that the recipe itself states."""
TRAIN = [sys.executable, "-c", "from hillstart.cli.main import train; train()"]
STATED = re.compile(r"validation accuracy median (0\.\d+)\s\((0\.\d+) to (0\.\d+)\)")

HEAD = """# Results

Written by `make results`, which runs each file of [conf/experiment](../conf/experiment) once, as
`python scripts/train.py experiment=NAME` does. Starts are compared on the validation pictures; the test pictures are
looked at once, for the start of the lowest validation cost and for the vote of the kept starts. The uncertainty of
these two is one standard error, of the number of test pictures alone.

{machine}; {versions}; {day}.

| experiment | network | starts | validation accuracy: median (min to max) | stated | test: chosen start | test: vote | s of training | s in all |
|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501
PHOTOS = """
`photos` is run by `make results PHOTOS=FOLDER`; what its stated range is of, its file tells.
"""


def stated_range(name: str) -> tuple[float, float]:
    """The range of validation accuracies that the file of a recipe states.

    Raises:
        ValueError: it states none.
    """
    text = (conf_folder() / "experiment" / f"{name}.yaml").read_text()
    found = STATED.search(re.sub(r"\n# ", " ", text))
    if not found:
        raise ValueError(f"conf/experiment/{name}.yaml states no median with its range")
    return float(found[2]), float(found[3])


def result(name: str, *options: str) -> Row:
    """Run a recipe in a temporary folder; its summary, the sizes of its network and the seconds of the command.

    Raises:
        SystemExit: the training failed; its error is on the terminal.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [*TRAIN, f"experiment={name}", f"hydra.run.dir={folder}", *options]
        try:
            taken = seconds(partial(subprocess.run, command, check=True))
        except subprocess.CalledProcessError as error:
            code = error.returncode
            raise SystemExit(f"experiment={name} ended with exit code {code}; nothing was written.") from error
        sizes = model_file.load(Path(folder, "network.safetensors")).network.sizes
        return json.loads(Path(folder, "summary.json").read_text()) | {"sizes": sizes, "seconds_in_all": taken}


def line(name: str, found: Row) -> str:
    """A line of the table in Markdown."""
    starts, (low, high) = found["val_accuracy_of_starts"], stated_range(name)
    cells = [
        f"`{name}`",
        str(found["sizes"]),
        str(found["starts"]),
        f"{starts['median']:.4f} ({starts['min']:.4f} to {starts['max']:.4f})",
        f"{low:.3f} to {high:.3f}",
        f"{found['test_accuracy']:.4f} ± {found['test_standard_error']:.4f}",
        f"{found['vote_test_accuracy']:.4f}",
        f"{found['seconds']:.0f}",
        f"{found['seconds_in_all']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """`scripts/results.py`."""
    parser = ArgumentParser(description=ABOUT)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these recipes; without it, all")
    parser.add_argument("--photos", metavar="FOLDER", help="the pictures of `photos`; without it, it is not run")
    parser.add_argument("--to", type=Path, default=Path("docs/results.md"), help="the file that is written")
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE", help="options of scripts/train.py for all of them")
    options = parser.parse_args()
    known = sorted(path.stem for path in (conf_folder() / "experiment").glob("*.yaml"))
    if unknown := sorted(set(options.only or []) - set(known)):
        parser.error(f"--only: there is no {unknown[0]} in conf/experiment; there are {', '.join(known)}")
    results: dict[str, Row] = {}
    for name in options.only or known:
        if name != "photos" or options.photos:
            root = [f"data.root={options.photos}"] if name == "photos" else []
            results[name] = result(name, *root, *options.options)
            print(line(name, results[name]), flush=True)
    versions = next(iter(results.values()))["versions"]
    packages = ", ".join(f"{package} {number}" for package, number in versions.items())
    head = HEAD.format(machine=machine(torch.device("cpu")), versions=packages, day=date.today().isoformat())
    try:
        with replacing(options.to, sync=False) as new:
            new.write_text(head + "".join(f"{line(*of)}\n" for of in results.items()) + PHOTOS)
    except InputError as error:
        end(error, 1)
    ranges = {name: stated_range(name) for name in results}
    medians = {name: found["val_accuracy_of_starts"]["median"] for name, found in results.items()}
    if other := [name for name, (low, high) in ranges.items() if not low <= medians[name] <= high]:
        raise SystemExit(f"{', '.join(other)}: the median lies outside what conf/experiment states.")
