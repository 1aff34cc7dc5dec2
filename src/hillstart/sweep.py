"""A multirun as a whole: one table over all its jobs' starts, and how the settings differ."""

import csv
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hillstart.closing import SHOWN, show
from hillstart.files import read_text, relative, replacing
from hillstart.run_options import stored_overrides
from hillstart.starts import DIVERGED, STATUS, spread
from hillstart.tables import STARTS

log = logging.getLogger(__name__)


MOST_NAMED = 20
"""Jobs that a sentence names; the rest are counted."""


@dataclass(frozen=True)
class Job:
    """A job's folder, its options, and the rows of its `starts.csv`."""

    name: str
    options: dict[str, str]
    rows: list[dict[str, str]]


def close(folder: Path) -> None:
    """Write `starts.csv` and `summary.json` over the jobs that are done, and show the best and the settings.

    A row is ranked among those of all jobs. In front stand the job and what else than seed and eta varied.
    """
    jobs = [_read(summary.parent, folder) for summary in sorted(_summaries(folder), key=_natural)]
    if not jobs:
        return
    swept = _swept(jobs)
    rows = [
        {"job": job.name} | {key: job.options.get(key, "") for key in swept} | row for job in jobs for row in job.rows
    ]
    rows.sort(key=lambda row: (row["status"] == STATUS[DIVERGED], float(row["val_cost"]), int(row["seed"])))
    for rank, row in enumerate(rows, 1):
        row["rank"] = str(rank)
    names = ["job", *swept, *STARTS, *sorted({name for row in rows for name in row} - {"job", *swept, *STARTS})]
    with replacing(folder / "starts.csv") as new, new.open("w", newline="") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)
    settings = _settings(rows, swept)
    best = json.loads(read_text(folder / rows[0]["job"] / "summary.json"))
    of = spread([float(row["val_accuracy"]) for row in rows if row["status"] != STATUS[DIVERGED]])
    summary = {
        "jobs": len(jobs),
        "starts": len(rows),
        "best_job": rows[0]["job"],
        "best_seed": int(rows[0]["seed"]),
        "test_accuracy": best["test_accuracy"],
        "test_standard_error": best["test_standard_error"],
        "val_accuracy_of_starts": of,
        "settings": settings,
    }
    with replacing(folder / "summary.json") as new:
        new.write_text(json.dumps(summary, indent=2) + "\n")
    _show(rows, swept, settings)
    quartiles = f"quartiles {of['lower_quartile']:.4f} and {of['upper_quartile']:.4f}"
    log.info(f"val accuracy of {of['n']} starts in {len(jobs)} jobs: median {of['median']:.4f}, {quartiles}, "
             f"from {of['min']:.4f} to {of['max']:.4f}")  # fmt: skip
    log.info(f"best by val cost: job {rows[0]['job']}, seed {rows[0]['seed']}: test accuracy "
             f"{best['test_accuracy']:.4f}, uncertain by {best['test_standard_error']:.4f} "
             "(one standard error)")  # fmt: skip
    log.info(f"the sweep lies in {relative(folder)}")


def left(folder: Path, jobs: int) -> str:
    """What there is of a multirun that a signal ended, and what to do with the rest."""
    done = [summary.parent for summary in sorted(_summaries(folder), key=_natural)]
    named = ", ".join(job.relative_to(folder).as_posix() for job in done[:MOST_NAMED])
    more = f" and {len(done) - MOST_NAMED} more" if len(done) > MOST_NAMED else ""
    there = f"done of {jobs} jobs: {len(done)}" + (f", in {relative(folder)}: {named}{more}" if done else "")
    return (
        f"{there}; a multirun cannot be resumed: begin another one for the jobs that are left, or train many seeds as "
        "one run (seed=0 starts=N), which can be."
    )


def _summaries(folder: Path) -> list[Path]:
    return [path for path in folder.glob("**/summary.json") if path.parent != folder]


def _read(job: Path, folder: Path) -> Job:
    options = stored_overrides(job)
    rows = list(csv.DictReader(io.StringIO(read_text(job / "starts.csv"), newline="")))
    pairs = (option.lstrip("+").partition("=") for option in options)
    return Job(job.relative_to(folder).as_posix(), {key: value for key, _, value in pairs}, rows)


def _natural(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name) if name.isdecimal() else -1), str(path)


def _swept(jobs: Sequence[Job]) -> list[str]:
    """The options in which jobs differ and that no column of `starts.csv` shows."""
    keys = dict.fromkeys(key for job in jobs for key in job.options)
    return [
        key for key in keys if key not in ("seed", "descent.eta") and len({job.options.get(key) for job in jobs}) > 1
    ]


def _settings(rows: Sequence[dict[str, str]], swept: Sequence[str]) -> list[dict[str, Any]]:
    """The starts of each setting together, the lowest median of the validation cost first."""
    of: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        of.setdefault(tuple(row[key] for key in ("eta", *swept)), []).append(row)
    found = []
    for values, group in of.items():
        sound = [row for row in group if row["status"] != STATUS[DIVERGED]]
        cost, accuracy = (spread([float(row[name]) for row in sound]) for name in ("val_cost", "val_accuracy"))
        setting = dict(zip(("descent.eta", *swept), values, strict=True))
        found.append({"setting": setting, "starts": len(group), "val_cost": cost, "val_accuracy": accuracy})
    return sorted(found, key=lambda s: s["val_cost"].get("median", float("inf")))


def _show(rows: Sequence[dict[str, str]], swept: Sequence[str], settings: Sequence[dict[str, Any]]) -> None:
    title = f"the {SHOWN} best of {len(rows)} starts" if len(rows) > SHOWN else None
    costs = ("train_cost", "val_cost", "val_accuracy")
    names = ("rank", "job", "seed", "eta", *swept, "epochs", "status")
    lines = [[row[k] for k in names] + [f"{float(row[k]):.4f}" for k in costs] for row in rows[:SHOWN]]
    show(title, [_short(name) for name in (*names, *costs)], lines)
    if len(settings) > 1:
        names = ("descent.eta", *swept)
        lines = [
            [*(s["setting"][k] for k in names), str(s["starts"])]
            + [f"{s['val_cost'].get('median', float('nan')):.4f}"]
            + [f"{s['val_accuracy'].get(k, float('nan')):.4f}" for k in ("median", "min", "max")]
            for s in settings[:SHOWN]
        ]
        heads = [*map(_short, names), "starts", "median val cost", "median val accuracy", "min", "max"]
        more = f"the {SHOWN} best of {len(settings)} settings" if len(settings) > SHOWN else "settings"
        show(f"{more}, by the median of their starts", heads, lines)


def _short(name: str) -> str:
    """As much of a key as a column has room for."""
    return name.rpartition(".")[2].replace("_", " ")
