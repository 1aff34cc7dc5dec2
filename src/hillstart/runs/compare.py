"""Compares the starts of runs with those of a reference: differences, intervals, tests, and what limits them."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hillstart.engine.starts import varying
from hillstart.runs.reader import RunRecord, flattened
from hillstart.runs.significance import (
    CONFIDENCE,
    Difference,
    difference_of_means,
    difference_of_medians,
    holm,
    p_value,
    superiority,
)
from hillstart.system.errors import InputError
from hillstart.system.statistics import quantiles
from hillstart.system.untrusted import briefly

MEASURED = ("val_accuracy", "val_cost", "train_cost", "test_accuracy", "test_cost")
"""Columns by which runs can be compared; the first is the default, the last two are there with `test=all`."""

FIRST, BEST = "first", "best"
REFERENCES = (FIRST, BEST)
"""The run that the others are compared with: the first, or the one with the best validation median."""

FEW = 10
"""Number of starts below which a caution is printed."""

SPREAD = ("min", "lower_quartile", "median", "upper_quartile", "max")
TESTS = ("test_accuracy", "vote_test_accuracy")
NOT_COMPARED = ("hydra", "logger", "curves", "report", "resume", "overwrite")  # not how it was trained
NOT_WHICH_PICTURES = ("data.augment", "data.balance", "data.normalise")  # they do not change which pictures validate
STARTING_POINT = ("network.hidden", "network.start", "start_from")  # what decides it besides the seed


class Sample:
    """One side of a comparison: the folder of a run or the root of a multirun, and one column of its starts.

    Attributes:
        values: the compared column, of the starts that did not diverge.
        of_seed: these values by their seed; empty if several starts have the same seed.
        val_median: of the validation accuracy of these starts.
        grid: whether starts differ in more than their seeds.
        options: flattened keys and values; different values of a multirun's jobs are joined.
        pictures: options, classes and counts that tell whether another run used the same pictures.
        validated_on: SHA-256 of the validation pictures by their `shape`; several if jobs differ, empty if not known.
        costs: the kinds of cost of its starts; empty if not known.
        raced: whether it was trained with `stop.race`.
        tests: test accuracies of the chosen start and of the vote, if known.

    Raises:
        InputError: a file is missing or damaged, or lacks the column, or fewer than two starts did not diverge.
    """

    def __init__(self, folder: Path, on: str):
        self.folder, record, path = folder, RunRecord(folder), folder / "starts.csv"
        if not path.is_file():
            raise InputError(f"{path}: there is no such file; give the folder of a run (outputs/DATE/TIME).")
        starts = [row.result.start for row in record.starts]
        sound = [(number, row) for number, row in enumerate(record.starts, 1) if not row.result.diverged]
        if any(on not in row.cells for _, row in sound):
            raise InputError(f"{path}: has no column {on}, which only a run with test=all has; train it with test=all.")
        values = [_finite(row.cells[on], f"{path}: row {number}: {on}") for number, row in sound]
        if len(values) < 2:
            raise InputError(
                f"{folder}: {len(values)} of {len(starts)} starts did not diverge; a spread needs at least two."
            )
        self.values, self.diverged, self.finished = np.array(values), len(starts) - len(values), record.finished
        seeds = [row.result.start.seed for _, row in sound]
        self.of_seed = dict(zip(seeds, values, strict=True)) if len({*seeds}) == len(seeds) else {}
        self.val_median = float(np.median([row.result.val_accuracy for _, row in sound]))
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
    """Flattened keys and values as text; different values of one key are joined, numbers by their size."""

    def order(text: str) -> tuple[float, str]:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        return (math.inf if math.isnan(number) else number), text  # nan has no order

    values: dict[str, set[str]] = {}
    for node in nodes:
        for key, value in flattened(node):
            values.setdefault(key, set()).add("null" if value is None else str(value))
    return {key: ", ".join(sorted(found, key=order)) for key, found in values.items()}


@dataclass(frozen=True)
class Comparison:
    """The comparison of run B with the reference A.

    Attributes:
        names: of A and B.
        paired: whether starts with the same seed are compared with each other; `reason` says why they are, or are not.
        pairs: the number of these seeds; 0 if not paired.
        p: of the rank test; corrected by Holm's method in `p_corrected` if there are several comparisons.
        other_pictures: how their pictures differ; None if not known.
    """

    on: str
    names: tuple[str, str]
    runs: tuple[Sample, Sample]
    paired: bool
    reason: str
    pairs: int
    medians: Difference
    means: Difference
    p: float
    p_corrected: float | None
    superiority: float
    differing_options: dict[str, tuple[str, str]]
    other_pictures: list[str] | None

    def shown(self) -> bool:
        """True if the interval of the medians leaves 0 out, and the corrected p-value, if any, is below 5%."""
        return self.medians.shown() and (self.p_corrected is None or self.p_corrected < 1 - CONFIDENCE)

    def as_json(self) -> dict[str, Any]:
        """The comparison as plain dictionaries, lists and numbers."""
        plain = asdict(self) | {"shown": self.shown()}
        del plain["runs"]
        return plain


@dataclass(frozen=True)
class Comparisons:
    """Runs by their names A, B, ..., and each of the others compared with the reference among them."""

    on: str
    runs: dict[str, Sample]
    reference: str
    chosen: bool
    comparisons: list[Comparison]

    def as_json(self) -> dict[str, Any]:
        """The comparisons as plain dictionaries, lists and numbers."""
        return {
            "on": self.on,
            "runs": {name: run.row() for name, run in self.runs.items()},
            "reference": self.reference,
            "confidence": CONFIDENCE,
            "comparisons": [c.as_json() for c in self.comparisons],
        }


def compare(folders: Sequence[Path], on: str = MEASURED[0], reference: str = FIRST) -> Comparisons:
    """Compare runs with a reference among them by one column of their starts.

    Args:
        folders: of two or more runs.
        reference: one of `REFERENCES`.

    Raises:
        InputError: as `Sample`; or their costs are of different kinds.
    """
    runs = {_letters(k): Sample(folder, on) for k, folder in enumerate(folders)}
    named = max(runs, key=lambda name: runs[name].val_median) if reference == BEST else next(iter(runs))
    pairs = [(named, name) for name in runs if name != named]
    comparisons = [_comparison(on, names, runs[names[0]], runs[names[1]]) for names in pairs]
    if len(comparisons) > 1:
        corrected = holm([c.p for c in comparisons])
        comparisons = [replace(c, p_corrected=p) for c, p in zip(comparisons, corrected, strict=True)]
    return Comparisons(on, runs, named, reference == BEST, comparisons)


def _letters(k: int) -> str:
    """A, B, ..., Z, AA, AB ..."""
    return (_letters(k // 26 - 1) if k >= 26 else "") + chr(ord("A") + k % 26)


def _comparison(on: str, names: tuple[str, str], a: Sample, b: Sample) -> Comparison:
    kinds = sorted({*a.costs, *b.costs})
    if on.endswith("cost") and len(kinds) > 1:
        raise InputError(
            f"network.cost: {a.folder} has {', '.join(a.costs) or 'an unknown one'}, {b.folder} "
            f"{', '.join(b.costs) or 'an unknown one'}; costs of different kinds cannot be compared; "
            f"give --on {MEASURED[0]}."
        )
    keys = {**a.options, **b.options} if a.options and b.options else {}
    options = {key: (a.options.get(key, "-"), b.options.get(key, "-")) for key in keys}
    other_pictures = other_pictures_of(a, b, on)
    common = sorted(a.of_seed.keys() & b.of_seed.keys())
    paired, reason = _can_be_paired(names, a, b, len(common), other_pictures)
    A, B = (np.array([of.of_seed[s] for s in common]) if paired else of.values for of in (a, b))
    return Comparison(
        on,
        names,
        (a, b),
        paired,
        reason,
        len(common) if paired else 0,
        difference_of_medians(A, B, paired=paired),
        difference_of_means(A, B, paired=paired),
        p_value(A, B, paired=paired),
        None,
        superiority(A, B, lower_is_better=on.endswith("cost"), paired=paired),
        {key: sides for key, sides in options.items() if sides[0] != sides[1]},
        other_pictures,
    )


def _can_be_paired(
    names: tuple[str, str], a: Sample, b: Sample, common: int, other_pictures: list[str] | None
) -> tuple[bool, str]:
    """True if starts with the same seed began at the same point with the same pictures, and the reason."""
    differing = [key for key in STARTING_POINT if a.options.get(key, "null") != b.options.get(key, "null")]
    if not (a.options and b.options):
        return False, "the options of both are not known"
    if other_pictures is None:
        return False, "it is not known whether their pictures are the same"
    if other_pictures or a.validated_on.keys() != b.validated_on.keys():
        return False, f"their pictures differ ({', '.join(other_pictures) or 'in size'})"
    if differing:
        return False, f"starts with the same seed begin at different points ({', '.join(differing)} differ)"
    if several := [name for name, run in zip(names, (a, b), strict=True) if not run.of_seed]:
        return False, f"several starts of {' and of '.join(several)} have the same seed"
    if 2 * common < min(len(a.values), len(b.values)) or common < 2:
        return False, f"they have {common or 'no'} seeds in common" + ", which are too few" * bool(common)
    return True, "starts with the same seed begin at the same point and see the same pictures"


def other_pictures_of(a: Sample, b: Sample, on: str) -> list[str] | None:
    """Names of what differs in the pictures of two runs; None if not known."""
    common = [key for key in a.pictures if key in b.pictures]
    differing = [key for key in common if a.pictures[key] != b.pictures[key]]
    if a.validated_on and a.validated_on == b.validated_on and not on.startswith("test"):
        return []  # although options differ, say of the test set
    if any(b.validated_on.get(shape, found) != found for shape, found in a.validated_on.items()):
        return differing or ["the pictures themselves"]
    return differing if common else None
