"""Compare two runs: `hillstart-compare` and `scripts/compare.py`."""

import json
import shutil
import sys
import textwrap
from argparse import ArgumentParser
from pathlib import Path

from hillstart.runs.compare import CONFIDENCE, MEASURED, SPREAD, TESTS, Comparison, compare
from hillstart.system.console import print_table, visible
from hillstart.system.errors import InputError


def parser() -> ArgumentParser:
    parser = ArgumentParser(description="Are the starts of two runs really different? B against A, with intervals.")
    for name in "AB":
        parser.add_argument(name, type=Path, help="the folder of a run, or the root of a sweep")
    parser.add_argument("--on", choices=MEASURED, default=MEASURED[0], help="what is compared (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


def main() -> None:
    """Exit code 1 if the runs cannot be compared."""
    options = parser().parse_args()
    try:
        comparison = compare(options.A, options.B, options.on)
    except (InputError, OSError) as error:
        sys.exit(f"hillstart: {error}")
    if options.json:
        print(json.dumps(comparison.as_json(), indent=2, allow_nan=False))
    else:
        show(comparison)


def show(c: Comparison) -> None:
    """Print tables and sentences, within 80 columns."""
    for name, run in c.runs.items():
        print(visible(f"{name}: {run.folder}"))
    quartiles = ("min", "lower\nquartile", "median", "upper\nquartile", "max")
    headings = ("", "starts", "diverged", *quartiles, "test,\nchosen", "test,\nvote")
    rows = []
    for name, run in c.runs.items():
        row = run.row()
        figures = ["-" if row[key] is None else f"{row[key]:#.4g}" for key in (*SPREAD, *TESTS)]
        rows.append([name, str(row["starts"]), str(row["diverged"]), *figures])
    print()
    print_table(headings, rows, f"{c.on} over starts", (*headings[-2:], "diverged", "min", "max", *quartiles[1::2]))
    rows = []
    for name, d, method in (("medians", c.medians, "bootstrap, percentile"), ("means", c.means, "Welch")):
        rows.append([name, f"{d.value:.4g}", f"{d.low:.4g} to {d.high:.4g}", method])
    print()
    differences = ("", "difference", f"{CONFIDENCE:.0%} interval", "method")
    print_table(differences, rows, "B - A", ("method", "difference"), left=("", "method"))
    print()
    rows = [
        [key, *(text if len(text) <= 60 else f"{text[:57]}..." for text in sides)]
        for key, sides in c.differing_options.items()
    ]
    if rows:
        print_table(("", "A", "B"), rows, "options that differ")
    else:
        known = all(run.options for run in c.runs.values())
        nothing = "Which options differ is not known without .hydra/config.yaml of both."
        print("No option differs." if known else nothing)
    print()
    for sentence in c.sentences():
        print(textwrap.fill(visible(sentence), min(80, shutil.get_terminal_size().columns)))
