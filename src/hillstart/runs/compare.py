"""Compares the starts of two runs: medians, means and their intervals, superiority, and what limits the comparison."""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hillstart.engine.starts import varying
from hillstart.runs.reader import RunRecord
from hillstart.system.errors import InputError
from hillstart.system.statistics import quantiles, standard_error
from hillstart.system.untrusted import briefly

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """B - A with its 95% confidence interval."""

    value: float
    low: float
    high: float

    def shown(self) -> bool:
        """True if 0 is outside the interval."""
        return self.low > 0 or self.high < 0


def _difference(A: np.ndarray, B: np.ndarray, *value_low_high: float) -> Difference:
    rounding = 1e-12 * max(np.abs(A).max(), np.abs(B).max())  # 1e-17 above 0 must not show a difference
    return Difference(*(0.0 if abs(x) <= rounding else float(x) for x in value_low_high))


def difference_of_medians(A: Float[np.ndarray, " m"], B: Float[np.ndarray, " n"]) -> Difference:
    """Median of B minus median of A, with the percentile bootstrap interval; needs two values of each.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13. The BCa interval of ch. 14 is not used: its
    jackknife fails for medians (ch. 11), and with tied values, as of accuracies on few pictures, it was mostly nan.
    With ties the percentile interval is too wide; below 5 values it is too narrow (with 2 values it covered the true
    value in 65% of 400 trials). The random numbers are seeded, so the same starts always give the same interval.
    """
    from scipy.stats import bootstrap  # imported here because it takes a second

    def statistic(A: np.ndarray, B: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(np.median(B, axis=axis) - np.median(A, axis=axis))

    interval = bootstrap(
        (A, B),
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, 1_000_000 // max(len(A), len(B))),  # 8 MB at a time
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return _difference(A, B, float(statistic(A, B)), interval.low, interval.high)


def difference_of_means(A: Float[np.ndarray, " m"], B: Float[np.ndarray, " n"]) -> Difference:
    """Mean of B minus mean of A, with Welch's interval for unequal variances (Biometrika 34, 1947).

    Needs two values of each. The interval has no width if neither run's values vary.
    """
    from scipy.stats import ttest_ind

    value = float(B.mean() - A.mean())
    if not np.ptp(A) and not np.ptp(B):
        return _difference(A, B, value, value, value)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)  # if one of the two does not vary
        interval = ttest_ind(B, A, equal_var=False).confidence_interval(CONFIDENCE)
    return _difference(A, B, value, interval.low, interval.high)


def superiority(A: Float[np.ndarray, " m"], B: Float[np.ndarray, " n"], *, lower_is_better: bool = False) -> float:
    """Share of pairs in which B's value is better than A's; ties count half, so 0.5 means that neither is better.

    Mann and Whitney's U / (m n) (1947), also known as Vargha and Delaney's A (2000).
    """
    from scipy.stats import mannwhitneyu

    above = float(mannwhitneyu(B, A, method="asymptotic").statistic / (len(A) * len(B)))
    return 1 - above if lower_is_better else above


MEASURED = ("val_accuracy", "val_cost", "train_cost")
"""Columns by which runs can be compared; the first is the default."""

FEW = 10
"""Number of starts below which a caution is printed."""

SPREAD = ("min", "lower_quartile", "median", "upper_quartile", "max")
TESTS = ("test_accuracy", "vote_test_accuracy")
NOT_COMPARED = ("hydra", "logger", "resume")  # where a run wrote, not how it was trained
NOT_WHICH_PICTURES = ("data.augment", "data.balance", "data.normalise")  # they do not change which pictures validate


class Sample:
    """One side of a comparison: the folder of a run or the root of a multirun, and one column of its starts.

    Attributes:
        values: the compared column, of the starts that did not diverge.
        grid: whether starts differ in more than their seeds.
        options: flattened keys and values; different values of a multirun's jobs are joined.
        pictures: options, classes and counts that tell whether another run used the same pictures.
        validated_on: SHA-256 of the validation pictures by their `shape`; several if jobs differ, empty if not known.
        costs: the kinds of cost of its starts; empty if not known.
        raced: whether it was trained with `stop.race`.
        tests: test accuracies of the chosen start and of the vote, if known.

    Raises:
        InputError: a file is missing or damaged, or fewer than two starts did not diverge.
    """

    def __init__(self, folder: Path, on: str):
        self.folder, record, path = folder, RunRecord(folder), folder / "starts.csv"
        if not path.is_file():
            raise InputError(f"{path}: there is no such file; give the folder of a run (outputs/DATE/TIME).")
        values = [
            _finite(getattr(row.result, on), f"{path}: row {number}: {on}")
            for number, row in enumerate(record.starts, 1)
            if not row.result.diverged
        ]
        starts = [row.result.start for row in record.starts]
        if len(values) < 2:
            raise InputError(
                f"{folder}: {len(values)} of {len(starts)} starts did not diverge; a spread needs at least two."
            )
        self.values, self.diverged, self.finished = np.array(values), len(starts) - len(values), record.finished
        self.grid = len({start.seed for start in starts}) < len(starts) or bool(varying(starts))
        options = _joined(job.options for job in record.jobs)
        self.options = {key: value for key, value in options.items() if key.split(".")[0] not in NOT_COMPARED}
        self.raced = options.get("stop.race", "null") != "null"
        summaries = [job.summary for job in record.jobs if job.summary] or [record.summary]
        of_data = (key for key in options if key.startswith("data.") and key not in NOT_WHICH_PICTURES)
        self.pictures = {key: options[key] for key in of_data}
        self.pictures |= _joined({key: of[key] for key in ("classes", "pictures") if key in of} for of in summaries)
        self.validated_on = defaultdict[str, set[str]](set)
        for summary in summaries:
            if isinstance(of := summary.get("validated_on"), dict):
                self.validated_on[str(of.get("shape"))].add(str(of.get("sha256")))
        costs = {str(summary["cost"]) for summary in summaries if summary.get("cost")}
        self.costs = sorted(costs or {*filter(None, options.get("network.cost", "").split(", "))})
        tests = {name: record.summary.get(name) for name in TESTS}
        self.tests = {k: v if v is None else _finite(v, f"{folder}/summary.json: {k}") for k, v in tests.items()}

    def row(self) -> dict[str, Any]:
        """The spread of the values, the test accuracies and how many starts diverged, as plain data."""
        spread = quantiles(self.values.tolist())
        return {
            "folder": str(self.folder),
            "starts": len(self.values),
            "diverged": self.diverged,
            "finished": self.finished,
            "mean": float(self.values.mean()),
            **{name: spread[name] for name in SPREAD},
            **self.tests,
        }


def _finite(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{what} is '{briefly(value)}'; it must be a number.")
    return number


def _joined(nodes: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Flattened keys and values as text; different values of one key are joined."""
    values: dict[str, set[str]] = {}
    for node in nodes:
        for key, value in _flattened(node):
            values.setdefault(key, set()).add("null" if value is None else str(value))
    return {key: ", ".join(sorted(found)) for key, found in values.items()}


def _flattened(node: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Values with dotted keys; a list is one value."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flattened(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


@dataclass(frozen=True)
class Comparison:
    """The comparison of two runs, A and B; `other_pictures` names how their pictures differ, None if not known."""

    on: str
    runs: dict[str, Sample]
    medians: Difference
    means: Difference
    superiority: float
    differing_options: dict[str, tuple[str, str]]
    other_pictures: list[str] | None

    def sentences(self) -> list[str]:
        """The result in words, and what it does not cover."""
        return [*_kinship(self), *_found(self), *_cautions(self), _pictures(self)]

    def as_json(self) -> dict[str, Any]:
        """The comparison as plain dictionaries, lists and numbers."""
        runs = {name: run.row() for name, run in self.runs.items()}
        return asdict(self) | {"runs": runs, "confidence": CONFIDENCE, "sentences": self.sentences()}


def compare(A: Path, B: Path, on: str = MEASURED[0]) -> Comparison:
    """Compare run B with run A by one column of their starts.

    Raises:
        InputError: as `Sample`; or their costs are of different kinds.
    """
    a, b = Sample(A, on), Sample(B, on)
    kinds = sorted({*a.costs, *b.costs})
    if on.endswith("cost") and len(kinds) > 1:
        raise InputError(
            f"network.cost: {A} has {', '.join(a.costs) or 'an unknown one'}, {B} "
            f"{', '.join(b.costs) or 'an unknown one'}; costs of different kinds cannot be compared; "
            f"give --on {MEASURED[0]}."
        )
    keys = {**a.options, **b.options} if a.options and b.options else {}
    options = {key: (a.options.get(key, "-"), b.options.get(key, "-")) for key in keys}
    return Comparison(
        on,
        {"A": a, "B": b},
        difference_of_medians(a.values, b.values),
        difference_of_means(a.values, b.values),
        superiority(a.values, b.values, lower_is_better=on.endswith("cost")),
        {key: sides for key, sides in options.items() if sides[0] != sides[1]},
        _other_pictures(a, b),
    )


def _other_pictures(a: Sample, b: Sample) -> list[str] | None:
    """Names of what differs in the pictures of two runs; None if not known."""
    common = [key for key in a.pictures if key in b.pictures]
    differing = [key for key in common if a.pictures[key] != b.pictures[key]]
    if a.validated_on and a.validated_on == b.validated_on:
        return []  # although options differ, say of the test set
    if any(b.validated_on.get(shape, found) != found for shape, found in a.validated_on.items()):
        return differing or ["the pictures themselves"]
    return differing if common else None


def _kinship(c: Comparison) -> Iterator[str]:
    """Warn if A and B share starts: the intervals are valid for independent starts only."""
    a, b = (run.folder.resolve() for run in c.runs.values())
    again = c.runs["A"].options and not c.differing_options and not c.other_pictures
    if a == b:
        yield "A and B are the same run, so there is nothing to compare."
    elif again and np.array_equal(c.runs["A"].values, c.runs["B"].values):
        yield "A and B are the same run twice: no option and no start differs, so there is nothing to compare."
    elif a in b.parents or b in a.parents:
        yield "One of the two is a job of the other, so they share starts, and the intervals are too narrow."


def _found(c: Comparison) -> Iterator[str]:
    d, lower_is_better = c.medians, c.on.endswith("cost")
    low, high = sorted((abs(d.low), abs(d.high)))
    by = f"by {abs(d.value):.3g} ({CONFIDENCE:.0%} interval {low:.3g} to {high:.3g})"
    if d.shown() and c.other_pictures:
        direction = "higher" if d.low > 0 else "lower"
        not_better = "on other pictures that does not make its starts better or worse"
        yield f"B's {c.on} is {direction} {by}, by the median; {not_better}."
    elif d.shown():
        better = "B" if (d.low > 0) != lower_is_better else "A"
        yield f"{better}'s starts are better {by}: {'lower' if lower_is_better else 'higher'} {c.on}, by the median."
    else:
        interval = f"the {CONFIDENCE:.0%} interval of the medians' difference, {d.low:.3g} to {d.high:.3g}"
        yield f"No difference shown: {interval}, holds 0. That does not prove the two equal."
    better = f"has the {'lower' if lower_is_better else 'higher'} {c.on}" if c.other_pictures else "is the better"
    share = f"in {c.superiority:.0%} of all pairs; ties count half, 50% means that neither is ahead"
    yield f"Of one start of A and one of B, B's {better} {share}."
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
        if run.raced:
            unequal = "its median is one of unequal trainings and should not be compared with another run's"
            yield f"{name} was trained with stop.race, which ends starts early: {unequal}."
        if sum(map(len, run.validated_on.values())) > len(run.validated_on):
            yield f"The starts of {name} were validated on different pictures, so its spread mixes splits and starts."
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
        mixes = f"mixes data and descent, and does not cover the luck of either's{f': {known}' if known else ''}"
        return (
            f"The two did not use the same pictures ({', '.join(c.other_pictures)} differ), so the comparison {mixes}."
        )
    same = luck["A"] or luck["B"] or "validation pictures"
    others = "all starts share the luck of these, and others could move the difference"
    return f"Not covered: both were measured on the same {same}; {others}."


def _luck(run: Sample, on: str) -> str:
    """The number of validation pictures, with the binomial standard error of an accuracy on them, if it is known."""
    p, count = quantiles(run.values.tolist())["median"], run.pictures.get("pictures.val", "")
    n = int(count) if count.isdecimal() else 0
    known = on == "val_accuracy" and n and 0 <= p <= 1
    error = f" (standard error of an accuracy {standard_error(p, n):.2g})" if known else ""
    return f"{n} validation pictures{error}" if n else ""
