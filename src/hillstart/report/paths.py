"""The paths of starts during training: their pack is trained again from its seeds and recorded after each epoch."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import Tensor

from hillstart.engine.starts import VAL_COST, Start
from hillstart.network import Network
from hillstart.report.landscape import flat
from hillstart.system.console import silent_libraries
from hillstart.training.module import Training
from hillstart.training.packs import RunSpec

PATH_BYTES = 256 << 20
"""Memory for all recorded weights; longer paths are recorded in every k-th epoch only."""


@dataclass(frozen=True)
class Paths:
    """The points of some starts before the first epoch and after each one.

    Attributes:
        starts: whose paths these are.
        epochs: at which `weights` were recorded, 0 first.
        weights: flat, as `landscape.flat` returns them; a start that has ended stays where it was.
        last: the epoch in which each start ended.
        best: the epoch in which each had its lowest validation cost; 0 where no epoch was evaluated.
        best_weights: those of that epoch, which a run keeps.
    """

    starts: tuple[Start, ...]
    epochs: tuple[int, ...]
    weights: Float[Tensor, "points S P"]
    last: tuple[int, ...]
    best: tuple[int, ...]
    best_weights: Float[Tensor, "S P"]


def retrain(
    spec: RunSpec,
    pack: Sequence[Start],
    wanted: Sequence[Start],
    max_epochs: int,
    max_steps: int = -1,
    accelerator: str = "cpu",
) -> Paths:
    """Train a pack again, and record the paths of some of its starts.

    On the same device every bit comes out as it did before.

    Args:
        pack: the starts that were trained together; if it is empty, `wanted` are trained by themselves, without a race,
            and may differ by rounding.
        max_epochs, max_steps: as in Lightning.
        accelerator: `trainer.accelerator` of the run; the CPU if it is a device that is not here.
    """
    stopping = spec.stopping if pack else replace(spec.stopping, race=None)
    starts = list(pack or wanted)
    training = Training(spec.begin, spec.data, spec.descent, starts, stopping)
    indices = [starts.index(start) for start in wanted]
    parameters = sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(spec.sizes))
    recorder = Recorder(indices, every=-(-4 * parameters * len(wanted) * (max_epochs + 1) // PATH_BYTES))
    with silent_libraries():
        trainer = pl.Trainer(
            max_epochs=max_epochs,
            max_steps=max_steps,
            accelerator="cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu",
            devices=1,
            plugins=[LightningEnvironment()],  # one process, however many there were in the run
            callbacks=[recorder],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            log_every_n_steps=1,
        )
        trainer.fit(training)
    costs = training.history.figures[:, indices, VAL_COST].nan_to_num(nan=torch.inf)
    best = (costs.argmin(0) + 1).tolist() if len(costs) else [0] * len(indices)
    paths = Paths(
        tuple(wanted),
        tuple(recorder.epochs),
        torch.stack(recorder.weights),
        tuple(training.history.epochs[indices].tolist()),
        tuple(best),
        flat(training.best.pick(indices).to("cpu")),
    )
    training.release()
    return paths


class Recorder(pl.Callback):
    """Copies some starts of a pack before its training and after each epoch, before those that end there are removed.

    Args:
        indices: of the starts in the pack.
        every: record every so many epochs, and the last epoch.
    """

    _now: Network

    def __init__(self, indices: Sequence[int], every: int):
        self.epochs, self.weights = list[int](), list[Tensor]()
        self._indices, self._every, self._epoch = indices, every, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        self._now = pl_module.best.pick(range(pl_module.best.starts))
        self._record()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        self._epoch += 1
        recorded = torch.zeros(self._now.starts, dtype=torch.bool)
        recorded[self._indices] = True
        pl_module.pack.copy_into(self._now, recorded & pl_module.history.active)
        if self._epoch % self._every == 0:
            self._record()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.epochs[-1] < self._epoch:
            self._record()

    def _record(self) -> None:
        self.epochs.append(self._epoch)
        self.weights.append(flat(self._now.pick(self._indices)).cpu())
