"""Callbacks for Lightning: the checkpoints of a pack, and the progress bar of the training."""

import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from hillstart.system.console import ProgressBar
from hillstart.system.files import WritingError, replacing, writing
from hillstart.training.module import Training

log = logging.getLogger(__name__)

SHARE = 0.05
"""Largest share of the training time that is spent on checkpoints, except for the one after the last pack."""
BYTES_PER_SECOND = 2e8
"""Assumed speed of writing until the first checkpoint is written; deliberately low."""


class Checkpoints(Checkpoint):
    """Writes `last.ckpt` after an epoch, and `best.ckpt` when a start has a new lowest validation cost of the pack.

    A checkpoint is skipped if writing would exceed `SHARE` of the time; it is always written after the last pack. After
    an earlier pack none is needed, because the tables and the kept starts have all its results. Both files hold each
    start as in its best epoch.

    If a checkpoint cannot be written, on a full disk for instance, training continues: the previous file stays, the log
    says so once, and the next checkpoint is tried when it is due.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.lowest = math.inf
        self._best_is_due, self._is_failing = False, False
        self._saved_step = -1
        self._began = self._spent = self._seconds = 0.0  # start of training, time spent writing, expected time of one

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        if trainer.global_step == 0:
            self.lowest, self._best_is_due = math.inf, False
        self._seconds = pl_module.state_bytes / BYTES_PER_SECOND
        self._began, self._spent, self._saved_step = time.monotonic(), 0.0, -1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        cost = float(trainer.callback_metrics["val_cost"])
        if cost < self.lowest:
            self.lowest, self._best_is_due = cost, True
        if self._spent + self._seconds <= SHARE * (time.monotonic() - self._began):
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        if trainer.global_step != self._saved_step and pl_module.number == pl_module.packs:
            self._is_failing = False  # so that a failure of the last checkpoint is logged again
            self._save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # In the middle of a chunk some tiles are further than others.
        if isinstance(pl_module, Training) and pl_module.between_chunks:
            self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest, "owed": self._best_is_due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lowest, self._best_is_due = state_dict["lowest"], state_dict["owed"]

    def _save(self, trainer: pl.Trainer) -> None:
        began = time.monotonic()
        failure: WritingError | None = None
        last, best = self.folder / "last.ckpt", self.folder / "best.ckpt"
        try:
            trainer.save_checkpoint(last)
            if self._best_is_due:
                _link(last, best)
        except WritingError as error:
            failure = error
        seconds = time.monotonic() - began
        self._spent += seconds
        if failure:
            self._seconds = max(self._seconds, seconds)  # a failure may take no time at all
            if not self._is_failing:
                log.warning(f"a checkpoint was not written; training continues and tries again: {failure}")
            self._is_failing = True
            return
        if self._is_failing:
            log.info("checkpoints are written again")
        self._saved_step, self._seconds = trainer.global_step, seconds
        self._best_is_due, self._is_failing = False, False


def _link(file: Path, second: Path) -> None:
    """Give a file a second name. `file` is only ever replaced, so that `second` keeps the present content."""
    with replacing(second) as new:
        new.unlink(missing_ok=True)
        try:
            new.hardlink_to(file)
        except OSError:  # not every file system has them
            shutil.copyfile(file, new)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes Lightning's checkpoints to a temporary file that then replaces the old one, without a copy in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        with writing(path):
            path.parent.mkdir(exist_ok=True)  # not `parents`: a run's folder that was removed is not made again
        with replacing(path) as new, new.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch raises this for a write that failed
                if isinstance(cause := error.__context__, OSError):
                    raise OSError(cause.errno, cause.strerror) from error
                raise


class TrainingBar(pl.callbacks.ProgressBar):
    """A progress bar over the mini-batches, with the epoch and the validation accuracy of the best start."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: ProgressBar | None = None
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        if self._enabled:
            self._bar = ProgressBar("training", pl_module.total_steps, trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self._bar:
            self._bar.update(trainer.global_step, self._describe(trainer))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar:
            self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    @staticmethod
    def _describe(trainer: pl.Trainer) -> str:
        module = trainer.lightning_module
        assert isinstance(module, Training)
        pack = f"pack {module.number}/{module.packs}, " if module.packs > 1 else ""
        text = f"{pack}epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        accuracy = trainer.callback_metrics.get("val_accuracy")
        return text if accuracy is None else f"{text}, best start {accuracy:.3f} on validation"
