"""One progress bar for the whole training, on a terminal only."""

import sys
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hillstart.training import Training


class TrainingBar(pl.callbacks.ProgressBar):
    """Mini-batches done of all, the epoch, and how the best start does on validation."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._shown = sys.stderr.isatty()

    def disable(self) -> None:
        self._shown = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        if not self._shown or not trainer.is_global_zero:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("training", total=pl_module.total_steps, completed=trainer.global_step)
        self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self._bar:
            self._bar.update(self._task, completed=trainer.global_step, description=self._describe(trainer))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    @staticmethod
    def _describe(trainer: pl.Trainer) -> str:
        module = trainer.lightning_module
        assert isinstance(module, Training)
        pack = f"pack {module.number}/{module.packs}, " if module.packs > 1 else ""
        text = f"{pack}epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        accuracy = trainer.callback_metrics.get("val_accuracy")
        return text if accuracy is None else f"{text}, best start {accuracy:.3f} on validation"
