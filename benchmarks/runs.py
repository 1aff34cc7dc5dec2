"""Whole runs from the options of `scripts/train.py`, and made-up pictures to train on."""

import gc
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor

from benchmarks.timing import quiet, seconds
from hillstart.config.build import build_run_spec, composed_options, trainer_maker
from hillstart.config.conf import conf_folder
from hillstart.data.augment import Augment
from hillstart.data.dataset import PictureSet, Split
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import StartResult
from hillstart.runs import experiment
from hillstart.training.packs import RunSpec, train


def noise(sizes: Sequence[int], pictures: int, others: int | None = None) -> PictureSet:
    """Noise with labels: the speed of a descent does not depend on what is learned.

    Args:
        sizes: of the network that it is for.
        others: pictures to validate and to test; None: those to train.
    """
    g = torch.Generator().manual_seed(0)
    draw = lambda y, shape: torch.randint(0, 256, (len(y), *shape), generator=g, dtype=torch.uint8)  # noqa: E731
    return _pictures("noise", draw, sizes, pictures, others)


def mixtures(sizes: Sequence[int], pictures: int, others: int | None = None) -> PictureSet:
    """Pictures to learn from: patterns, one for each class, each mixed with that of another class, and noise.

    The arguments are those of `noise`. After 5 epochs of 50,000, networks of [784, 30, 10] get 0.84 of them right.
    """
    g = torch.Generator().manual_seed(0)
    patterns = torch.randn(sizes[-1], sizes[0], generator=g)

    def draw(y: Tensor, shape: Sequence[int]) -> Tensor:
        other = torch.randint(0, sizes[-1], y.shape, generator=g)
        share = torch.rand(len(y), 1, generator=g)
        levels = torch.lerp(patterns[y], patterns[other], 0.6 * share) + 3 * torch.randn(len(y), sizes[0], generator=g)
        return (128 + 24 * levels).round().clamp(0, 255).byte().unflatten(1, tuple(shape))

    return _pictures("mixtures of patterns", draw, sizes, pictures, others)


def _pictures(
    source: str,
    draw: Callable[[Tensor, Sequence[int]], Tensor],
    sizes: Sequence[int],
    pictures: int,
    others: int | None,
) -> PictureSet:
    """A set of drawn pictures for a network of these sizes; `draw` takes their labels and the shape of a picture."""
    channels = 1 if math.isqrt(sizes[0]) ** 2 == sizes[0] else 3
    side = math.isqrt(sizes[0] // channels)

    def split(n: int) -> Split:
        y = torch.arange(n) % sizes[-1]
        return Split(draw(y, (channels, side, side)), y)

    train = split(pictures)
    rest = train if others is None else split(others)
    names = tuple(str(k) for k in range(sizes[-1]))
    return PictureSet(train, rest, rest, names, Preprocessing(side, channels), Augment(), source)


def options(device: torch.device, *chosen: str, data: dict[str, Any] | None = None) -> DictConfig:
    """conf as composed for these options; `data` replaces a file of conf/data."""
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = hydra.compose("train", [f"trainer.accelerator={device.type}", *chosen])
    if data is not None:
        with open_dict(cfg):
            cfg.data = data
    return cfg


def noise_options(
    device: torch.device,
    sizes: Sequence[int],
    pictures: int,
    others: int,
    *chosen: str,
    made: Callable[..., PictureSet] = noise,
) -> DictConfig:
    """conf for a network of these sizes on noise, or on pictures that are made by another function of this module."""
    target = f"{noise.__module__}.{made.__name__}"
    data = {"_target_": target, "sizes": list(sizes), "pictures": pictures, "others": others}
    return options(device, f"network.hidden={list(sizes[1:-1])}", *chosen, data=data)


class Run:
    """`scripts/train.py` without Hydra's share and without the loading of the pictures, which happens here.

    Attributes:
        spec: all starts of `cfg`.
    """

    def __init__(self, cfg: DictConfig, device: torch.device):
        self._options, self._device = composed_options(cfg), device
        self.spec: RunSpec = build_run_spec(self._options)

    def seconds(self, spec: RunSpec | None = None) -> float:
        """Seconds of training, choosing, testing and writing all results; of `spec` in place of all starts."""
        options, chosen = self._options, spec or self.spec
        gc.collect()  # a trainer refers to itself, so the one before is only freed here
        with tempfile.TemporaryDirectory() as name, quiet():
            folder = Path(name)
            maker = trainer_maker(options.trainer, folder)
            return seconds(lambda: experiment.run(chosen, maker, folder, options.keep, options.pack), self._device)

    def results(self, packs: list[int] | None = None) -> list[StartResult]:
        """Train all starts, and write nothing; `packs`: as `training.packs.train` takes them."""
        with tempfile.TemporaryDirectory() as name, quiet():
            maker = trainer_maker(self._options.trainer, Path(name), checkpoints=False)
            fits = train(self.spec, maker, self.spec.packs(self._device) if packs is None else packs)
            return [row for trained in fits for row in trained.rows]
