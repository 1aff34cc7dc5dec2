"""Whole runs from the options of `scripts/train.py`, and noise to train on."""

import gc
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, open_dict

from benchmarks.timing import quiet, seconds
from hillstart.config.build import build_run_spec, composed_options, trainer_maker
from hillstart.config.conf import conf_folder
from hillstart.data.augment import Augment
from hillstart.data.dataset import PictureSet, Split
from hillstart.data.preprocessing import Preprocessing
from hillstart.runs import experiment
from hillstart.training.packs import RunSpec


def noise(sizes: Sequence[int], pictures: int, others: int | None = None) -> PictureSet:
    """Noise with labels: the speed of a descent does not depend on what is learned.

    Args:
        sizes: of the network that it is for.
        others: pictures to validate and to test; None: those to train.
    """
    g = torch.Generator().manual_seed(0)
    channels = 1 if math.isqrt(sizes[0]) ** 2 == sizes[0] else 3
    side = math.isqrt(sizes[0] // channels)

    def split(n: int) -> Split:
        x = torch.randint(0, 256, (n, channels, side, side), generator=g, dtype=torch.uint8)
        return Split(x, torch.arange(n) % sizes[-1])

    train = split(pictures)
    rest = train if others is None else split(others)
    names = tuple(str(k) for k in range(sizes[-1]))
    return PictureSet(train, rest, rest, names, Preprocessing(side, channels), Augment(), "noise")


def options(device: torch.device, *chosen: str, data: dict[str, Any] | None = None) -> DictConfig:
    """conf as composed for these options; `data` replaces a file of conf/data."""
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = hydra.compose("train", [f"trainer.accelerator={device.type}", *chosen])
    if data is not None:
        with open_dict(cfg):
            cfg.data = data
    return cfg


def noise_options(device: torch.device, sizes: Sequence[int], pictures: int, others: int, *chosen: str) -> DictConfig:
    """conf for a network of these sizes on noise."""
    data = {"_target_": f"{noise.__module__}.noise", "sizes": list(sizes), "pictures": pictures, "others": others}
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
