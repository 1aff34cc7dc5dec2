"""The way starts took down the hill: a pack is trained once more from its seeds, and looked at after each epoch."""

import itertools
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import lightning.pytorch as pl
import torch
from jaxtyping import Float
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import Tensor

from hillstart.engine.starts import VAL_COST, Start
from hillstart.report.hills import flat
from hillstart.training.module import Training
from hillstart.training.packs import RunSpec

# Of all recorded weights together; of a path that needs more, only every k-th epoch is kept.
PATH_BYTES = 256 << 20


@dataclass(frozen=True)
class Paths:
    """The points of some starts before the first epoch and after each one.

    Attributes:
        starts: whose paths these are.
        epochs: at which `weights` were recorded, 0 first.
        weights: flat, as `hills.flat` lays them out; a start that has ended stays where it was.
        last: the epoch in which each start ended.
        best: the epoch in which each stood lowest on its validation hill; 0 where no epoch was measured.
        best_weights: those of that epoch, which a run keeps.
    """

    starts: tuple[Start, ...]
    epochs: tuple[int, ...]
    weights: Float[Tensor, "points S P"]
    last: tuple[int, ...]
    best: tuple[int, ...]
    best_weights: Float[Tensor, "S P"]


def retrain(
    population: RunSpec,
    packs: Sequence[int],
    wanted: Sequence[Start],
    max_epochs: int,
    max_steps: int = -1,
    accelerator: str = "auto",
) -> Paths:
    """Train the pack that holds `wanted` once more, and record the paths of these.

    In the same company on the same device every bit comes out as it did before. Where the pack is not known, or not
    the same for all of them, they are trained by themselves, and may differ by rounding.

    Args:
        packs: how many of the population's starts were in each.
        max_epochs, max_steps: as Lightning takes them.
        accelerator: auto, cpu or cuda.
    """
    company = _pack(population.starts, packs, wanted)
    stopping = population.stopping if company else replace(population.stopping, race=None)
    starts = company or list(wanted)
    training = Training(population.begin, population.data, population.descent, starts, stopping)
    places = [starts.index(start) for start in wanted]
    epochs = (
        max_epochs if max_epochs > 0 else -(-max_steps * population.descent.batch_size // len(population.data.train.y))
    )
    parameters = sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(population.sizes))
    looking = Looking(places, every=-(-4 * parameters * len(wanted) * (epochs + 1) // PATH_BYTES))
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    with _quietly():
        trainer = pl.Trainer(
            max_epochs=max_epochs,
            max_steps=max_steps,
            accelerator=accelerator,
            devices=1,
            plugins=[LightningEnvironment()],  # one process, however many there were in the run
            callbacks=[looking],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            log_every_n_steps=1,
        )
        trainer.fit(training)
    costs = training.history.figures[:, places, VAL_COST].nan_to_num(nan=torch.inf)
    best = (costs.argmin(0) + 1).tolist() if len(costs) else [0] * len(places)
    paths = Paths(
        tuple(wanted),
        tuple(looking.epochs),
        torch.stack(looking.weights),
        tuple(training.history.epochs[places].tolist()),
        tuple(best),
        flat(training.best.pick(places).to("cpu")),
    )
    training.release()
    return paths


class Looking(pl.Callback):
    """Copies some starts of a pack before its training and after each epoch, while those that end there still roll.

    Args:
        places: of the starts in the pack.
        every: how many epochs lie between two copies; the last epoch is copied whatever its number.
    """

    def __init__(self, places: Sequence[int], every: int):
        self.epochs, self.weights = list[int](), list[Tensor]()
        self._at, self._every = {place: k for k, place in enumerate(places)}, every
        self._epoch, self._now = 0, torch.empty(0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        self._now = torch.empty(len(self._at), sum(p[0].numel() for p in pl_module.best.parameters))
        self._look(pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        self._epoch += 1
        self._look(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.epochs[-1] < self._epoch:
            self._copy()

    def _look(self, training: Training) -> None:
        for tile in training.pack.tiles:
            for index, column in tile.columns.items():
                if index in self._at:
                    parts = [p[column].flatten() for p in tile.network.parameters]
                    self._now[self._at[index]] = torch.cat(parts)
        if self._epoch % self._every == 0:
            self._copy()

    def _copy(self) -> None:
        self.epochs.append(self._epoch)
        self.weights.append(self._now.clone())


def _pack(starts: Sequence[Start], packs: Sequence[int], wanted: Sequence[Start]) -> list[Start]:
    """All starts of the pack that holds `wanted`; none where there is no such pack."""
    first = 0
    for size in packs:
        pack = list(starts[first : first + size])
        if set(wanted) <= set(pack):
            return pack
        first += size
    return []


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Lightning's remarks on a training that it takes for another one."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")  # lightning 2.6.6 with torch 2.14
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
