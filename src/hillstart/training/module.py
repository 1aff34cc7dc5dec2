"""The LightningModule that trains a pack of starts, a chunk of mini-batches at a time."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from hillstart.data.batches import MiniBatches, Sample
from hillstart.data.dataset import PictureSet
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.cuda import Pixels
from hillstart.engine.ensemble import StartEnsemble
from hillstart.engine.matmul import HIGHEST
from hillstart.engine.starts import DIVERGED, HYPERPARAMETERS, History, Hyperparameters, Start, progress
from hillstart.network import Network
from hillstart.system import interrupts
from hillstart.system.errors import InputError
from hillstart.system.private import count_steps, take_max_steps
from hillstart.training.optimizer import ChunkOptimizer, Chunks, SGDConfig
from hillstart.training.stopping import EarlyStopping

log = logging.getLogger(__name__)

CHUNK_SECONDS = 0.3
"""Duration of a chunk: signals, the progress bar and max_time are looked at between chunks."""
# Deliberately rough rates, from which the length of a chunk follows; results do not depend on it.
FLOPS_PER_SECOND = {"cpu": 8e10, "cuda": 1e13}
SECONDS_PER_STEP = 1e-4
CHUNK_BYTES = 64 << 20


Begin = Callable[[Sequence[int]], Network]
"""Makes starts from their seeds, at their starting points on the CPU."""


class Training(pl.LightningModule):
    """Trains the starts of a pack on pictures that are on the device.

    `global_step` counts mini-batches, not chunks: `max_steps` and the x axis of every logger mean the same whatever
    the pack. After each epoch every start is evaluated on the validation pictures and on as many training pictures;
    `best` holds each start as it was in its best epoch.

    Args:
        begin: makes starts from seeds.
        data: the pictures.
        descent: how the starts descend.
        starts: the starts of the pack.
        stopping: what ends a start early.
        number, packs: the number of this pack in the run, from 1 to `packs`.
        run: the id of the run, which is stored in its checkpoints.
        seconds: duration of the training so far, unless the checkpoint that is resumed has a larger one.
        matmul_precision: of float32 products in descent, as `StartEnsemble` takes it.
    """

    best: Network
    pack: StartEnsemble
    batches: MiniBatches

    def __init__(
        self,
        begin: Begin,
        data: PictureSet,
        descent: SGDConfig,
        starts: Sequence[Start],
        stopping: EarlyStopping | None = None,
        number: int = 1,
        packs: int = 1,
        run: str | None = None,
        seconds: float = 0.0,
        matmul_precision: str = HIGHEST,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.begin, self.data, self.descent, self.matmul_precision = begin, data, descent, matmul_precision
        self.stopping, self.number, self.packs = stopping or EarlyStopping(), number, packs
        self.run, self._seconds_before, self._began = run, seconds, time.perf_counter()
        self.history = History(starts)
        self.between_chunks = False
        self.was_restored = False

    # ------------------------------------------------------------ what Lightning asks for

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        device, data, descent = self.trainer.strategy.root_device, self.data, self.descent
        classes = len(data.classes)
        self._max_steps = take_max_steps(self.trainer)
        starts = self.history.starts
        self.best = self.begin([start.seed for start in starts]).to(device)
        picked = data.train, classes, data.preprocessing, data.augment
        self.batches = MiniBatches(*picked, descent.batch_size, descent.seed, device, data.balance)
        self.pack = StartEnsemble(
            self.best,
            [start.hyperparameters for start in starts],
            len(data.train.y),
            descent.batch_size,
            descent.step(start.hyperparameters for start in starts),
            descent.optimiser,
            descent.fuse,
            self.matmul_precision,
            [start.seed for start in starts],
            descent.kernel == "auto",
            _pixels(data),
        )
        if self.pack.why_graphs and self.number == 1:
            log.info(f"descent.kernel: the starts descend by CUDA graphs, not by the kernel: {self.pack.why_graphs}.")
        self._train = Sample(data.train, classes, data.preprocessing, device, limit=len(data.val.y))
        self._val = Sample(data.val, classes, data.preprocessing, device)

    def configure_optimizers(self) -> ChunkOptimizer:
        return ChunkOptimizer(self._largest_eta)

    def train_dataloader(self) -> Chunks:
        return Chunks(self._rest_of_epoch)

    def val_dataloader(self) -> range:
        return range(1)

    def training_step(self, size: int, index: int) -> None:
        epoch, first = divmod(self.global_step, self.batches.per_epoch)
        count = int(min(size, self.total_steps - self.global_step))
        schedule = [self.descent.multiplier(self.global_step + k, self.total_steps) for k in range(count)]
        chunk = self.batches.chunk(epoch, first, count)
        optimiser = self.optimizers()
        optimiser.param_groups[0]["lr"] = self._largest_eta * schedule[-1]  # type: ignore[union-attr]
        self.between_chunks = False
        optimiser.step(lambda: self.pack.descend(chunk, schedule))  # type: ignore[union-attr]
        count_steps(self.trainer, optimiser, count - 1)  # Lightning has counted the chunk as one step
        self.between_chunks = True

    def on_train_batch_end(self, *args: Any) -> None:
        # After the last chunk of an epoch the evaluation checks for signals; a run resumed from here would skip it.
        if self.global_step % self.batches.per_epoch:
            interrupts.check_interrupt()

    def on_train_epoch_end(self) -> None:
        # Lightning counts an epoch before its first chunk; a run resumed from in between would skip it.
        self.between_chunks = False

    def validation_step(self, batch: int, index: int) -> None:
        train_cost, _ = self.pack.evaluate(interrupts.interruptible(self._train.batches()))
        val_cost, val_accuracy = self.pack.evaluate(interrupts.interruptible(self._val.batches()))
        figures = torch.stack([train_cost, val_cost, val_accuracy], 1)
        lower = self.history.add(figures)
        self.pack.copy_into(self.best, lower)
        self.stopping.after_epoch(self.history, last=self.global_step >= self.total_steps)
        self._retain_active()
        metrics = progress(self.history.figures, self.history.status != DIVERGED)
        best = {name: metrics.get(name, math.nan) for name in ("val_cost", "val_accuracy")}
        self.log_dict(best, logger=False, batch_size=1)
        if self.logger:  # the metrics of this pack; those of all starts follow at the end of the run
            prefix = f"pack_{self.number}/" if self.packs > 1 else ""
            named = {name if name == "epoch" else f"{prefix}{name}": value for name, value in metrics.items()}
            self.logger.log_metrics(named, step=self.global_step)

    def on_train_start(self) -> None:
        interrupts.install_handlers()
        if len(self.history.figures) and self.global_step < self.total_steps:
            # Resumed with more epochs: apply the stop rules that were skipped after the former last epoch.
            self.stopping.after_epoch(self.history, last=False)
        self._retain_active()
        self.between_chunks = True

    # ------------------------------------------------------------ progress

    @property
    def seconds(self) -> float:
        """Duration of the training, including what was before an interruption."""
        return self._seconds_before + time.perf_counter() - self._began

    @property
    def _largest_eta(self) -> float:
        return max(start.hyperparameters.eta for start in self.history.starts)

    @property
    def total_steps(self) -> int:
        """Mini-batches in the whole training."""
        epochs, steps = self.trainer.max_epochs, self._max_steps
        by_epochs = epochs * self.batches.per_epoch if epochs is not None and epochs > 0 else math.inf
        return int(min(by_epochs, steps if steps > 0 else math.inf))

    @property
    def chunk_steps(self) -> int:
        """Mini-batches in a chunk of about `CHUNK_SECONDS` and at most `CHUNK_BYTES` of pictures.

        In whole blocks; on CUDA in whole graphs, unless a graph holds more, because each other length of what is left
        of a chunk would be a graph of its own.
        """
        rate = FLOPS_PER_SECOND.get(self.pack.device.type, FLOPS_PER_SECOND["cuda"]) * self.pack.cores
        by_time = CHUNK_SECONDS / max(SECONDS_PER_STEP, self.pack.step_flops / rate)
        steps = int(min(by_time, CHUNK_BYTES / (4 * self.batches.batch_size * self.pack.sizes[0])))
        is_graph = self.pack.device.type == "cuda" and steps >= self.pack.captured
        unit = self.pack.captured if is_graph else self.pack.block
        return max(1, steps // unit) * unit

    def _retain_active(self) -> None:
        """Keep only the active starts in the pack; end the fit if there are none, or if all epochs are done."""
        active = self.history.active
        self.pack.retain(active.nonzero().flatten().tolist())
        # A run that was interrupted after its last chunk has not evaluated its last epoch yet.
        is_evaluated = len(self.history.figures) * self.batches.per_epoch >= self.global_step
        is_over = not bool(active.any()) or (self.global_step >= self.total_steps and is_evaluated)
        self.trainer.should_stop = self.trainer.should_stop or is_over

    def release(self) -> None:
        """Free the tensors of the starts now, not when the garbage collector finds the cycle of module and trainer."""
        for name in ("pack", "best", "batches", "_train", "_val"):
            self.__dict__.pop(name, None)

    @property
    def state_bytes(self) -> int:
        """Bytes of the tensors in a checkpoint while all starts are active."""
        changing = [t for tensors in self.pack.tiles[0].state().values() for t in tensors if t.dim()]
        per_start = sum(t[0].numel() * t.element_size() for t in (*changing, *self.best.parameters))
        return per_start * len(self.history.starts)

    def best_of(self, indices: Sequence[int]) -> Network:
        """These starts of the pack, as they were in their best epochs, on the CPU."""
        return self.best.pick(indices).to("cpu")

    def _rest_of_epoch(self) -> tuple[int, int]:
        in_epoch = self.batches.per_epoch - self.global_step % self.batches.per_epoch
        return min(in_epoch, self.total_steps - self.global_step), self.chunk_steps

    # ------------------------------------------------------------ checkpoints

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Weights and biases, what moves them, and the best epochs: `weights.w1`, `velocity.b2`, `best.w1` ...

        `best` has all starts, the others the active ones.
        """
        state = self.pack.state() | {"best": self.best.parameters}
        names = self._names()
        return {f"{part}.{name}": t for part, ts in state.items() for name, t in zip(names, ts, strict=True)}

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True, assign: bool = False) -> Any:  # type: ignore[override]
        state: dict[str, list[Tensor]] = {}
        for part in dict.fromkeys(key.split(".")[0] for key in state_dict):
            state[part] = [state_dict[f"{part}.{name}"] for name in self._names()]
        for target, source in zip(self.best.parameters, state.pop("best"), strict=True):
            target.copy_(source)
        # End starts epoch by epoch as they ended before: on CUDA the tiling, and so the bits, depends on that order.
        for epoch in range(1, len(self.history.figures) + 1):
            stay = self.history.active | (self.history.epochs > epoch)
            self.pack.retain(stay.nonzero().flatten().tolist())
        self.pack.load(state)

    def _names(self) -> list[str]:
        return [f"{kind}{l}" for kind in "wb" for l in range(1, len(self.pack.sizes))]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Plain data only, so that loading it with weights_only=True runs no code.
        checkpoint["hillstart"] = {
            "sizes": self.pack.sizes,
            "activation": self.best.activation,
            "cost": self.best.cost,
            "seeds": [start.seed for start in self.history.starts],
            "rolls": [list(astuple(s.hyperparameters)) for s in self.history.starts],  # as version 0.1 calls them
            "optimiser": self.descent.optimiser_name,
            "classes": list(self.data.classes),
            "preprocessing": self.data.preprocessing.as_dict(),
            "history": self.history.figures,
            "epochs": self.history.epochs,
            "status": self.history.status,
            "pack": self.number,
            "run": self.run,
            "total_steps": self.total_steps,
            "seconds": self.seconds,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = checkpoint["hillstart"]
        this_run: dict[str, Any] = {}
        self.on_save_checkpoint(this_run)
        for key, what in (
            ("sizes", "network sizes"),
            ("activation", "network.activation"),
            ("cost", "network.cost"),
            ("seeds", "seeds"),
            ("classes", "classes"),
            ("optimiser", "the optimiser"),
            ("rolls", f"[{', '.join(HYPERPARAMETERS)}]"),
        ):
            there, here = stored[key], this_run["hillstart"][key]
            if key == "rolls":  # a run made before a hyperparameter was added has its default
                there = [list(astuple(Hyperparameters(*point))) for point in there]
            if here != there:
                there, here = _briefly(key, there), _briefly(key, here)
                raise InputError(f"resume: the checkpoint has {what} {there}, this run {here}; give the same options.")
        self._check_length(checkpoint["global_step"], stored.get("total_steps", self.total_steps))
        self._seconds_before = max(self._seconds_before, stored.get("seconds", 0.0))
        self.history.figures, self.history.epochs = stored["history"], stored["epochs"]
        self.history.status = stored["status"]
        self.was_restored = True

    def _check_length(self, done: int, planned: int) -> None:
        """Refuse a training that is shorter than what is done; warn if a schedule is stretched by a longer one."""
        epochs, steps, course = self.trainer.max_epochs, self._max_steps, self.descent.course
        before, now, passed = (f"{count / self.batches.per_epoch:.4g}" for count in (planned, self.total_steps, done))
        if self.total_steps < done:
            raise InputError(
                f"resume: trainer.max_epochs={epochs} trainer.max_steps={steps} end before what is done already, "
                f"{done} mini-batches ({passed} epochs); give no less than that."
            )
        if self.total_steps != planned and course != "constant":
            log.warning(
                f"resume: descent.schedule={course} changes eta over the whole training, which was to be {before} "
                f"epochs long and is now {now}, so the run does not end as one of {now} epochs in one go would."
            )


def _pixels(data: PictureSet) -> Pixels | None:
    """The whole grey levels that all inputs are before they are normalised; None if they are not."""
    of, augment = data.preprocessing, data.augment
    if not isinstance(of, Preprocessing) or of.channels > 1 or augment.brightness or augment.contrast:
        return None
    return Pixels(255 * of.mean[0], 255 * of.std[0])


def _briefly(key: str, values: Any) -> Any:
    """Shortened for a message: the first and last of many seeds, distinct hyperparameters only."""
    if key == "seeds" and len(values) > 10:
        return f"{values[0]} ... {values[-1]} ({len(values)} of them)"
    return [list(v) for v in dict.fromkeys(map(tuple, values))] if key == "rolls" else values
