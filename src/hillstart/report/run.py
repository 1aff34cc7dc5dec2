"""All that the page shows of a finished run or multirun, and the section on what was run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hillstart.config.build import build_run_spec
from hillstart.config.options import TrainerOptions, read_stored_options, read_stored_trainer
from hillstart.engine.starts import HYPERPARAMETERS, Start, varying
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.network import Network
from hillstart.report.page import Section
from hillstart.runs.reader import OPTIONS, RunRecord
from hillstart.runs.tables import StartRow
from hillstart.system.errors import InputError
from hillstart.system.untrusted import yaml_text
from hillstart.training.packs import RunSpec

MOST_COMPARED = 1000
"""The best kept starts of a multirun, whose valleys are compared."""
NEEDED = (
    *("starts", "kept", "epochs", "epochs_trained", "test_accuracy", "vote_test_accuracy", "calibration"),
    *("pictures", "seconds", "device", "ranks", "versions", "commit"),
)
"""Keys of `summary.json` that the page needs."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run; of a multirun, "the job" is the one with the best start.

    Attributes:
        summary: of the job.
        rows: the starts of all jobs, the best first, those that diverged last.
        history: (starts, epochs, 3), in the order of the rows: training cost, validation cost, validation accuracy; nan
            after a start has ended.
        classifier: the kept starts of the job.
        compared: kept starts of all jobs with networks of the same shape, best first.
        spec: what the job trained, with its pictures.
        packs: the number of starts in each pack; empty if not known, as in a multirun.
        options: of the job, as YAML.
        trainer: the length of the job's training.
        jobs: the number of jobs.
        groups: the settings by the medians of their starts, as `summary.settings` gives them; empty if there is one.
        omitted: the number of starts that are not among the rows because their jobs have another kind of cost.
    """

    summary: dict[str, Any]
    rows: Sequence[StartRow]
    history: Float[np.ndarray, "S E 3"]
    classifier: Classifier
    compared: Classifier
    spec: RunSpec
    packs: Sequence[int]
    options: str
    trainer: TrainerOptions
    jobs: int
    groups: Sequence[dict[str, Any]]
    omitted: int

    @property
    def sound(self) -> list[StartRow]:
        """The starts that did not diverge."""
        return [row for row in self.rows if not row.result.diverged]

    @property
    def diverged(self) -> list[StartRow]:
        """The starts that diverged."""
        return [row for row in self.rows if row.result.diverged]

    @property
    def pack(self) -> list[Start]:
        """The starts that were trained in one pack with the chosen start; empty if not known."""
        starts, first = list(self.spec.starts), 0
        for size in self.packs:
            pack = starts[first : first + size]
            if self.classifier.origins[0] in pack:
                return pack
            first += size
        return []


def read(folder: Path, spec: RunSpec | None = None, named: Sequence[str] = ()) -> FinishedRun:
    """Read a finished run, or a multirun, from its folder.

    Args:
        spec: what was trained, if it is still in memory; else its pictures are read again.
        named: as for `read_stored_options`.

    Raises:
        InputError: the run has not ended, a file is missing or damaged, or the pictures are no longer the same.
    """
    record = RunRecord(folder)
    job, rows, jobs = record, _ranked(record), [record]
    is_multirun = "jobs" in record.summary
    if is_multirun:
        if "best_job" not in record.summary:
            raise InputError(
                f"{folder}: its jobs were validated on different pictures, so there is no best one to show; give the "
                "folder of a job."
            )
        by_name = {name: RunRecord(folder / name) for name in sorted({row.cells.get("job", ".") for row in rows})}
        job = RunRecord(folder / str(record.summary["best_job"]))
        if len(record.summary.get("costs", [])) > 1:
            by_name = {name: of for name, of in by_name.items() if of.summary.get("cost") == job.summary.get("cost")}
        jobs = list(by_name.values())
        rows = [row for row in rows if row.cells.get("job", ".") in by_name]
    if missing := [name for name in NEEDED if name not in job.summary]:
        raise InputError(
            f"{job.folder / 'summary.json'}: lacks {', '.join(missing)}; the run has not ended or is of another "
            "version."
        )
    classifier = model_file.load(job.folder / "network.safetensors")
    trainer = read_stored_trainer(job.folder)
    spec = spec or build_run_spec(read_stored_options(job.folder, named))
    _check_pictures(job.folder, classifier, spec)
    return FinishedRun(
        job.summary,
        rows,
        record.history(rows),
        classifier,
        _compared(jobs, classifier) if is_multirun else classifier,
        spec,
        [] if is_multirun else record.packs,
        yaml_text(job.folder / OPTIONS),
        trainer,
        len(jobs),
        found if len(found := record.summary.get("settings", [])) > 1 else [],
        len(record.starts) - len(rows),
    )


def _ranked(record: RunRecord) -> list[StartRow]:
    for name in ("summary.json", "starts.csv"):
        if not (record.folder / name).is_file():
            raise InputError(
                f"{record.folder / name}: there is none; give the folder of a run that has ended, or the root of a "
                "multirun."
            )
    if not record.starts or not record.finished:
        raise InputError(f"{record.folder / 'starts.csv'}: holds no ranks; give the folder of a run that has ended.")
    return sorted(record.starts, key=lambda row: row.rank or 0)


def _check_pictures(job: Path, classifier: Classifier, spec: RunSpec) -> None:
    here, there = spec.data.trained_on, classifier.trained_on
    if classifier.classes != spec.data.classes or (there and here != {key: there.get(key) for key in here}):
        before, now = (
            f"{of['pictures'] if of else 'unknown'} to train, classes {', '.join(classes)}"
            for of, classes in ((there, classifier.classes), (here, spec.data.classes))
        )
        raise InputError(
            f"{job}: was trained on other {spec.data.preprocessing.noun}s ({before}) than are there now ({now}); give "
            "those of the run."
        )
    if not set(classifier.origins) <= set(spec.starts):
        raise InputError(f"{job}: its network.safetensors holds starts that its options do not; it is of another run.")


def _compared(jobs: Sequence[RunRecord], classifier: Classifier) -> Classifier:
    networks: list[Network] = []
    origins: list[Start] = []
    costs: list[float] = []

    def shape(of: Classifier) -> tuple[Any, ...]:
        return of.network.sizes, of.network.activation, of.network.cost, of.classes

    for job in jobs:
        path = job.folder / "network.safetensors"
        if path.exists() and shape(other := model_file.load(path)) == shape(classifier):  # none if all starts diverged
            networks.append(other.network)
            origins += other.origins
            costs += [row.result.val_cost for row in _ranked(job)[: other.network.starts]]
    order = sorted(range(len(costs)), key=costs.__getitem__)[:MOST_COMPARED]
    return replace(classifier, network=Network.join(networks).pick(order), origins=tuple(origins[k] for k in order))


def start_names(starts: Sequence[Start]) -> list[str]:
    """Names of the starts: their seeds, and the hyperparameters in which they differ."""
    differing = varying(starts)
    return [
        ", ".join([f"seed {start.seed}", *(f"{name} {getattr(start.hyperparameters, name):g}" for name in differing)])
        for start in starts
    ]


def _values(run: FinishedRun, name: str) -> set[float]:
    """The values of a hyperparameter over the starts: from the table where it has a column, else from the options."""
    cells = (row.cells.get(name, row.cells.get(f"descent.{name}")) for row in run.rows)
    return {float(cell) for cell in cells if cell} or {
        getattr(start.hyperparameters, name) for start in run.spec.starts
    }


def _listed(name: str, values: set[Any]) -> str:
    """A name with its values, or with the range of them if they are many."""
    ordered = sorted(values)
    several = f"{ordered[0]:g} to {ordered[-1]:g}" if len(ordered) > 4 else ", ".join(f"{v:g}" for v in ordered)
    return f"{name} {several}" + (f" ({len(ordered)} values)" if len(ordered) > 4 and name != "seeds" else "")


def section(run: FinishedRun) -> Section:
    """The section on what was run: options, versions and machine, so that whoever has the page can repeat the run."""
    summary, spec = run.summary, run.spec
    counts = summary["pictures"]
    pictures = f"{counts['train']} to train, {counts['val']} to validate, {counts['test']} to test"
    nodes, cost = " – ".join(map(str, spec.sizes)), run.classifier.network.cost.replace("_", " ")
    ranks = f", {summary['ranks']} ranks" if summary["ranks"] > 1 else ""
    facts = {
        f"{spec.data.preprocessing.noun}s": f"{spec.data.source}; {pictures}",
        "network": f"{nodes} nodes, {run.classifier.network.activation}, cost {cost}",
        "starts": (f"{len(run.rows)} in {run.jobs} jobs" if run.jobs > 1 else str(summary["starts"]))
        + f", {_listed('seeds' if len(run.rows) > 1 else 'seed', {row.result.start.seed for row in run.rows})}",
        **({"starting points": f"the networks of {spec.start_from['model']}"} if spec.start_from else {}),
        "epochs": f"{summary['epochs']} at most; {summary['epochs_trained']} over all starts",
        "descent": f"{spec.descent.optimiser_name}, mini-batches of {spec.descent.batch_size}, "
        f"eta {spec.descent.course}",
        "hyperparameters": "; ".join(_listed(name, _values(run, name)) for name in HYPERPARAMETERS),
        **({"saturated hidden nodes": f"{summary['saturated']:.1%}"} if "saturated" in summary else {}),
        "training": f"{summary['seconds']:.1f} s on {summary['device']}{ranks}",
        "versions": ", ".join(f"{name} {number}" for name, number in summary["versions"].items()),
        "commit": summary["commit"] or "not known",
    }
    return Section(
        "run",
        "What was run",
        "With these options and versions, a machine of the same kind gives the same numbers again, chance included.",
        {"facts": facts, "options": run.options, "job": run.jobs > 1},
    )
