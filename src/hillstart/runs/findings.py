"""The result of a comparison in sentences, and what it does not cover."""

import itertools
from collections.abc import Iterator

import numpy as np

from hillstart.runs.compare import FEW, Comparison, Comparisons, Sample, other_pictures_of
from hillstart.runs.significance import CONFIDENCE
from hillstart.system.statistics import quantiles, standard_error


def sentences(of: Comparisons) -> list[str]:
    """Describe the result of a comparison and its limits, each sentence once."""
    each = [[*_found(c), _pairing(c), _pictures(c)] for c in of.comparisons]
    return [*dict.fromkeys([*_kinship(of), *itertools.chain(*each), *_many(of), *_cautions(of)])]


def _kinship(of: Comparisons) -> Iterator[str]:
    """Warn if runs share starts: the intervals are valid for different ones only."""
    for (first, one), (second, other) in itertools.combinations(of.runs.items(), 2):
        a, b, names = one.folder.resolve(), other.folder.resolve(), f"{first} and {second}"
        same = one.options and one.options == other.options and not other_pictures_of(one, other, of.on)
        if a == b:
            yield f"{names} are the same run, so there is nothing to compare."
        elif same and np.array_equal(one.values, other.values):
            yield f"{names} are the same run twice: no option and no start differs, so there is nothing to compare."
        elif a in b.parents or b in a.parents:
            yield f"One of {names} is a job of the other, so they share starts, and their intervals mean little."


def _found(c: Comparison) -> Iterator[str]:
    d, lower_is_better, (a, b) = c.medians, c.on.endswith("cost"), c.names
    low, high = sorted((abs(d.low), abs(d.high)))
    by = f"by {abs(d.value):.3g} ({CONFIDENCE:.0%} interval {low:.3g} to {high:.3g})"
    median = f"by the median over {c.pairs} seeds" if c.paired else "by the median"
    if c.shown() and c.other_pictures:
        direction = "higher" if d.low > 0 else "lower"
        not_better = "on other pictures that does not make its starts better or worse"
        yield f"{b}'s {c.on} is {direction} than {a}'s {by}, {median}; {not_better}."
    elif c.shown():
        better, worse = (b, a) if (d.low > 0) != lower_is_better else (a, b)
        direction = "lower" if lower_is_better else "higher"
        yield f"{better}'s starts are better than {worse}'s {by}: {direction} {c.on}, {median}."
    elif d.shown():
        yield (
            f"No difference between {a} and {b} shown: the {CONFIDENCE:.0%} interval, {d.low:.3g} to {d.high:.3g}, "
            f"leaves 0 out, but the p-value corrected for the number of comparisons is {c.p_corrected:.2g}."
        )
    else:
        interval = f"the {CONFIDENCE:.0%} interval of the medians' difference, {d.low:.3g} to {d.high:.3g}"
        yield f"No difference between {a} and {b} shown: {interval}, holds 0. That does not prove the two equal."
    better = f"has the {'lower' if lower_is_better else 'higher'} {c.on}" if c.other_pictures else "is the better"
    which = f"start of {a} and one of {b} with the same seed" if c.paired else f"start of {a} and one of {b}"
    share = f"in {c.superiority:.0%} of all pairs; ties count half, 50% means that neither is ahead"
    yield f"Of one {which}, {b}'s {better} {share}."
    if d.shown() != c.means.shown():
        verb = "do" if c.means.shown() else "do not"
        yield f"The means of {a} and {b} {verb} show a difference: look at both and at the spread."
    if d.low == d.high:
        yield "An interval of medians has no width, as many starts share one value: it looks surer than it is."


def _pairing(c: Comparison) -> str:
    a, b = c.names
    if not c.paired:
        return f"{a} and {b} are compared as independent samples: {c.reason}."
    left = [(name, len(run.values) - c.pairs) for name, run in zip(c.names, c.runs, strict=True)]
    out = [f"{count} of {name}" for name, count in left if count]
    without = f"; {' and '.join(out)} have no partner and are left out of it" if out else ""
    return f"{a} and {b} are compared seed by seed, {c.pairs} pairs: {c.reason}{without}."


def _many(of: Comparisons) -> Iterator[str]:
    if (count := len(of.comparisons)) > 1:
        yield (
            f"With {count} comparisons a difference counts as shown only if its p-value, corrected by Holm's method, "
            f"is below {1 - CONFIDENCE:.0%}; the intervals are those of single comparisons."
        )
    if of.chosen:
        yield (
            f"{of.reference} is the reference because its validation median is the best of all, which flatters it: "
            "of several equal runs one is the best by chance."
        )


def _cautions(of: Comparisons) -> Iterator[str]:
    for name, run in of.runs.items():
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
            yield f"The starts of {name} differ in more than their seeds, so its spread mixes settings and chance."
        if len(run.values) < FEW:
            yield f"{name} has {len(run.values)} sound starts only; below {FEW} an interval is a rough guide."


def _pictures(c: Comparison) -> str:
    (a, b), kind = c.names, "test" if c.on.startswith("test") else "validation"
    known = {name: _sampling(run, c.on, kind) for name, run in zip(c.names, c.runs, strict=True)}
    if c.other_pictures is None:
        unknown = f"whether {a} and {b} had the same ones is not known"
        return f"Not covered: the sampling error of the {kind} pictures; {unknown}."
    if c.other_pictures:
        counts = ", ".join(f"{name} {text}" for name, text in known.items() if text)
        mixes = "mixes data and descent, and does not cover the sampling error of either's"
        return (
            f"{a} and {b} did not use the same pictures ({', '.join(c.other_pictures)} differ), so their comparison "
            f"{mixes}{f': {counts}' if counts else ''}."
        )
    same = known[a] or known[b] or f"{kind} pictures"
    others = "all starts share the sampling error of these, and others could move the difference"
    return f"Not covered: {a} and {b} were measured on the same {same}; {others}."


def _sampling(run: Sample, on: str, kind: str) -> str:
    """The number of pictures, with the binomial standard error of an accuracy on them, if it is known."""
    p, count = (
        quantiles(run.values.tolist())["median"],
        run.pictures.get(f"pictures.{'val' if kind != 'test' else kind}", ""),
    )
    n = int(count) if count.isdecimal() else 0
    known = on.endswith("accuracy") and n and 0 <= p <= 1
    error = f" (standard error of an accuracy {standard_error(p, n):.2g})" if known else ""
    return f"{n} {kind} pictures{error}" if n else ""
