"""`make results`: runs the recipes of conf/experiment as a user would, and writes a table of their results."""

import json
import re
import statistics
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
from hillstart.runs.tables import read_starts
from hillstart.system.console import end
from hillstart.system.errors import InputError
from hillstart.system.files import replacing
from hillstart.system.statistics import quantiles, standard_error

ABOUT = """Runs each recipe of conf/experiment and writes a table of the results.
Exit code 1 if a median is outside the range that the recipe itself states."""
TRAIN = [sys.executable, "-c", "from hillstart.cli.main import train; train()"]
STATED = re.compile(r"single starts (0\.\d+) to (0\.\d+)")
FEW, SPLITS = 2000, 3
"""A recipe with at most FEW test pictures is run on SPLITS splits, `data.seed` 0, 1, ..."""

HEAD = f"""# Results

Written by `make results`, which runs each file of [conf/experiment](../conf/experiment) as
`python scripts/train.py experiment=NAME` does; a recipe with at most {FEW} test pictures on {SPLITS} splits
(`data.seed=0`, `1`, ...). The starts of all splits are compared on their validation pictures. The test pictures are
looked at once in each run, for the start of the lowest validation cost and for the vote of the kept starts; means over
the splits, with one standard error for the number of test pictures of all splits together. Files of conf/experiment
state the range of single starts that was seen with both libraries of products, MKL and oneDNN; the median must lie
within it.

%s; %s; %s.

| experiment | network | starts | splits | validation: median | quartiles | min to max | stated | test: chosen start | test: vote | s of training | s in all |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501
PHOTOS = """
`photos` is run by `make results PHOTOS=FOLDER`; its file tells on which photos its stated range was measured.
"""


def stated_range(name: str) -> tuple[float, float]:
    """The range of the validation accuracies of single starts that the file of a recipe states.

    Raises:
        ValueError: it states none.
    """
    text = (conf_folder() / "experiment" / f"{name}.yaml").read_text()
    found = STATED.search(re.sub(r"\n# ", " ", text))
    if not found:
        raise ValueError(f"conf/experiment/{name}.yaml states no range of single starts")
    return float(found[1]), float(found[2])


def result(name: str, *options: str) -> Row:
    """Run a recipe in a temporary folder.

    Returns:
        Its summary, the sizes of its network, the validation accuracies of its starts and the seconds of the command.

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
        starts = [row.result for row in read_starts(Path(folder, "starts.csv"))]
        return json.loads(Path(folder, "summary.json").read_text()) | {
            "sizes": model_file.load(Path(folder, "network.safetensors")).network.sizes,
            "val_accuracies": [start.val_accuracy for start in starts if not start.diverged],
            "seconds_in_all": taken,
        }


def results(name: str, *options: str) -> list[Row]:
    """The result of a recipe for each of its splits."""
    first = result(name, *options)
    more = range(1, SPLITS) if first["pictures"]["test"] <= FEW else ()
    return [first, *(result(name, *options, f"data.seed={seed}") for seed in more)]


def spread(splits: list[Row]) -> dict[str, float]:
    """The quantiles of the validation accuracies of the starts of all splits."""
    return quantiles([accuracy for split in splits for accuracy in split["val_accuracies"]])


def line(name: str, splits: list[Row]) -> str:
    """A line of the table in Markdown."""
    of = spread(splits)
    tested = sum(split["pictures"]["test"] for split in splits)
    low, high = stated_range(name)

    def mean(key: str) -> float:
        return statistics.fmean(split[key] for split in splits)

    tests = [mean(key) for key in ("test_accuracy", "vote_test_accuracy")]
    cells = [
        f"`{name}`",
        str(splits[0]["sizes"]),
        str(splits[0]["starts"]),
        str(len(splits)),
        f"{of['median']:.4f}",
        f"{of['lower_quartile']:.4f} and {of['upper_quartile']:.4f}",
        f"{of['min']:.4f} to {of['max']:.4f}",
        f"{low:.3f} to {high:.3f}",
        *(f"{accuracy:.4f} ± {standard_error(accuracy, tested):.4f}" for accuracy in tests),
        f"{mean('seconds'):.0f}",
        f"{mean('seconds_in_all'):.0f}",
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
    ranges = {name: stated_range(name) for name in options.only or known}
    found: dict[str, list[Row]] = {}
    for name in ranges:
        if name != "photos" or options.photos:
            root = [f"data.root={options.photos}"] if name == "photos" else []
            found[name] = results(name, *root, *options.options)
            print(line(name, found[name]), flush=True)
    versions = next(iter(found.values()))[0]["versions"]
    packages = ", ".join(f"{package} {number}" for package, number in versions.items())
    head = HEAD % (machine(torch.device("cpu")), packages, date.today().isoformat())
    try:
        with replacing(options.to, sync=False) as new:
            new.write_text(head + "".join(f"{line(*of)}\n" for of in found.items()) + PHOTOS)
    except InputError as error:
        end(error, 1)
    if other := [name for name, of in found.items() if not ranges[name][0] <= spread(of)["median"] <= ranges[name][1]]:
        raise SystemExit(f"{', '.join(other)}: the median lies outside what conf/experiment states.")
