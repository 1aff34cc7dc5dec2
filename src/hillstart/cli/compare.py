"""Compare two runs: `hillstart-compare` and `scripts/compare.py`."""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from hillstart.runs.compare import CONFIDENCE, MEASURED, SPREAD, TESTS, Comparison, compare
from hillstart.system.console import visible
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
    console = Console(markup=False, highlight=False, emoji=False)
    for name, run in c.runs.items():
        console.print(visible(f"{name}: {run.folder}"), soft_wrap=True)
    quartiles = ("min", "lower\nquartile", "median", "upper\nquartile", "max")
    spread = _table(f"{c.on} over starts", "", "starts", "diverged", *quartiles, "test,\nchosen", "test,\nvote")
    for name, run in c.runs.items():
        row = run.row()
        figures = ["-" if row[key] is None else f"{row[key]:.4f}" for key in (*SPREAD, *TESTS)]
        spread.add_row(name, str(row["starts"]), str(row["diverged"]), *figures)
    differences = _table("B - A", "", "difference", f"{CONFIDENCE:.0%} interval", "method")
    for name, d, method in (("medians", c.medians, "bootstrap, percentile"), ("means", c.means, "Welch")):
        differences.add_row(name, f"{d.value:.3g}", f"{d.low:.3g} to {d.high:.3g}", method)
    options = _table("options that differ", "", "A", "B")
    for key, sides in c.differing_options.items():
        options.add_row(key, *(text if len(text) <= 60 else f"{text[:57]}..." for text in sides))
    known = all(run.options for run in c.runs.values())
    nothing = "No option differs." if known else "Which options differ is not known without .hydra/config.yaml of both."
    console.print("", spread, "", differences, "", options if c.differing_options else nothing, "", sep="\n")
    for sentence in c.sentences():
        console.print(sentence)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("", "method") else "right", overflow="fold")
    return table
