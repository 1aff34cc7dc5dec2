"""A multirun as a whole: one table over the starts of all jobs, and how the settings differ."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hillstart.engine.starts import FIGURES, HYPERPARAMETERS
from hillstart.runs.claim import remove_run
from hillstart.runs.reader import RunRecord, stored_overrides
from hillstart.runs.summary import (
    SHOWN,
    SPARE,
    Result,
    figure,
    heading,
    settings,
    short,
    show_settings,
    spread_line,
    uncertain,
)
from hillstart.runs.tables import STARTS, StartRow, write_starts
from hillstart.system.console import print_table
from hillstart.system.errors import InputError
from hillstart.system.files import read_text, relative, replacing
from hillstart.system.statistics import accuracy_interval, quantiles, standard_error

log = logging.getLogger(__name__)


def check_objective(root: Path, cost: str, validated_on: Mapping[str, Any]) -> None:
    """Refuse a job whose validation cost a sweeper, which minimises it, cannot compare with that of an earlier job.

    Args:
        root: the folder of the multirun.
        cost: the kind, `network.cost`.
        validated_on: as `PictureSet.validated_on`.

    Raises:
        InputError: an earlier job had a cost of another kind, or measured it on other validation pictures.
    """
    earlier = next((job.summary for job in RunRecord(root).jobs if job.folder != root and job.summary), {})
    advice = "; a sweeper that looks for the lowest cost needs one of them in all jobs, and without hydra/sweeper="
    if earlier and earlier["cost"] != cost:
        raise InputError(
            f"network.cost={cost}: an earlier job had {earlier['cost']}, whose costs are of another kind{advice} "
            "... a multirun ranks by validation accuracy."
        )
    before = earlier.get("validated_on", validated_on)
    # The same pictures at different sizes have different pixels, so jobs of several sizes are compared by labels.
    by = ("labels", "sha256") if str(before["shape"]) == str(validated_on["shape"]) else ("labels",)
    if any(before[key] != validated_on[key] for key in by):
        raise InputError(
            "data: an earlier job had other validation pictures (data.seed, data.root ...), whose costs cannot be "
            f"compared with these{advice} ... a multirun shows the spread over splits."
        )


def finished(folder: Path, overrides: Sequence[str], held: bool) -> float | None:
    """The result of a job that an interrupted multirun has finished: the median validation cost of its starts.

    Args:
        folder: of the job.
        overrides: the job's options, as typed; a folder of other options is no result of this job.
        held: no other process trains this job: what is left of it is removed, so that it can be written again.
    """
    try:
        if [*overrides] != stored_overrides(folder):
            return None
        summary = RunRecord(folder).summary
        if summary:
            return float(summary["val_cost_of_starts"]["median"])
    except (InputError, KeyError, TypeError, ValueError):
        return None
    if held and not (folder / "checkpoints" / "packs.json").is_file():  # with it, a job that trains alone goes on
        remove_run(folder)
    return None


def close(folder: Path) -> None:
    """Write `starts.csv` and `summary.json` of a multirun over its finished jobs, and show the best and the settings.

    Starts are ranked over all jobs by validation cost. If the jobs have costs of different kinds, they are ranked by
    validation accuracy, after the chosen start: the start with the highest accuracy among those with the lowest cost of
    each kind. If the jobs have different validation pictures, no job is the best, and starts are ranked among those
    with the same pictures. The first columns are the job and the options, besides seed and eta, in which jobs differ.
    """
    jobs = {job.folder.relative_to(folder).as_posix(): job for job in RunRecord(folder).jobs if job.folder != folder}
    # A job whose starts all diverged has no summary, but counts in its setting.
    jobs = {name: job for name, job in jobs.items() if job.summary or job.finished}
    if not any(job.summary for job in jobs.values()):
        return
    swept = _swept(jobs)
    pictures = _fill_in(jobs, swept, _pictures(jobs))
    costs = _fill_in(jobs, swept, {name: str(job.summary.get("cost", "")) for name, job in jobs.items() if job.summary})
    kinds = sorted(set(costs.values()))
    rows = [
        replace(row, cells={"job": name} | {key: job.overrides.get(key, "") for key in swept} | dict(row.cells))
        for name, job in jobs.items()
        for row in job.starts
    ]
    sets = list(dict.fromkeys(pictures[row.cells["job"]] for row in rows))
    ranked = [_ranked([row for row in rows if pictures[row.cells["job"]] == these], costs) for these in sets]
    rows = [
        replace(row, rank=rank, cells={**row.cells, "rank": str(rank)})
        for some in ranked
        for rank, row in enumerate(some, 1)
    ]
    known = ["job", *swept, *STARTS]
    names = [*known, *sorted({name for row in rows for name in row.cells} - {*known})]
    write_starts(folder / "starts.csv", names, (row.cells for row in rows))
    found, by = settings(_results(rows, swept, pictures, costs))
    sound = [row for row in rows if not row.result.diverged]
    spread = quantiles([row.result.val_accuracy for row in sound])
    tested = [row.result.test_accuracy for row in sound if row.cells.get("test_accuracy")]
    summary: dict[str, Any] = {"jobs": len(jobs), "starts": len(rows)}
    best_job, best_seed = rows[0].cells["job"], rows[0].result.start.seed
    best = jobs[best_job].summary if len(sets) == 1 else {}
    if best:
        test = (best["test_accuracy"], best["pictures"]["test"])
        summary |= {
            "best_job": best_job,
            "best_seed": best_seed,
            "test_accuracy": best["test_accuracy"],
            "test_standard_error": standard_error(*test),
            "test_interval": accuracy_interval(*test),
        }
    if len(sets) == 1 and len(tested) == len(sound):  # by test=all; with other splits the test pictures differ too
        summary["test_accuracy_of_starts"] = quantiles(tested)
    summary |= {
        "ranked_by": "val_cost" if len(kinds) == 1 else "val_accuracy",
        "costs": kinds,
        "validation_sets": len(sets),
        "val_accuracy_of_starts": spread,
        "settings": found,
    }
    with replacing(folder / "summary.json") as new:
        new.write_text(json.dumps(summary, indent=2) + "\n")
    if best:
        _show(rows, swept)
    if len(found) > 1 or len(sets) > 1:
        show_settings(found, by)
    if len(sets) == 1:
        where, mixed = f" in {len(jobs)} jobs", len(found) > 1
        log.info(spread_line(spread, where, mixed))
        if of := summary.get("test_accuracy_of_starts"):
            log.info(spread_line(of, where, mixed, "test accuracy"))
    if len(kinds) > 1:
        log.info(f"ranked by val accuracy: costs of different kinds ({', '.join(kinds)}) cannot be compared")
    if len(sets) > 1:
        keys = [key for key in swept if key.split(".")[0] == "data"]
        differ = f" ({', '.join(keys)})" if keys else ""
        log.info(f"no job is called the best: the jobs have {len(sets)} different sets of validation pictures{differ}")
    if best:
        how = "val cost" if len(kinds) == 1 else "val cost within a kind of cost, and by val accuracy among the kinds"
        log.info(
            f"best by {how}: job {best_job}, seed {best_seed}: test accuracy {test[0]:.4f} "
            f"(one standard error: {uncertain(*test)})"
        )
    log.info(f"results of all jobs in {relative(folder)}")


def left(folder: Path, onward: str) -> str:
    """The message on a multirun that was interrupted: how many jobs are done, and the command that goes on."""
    done = sum(job.folder != folder and bool(job.summary) for job in RunRecord(folder).jobs)
    packs = [json.loads(read_text(path)) for path in folder.glob("packs/*/pack.json")]
    return f"done of {sum(map(len, packs))} jobs: {done}; go on with the others by: {onward}"


def _pictures(jobs: Mapping[str, RunRecord]) -> dict[str, str]:
    """An id of the validation pictures of each job for which it is known, by the job's name.

    The same pictures at different sizes have different pixels, so jobs of several sizes are compared by labels.
    """
    known = {name: job.summary["validated_on"] for name, job in jobs.items() if "validated_on" in job.summary}
    by = "sha256" if len({str(of["shape"]) for of in known.values()}) == 1 else "labels"
    return {name: str(of[by]) for name, of in known.items()}


def _fill_in(jobs: Mapping[str, RunRecord], swept: Sequence[str], known: Mapping[str, str]) -> dict[str, str]:
    """A value for each job: its own if known, else that of a job with the same options, else that of the first job.

    A job whose starts all diverged has no summary from which it could be known.
    """
    options = {name: tuple(job.overrides.get(key) for key in swept) for name, job in jobs.items()}
    of_options = {options[name]: value for name, value in known.items()}
    first = next(iter(known.values()), "")
    return {name: known.get(name, of_options.get(options[name], first)) for name in jobs}


def _ranked(rows: Sequence[StartRow], costs: Mapping[str, str]) -> list[StartRow]:
    """Sort rows with the same validation pictures, the best first, those that diverged last.

    Args:
        costs: the kind of cost of each job.
    """
    diverged = sorted((row for row in rows if row.result.diverged), key=_seed)
    sound = sorted((row for row in rows if not row.result.diverged), key=lambda row: (row.result.val_cost, _seed(row)))
    lowest = {costs[row.cells["job"]]: row for row in reversed(sound)}  # of each kind
    if len(lowest) > 1:
        chosen = max(lowest.values(), key=lambda row: row.result.val_accuracy)
        sound.sort(key=lambda row: (row is not chosen, -row.result.val_accuracy, _seed(row)))
    return [*sound, *diverged]


def _seed(row: StartRow) -> int:
    return row.result.start.seed


def _results(
    rows: Sequence[StartRow], swept: Sequence[str], pictures: Mapping[str, str], costs: Mapping[str, str]
) -> Iterator[Result]:
    # Splits are repetitions, as seeds are, over which settings are compared.
    keys = [key for key in swept if key != "data.seed" or len(set(pictures.values())) == 1]
    for row in rows:
        setting = {"descent.eta": row.cells["eta"]} | {key: row.cells[key] for key in keys}
        setting |= {
            f"descent.{name}": row.cells[name] for name in HYPERPARAMETERS if name != "eta" and name in row.cells
        }
        job, result = row.cells["job"], row.result
        yield Result(setting, result.diverged, result.val_cost, result.val_accuracy, pictures[job], costs[job])


def _swept(jobs: Mapping[str, RunRecord]) -> list[str]:
    """The options in which jobs differ and that have no column in `starts.csv`."""
    keys = dict.fromkeys(key for job in jobs.values() for key in job.overrides)
    return [
        key
        for key in keys
        if key not in ("seed", "descent.eta") and len({job.overrides.get(key) for job in jobs.values()}) > 1
    ]


def _show(rows: Sequence[StartRow], swept: Sequence[str]) -> None:
    title = f"the {SHOWN} best of {len(rows)} starts" if len(rows) > SHOWN else None
    names = ("rank", "job", "seed", "eta", *swept, "epochs", "status")
    lines = [
        [short(row.cells[name]) for name in names] + [figure(getattr(row.result, name)) for name in FIGURES]
        for row in rows[:SHOWN]
    ]
    print_table([heading(name) for name in (*names, *FIGURES)], lines, title, SPARE)
