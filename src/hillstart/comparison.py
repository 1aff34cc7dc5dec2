"""Are the starts of two runs really different? Two distributions over starts with an interval, so luck is not skill.

Every start counts as one independent draw. That seeds which both runs share begin alike is not made use of.
"""

import csv
import json
import math
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from hillstart.errors import InputError

CONFIDENCE = 0.95
RESAMPLES = 10_000
FEW = 10
"""Below so many starts a word of caution is said."""

COLUMNS = ("seed", "eta", "epochs", "status", "train_cost", "val_cost", "val_accuracy", "rank")
MEASURED = ("val_accuracy", "val_cost", "train_cost")
SPREAD = ("min", "lower_quartile", "median", "upper_quartile", "max")
TESTS = ("test_accuracy", "vote_test_accuracy")

NOISE = ("hydra", "logger", "resume")  # where a run wrote, not how it descended
NOT_WHICH_PICTURES = ("data.augment", "data.normalise")  # how pictures are shown, not which are held back

# ---------------------------------------------------------------- statistics


@dataclass(frozen=True)
class Difference:
    """B - A with its 95% confidence interval."""

    value: float
    low: float
    high: float

    def shown(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def _difference(A: np.ndarray, B: np.ndarray, *value_low_high: float) -> Difference:
    rounding = 1e-12 * max(np.abs(A).max(), np.abs(B).max())  # 1e-17 above 0 must not show a difference
    return Difference(*(0.0 if abs(x) <= rounding else float(x) for x in value_low_high))


def difference_of_medians(A: Float[np.ndarray, " m"], B: Float[np.ndarray, " n"]) -> Difference:
    """Median of B less median of A, with the percentile interval of the bootstrap; at least two values each.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13. Not the BCa interval of ch. 14: its
    acceleration is a jackknife's, which fails for medians (ch. 11), and with tied values, as accuracies on few pictures
    are, it mostly was no number at all. With ties the percentiles err on the wide side; below 5 values the interval is
    too narrow (2 values: it held the truth in 65% of 400 trials). The same starts always give the same interval.
    """
    from scipy.stats import bootstrap  # here, for it takes a second, for which a mistake or --help need not wait

    def statistic(A: np.ndarray, B: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(np.median(B, axis=axis) - np.median(A, axis=axis))

    interval = bootstrap(
        (A, B),
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, 1_000_000 // max(len(A), len(B))),  # so that 10,000 starts take 8 MB at a time, not 800
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return _difference(A, B, float(statistic(A, B)), interval.low, interval.high)


def difference_of_means(A: Float[np.ndarray, " m"], B: Float[np.ndarray, " n"]) -> Difference:
    """Mean of B less mean of A, with the interval of Welch (Biometrika 34, 1947), for spreads that may differ.

    At least two values each. Where neither run's values vary, the interval has no width.
    """
    from scipy.stats import ttest_ind

    value = float(B.mean() - A.mean())
    if not np.ptp(A) and not np.ptp(B):
        return _difference(A, B, value, value, value)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)  # one of the two may not vary
        interval = ttest_ind(B, A, equal_var=False).confidence_interval(CONFIDENCE)
    return _difference(A, B, value, interval.low, interval.high)


def superiority(A: Float[np.ndarray, " m"], B: Float[np.ndarray, " n"], *, lower_is_better: bool = False) -> float:
    """Share of the pairs in which B's value beats A's, a tie counting half: 0.5 where neither is ahead.

    Mann and Whitney's U over mn (1947), which is Vargha and Delaney's A (2000).
    """
    ordered = np.sort(A)
    below = (np.searchsorted(ordered, B, "left") + np.searchsorted(ordered, B, "right")).mean() / (2 * len(A))
    return float(1 - below if lower_is_better else below)


# ---------------------------------------------------------------- files


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Attributes:
        values: the compared column, of the starts that did not diverge.
        grid: whether starts differ in more than their seeds.
        options: flattened keys and values, several of them joined where a sweep's jobs differ.
        pictures: what tells whether another run used the same: options of data, classes, counts.
        tests: test accuracies of the chosen start and of the vote, where known.
    """

    folder: Path
    values: Float[np.ndarray, " n"]
    diverged: int
    finished: bool
    grid: bool
    options: dict[str, str]
    pictures: dict[str, str]
    tests: list[float | None]

    def row(self) -> dict[str, Any]:
        """How the values are spread, and what was left out."""
        at = np.quantile(self.values, [0, 0.25, 0.5, 0.75, 1]).tolist()
        return {
            "folder": str(self.folder),
            "starts": len(self.values),
            "diverged": self.diverged,
            "finished": self.finished,
            "mean": float(self.values.mean()),
            **dict(zip((*SPREAD, *TESTS), (*at, *self.tests), strict=True)),
        }


def read(folder: Path, on: str) -> Run:
    """A run, or the root of a sweep, from its files alone.

    Raises:
        InputError: there is no such folder, a file is missing or damaged, or fewer than two starts did not diverge.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give that of a run (outputs/DATE/TIME).")
    path = folder / "starts.csv"
    if not path.is_file():
        raise InputError(f"{path} is missing, so {folder} is not the folder of a run that has measured its starts.")
    rows = _parsed(path, lambda text: list(csv.DictReader(text.splitlines())))
    if not rows:
        raise InputError(f"{path} holds no start.")
    if missing := [name for name in COLUMNS if name not in rows[0]]:
        raise InputError(f"{path} lacks what a table of starts has: {', '.join(missing)}.")
    values = []
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():  # csv's way to tell of a row longer or shorter than the headings
            raise InputError(f"{path}: start {number} has not as many entries as there are headings; is it cut off?")
        if row["rank"] and row["status"] not in ("finished", "stopped", "diverged"):
            raise InputError(f"{path}: status is '{row['status']}'; it must be finished, stopped or diverged.")
        if row["status"] != "diverged":
            values.append(_number(row[on], f"{path}: {on} of start {number}"))
    if not values:
        raise InputError(f"{folder}: all starts diverged ({len(rows)}), so there is nothing to compare.")
    if len(values) < 2:
        raise InputError(f"{folder}: there is one sound start; a spread needs at least two starts.")

    jobs = [folder] if (folder / ".hydra").is_dir() else sorted(path.parent for path in folder.glob("*/.hydra"))
    summary = _mapping(folder / "summary.json")
    about = summary or next(filter(None, (_mapping(job / "summary.json") for job in jobs)), {})
    options = _options(jobs)
    return Run(
        folder,
        np.array(values),
        len(rows) - len(values),
        all(row["rank"] for row in rows),
        len({row["seed"] for row in rows}) < len(rows) or len({row["eta"] for row in rows}) > 1,
        options,
        {key: value for key, value in options.items() if key.startswith("data.") and key not in NOT_WHICH_PICTURES}
        | dict(_flattened({key: about[key] for key in ("classes", "pictures") if key in about})),
        [None if (test := summary.get(k)) is None else _number(test, f"{folder}/summary.json: {k}") for k in TESTS],
    )


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8-sig"))
    except Exception as error:  # those of csv, JSON, YAML and OmegaConf have no ancestor in common
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error


def _number(value: object, what: str) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{what} is '{value}'; it must be a number.")
    return number


def _mapping(path: Path, parse: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    """What a file holds under names; nothing where there is no file."""
    found = _parsed(path, parse) if path.is_file() else {}
    if not isinstance(found, dict):
        raise InputError(f"{path} cannot be read: it holds no names with values.")
    return found


def _options(jobs: list[Path]) -> dict[str, str]:
    from omegaconf import OmegaConf

    values: dict[str, set[str]] = {}
    for job in jobs:
        options = _mapping(job / ".hydra/config.yaml", lambda text: OmegaConf.to_container(OmegaConf.create(text)))
        for key, value in _flattened(options):
            values.setdefault(key, set()).add(value)
    return {key: ", ".join(sorted(found)) for key, found in values.items() if key.split(".")[0] not in NOISE}


def _flattened(node: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flattened(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, "null" if node is None else str(node)


# ---------------------------------------------------------------- the comparison in words


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
        console.print(f"{name}: {run.folder}", soft_wrap=True)
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
