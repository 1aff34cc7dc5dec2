"""The last words of a run: the ranked table, what was chosen, and how much of it is luck."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from hillstart.files import relative
from hillstart.outcome import Outcome
from hillstart.saturation import NOTABLE, remark
from hillstart.starts import standing, varying

log = logging.getLogger(__name__)

SHOWN = 16
"""How many rows of the ranked table the terminal shows."""


def report(outcome: Outcome, summary: dict[str, Any], folder: Path, table: bool = True) -> None:
    """The table on the terminal, the rest of it in the log as well.

    Args:
        summary: what `experiment.summarise` returns.
        table: show the table too.
    """
    rows = sorted(outcome.rows, key=standing)
    differs = varying(row.start for row in rows)
    if table:
        title = f"the {SHOWN} best of {len(rows)} starts" if len(rows) > SHOWN else None
        rolls_by = sorted({"eta", *differs})
        headings = ("rank", "seed", *rolls_by, "epochs", "status", "train cost", "val cost", "val accuracy")
        lines = []
        for rank, row in enumerate(rows[:SHOWN], 1):
            rolls = [f"{getattr(row.start.hyperparameters, name):g}" for name in rolls_by]
            costs = [f"{cost:.4f}" for cost in (row.train_cost, row.val_cost, row.val_accuracy)]
            lines.append([str(rank), str(row.start.seed), *rolls, str(row.epochs), row.status, *costs])
        show(title, headings, lines)
    best = outcome.kept[0]
    apart = "".join(f", {name} {getattr(best.start.hyperparameters, name):g}" for name in differs)
    _spread(summary)
    log.info(f"chosen by val cost: seed {best.start.seed}{apart}: val accuracy {best.val_accuracy:.4f}, "
             f"test accuracy {summary['test_accuracy']:.4f}; vote of the {summary['kept']} kept: "
             f"{summary['vote_test_accuracy']:.4f}")  # fmt: skip
    log.info(f"of that, luck: with {summary['pictures']['test']} test pictures each of the two is uncertain "
             f"by {summary['test_standard_error']:.4f} (one standard error)")  # fmt: skip
    of = summary["calibration"]
    before, after = (of["test"][when]["expected_calibration_error"] for when in ("before", "after"))
    log.info(f"its probabilities, by a temperature of {of['temperature']:.2f} fitted on val pictures, are off by "
             f"{after:.3f} on test ({before:.3f} without it)")  # fmt: skip
    if summary["saturated"] >= NOTABLE:
        log.warning(remark(summary["saturated"]))
    ended = [f"{summary[how]} {how}" for how in ("stopped", "diverged") if summary[how]]
    if ended:
        whole = summary["epochs"] * summary["starts"]
        saved = f", {summary['epochs_saved']} of {whole} epochs saved" if summary["epochs_saved"] else ""
        log.info(f"{summary['finished']} starts finished, {', '.join(ended)}{saved}")
    where = summary["device"] + (f" on each of {summary['ranks']} ranks" if summary["ranks"] > 1 else "")
    log.info(f"{summary['seconds']:.1f} s of training on {where}; the run lies in {relative(folder)}")


def _spread(summary: dict[str, Any]) -> None:
    """How the starts differ, and how much one would see of it on so many pictures by chance alone."""
    of, error = summary["val_accuracy_of_starts"], summary["val_standard_error"]
    if of["n"] == 1:
        return
    log.info(f"val accuracy of {of['n']} starts: median {of['median']:.4f}, quartiles {of['lower_quartile']:.4f} and "
             f"{of['upper_quartile']:.4f}, from {of['min']:.4f} to {of['max']:.4f}")  # fmt: skip
    log.info(f"of that spread, luck: with {summary['pictures']['val']} val pictures the accuracy of one start is "
             f"uncertain by {error:.4f} (one standard error)")  # fmt: skip


def show(title: str | None, headings: Iterable[str], lines: Iterable[Sequence[str]]) -> None:
    """A table on the terminal."""
    table = Table(*headings, title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in table.columns:
        column.justify = "left" if column.header == "status" else "right"
    for line in lines:
        table.add_row(*line)
    Console().print(table)
