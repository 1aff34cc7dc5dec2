"""All that the page shows of a finished run or multirun: its record, its networks, and what it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hillstart.config.build import build_run_spec
from hillstart.config.options import read_stored_options, read_stored_trainer
from hillstart.engine.starts import Start
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.network import Network
from hillstart.runs.reader import OPTIONS, RunRecord
from hillstart.runs.tables import StartRow
from hillstart.system.errors import InputError
from hillstart.system.untrusted import yaml_text
from hillstart.training.packs import RunSpec

MOST_COMPARED = 1000
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
        model: the kept starts of the job.
        compared: kept starts of all jobs with networks of the same shape, best first.
        population: what the job trained, with its pictures.
        packs: the number of starts in each pack; empty if not known, as in a multirun.
        options: of the job, as YAML.
        max_epochs, max_steps: the length of the job's training, as in Lightning.
        jobs: the number of jobs.
        left_out: the number of starts that are not among the rows because their jobs have another kind of cost.
    """

    summary: dict[str, Any]
    rows: Sequence[StartRow]
    history: Float[np.ndarray, "S E 3"]
    model: Classifier
    compared: Classifier
    population: RunSpec
    packs: Sequence[int]
    options: str
    max_epochs: int
    max_steps: int
    jobs: int
    left_out: int = 0

    @property
    def sound(self) -> list[StartRow]:
        """The starts that did not diverge."""
        return [row for row in self.rows if not row.result.diverged]

    @property
    def diverged(self) -> list[StartRow]:
        """The starts that diverged."""
        return [row for row in self.rows if row.result.diverged]


def read(folder: Path, population: RunSpec | None = None) -> FinishedRun:
    """Read a finished run, or a multirun, from its folder.

    Args:
        population: what was trained, if it is still in memory; else its pictures are read again.

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
    missing = [name for name in NEEDED if name not in job.summary]
    if missing:
        raise InputError(
            f"{job.folder / 'summary.json'}: lacks {', '.join(missing)}; the run has not ended or is of another "
            "version."
        )
    model = model_file.load(job.folder / "network.safetensors")
    trainer = read_stored_trainer(job.folder)
    if population is None:
        population = build_run_spec(read_stored_options(job.folder))
    _check_pictures(job.folder, model, population)
    return FinishedRun(
        job.summary,
        rows,
        record.history(rows),
        model,
        _compared(jobs, model) if is_multirun else model,
        population,
        [] if is_multirun else record.packs,
        yaml_text(job.folder / OPTIONS),
        trainer.max_epochs,
        trainer.max_steps,
        len(jobs),
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


def _check_pictures(job: Path, model: Classifier, population: RunSpec) -> None:
    here, there = population.data.trained_on, model.trained_on
    if model.classes != population.data.classes or (there and dict(there) != here):
        raise InputError(
            f"{job}: was trained on other pictures ({_counted(there, model)}) than are there now "
            f"({_counted(here, population.data)}); put the pictures back as they were."
        )
    if not set(model.origins) <= set(population.starts):
        raise InputError(f"{job}: its network.safetensors holds starts that its options do not; it is of another run.")


def _counted(trained_on: Any, of: Any) -> str:
    return f"{trained_on['pictures'] if trained_on else 'unknown'} to train, classes {', '.join(of.classes)}"


def _compared(jobs: Sequence[RunRecord], model: Classifier) -> Classifier:
    networks, origins, costs = list[Network](), list[Start](), list[float]()
    shape = (model.network.sizes, model.network.activation, model.network.cost, model.classes)
    for job in jobs:
        path = job.folder / "network.safetensors"
        if not path.exists():  # all of its starts diverged
            continue
        other = model_file.load(path)
        if (other.network.sizes, other.network.activation, other.network.cost, other.classes) != shape:
            continue
        networks.append(other.network)
        origins += other.origins
        costs += [row.result.val_cost for row in _ranked(job)[: other.network.starts]]
    order = sorted(range(len(costs)), key=costs.__getitem__)[:MOST_COMPARED]
    return replace(model, network=Network.join(networks).pick(order), origins=tuple(origins[k] for k in order))
