"""Makes what is measured: noise to train on, and whole runs from the options of `scripts/train.py`."""

import gc
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, open_dict

from benchmarks.timing import seconds, silence
from hillstart.config.build import build_run_spec, composed_options, trainer_maker
from hillstart.config.options import conf_folder
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
    """conf as composed for these options; `data` stands for a file of conf/data."""
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
    """`scripts/train.py` but for Hydra's share and the making of the pictures, which lie ready.

    Attributes:
        population: all starts of `cfg`.
    """

    def __init__(self, cfg: DictConfig, device: torch.device):
        self._options, self._device = composed_options(cfg), device
        self.population: RunSpec = build_run_spec(self._options)

    def seconds(self, population: RunSpec | None = None) -> float:
        """Seconds of training, choosing, testing and writing all results, to a folder that is deleted.

        Args:
            population: to be trained in place of all starts.
        """
        with tempfile.TemporaryDirectory() as folder:
            return self.seconds_in(Path(folder), population)

    def seconds_in(self, folder: Path, population: RunSpec | None = None) -> float:
        """The same in a folder that stays."""
        of, chosen = self._options, population or self.population

        def run() -> None:
            experiment.run(chosen, trainer_maker(of, folder), folder, of.keep, of.pack)

        gc.collect()  # a trainer holds itself; what the one before leaves behind is not this run's to clear away
        with silence():
            return seconds(run, self._device)
