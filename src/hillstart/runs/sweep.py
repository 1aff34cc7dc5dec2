"""A multirun as a whole: one table over all its jobs' starts, and how the settings differ."""

import csv
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hillstart.engine.starts import DIVERGED, HYPERPARAMETERS, STATUS
from hillstart.runs.reader import stored_overrides
from hillstart.runs.summary import SHOWN, Result, heading, said_of, settings, short, show, show_settings, uncertain
from hillstart.runs.tables import STARTS
from hillstart.system.errors import InputError
from hillstart.system.files import read_text, relative, replacing
from hillstart.system.statistics import accuracy_interval, quantiles, standard_error

log = logging.getLogger(__name__)


MOST_NAMED = 20
"""Jobs that a sentence names; the rest are counted."""


@dataclass(frozen=True)
class Job:
    """A job's folder, its options, the rows of its `starts.csv`, and its summary, empty where all starts diverged."""

    name: str
    options: dict[str, str]
    rows: list[dict[str, str]]
    summary: dict[str, Any]


class Objective:
    """Guards what a sweeper minimises, the median validation cost of a job: in one sweep it must be the same figure."""

    def __init__(self) -> None:
        self._first: tuple[str, str, str] | None = None

    def check(self, cost: str, validated_on: Mapping[str, Any]) -> None:
        """Compare a job, before it is trained, with the first one that came here.

        Args:
            cost: the kind, `network.cost`.
            validated_on: as `PictureSet.validated_on`.

        Raises:
            InputError: its costs are of another kind, or measured on other validation pictures.
        """
        here = (cost, str(validated_on["labels"]), f"{validated_on['shape']} {validated_on['sha256']}")
        first = self._first = self._first or here
        advice = "; a sweeper that looks for the lowest cost needs one of them in all jobs, and without hydra/sweeper="
        if first[0] != cost:
            raise InputError(
                f"network.cost={cost}: an earlier job had {first[0]}, whose costs are of another kind{advice} "
                "... a multirun ranks by validation accuracy."
            )
        shape, _, sha256 = first[2].rpartition(" ")
        if first[1] != here[1] or (shape == str(validated_on["shape"]) and sha256 != validated_on["sha256"]):
            raise InputError(
                "data: an earlier job had other validation pictures (data.seed, data.root ...), whose costs cannot be "
                f"compared with these{advice} ... a multirun shows the spread over splits."
            )


def close(folder: Path) -> None:
    """Write `starts.csv` and `summary.json` over the jobs that are done, and show the best and the settings.

    A row is ranked among those of all jobs, by validation cost; where the costs are of different kinds, by validation
    accuracy, but the chosen start first: of each kind of cost the start with the lowest is taken, and of these the one
    with the highest accuracy. Of jobs with different validation pictures none is the best, and a row is ranked among
    those with the same pictures. In front stand the job and what else than seed and eta varied.
    """
    jobs = _jobs(folder)
    if not any(job.summary for job in jobs):
        return
    swept = _swept(jobs)
    pictures = _known(jobs, swept, _pictures(jobs))
    costs = _known(jobs, swept, {job.name: str(job.summary.get("cost", "")) for job in jobs if job.summary})
    kinds = sorted(set(costs.values()))
    rows = [
        {"job": job.name} | {key: job.options.get(key, "") for key in swept} | row for job in jobs for row in job.rows
    ]
    sets = list(dict.fromkeys(pictures[job.name] for job in jobs))
    ranked = [_ranked([row for row in rows if pictures[row["job"]] == these], costs) for these in sets]
    for some in ranked:
        for rank, row in enumerate(some, 1):
            row["rank"] = str(rank)
    rows = [row for some in ranked for row in some]
    names = ["job", *swept, *STARTS, *sorted({name for row in rows for name in row} - {"job", *swept, *STARTS})]
    with replacing(folder / "starts.csv") as new, new.open("w", newline="") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)
    found, by = settings(_results(rows, swept, pictures, costs))
    of = quantiles([float(row["val_accuracy"]) for row in rows if row["status"] != STATUS[DIVERGED]])
    summary: dict[str, Any] = {"jobs": len(jobs), "starts": len(rows)}
    best = next(job.summary for job in jobs if job.name == rows[0]["job"]) if len(sets) == 1 else {}
    if best:
        test = (best["test_accuracy"], best["pictures"]["test"])
        summary |= {
            "best_job": rows[0]["job"],
            "best_seed": int(rows[0]["seed"]),
            "test_accuracy": best["test_accuracy"],
            "test_standard_error": standard_error(*test),
            "test_interval": accuracy_interval(*test),
        }
    summary |= {
        "ranked_by": "val_cost" if len(kinds) == 1 else "val_accuracy",
        "costs": kinds,
        "validation_sets": len(sets),
        "val_accuracy_of_starts": of,
        "settings": found,
    }
    with replacing(folder / "summary.json") as new:
        new.write_text(json.dumps(summary, indent=2) + "\n")
    if best:
        _show(rows, swept)
    if len(found) > 1 or len(sets) > 1:
        show_settings(found, by)
    if len(sets) == 1:
        log.info(said_of(of, f" in {len(jobs)} jobs", mixed=len(found) > 1))
    if len(kinds) > 1:
        log.info(f"ranked by val accuracy: costs of different kinds ({', '.join(kinds)}) cannot be compared")
    if len(sets) > 1:
        keys = [key for key in swept if key.split(".")[0] == "data"]
        log.info(f"no job is called the best: the jobs have {len(sets)} different sets of validation pictures"
                 + (f" ({', '.join(keys)})" if keys else "") + ", and the luck of these would choose")  # fmt: skip
    if best:
        how = "val cost" if len(kinds) == 1 else "val cost within a kind of cost, and by val accuracy among the kinds"
        log.info(f"best by {how}: job {rows[0]['job']}, seed {rows[0]['seed']}: test accuracy {test[0]:.4f}, "
                 f"uncertain: {uncertain(*test)} (one standard error)")  # fmt: skip
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


