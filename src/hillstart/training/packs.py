"""The starts of a run, trained in packs that fit the memory, each by one fit of Lightning."""

import inspect
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from hillstart.data.dataset import PictureSet
from hillstart.engine.matmul import HIGHEST
from hillstart.engine.starts import HYPERPARAMETERS, History, Start, StartResult
from hillstart.network import Network
from hillstart.system import interrupts
from hillstart.system.errors import InputError
from hillstart.system.machine import memory_bytes
from hillstart.training.distributed import Ranks
from hillstart.training.module import Begin, Training
from hillstart.training.optimizer import COURSE, SGDConfig
from hillstart.training.stopping import EarlyStopping

log = logging.getLogger(__name__)

CPU_BYTES = 160 << 20
"""Memory budget of one CPU pack; larger packs are no faster."""
CUDA_SHARE = 0.4
"""Share of the free memory of a CUDA device that a pack may take."""
CUDA_STARTS = 65_535
"""Largest pack there: the upper layers are batched products, one for each start, and a grid of CUDA has no more."""
EVEN = 64
"""Packs of at least twice as many starts have a multiple of this, so that tiles come out even."""


@dataclass(frozen=True)
class RunSpec:
    """The starts of a run, and all that they share.

    Attributes:
        begin: makes starts from seeds.
        sizes: nodes of each layer.
        test_all: evaluate every start on the test pictures when its pack is trained, not the chosen one alone.
        start_from: the model whose networks are the starting points, and the SHA-256 of their weights; None if these
            are drawn.
        matmul_precision: of float32 products in descent, as `StartEnsemble` takes it.
    """

    begin: Begin
    sizes: Sequence[int]
    data: PictureSet
    descent: SGDConfig
    stopping: EarlyStopping
    starts: Sequence[Start]
    test_all: bool = False
    start_from: Mapping[str, Any] | None = None
    matmul_precision: str = HIGHEST

    def described(self) -> dict[str, Any]:
        """The properties that a resumed run must share with the run it continues, as plain data.

        A value that a conf key decides is stored under that key. Pictures and preprocessing are described by their
        content, which any option or file may have changed.
        """
        seeds, data, descent = [start.seed for start in self.starts], self.data, self.descent
        ends, distinct = [min(seeds), max(seeds)], list(dict.fromkeys(seeds))
        begin = inspect.signature(self.begin).parameters  # the defaults of a partial call are its values
        preprocessing, optimiser = data.preprocessing, getattr(descent.optimiser, "keywords", {})
        plain = (bool, int, float, str, list, tuple)
        return {
            "network": list(self.sizes),
            "classes": list(self.data.classes),
            "optimiser": self.descent.optimiser_name,
            "starts": len(seeds),
            "seeds": ends if distinct == [*range(ends[0], ends[1] + 1)] else distinct,
            "start_from": self.start_from and self.start_from["sha256"],
            f"[{', '.join(HYPERPARAMETERS)}]": [
                list(astuple(p)) for p in dict.fromkeys(start.hyperparameters for start in self.starts)
            ],
            **{f"network.{key}": begin[key].default for key in ("activation", "cost", "start") if key in begin},
            **{f"descent.{key}": getattr(descent, key) for key in ("batch_size", *COURSE, "seed")},
            "descent.optimiser": {key: value for key, value in optimiser.items() if isinstance(value, plain)},
            **{f"stop.{key}": value for key, value in asdict(self.stopping).items()},
            **{
                f"{name} pictures": f"{len(split.y)}, SHA-256 {split.sha256[:16]}"
                for name, split in (("train", data.train), ("val", data.val), ("test", data.test))
            },
            "data.background": getattr(preprocessing, "background", None),
            # Rounded: the same pictures may have means that differ in the last bit on another processor.
            "data.normalise": [[round(v, 6) for v in values] for values in (preprocessing.mean, preprocessing.std)],
            "data.augment": asdict(data.augment),
            "data.balance": data.balance,
        }

    def start_bytes(self, device: torch.device) -> int:
        """Memory that training one start takes: itself, its best epoch, what moves it, a copy for a checkpoint."""
        parameters = sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(self.sizes))
        states = len(self.descent.step(start.hyperparameters for start in self.starts).states)
        copies = 2 * (1 + (3 if self.descent.optimiser is not None else states)) + 1
        # The CPU holds the activations of a tile at a time, CUDA those of all starts for 1,000 evaluated pictures.
        activations = 0 if device.type == "cpu" else 2 * 1000 * sum(self.sizes[1:])
        return 4 * (copies * parameters + activations)

    def packs(self, device: torch.device, ranks: int = 1, most: int | None = None) -> list[int]:
        """The number of starts in each pack.

        Args:
            device: the device of this rank; the others are assumed to have as much memory.
            most: the largest number in a pack; None: as many as fit.

        Raises:
            InputError: fewer starts than ranks, or the memory cannot hold a single start.
        """
        S = len(self.starts)
        if ranks > S:
            raise InputError(f"starts is {S}; with {ranks} devices it must be at least {ranks}, one for each.")
        on_cpu = device.type == "cpu"
        whole = memory_bytes() if on_cpu else torch.cuda.mem_get_info(device)[1]
        if self.start_bytes(device) > whole:
            raise InputError(
                f"network.hidden: to train one network of {list(self.sizes)} nodes takes "
                f"{self.start_bytes(device) / 2**30:.0f} GiB, and there are {whole / 2**30:.0f}; give fewer nodes."
            )
        free = CPU_BYTES if on_cpu else int(CUDA_SHARE * torch.cuda.mem_get_info(device)[0])
        fit = free // self.start_bytes(device)
        fit = ranks * max(1, fit if on_cpu else min(fit, CUDA_STARTS))
        fit = max(ranks, min(fit, most or fit))
        packs = -(-S // fit)
        even = -(-S // packs)
        size = even if even < 2 * EVEN or most else min(fit, -(-even // EVEN) * EVEN)
        rest = S - size * (S // size)
        if rest and 2 * rest < size:  # rather packs of almost the same size than a small last one
            return [S * (k + 1) // packs - S * k // packs for k in range(packs)]
        return [size] * (S // size) + [rest] * bool(rest)


@dataclass(frozen=True)
class FitResult:
    """The results of a pack's starts.

    Attributes:
        best_of: returns the starts at these indices as they were in their best epochs, on the CPU.
        seconds: duration of the training.
        whole: False if a signal ended it early.
    """

    history: History
    rows: Sequence[StartResult]
    best_of: Callable[[Sequence[int]], Network]
    seconds: float
    whole: bool = True

    @classmethod
    def of(cls, training: Training, whole: bool = True) -> "FitResult":
        return cls(training.history, training.history.rows(), training.best_of, training.seconds, whole)

    def gathered(self, ranks: Ranks, most: int) -> "FitResult | None":
        """The results of all ranks as those of one fit, with the weights of the `most` best starts of each.

        Returns:
            None on all ranks but the first.

        Raises:
            InputError: another process is lost.
        """
        best = sorted(self.history.ranking()[:most])
        network = self.best_of(best) if best else None
        plain = network and (network.w, network.b, network.activation, network.cost)
        parts = ranks.gather((self.history, best, plain, self.seconds))
        if not parts:
            return None
        histories, bests, networks, seconds = zip(*parts, strict=True)
        history = History.join(histories)
        firsts = itertools.accumulate((len(its.starts) for its in histories), initial=0)
        indices = [first + index for first, some in zip(firsts, bests, strict=False) for index in some]
        joined = Network.join([Network(*plain) for plain in networks if plain])
        return FitResult(
            history, history.rows(), lambda some: joined.pick([indices.index(i) for i in some]), max(seconds)
        )


def train(
    spec: RunSpec,
    make_trainer: Callable[..., pl.Trainer],
    packs: list[int],
    done: int = 0,
    checkpoint: Path | None = None,
    run: str | None = None,
    seconds: float = 0.0,
    ranks: Ranks = Ranks(),  # noqa: B008 - it cannot be changed
    halved: Callable[[], object] = lambda: None,
) -> Iterator[FitResult]:
    """Fit this rank's share of pack after pack.

    Args:
        make_trainer: makes a trainer for a pack, given the number of packs left including this one.
        packs: starts in each; a pack for which a CUDA device has no memory is halved in this list.
        done: the number of packs that are trained already.
        checkpoint: checkpoint of the first pack that is not.
        run: the id of the run, for its checkpoints.
        seconds: duration of the training of the pack in `checkpoint`, at least.
        ranks: of this process.
        halved: called when a pack has been halved in `packs`, before the first half is trained.

    Raises:
        InputError: `checkpoint` is not one of such a training.
        Interrupted: a signal came; the pack in training is yielded first.
    """
    while done < len(packs):
        interrupts.check_interrupt()
        first = sum(packs[:done])
        starts = spec.starts[first : first + packs[done]][ranks.share(packs[done])]
        if not starts:
            yield FitResult(History([]), [], lambda _: spec.begin([]), 0.0)
            done += 1
            continue
        training = Training(
            spec.begin,
            spec.data,
            spec.descent,
            starts,
            spec.stopping,
            number=done + 1,
            packs=len(packs),
            run=run,
            seconds=seconds,
            matmul_precision=spec.matmul_precision,
        )
        trainer, fits = make_trainer(len(packs) - done), True
        try:
            _fit(training, trainer, checkpoint)
        except torch.OutOfMemoryError:
            if len(starts) == 1 or ranks.size > 1:
                raise
            fits = False
        except interrupts.Interrupted:
            if training.history.figures.numel():
                yield FitResult.of(training, whole=False)
            raise
        finally:
            checkpoint, seconds = None, 0.0
        if fits:
            yield FitResult.of(training)
            done += 1
        training.release()
        if not fits:  # here, where the error with its frames, and so their tensors, are gone
            half = len(starts) // 2
            packs[done : done + 1] = [len(starts) - half, half]
            log.info(f"{len(starts)} starts are too many for the memory of the device; going on with {half} at once.")
            halved()
            torch.cuda.empty_cache()


def _fit(training: Training, trainer: pl.Trainer, checkpoint: Path | None) -> None:
    try:
        trainer.fit(training, ckpt_path=checkpoint, weights_only=True)
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if checkpoint is None or training.was_restored:
            raise
        raise InputError(
            f"resume: {checkpoint} is not a checkpoint of such a training; give the folder of an earlier run."
        ) from error
