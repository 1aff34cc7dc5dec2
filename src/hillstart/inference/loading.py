"""Loads a classifier from the folder of a run or multirun, from a model file or from a checkpoint."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import torch

from hillstart.arguments import known_device
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.system import untrusted
from hillstart.system.console import visible
from hillstart.system.errors import InputError
from hillstart.system.files import as_path, relative

MOST_NAMED = 10
"""Runs that a message lists."""

log = logging.getLogger(__name__)
"""Remarks besides the answer; if logging is not set up, Python prints them to standard error."""


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Classifier:
    """Load the networks of a run folder, of a `network.safetensors` or of a Lightning checkpoint (`.ckpt`).

    A run that has not finished a pack yet gives the networks of its last checkpoint. A multirun gives those of its best
    job; the log names the job. The log also says if probabilities are not calibrated. Loading runs no code of the file.

    Raises:
        InputError: there are no networks, the file is damaged, there is no such device, or a multirun has no best job.

    Example:
        >>> hillstart.load("outputs/2026-11-27/10-00-00").network
        Network(4 starts of [784, 30, 2], sigmoid, cross_entropy)
    """
    path = find(as_path(path, "a run folder, a model file or a checkpoint"))
    try:
        device = known_device(device)
    except ValueError as error:
        raise InputError(str(error)) from error
    classifier = read(path)
    if not classifier.calibrated:
        run = path.absolute().parent.parent
        calibrated = path.suffix == ".ckpt" and (run / "network.safetensors").is_file()
        advice = f"; those of {relative(run)} are" if calibrated else ""
        sentence = f"hillstart: {path}: its probabilities are not calibrated, as no temperature was fitted{advice}."
        log.warning(visible(sentence))
    return replace(classifier, network=classifier.network.to(device))


def find(path: Path) -> Path:
    """The file with the networks that `path` names, as for `load`; raises InputError if there is none."""
    if path.is_dir():
        return _networks_in(path)
    if path.suffix == ".ckpt" and _is_multirun(run := path.absolute().parent.parent):
        raise InputError(f"{path}: holds starts of several jobs of a multirun; give {_one_of(run)}.")
    return path


def read(path: Path, seed: int | None = None) -> Classifier:
    """The networks in a model file or checkpoint, or the one of this seed; of a model file no other is read.

    Raises:
        InputError: the file is missing or damaged, or has no start with this seed.
    """
    if path.suffix != ".ckpt":
        return model_file.load(path, seed)
    found = model_file.load_checkpoint(path)
    return found if seed is None else found.only(seed)


def sizes(path: Path) -> list[int]:
    """The number of nodes in each layer of the networks in a model file or checkpoint; raises as `read`."""
    if path.suffix == ".ckpt":
        return model_file.load_checkpoint(path).network.sizes
    found: list[int] = model_file.description(path)["sizes"]
    return found


def _networks_in(folder: Path) -> Path:
    """The file with the networks of a run, or of the best job of a multirun."""
    whole, last = folder / "network.safetensors", folder / "checkpoints" / "last.ckpt"
    if whole.exists():
        return whole
    if _is_multirun(folder):
        best = _best_job(folder)
        log.warning(visible(f"hillstart: {folder}: is a multirun; using its best job, {best}."))
        return folder / best / whole.name
    if last.exists():
        return last
    raise InputError(f"{folder}: holds neither network.safetensors nor a checkpoint; give {_one_of(folder)}.")


def _is_multirun(folder: Path) -> bool:
    """True if a folder holds the jobs of a multirun; its own checkpoint then mixes the starts of all jobs."""
    if (folder / "network.safetensors").exists():
        return False
    return (folder / "multirun.yaml").is_file() or any(folder.glob("*/network.safetensors"))


def _best_job(folder: Path) -> str:
    """The folder of the best job of a multirun, relative to the folder of the multirun.

    Raises:
        InputError: the summary names none, or its networks are missing.
    """
    path, summary = folder / "summary.json", None
    if path.exists():
        with untrusted.opened(path) as file:
            summary = untrusted.parsed(path, file.read(untrusted.MAX_DESCRIPTION_BYTES))
    best = summary.get("best_job") if isinstance(summary, dict) else None
    if best is None:  # also if the jobs were validated on different pictures
        raise InputError(f"{folder}: holds several runs, and no summary.json names the best; give {_one_of(folder)}.")
    inside = isinstance(best, str) and not Path(best).is_absolute() and ".." not in Path(best).parts
    if not inside or not (folder / best / "network.safetensors").exists():
        raise InputError(f"{path}: best_job is not the folder of a job with its networks; give {_one_of(folder)}.")
    return best


def _one_of(folder: Path) -> str:
    """The advice to give the folder of a run, with the names of the runs that are in `folder`."""
    runs = sorted(path.parent.name for path in folder.glob("*/network.safetensors"))
    more = f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else ""
    there = f"; {folder} holds {', '.join(runs[:MOST_NAMED])}{more}" if runs else ""
    return f"the folder of a run (outputs/DATE/TIME) or of a job of a multirun{there}"