def _jobs(folder: Path) -> list[Job]:
    """Those that are done, and those that ended as all of their starts diverged: a setting must not lose these."""
    done = {path.parent for path in _summaries(folder)}
    ended = {path.parent for path in folder.glob("**/starts.csv") if path.parent not in (folder, *done)}
    jobs = [_read(job, folder) for job in sorted(done | ended, key=lambda job: _natural(job / "summary.json"))]
    return [job for job in jobs if job.summary or all(row["rank"] for row in job.rows)]


def _pictures(jobs: Sequence[Job]) -> dict[str, str]:
    """Which validation pictures each job had, by its name, where known: the same text for the same pictures.

    At different sizes the same pictures have different pixels.
    """
    known = {job.name: job.summary["validated_on"] for job in jobs if "validated_on" in job.summary}
    by = "sha256" if len({str(of["shape"]) for of in known.values()}) == 1 else "labels"
    return {name: str(of[by]) for name, of in known.items()}


def _known(jobs: Sequence[Job], swept: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """What is known of some jobs, of the others as of a job with the same options, or else as of the first.

    A job whose starts all diverged leaves no summary.
    """
    options = {job.name: tuple(job.options.get(key) for key in swept) for job in jobs}
    alike = {options[name]: value for name, value in known.items()}
    first = next(iter(known.values()), "")
    return {job.name: known.get(job.name, alike.get(options[job.name], first)) for job in jobs}


def _ranked(rows: Sequence[dict[str, str]], costs: Mapping[str, str]) -> list[dict[str, str]]:
    """Rows with the same validation pictures, the best first, those that diverged last.

    Args:
        costs: the kind of cost of each job.
    """
    cost, accuracy = (lambda row: float(row["val_cost"])), (lambda row: float(row["val_accuracy"]))
    diverged = [row for row in rows if row["status"] == STATUS[DIVERGED]]
    sound = [row for row in rows if row["status"] != STATUS[DIVERGED]]
    sound.sort(key=lambda row: (cost(row), int(row["seed"])))
    lowest = {costs[row["job"]]: row for row in reversed(sound)}  # of each kind
    if len(lowest) > 1:
        chosen = max(lowest.values(), key=accuracy)
        sound.sort(key=lambda row: (row is not chosen, -accuracy(row), int(row["seed"])))
    return [*sound, *sorted(diverged, key=lambda row: int(row["seed"]))]


def _results(
    rows: Sequence[dict[str, str]], swept: Sequence[str], pictures: Mapping[str, str], costs: Mapping[str, str]
) -> Iterator[Result]:
    # A split is luck, as a seed is: what settings are compared over, and none itself.
    keys = [key for key in swept if key != "data.seed" or len(set(pictures.values())) == 1]
    per_start = [name for name in HYPERPARAMETERS if name != "eta" and any(name in row for row in rows)]
    for row in rows:
        setting = {"descent.eta": row["eta"]} | {key: row[key] for key in keys}
        setting |= {f"descent.{name}": row[name] for name in per_start if name in row}
        figures = (float(row["val_cost"]), float(row["val_accuracy"]))
        job = row["job"]
        yield Result(setting, row["status"] == STATUS[DIVERGED], *figures, pictures[job], costs[job])


def _read(job: Path, folder: Path) -> Job:
    options = stored_overrides(job)
    rows = list(csv.DictReader(io.StringIO(read_text(job / "starts.csv"), newline="")))
    pairs = (option.lstrip("+").partition("=") for option in options)
    path = job / "summary.json"
    summary = json.loads(read_text(path)) if path.is_file() else {}
    return Job(job.relative_to(folder).as_posix(), {key: value for key, _, value in pairs}, rows, summary)


def _natural(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name) if name.isdecimal() else -1), str(path)


def _swept(jobs: Sequence[Job]) -> list[str]:
    """The options in which jobs differ and that no column of `starts.csv` shows."""
    keys = dict.fromkeys(key for job in jobs for key in job.options)
    return [
        key for key in keys if key not in ("seed", "descent.eta") and len({job.options.get(key) for job in jobs}) > 1
    ]


def _show(rows: Sequence[dict[str, str]], swept: Sequence[str]) -> None:
    title = f"the {SHOWN} best of {len(rows)} starts" if len(rows) > SHOWN else None
    costs = ("train_cost", "val_cost", "val_accuracy")
    names = ("rank", "job", "seed", "eta", *swept, "epochs", "status")
    lines = [[short(row[k]) for k in names] + [f"{float(row[k]):.4f}" for k in costs] for row in rows[:SHOWN]]
    show(title, [heading(name) for name in (*names, *costs)], lines)
