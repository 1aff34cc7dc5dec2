"""Callbacks of Lightning: checkpoints of a pack in training, and one progress bar for the whole training."""

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

# Of the time since training began; a large pack with short epochs would else spend most of it writing.
SHARE = 0.05
# A deliberately low guess of how fast a checkpoint is written, until one was.
BYTES_PER_SECOND = 2e8


class Checkpoints(Checkpoint):
    """`last.ckpt` after an epoch, and `best.ckpt` when the best start of the pack stands lower than ever before.

    An epoch goes without where writing would take more than `SHARE` of the time; the end of the last pack never does,
    while a pack before it leaves nothing that its rows and the kept starts do not hold. Both files hold each start as
    in its best epoch.

    One that cannot be written, on a full disk say, does not end the training: the one before stays, the log says so
    once, and it is tried again when the next one is due.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.lowest = math.inf
        self._owed = False
        self._saved_step, self._failing = -1, False
        self._began = self._spent = self._cost = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        if trainer.global_step == 0:
            self.lowest, self._owed = math.inf, False
        self._cost = pl_module.state_bytes / BYTES_PER_SECOND
        self._began, self._spent, self._saved_step = time.monotonic(), 0.0, -1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        cost = float(trainer.callback_metrics["val_cost"])
        if cost < self.lowest:
            self.lowest, self._owed = cost, True
        due = self._spent + self._cost <= SHARE * (time.monotonic() - self._began)
        if trainer.strategy.broadcast(due):  # all ranks take part in a checkpoint, and their clocks differ
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        if trainer.global_step != self._saved_step and pl_module.number == pl_module.packs:
            self._failing = False  # so that the last word of the log is not of long ago
            self._save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # In the middle of a chunk some tiles have gone further than others, and so have some ranks.
        if isinstance(pl_module, Training) and pl_module.between_chunks and trainer.world_size == 1:
            self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest, "owed": self._owed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lowest, self._owed = state_dict["lowest"], state_dict["owed"]

    def _save(self, trainer: pl.Trainer) -> None:
        began, failure = time.monotonic(), None
        last, best = self.folder / "last.ckpt", self.folder / "best.ckpt"
        try:
            trainer.save_checkpoint(last)
        except WritingError as error:  # on the rank that writes, before it met the others
            failure = error
            trainer.strategy.barrier("Trainer.save_checkpoint")
        if trainer.is_global_zero and not failure and self._owed:
            try:
                _twin(last, best)
            except WritingError as error:
                failure = error
        taken = time.monotonic() - began
        self._spent += taken
        if trainer.strategy.broadcast(failure is not None):  # all ranks must agree on what there is
            self._cost = max(self._cost, taken)  # it may have ended at once
            self._tell(failure)
            return
        if self._failing:
            log.info("checkpoints are written again")
        self._saved_step, self._cost, self._owed, self._failing = trainer.global_step, taken, False, False

    def _tell(self, failure: WritingError | None) -> None:
        if failure and not self._failing:
            log.warning(f"no checkpoint for now, though training goes on and will try again: {failure}")
        self._failing = True


def _twin(file: Path, twin: Path) -> None:
    """The same file under a second name: `file` is only ever replaced, so that the twin keeps what it has now."""
    with replacing(twin) as new:
        new.unlink(missing_ok=True)
        try:
            new.hardlink_to(file)
        except OSError:  # not every file system has them
            shutil.copyfile(file, new)


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's files, written beside their place and then put there, without a second copy in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        with writing(path):
            path.parent.mkdir(exist_ok=True)  # but a run's folder that is gone is not made anew for a checkpoint alone
        with replacing(path) as new, new.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # what torch makes of a write that failed
                if isinstance(said := error.__context__, OSError):
                    raise OSError(said.errno, said.strerror) from error
                raise


class TrainingBar(pl.callbacks.ProgressBar):
    """Lightning's callback that shows mini-batches done of all, the epoch, and the best validation accuracy."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: ProgressBar | None = None
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        if self._enabled and trainer.is_global_zero:
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
