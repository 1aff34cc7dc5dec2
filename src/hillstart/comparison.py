"""Are the starts of two runs really different? Two distributions over starts with an interval, so luck is not skill.

Every start counts as one independent draw. That seeds which both runs share begin alike is not made use of.
"""

import json
import math
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from hillstart.difference import CONFIDENCE, Difference, difference_of_means, difference_of_medians, superiority
from hillstart.errors import InputError
from hillstart.past_run import SPREAD, TESTS, Run, read
from hillstart.terminal import visible

MEASURED = ("val_accuracy", "val_cost", "train_cost")
FEW = 10
"""Below so many starts a word of caution is said."""


@dataclass(frozen=True)
class Comparison:
    """Two runs, A and B, beside each other; `other_pictures` names what shows that theirs differ, None: not known."""

    on: str
    runs: dict[str, Run]
    medians: Difference
    means: Difference
    superiority: float
    differing_options: dict[str, tuple[str, str]]
    other_pictures: list[str] | None

    def sentences(self) -> list[str]:
        """What was found, and what it does not cover."""
        return [*_found(self), *_cautions(self), _pictures(self)]

    def as_json(self) -> dict[str, Any]:
        """All of it in plain dictionaries, lists and numbers."""
        runs = {name: run.row() for name, run in self.runs.items()}
        return asdict(self) | {"runs": runs, "confidence": CONFIDENCE, "sentences": self.sentences()}


def compare(A: Path, B: Path, on: str = MEASURED[0]) -> Comparison:
    """Run B against run A by one measured column of their starts.

    Raises:
        InputError: as `read`.
    """
    a, b = read(A, on), read(B, on)
    keys = {**a.options, **b.options} if a.options and b.options else {}
    options = {key: (a.options.get(key, "-"), b.options.get(key, "-")) for key in keys}
    common = [key for key in a.pictures if key in b.pictures]
    return Comparison(
        on,
        {"A": a, "B": b},
        difference_of_medians(a.values, b.values),
        difference_of_means(a.values, b.values),
        superiority(a.values, b.values, lower_is_better=on.endswith("cost")),
        {key: sides for key, sides in options.items() if sides[0] != sides[1]},
        [key for key in common if a.pictures[key] != b.pictures[key]] if common else None,
    )


def _found(c: Comparison) -> Iterator[str]:
    d, lower_is_better = c.medians, c.on.endswith("cost")
    if d.shown():
        better = "B" if (d.low > 0) != lower_is_better else "A"
        low, high = sorted((abs(d.low), abs(d.high)))
        yield (f"{better}'s starts are better by {abs(d.value):.3g} ({CONFIDENCE:.0%} interval {low:.3g} to "
               f"{high:.3g}): {'lower' if lower_is_better else 'higher'} {c.on}, by the median.")  # fmt: skip
    else:
        yield (f"No difference shown: the {CONFIDENCE:.0%} interval of the medians' difference, {d.low:.3g} to "
               f"{d.high:.3g}, holds 0. That does not prove the two equal.")  # fmt: skip
    yield (f"Of one start of A and one of B, B's is the better in {c.superiority:.0%} of all pairs; ties count "
           "half, 50% means that neither is ahead.")  # fmt: skip
    if d.shown() != c.means.shown():
        yield f"The means {'do' if c.means.shown() else 'do not'} show a difference: look at both and at the spread."
    if d.low == d.high:
        yield "The medians' interval has no width, as many starts share one value: it looks surer than it is."


def _cautions(c: Comparison) -> Iterator[str]:
    for name, run in c.runs.items():
        if not run.finished:
            yield f"{name} is not finished: its starts have no rank yet, and their figures may change."
        if run.diverged:
            starts = run.diverged + len(run.values)
            yield f"{run.diverged} of the {starts} starts of {name} diverged; they are in no other figure here."
        if run.grid:
            yield f"The starts of {name} differ in more than their seeds, so its spread mixes settings and luck."
        if len(run.values) < FEW:
            yield f"{name} has {len(run.values)} sound starts only; below {FEW} an interval is a rough guide."


def _pictures(c: Comparison) -> str:
    luck = {name: _luck(run, c.on) for name, run in c.runs.items()}
    if c.other_pictures is None:
        return "Not covered: the luck of the validation pictures; whether both runs had the same ones is not known."
    if c.other_pictures:
        known = ", ".join(f"{name} {text}" for name, text in luck.items() if text)
        return (f"The two did not use the same pictures ({', '.join(c.other_pictures)} differ), so the comparison "
                f"mixes data and descent, and does not cover the luck of either's{f': {known}' if known else ''}."
                )  # fmt: skip
    return (f"Not covered: both were measured on the same {luck['A'] or luck['B'] or 'validation pictures'}; "
            "all starts share the luck of these, and others could move the difference.")  # fmt: skip


def _luck(run: Run, on: str) -> str:
    """The number of validation pictures, with the binomial standard error of an accuracy on them, if it is known."""
    p, count = float(np.median(run.values)), run.pictures.get("pictures.val", "")
    n = int(count) if count.isdecimal() else 0
    known = on == "val_accuracy" and n and 0 <= p <= 1
    error = f" (standard error of an accuracy {math.sqrt(p * (1 - p) / n):.2g})" if known else ""
    return f"{n} validation pictures{error}" if n else ""


def show(c: Comparison) -> None:
    """Tables and sentences on the terminal, within 80 columns."""
    console = Console(markup=False, highlight=False, emoji=False)
    for name, run in c.runs.items():
        console.print(visible(f"{name}: {run.folder}"), soft_wrap=True)
    spread = _table(f"{c.on} over starts", "", "starts", "diverged", "min", "lower\nquartile", "median",
                    "upper\nquartile", "max", "test,\nchosen", "test,\nvote")  # fmt: skip
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


def main() -> None:
    """`scripts/compare.py`."""
    parser = ArgumentParser(description="Are the starts of two runs really different? B against A, with intervals.")
    for name in "AB":
        parser.add_argument(name, type=Path, help="the folder of a run, or the root of a sweep")
    parser.add_argument("--on", choices=MEASURED, default=MEASURED[0], help="what is compared (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args()
    try:
        comparison = compare(options.A, options.B, options.on)
    except (InputError, OSError) as error:
        sys.exit(f"hillstart: {error}")
    if options.json:
        print(json.dumps(comparison.as_json(), indent=2, allow_nan=False))
    else:
        show(comparison)
