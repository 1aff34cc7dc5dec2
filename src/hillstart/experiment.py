"""One experiment from data to summary: fit, choose by validation, look at the test pictures once."""

import json
import logging
import os
import platform
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from hillstart.data.minibatches import Sample
from hillstart.data.pictures import PictureSet
from hillstart.errors import InputError
from hillstart.network import Network
from hillstart.starts import Record, spread, standard_error
from hillstart.training import Training

log = logging.getLogger(__name__)

Summary = dict[str, Any]

VOTERS = 16
"""How many of the best starts are kept when `keep` does not say."""

SHOWN = 16
"""How many rows of the ranked table the terminal shows."""


def run(
    training: Training, trainer: pl.Trainer, folder: Path, keep: int | None = None, checkpoint: Path | None = None
) -> Summary:
    """Train, choose the best start by validation cost, test it once, and write all of it to `folder`.

    Args:
        keep: how many of the best starts are kept and vote together; None: all, but at most `VOTERS`.
        checkpoint: where an earlier run of the same training stopped, to go on from there.

    Returns:
        What `summary.json` holds.

    Raises:
        InputError: `checkpoint` is none of this training, or every start diverged.
    """
    data, record, network = training.data, training.record, training.network
    count = lambda split: len(split.y)  # noqa: E731
    log.info(
        f"pictures: {data.source}; {count(data.train)} to train, {count(data.val)} to validate, "
        f"{count(data.test)} to test; classes {_listed(data.classes)}"
    )
    starts = f"{network.starts} start" + "s" * (network.starts > 1)
    onward = f", going on from {_relative(checkpoint)}" if checkpoint else ""
    log.info(f"network {network.sizes}: {starts} on {trainer.strategy.root_device.type}{onward}")

    began = time.perf_counter()
    _fit(training, trainer, checkpoint)
    seconds = time.perf_counter() - began

    record.write(folder)
    rows = record.rows()
    sound = [row for row in rows if row.status != "diverged"]
    if not sound:
        raise InputError(
            f"descent.eta={training.descent.eta}: every start diverged, so a smaller eta is needed; "
            f"the costs are in {_relative(folder)}."
        )
    kept = min(keep or VOTERS, len(sound))
    test = test_accuracies(training.best.pick(record.ranking()[:kept]), data)
    summary = {
        "best_seed": rows[0].start.seed,
        "best_hyperparameters": asdict(rows[0].start.hyperparameters),
        "starts": len(rows),
        "kept": kept,
        "finished": len(sound),
        "diverged": len(rows) - len(sound),
        "epochs": max(row.epochs for row in rows),
        "val_cost": rows[0].val_cost,
        "val_accuracy": rows[0].val_accuracy,
        "test_accuracy": test["chosen"],
        "vote_test_accuracy": test["vote"],
        "test_standard_error": standard_error(test["chosen"], count(data.test)),
        "val_cost_of_starts": spread([row.val_cost for row in sound]),
        "val_accuracy_of_starts": spread([row.val_accuracy for row in sound]),
        "pictures": {"train": count(data.train), "val": count(data.val), "test": count(data.test)},
        "classes": list(data.classes),
        "seconds": round(seconds, 2),
        "device": _device_name(trainer.strategy.root_device),
        "versions": {name: version(name) for name in ("hillstart", "torch", "lightning", "hydra-core")}
        | {"python": platform.python_version()},
        "commit": _commit(),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    report(record, summary, folder)
    return summary


def _fit(training: Training, trainer: pl.Trainer, checkpoint: Path | None) -> None:
    try:
        trainer.fit(training, ckpt_path=checkpoint, weights_only=True)
    except InputError:
        raise
    except Exception as error:
        if checkpoint is None or training.was_restored:
            raise
        raise InputError(
            f"resume: {checkpoint} is not a checkpoint of such a training; give the folder of an earlier run."
        ) from error


def test_accuracies(kept: Network, data: PictureSet) -> dict[str, float]:
    """The one look at the test pictures: accuracy of the first of the kept starts, and of the mean of their outputs."""
    right, pictures = {"chosen": 0, "vote": 0}, 0
    for x, y in Sample(data.test, len(data.classes), data.preprocessing, kept.w[0].device).batches():
        outputs = kept.forward(x)[-1]
        for name, opinion in (("chosen", outputs[0]), ("vote", outputs.mean(0))):
            right[name] += int((opinion.argmax(-1) == y.argmax(-1)).sum())
        pictures += len(x)
    return {name: count / pictures for name, count in right.items()}


def report(record: Record, summary: Summary, folder: Path) -> None:
    """The ranked table and what was chosen, on the terminal and in train.log."""
    rows = record.rows()
    title = f"the {SHOWN} best of {len(rows)} starts" if len(rows) > SHOWN else None
    varying = sorted({"eta", *record.varying()})
    headings = ("rank", "seed", *varying, "epochs", "status", "train cost", "val cost", "val accuracy")
    table = Table(*headings, title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in table.columns:
        column.justify = "left" if column.header == "status" else "right"
    for row in rows[:SHOWN]:
        rolls = [f"{getattr(row.start.hyperparameters, name):g}" for name in varying]
        costs = [f"{cost:.4f}" for cost in (row.train_cost, row.val_cost, row.val_accuracy)]
        table.add_row(str(row.rank), str(row.start.seed), *rolls, str(row.epochs), row.status, *costs)
    Console().print(table)
    of = summary["val_accuracy_of_starts"]
    log.info(f"val accuracy of {of['n']} starts: median {of['median']:.4f}, from {of['min']:.4f} to {of['max']:.4f}")
    apart = "".join(f", {name} {getattr(rows[0].start.hyperparameters, name):g}" for name in record.varying())
    log.info(f"chosen by val cost: seed {summary['best_seed']}{apart}: test accuracy {summary['test_accuracy']:.4f}; "
             f"vote of the {summary['kept']} kept: {summary['vote_test_accuracy']:.4f}")  # fmt: skip
    log.info(f"of that, luck: with {summary['pictures']['test']} test pictures each of the two is uncertain "
             f"by {summary['test_standard_error']:.4f} (one standard error)")  # fmt: skip
    log.info(f"{summary['seconds']:.1f} s of training on {summary['device']}; the run lies in {_relative(folder)}")


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:9])} and {len(names) - 9} more"


def _relative(folder: Path) -> Path:
    start = Path(os.environ.get("PWD", "."))
    return folder.relative_to(start) if folder.is_relative_to(start) else folder


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads ({platform.machine()})"


def _commit() -> str | None:
    """The commit of the checkout this file lies in, with a + where files were changed since; None outside one."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
