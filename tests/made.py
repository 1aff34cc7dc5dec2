"""Small made-up data and trainings for tests."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hillstart.data.augment import Augment
from hillstart.data.dataset import PictureSet, Split
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import Start
from hillstart.network import Network
from hillstart.training.module import Training
from hillstart.training.optimizer import SGDConfig
from hillstart.training.stopping import EarlyStopping

SMALL = ["data.train=120", "data.test=40", "network.hidden=[6]", "trainer.max_epochs=2", "report=false"]
"""Options of the command for a training of less than a second."""


def rows(table: Path | str) -> list[dict[str, str]]:
    """The rows of a CSV file, each by the names of its columns."""
    with Path(table).open(newline="") as file:
        return list(csv.DictReader(file))


def blobs(train: int = 103, size: int = 6, augment: str = "none") -> PictureSet:
    """Three kinds of picture, each bright in a place of its own, under noise."""
    g = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        y = torch.arange(n) % 3
        x = torch.randint(0, 160, (n, 1, size, size), generator=g, dtype=torch.uint8)
        for k in range(3):
            x[y == k, :, 2 * k : 2 * k + 2] += 60
        return Split(x, y)

    return PictureSet(
        split(train),
        split(40),
        split(50),
        ("a", "b", "c"),
        Preprocessing(size, 1),
        Augment.preset(augment, 32),
        "made up",
    )


def training(
    starts: int = 3,
    data: PictureSet | None = None,
    hidden: tuple[int, ...] = (5,),
    stopping: EarlyStopping | None = None,
    cost: str = "quadratic",
    activation: str = "sigmoid",
    matmul_precision: str = "highest",
    **descent: Any,
) -> Training:
    data = data or blobs()
    made = SGDConfig(**({"eta": 0.5, "batch_size": 10} | descent))
    begin = partial(Network.start, [data.train.x[0].numel(), *hidden, 3], cost=cost, activation=activation)
    all_starts = [Start(s, point) for point in made.grid() for s in range(starts)]
    return Training(begin, data, made, all_starts, stopping, matmul_precision=matmul_precision)


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    checkpoints = ModelCheckpoint(
        folder / "checkpoints", filename="best", monitor="val_cost", save_last=True, enable_version_counter=False
    )
    defaults = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "logger": False,
        "callbacks": [checkpoints],
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "default_root_dir": folder,
    }
    extra = options.pop("more_callbacks", [])
    return pl.Trainer(**(defaults | {"callbacks": [checkpoints, *extra]} | options))
