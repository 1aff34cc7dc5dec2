"""Compare runs with one of them: `hillstart-compare` and `scripts/compare.py`."""

import json
import shutil
import sys
import textwrap
from argparse import ArgumentParser
from pathlib import Path

from hillstart.runs.compare import FIRST, MEASURED, REFERENCES, SPREAD, TESTS, Comparisons, compare
from hillstart.runs.findings import sentences
from hillstart.runs.significance import CONFIDENCE
from hillstart.system.console import print_table, visible
from hillstart.system.errors import InputError


def parser() -> ArgumentParser:
    parser = ArgumentParser(description="Are the starts of runs really different? Each against one, with intervals.")
    parser.add_argument("A", type=Path, help="the folder of a run, of a job of a multirun, or of a multirun")
    parser.add_argument("others", type=Path, nargs="+", metavar="B", help="one or more others")
    parser.add_argument("--on", choices=MEASURED, default=MEASURED[0], help="what is compared (default: %(default)s)")
    parser.add_argument(
        "--reference",
        choices=REFERENCES,
        default=FIRST,
        help="the run that all others are compared with: the first, or the best by the median validation accuracy",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


def main() -> None:
    """Exit code 1 if the runs cannot be compared."""
    options = parser().parse_args()
    try:
        found = compare([options.A, *options.others], options.on, options.reference)
    except (InputError, OSError) as error:
        sys.exit(f"hillstart: {error}")
    if options.json:
        print(json.dumps(found.as_json() | {"sentences": sentences(found)}, indent=2, allow_nan=False))
    else:
        show(found)


def show(found: Comparisons) -> None:
    """Print tables and sentences, within 80 columns."""
    for name, run in found.runs.items():
        print(visible(f"{name}: {run.folder}"))
    quartiles = ("min", "lower\nquartile", "median", "upper\nquartile", "max")
    headings = ("", "starts", "diverged", *quartiles, "test,\nchosen", "test,\nvote")
    rows = []
    for name, run in found.runs.items():
        row = run.row()
        figures = ["-" if row[key] is None else f"{row[key]:#.4g}" for key in (*SPREAD, *TESTS)]
        rows.append([name, str(row["starts"]), str(row["diverged"]), *figures])
    print()
    title = f"{found.on} over starts"
    print_table(headings, rows, title, (*headings[-2:], "diverged", "min", "max", *quartiles[1::2]))
    p_name = "p, Holm" if len(found.comparisons) > 1 else "p"
    rows = []
    for c in found.comparisons:
        a, b = c.names
        p = f"{c.p if c.p_corrected is None else c.p_corrected:.2g}"
        rank_test = "Wilcoxon" if c.paired else "Mann-Whitney"
        for what, d, tested, method in (
            ("median" if c.paired else "medians", c.medians, p, rank_test),
            ("mean" if c.paired else "means", c.means, "", "paired t" if c.paired else "Welch"),
        ):
            rows.append([f"{b} - {a}, {what}", f"{d.value:.3g}", f"{d.low:.3g} to {d.high:.3g}", tested, method])
    print()
    differences = ("", "difference", f"{CONFIDENCE:.0%} interval", p_name, "method")
    print_table(
        differences,
        rows,
        "differences; the intervals of medians by bootstrap",
        ("method", "difference"),
        left=("", "method"),
    )
    print()
    rows = []
    for key in dict.fromkeys(key for c in found.comparisons for key in c.differing_options):
        sides = [run.options.get(key, "-") for run in found.runs.values()]
        rows.append([key, *(text if len(text) <= 60 else f"{text[:57]}..." for text in sides)])
    if rows:
        print_table(("", *found.runs), rows, "options that differ")
    else:
        known = all(run.options for run in found.runs.values())
        nothing = "Which options differ is not known without .hydra/config.yaml of all."
        print("No option differs." if known else nothing)
    print()
    for sentence in sentences(found):
        print(textwrap.fill(visible(sentence), min(80, shutil.get_terminal_size().columns)))
