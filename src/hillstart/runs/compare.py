"""How two samples differ: the difference of their medians or means with an interval, and who is ahead how often."""

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hillstart.runs.reader import Run, read
from hillstart.system.errors import InputError
from hillstart.system.statistics import standard_error

CONFIDENCE = 0.95
RESAMPLES = 10_000


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
        return [*_kinship(self), *_found(self), *_cautions(self), _pictures(self)]

    def as_json(self) -> dict[str, Any]:
        """All of it in plain dictionaries, lists and numbers."""
        runs = {name: run.row() for name, run in self.runs.items()}
        return asdict(self) | {"runs": runs, "confidence": CONFIDENCE, "sentences": self.sentences()}


def compare(A: Path, B: Path, on: str = MEASURED[0]) -> Comparison:
    """Run B against run A by one measured column of their starts.

    Raises:
        InputError: as `read`; or their costs are of different kinds.
    """
    a, b = read(A, on), read(B, on)
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


def _other_pictures(a: Run, b: Run) -> list[str] | None:
    """Names of what differs in the pictures of two runs; None: not known."""
    common = [key for key in a.pictures if key in b.pictures]
    differing = [key for key in common if a.pictures[key] != b.pictures[key]]
    if a.validated_on and a.validated_on == b.validated_on:
        return []  # whatever their options say: of a test set, say
    if any(b.validated_on.get(shape, found) != found for shape, found in a.validated_on.items()):
        return differing or ["the pictures themselves"]
    return differing if common else None


def _kinship(c: Comparison) -> Iterator[str]:
    """Warn where A and B share starts: the intervals are for independent draws and mean nothing then."""
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
        yield (f"B's {c.on} is {'higher' if d.low > 0 else 'lower'} {by}, by the median; on other pictures that does "
               "not make its starts better or worse.")  # fmt: skip
    elif d.shown():
        better = "B" if (d.low > 0) != lower_is_better else "A"
        yield f"{better}'s starts are better {by}: {'lower' if lower_is_better else 'higher'} {c.on}, by the median."
    else:
        yield (f"No difference shown: the {CONFIDENCE:.0%} interval of the medians' difference, {d.low:.3g} to "
               f"{d.high:.3g}, holds 0. That does not prove the two equal.")  # fmt: skip
    better = f"has the {'lower' if lower_is_better else 'higher'} {c.on}" if c.other_pictures else "is the better"
    yield (f"Of one start of A and one of B, B's {better} in {c.superiority:.0%} of all pairs; ties count half, "
           "50% means that neither is ahead.")  # fmt: skip
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
            yield (f"{name} was trained with stop.race, which ends starts early: its median is one of unequal "
                   "trainings and should not be compared with another run's.")  # fmt: skip
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
    error = f" (standard error of an accuracy {standard_error(p, n):.2g})" if known else ""
    return f"{n} validation pictures{error}" if n else ""
