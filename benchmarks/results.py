"""`make results`: the recipes of conf/experiment run as a user would run them, and a table of what came of each."""

import json
import re
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import machine
from hillstart.config.options import conf_folder
from hillstart.inference import model_file
from hillstart.system.console import end
from hillstart.system.errors import InputError
from hillstart.system.files import replacing

ABOUT = """Runs each recipe of conf/experiment, which takes six minutes on 2 cores, and writes a table of what
came of it. Exit code 1 where a median lies outside the range that the recipe itself states."""
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


@dataclass(frozen=True)
class Result:
    """The result of a recipe: its network's sizes, its summary, and the seconds of the whole command."""

    name: str
    sizes: list[int]
    summary: dict[str, Any]
    seconds: float

    def row(self) -> str:
        """A line of the table in Markdown."""
        of, found = self.summary["val_accuracy_of_starts"], self.summary
        low, high = stated_range(self.name)
        cells = [
            f"`{self.name}`",
            str(self.sizes),
            str(found["starts"]),
            f"{of['median']:.4f} ({of['min']:.4f} to {of['max']:.4f})",
            f"{low:.3f} to {high:.3f}",
            f"{found['test_accuracy']:.4f} ± {found['test_standard_error']:.4f}",
            f"{found['vote_test_accuracy']:.4f}",
            f"{found['seconds']:.0f}",
            f"{self.seconds:.0f}",
        ]
        return f"| {' | '.join(cells)} |"

    @property
    def as_stated(self) -> bool:
        low, high = stated_range(self.name)
        return low <= self.summary["val_accuracy_of_starts"]["median"] <= high


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


def result(name: str, *options: str) -> Result:
    """Run a recipe in a folder that is thrown away.

    Raises:
        SystemExit: the training failed; what it said is on the terminal.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        done = subprocess.run([*TRAIN, f"experiment={name}", f"hydra.run.dir={folder}", *options])
        if done.returncode:
            raise SystemExit(f"experiment={name} ended with exit code {done.returncode}; nothing was written.")
        sizes = model_file.load(Path(folder, "network.safetensors")).network.sizes
        return Result(name, sizes, json.loads(Path(folder, "summary.json").read_text()), time.perf_counter() - began)


def main() -> None:
    """`scripts/results.py`."""
    parser = ArgumentParser(description=ABOUT)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these recipes; without it, all")
    parser.add_argument("--photos", metavar="FOLDER", help="what `photos` is run on; without it, it is left out")
    parser.add_argument("--to", type=Path, default=Path("docs/results.md"), help="the file that is written")
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE", help="options of scripts/train.py for all of them")
    asked = parser.parse_args()
    known = sorted(path.stem for path in (conf_folder() / "experiment").glob("*.yaml"))
    if unknown := sorted(set(asked.only or []) - set(known)):
        parser.error(f"--only: there is no {unknown[0]} in conf/experiment; there are {', '.join(known)}")
    names = [name for name in known if name in (asked.only or known) and (name != "photos" or asked.photos)]
    results = []
    for name in names:
        folder = [f"data.root={asked.photos}"] if name == "photos" else []
        results.append(result(name, *folder, *asked.options))
        print(results[-1].row(), flush=True)
    versions = results[0].summary["versions"]
    told = ", ".join(f"{package} {number}" for package, number in versions.items())
    head = HEAD.format(machine=machine(torch.device("cpu")), versions=told, day=date.today().isoformat())
    try:
        with replacing(asked.to, sync=False) as new:
            new.write_text(head + "".join(f"{done.row()}\n" for done in results) + PHOTOS)
    except InputError as error:
        end(error, 1)
    if other := [done.name for done in results if not done.as_stated]:
        raise SystemExit(f"{', '.join(other)}: the median lies outside what conf/experiment states.")
