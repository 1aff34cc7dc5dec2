"""A run that has ended, or a sweep as a whole, read back from its folder with all that the page shows of it."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hillstart.config.build import build_run_spec
from hillstart.config.options import read_stored_options, read_stored_trainer
from hillstart.engine.starts import DIVERGED, HYPERPARAMETERS, STATUS, Start
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.network import Network
from hillstart.runs.reader import OPTIONS
from hillstart.runs.tables import HISTORY
from hillstart.system.errors import InputError
from hillstart.system.files import open_regular, read_text
from hillstart.system.untrusted import yaml_text
from hillstart.training.packs import RunSpec

COSTS = HISTORY[2:]
MOST_COMPARED = 1000
NEEDED = (
    *("starts", "kept", "epochs", "epochs_trained", "test_accuracy", "vote_test_accuracy", "calibration"),
    *("pictures", "seconds", "device", "ranks", "versions", "commit"),
)
"""Of a `summary.json`."""


@dataclass(frozen=True)
class FinishedRun:
    """What is known of it; of a sweep, where it says job, of the job with the best start.

    Attributes:
        summary: of the job.
        rows: of `starts.csv`, the best start first, those that diverged last.
        history: (starts, epochs, 3), in the order of the rows: training cost, validation cost, validation accuracy; nan
            after a start's end.
        model: the kept starts of the job.
        compared: kept starts of all jobs that have the same shape, best first; those of the job where it is the only.
        population: what the job trained, with its pictures.
        packs: starts in each pack; none where not known, as in a sweep.
        options: of the job, as YAML.
        max_epochs, max_steps: how long the job rolled at most, as Lightning counts.
        jobs: how many there are.
        left_out: starts of jobs whose costs are of another kind than those of the best job, and are not among the rows.
    """

    folder: Path
    summary: dict[str, Any]
    rows: Sequence[dict[str, str]]
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
    def sound(self) -> list[dict[str, str]]:
        """The rows of starts that did not diverge."""
        return [row for row in self.rows if row["status"] != STATUS[DIVERGED]]

    @property
    def diverged(self) -> list[dict[str, str]]:
        """The rows of the others."""
        return [row for row in self.rows if row["status"] == STATUS[DIVERGED]]


def read(folder: Path, population: RunSpec | None = None) -> FinishedRun:
    """What lies in the folder of a run or at the root of a sweep.

    Args:
        population: what was trained, where it is in memory still; else its pictures are read anew.

    Raises:
        InputError: the run has not ended, a file is missing or damaged, or the pictures are no longer the same.
    """
    try:
        summary, rows, job = _summary(folder), _rows(folder / "starts.csv"), folder
        sweep = "jobs" in summary
        if sweep and "best_job" not in summary:
            raise InputError(
                f"{folder}: its jobs were validated on different pictures, so there is no best one to show; give the "
                "folder of a job."
            )
        left_out = 0
        if sweep:
            job = folder / str(summary["best_job"])
            kinds, summary = summary.get("costs", []), _summary(job)
            if len(kinds) > 1:
                alike = [row for row in rows if _cost(folder / row["job"]) == summary["cost"]]
                left_out, rows = len(rows) - len(alike), alike
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename}: there is none; give the folder of a run that has ended, or the root of a sweep."
        ) from error
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: cannot be read ({error}); give the folder of a run that has ended.") from error
    missing = [name for name in NEEDED if name not in summary]
    if missing:
        raise InputError(f"{job / 'summary.json'}: lacks {', '.join(missing)}; the run is of another version.")
    model = model_file.load(job / "network.safetensors")
    trainer = read_stored_trainer(job)
    if population is None:
        population = build_run_spec(read_stored_options(job))
    _check_pictures(job, model, population)
    jobs = sorted({row["job"] for row in rows}) if sweep else ["."]
    return FinishedRun(
        folder,
        summary,
        rows,
        _history(folder, rows, jobs),
        model,
        _compared(folder, model, jobs) if sweep else model,
        population,
        [] if sweep else _packs(folder / "checkpoints" / "packs.json"),
        yaml_text(job / OPTIONS),
        trainer.max_epochs,
        trainer.max_steps,
        len(jobs),
        left_out,
    )


def _summary(folder: Path) -> dict[str, Any]:
    summary = json.loads(read_text(folder / "summary.json"))
    if not isinstance(summary, dict):
        raise ValueError("summary.json holds no names with values")
    return summary


def _cost(job: Path) -> str | None:
    """The kind of cost of a job; None where all of its starts diverged."""
    return _summary(job).get("cost") if (job / "summary.json").is_file() else None


def _rows(path: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    if not rows or not all(row.get("rank") and row.get("status") in STATUS for row in rows):
        raise ValueError(f"{path.name} holds no ranks")
    return sorted(rows, key=lambda row: int(row["rank"]))


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


def _history(folder: Path, rows: Sequence[dict[str, str]], jobs: Sequence[str]) -> Float[np.ndarray, "S E 3"]:
    found: list[tuple[int, int, list[float]]] = []
    alike: dict[tuple[str, str], list[int]] = {}
    for s, row in enumerate(rows):
        alike.setdefault((row.get("job", "."), row["seed"]), []).append(s)
    for job in jobs:
        path = folder / job / "history.csv"
        try:
            with io.TextIOWrapper(open_regular(path), encoding="utf-8", newline="") as file:
                for line in csv.DictReader(file):
                    same = alike[job, line["seed"]]
                    varying = [name for name in HYPERPARAMETERS if name in line]
                    (s,) = [s for s in same if all(rows[s].get(name) == line[name] for name in varying)]
                    found.append((s, int(line["epoch"]), [float(line[name]) for name in COSTS]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: cannot be read back as the history of the run's starts.") from error
    history = np.full((len(rows), max((epoch for _, epoch, _ in found), default=0), 3), np.nan)
    for s, epoch, costs in found:
        history[s, epoch - 1] = costs
    return history


def _packs(path: Path) -> list[int]:
    try:
        return [int(size) for size in json.loads(read_text(path))["packs"]]
    except (OSError, KeyError, TypeError, ValueError):
        return []  # without them starts are retrained in a pack of their own


def _compared(folder: Path, model: Classifier, jobs: Sequence[str]) -> Classifier:
    networks, origins, costs = list[Network](), list[Start](), list[float]()
    shape = (model.network.sizes, model.network.activation, model.network.cost, model.classes)
    for job in jobs:
        if not (folder / job / "network.safetensors").exists():  # all of its starts diverged
            continue
        other = model_file.load(folder / job / "network.safetensors")
        if (other.network.sizes, other.network.activation, other.network.cost, other.classes) != shape:
            continue
        ranked = _rows(folder / job / "starts.csv")
        networks.append(other.network)
        origins += other.origins
        costs += [float(row["val_cost"]) for row in ranked[: other.network.starts]]
    order = sorted(range(len(costs)), key=costs.__getitem__)[:MOST_COMPARED]
    return replace(model, network=Network.join(networks).pick(order), origins=tuple(origins[k] for k in order))
