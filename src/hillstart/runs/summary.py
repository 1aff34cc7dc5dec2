"""The terminal output at the end of a run: ranked starts, settings, the chosen start, and standard errors."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hillstart.engine.starts import StartResult, ranking_key, varying
from hillstart.runs.results import NOTABLE, RunResult, remark
from hillstart.system.console import print_table, visible
from hillstart.system.files import relative
from hillstart.system.statistics import accuracy_interval, quantiles, standard_error
from hillstart.training.packs import RunSpec

log = logging.getLogger(__name__)

SHOWN = 16
"""The number of rows of a table that the terminal shows."""
SPARE = (
    *("train cost", "status", "epochs", "min", "max", "splits", "diverged", "starts trained"),
    *("rank", "eta", "val cost"),
)
"""Columns that a narrow terminal goes without, the least important first."""
FEW_CLASSES = 5
"""The number of classes up to which the terminal shows the accuracy of each."""


@dataclass(frozen=True)
class Result:
    """The result of one start, to be grouped with others of the same setting.

    Attributes:
        setting: the options in which starts differ besides their seeds, and their values.
        pictures: an id of the validation pictures.
        cost: the kind of its cost.
    """

    setting: Mapping[str, str]
    diverged: bool
    val_cost: float
    val_accuracy: float
    pictures: str = ""
    cost: str = ""


def of_rows(rows: Sequence[StartResult]) -> list[Result]:
    """The results of the starts of one run, whose settings are the points of its grid of hyperparameters."""
    names = varying(row.start for row in rows)
    return [
        Result(
            {f"descent.{name}": f"{getattr(row.start.hyperparameters, name):g}" for name in names},
            row.diverged,
            row.val_cost,
            row.val_accuracy,
        )
        for row in rows
    ]


def settings(results: Iterable[Result]) -> tuple[list[dict[str, Any]], str | None]:
    """Group starts by their setting, the best setting first.

    A setting has the quantiles over its starts that did not diverge. If it has several sets of validation pictures, as
    with splits by `data.seed`, it has the quantiles over these sets, each represented by the median over its starts.

    Returns:
        The settings, and the column by whose median they are ranked: `val_cost`; `val_accuracy` if their costs are of
        different kinds; None if they have different validation pictures and are therefore in the order given.
    """
    of: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        of.setdefault((tuple(result.setting.items()), result.cost), []).append(result)
    found, measured_on = [], []
    for (setting, _), group in of.items():
        sets: dict[str, list[Result]] = {}
        for result in group:
            sets.setdefault(result.pictures, [])
            if not result.diverged:
                sets[result.pictures].append(result)
        entry: dict[str, Any] = {"setting": dict(setting), "starts": len(group)}
        entry["diverged"] = sum(result.diverged for result in group)
        entry["splits"] = len(sets)
        for name in ("val_cost", "val_accuracy"):
            each = [quantiles([getattr(result, name) for result in some]) for some in sets.values() if some]
            entry[name] = (
                quantiles([one["median"] for one in each]) if len(sets) > 1 else each[0] if each else quantiles([])
            )
        found.append(entry)
        measured_on.append(set(sets))
    if any(pictures != measured_on[0] for pictures in measured_on):
        return found, None
    by = "val_cost" if len({cost for _, cost in of}) == 1 else "val_accuracy"
    sign = 1 if by == "val_cost" else -1
    return sorted(found, key=lambda s: sign * s[by].get("median", sign * math.inf)), by


def show_settings(found: Sequence[Mapping[str, Any]], by: str | None) -> None:
    """Print the table of what `settings` returns."""
    names = list(found[0]["setting"])
    splits = max(s["splits"] for s in found) > 1
    diverged = any(s["diverged"] for s in found)
    lines = [
        [*(short(s["setting"][k]) for k in names)]
        + [str(s[k]) for k, there in (("splits", splits), ("starts", True), ("diverged", diverged)) if there]
        + [figure(s["val_cost"].get("median", math.nan))]
        + [figure(s["val_accuracy"].get(k, math.nan)) for k in ("median", "min", "max")]
        for s in found[:SHOWN]
    ]
    counts = [*["splits"] * splits, "starts trained", *["diverged"] * diverged]
    heads = [*map(heading, names), *counts, "median val cost", "median val accuracy", "min", "max"]
    best = "best" if by else "first"
    title = f"the {SHOWN} {best} of {len(found)} settings" if len(found) > SHOWN else "settings"
    over = "over splits of the medians of their starts" if splits else "over their starts"
    ranked = f"by the median {by.replace('_', ' ')} {over}" if by else "not ranked: their validation pictures differ"
    print_table(heads, lines, f"{title}, {ranked}", SPARE)


def heading(key: str) -> str:
    """The heading of a column: the last part of a key."""
    return key.rpartition(".")[2].replace("_", " ")


def figure(value: float) -> str:
    """The text of a cell for a cost or an accuracy: four significant digits."""
    return f"{value:#.4g}"


def short(value: str) -> str:
    """The text of a cell: a number that is not an integer is rounded to four digits."""
    try:
        return value if value.lstrip("+-").isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value


def uncertain(accuracy: float, pictures: int) -> str:
    """The interval of one standard error about an accuracy, as text."""
    low, high = accuracy_interval(accuracy, pictures)
    return f"{low:.4f} to {high:.4f}"


def temperature_effect(calibration: Mapping[str, Any], accuracy: float, pictures: int) -> int:
    """The effect of a temperature on the probabilities of the test pictures.

    Its effect counts where it changes the expected calibration error by more than two standard errors of the accuracy
    that this compares the probabilities with.

    Returns:
        1 if it improves them, -1 if it makes them worse, 0 if there are too few pictures to decide.
    """
    before, after = (calibration["test"][when]["expected_calibration_error"] for when in ("before", "after"))
    if abs(after - before) <= 2 * standard_error(accuracy, pictures):
        return 0
    return 1 if after < before else -1


def report(outcome: RunResult, summary: dict[str, Any], folder: Path, spec: RunSpec, table: bool = True) -> None:
    """Print the ranked table of a run, and log its other results.

    Args:
        summary: what `experiment.summarise` returns.
        table: print the tables too.
    """
    rows = sorted(outcome.rows, key=ranking_key)
    differs = varying(row.start for row in rows)
    if table:
        title = f"the {SHOWN} best of {len(rows)} starts" if len(rows) > SHOWN else None
        shown = sorted({"eta", *differs})
        headings = ("rank", "seed", *shown, "epochs", "status", "train cost", "val cost", "val accuracy")
        lines = []
        for rank, row in enumerate(rows[:SHOWN], 1):
            hyperparameters = [f"{getattr(row.start.hyperparameters, name):.4g}" for name in shown]
            costs = [figure(cost) for cost in (row.train_cost, row.val_cost, row.val_accuracy)]
            lines.append([str(rank), str(row.start.seed), *hyperparameters, str(row.epochs), row.status, *costs])
        print_table(headings, lines, title, SPARE)
    best = outcome.kept[0]
    setting = "".join(f", {name} {getattr(best.start.hyperparameters, name):g}" for name in differs)
    _spread(summary, rows if table else [], spec.data.preprocessing.noun)
    log.info(
        f"chosen by val cost: seed {best.start.seed}{setting}: val accuracy {best.val_accuracy:.4f}, "
        f"test accuracy {summary['test_accuracy']:.4f}; vote of the {summary['kept']} kept: "
        f"{summary['vote_test_accuracy']:.4f}"
    )
    test, noun = summary["pictures"]["test"], spec.data.preprocessing.noun
    chosen, vote = (uncertain(summary[name], test) for name in ("test_accuracy", "vote_test_accuracy"))
    log.info(f"one standard error on {test} test {noun}s: chosen start {chosen}, vote {vote}")
    _by_class(summary["vote_test"])
    of = summary["calibration"]
    before, after = (of["test"][when]["expected_calibration_error"] for when in ("before", "after"))
    effect = temperature_effect(of, summary["vote_test_accuracy"], test)
    better = "" if effect else f"; {test} test {noun}s are too few to tell which is better"
    log.info(
        f"expected calibration error of the vote on test: {after:.3f} with the temperature {of['temperature']:.2f}, "
        f"which was fitted on val, {before:.3f} without it{better}"
    )
    if summary["saturated"] >= NOTABLE:
        log.warning(remark(summary["saturated"], spec.described()))
    ended = [f"{summary[how]} {how}" for how in ("stopped", "diverged") if summary[how]]
    if ended:
        whole = summary["epochs"] * summary["starts"]
        saved = f", {summary['epochs_saved']} of {whole} epochs saved" if summary["epochs_saved"] else ""
        log.info(f"{summary['finished']} starts finished, {', '.join(ended)}{saved}")
    where = summary["device"] + (f" on each of {summary['ranks']} ranks" if summary["ranks"] > 1 else "")
    log.info(f"{summary['seconds']:.1f} s of training on {where}; results in {relative(folder)}")


def _by_class(of: Mapping[str, Any]) -> None:
    """Log the accuracy of each class if classes are few, and the baseline if they have unequal numbers of pictures."""
    counts = [one["pictures"] for one in of["by_class"].values()]
    if len(counts) <= FEW_CLASSES:
        shares = (
            f"{name} {one['accuracy']:.4f} of {one['pictures']}"
            for name, one in of["by_class"].items()
            if one["pictures"]
        )
        log.info(visible(f"test accuracy of the vote by class: {', '.join(shares)}"))
    if len(set(counts)) > 1:
        most = of["majority"]
        log.info(visible(f"baseline: always answering {most['class']} has the test accuracy {most['accuracy']:.4f}"))


def _spread(summary: dict[str, Any], rows: Sequence[StartResult], noun: str) -> None:
    """Log the spread of the starts and the standard error of a single one.

    Args:
        rows: if the starts have several settings, a table of these is printed; empty: no table.
    """
    of, val = summary["val_accuracy_of_starts"], summary["pictures"]["val"]
    if of["n"] == 1:
        return
    mixed = "settings" in summary
    if mixed and rows:
        show_settings(*settings(of_rows(rows)))
    log.info(spread_line(of, mixed=mixed))
    if tested := summary.get("test_accuracy_of_starts"):
        log.info(spread_line(tested, mixed=mixed, what="test accuracy"))
    interval = uncertain(of["median"], val)
    log.info(f"one standard error of a single start on {val} val {noun}s: {interval}")


def spread_line(of: Mapping[str, float], where: str = "", mixed: bool = False, what: str = "val accuracy") -> str:
    """The spread of an accuracy over starts in one line; `mixed` if they have several settings."""
    return (
        f"{what} of {of['n']} starts{where}: median {of['median']:.4f}, quartiles {of['lower_quartile']:.4f} and "
        f"{of['upper_quartile']:.4f}, from {of['min']:.4f} to {of['max']:.4f}" + ", all settings mixed" * mixed
    )
