"""CIFAR-10 through torchvision: ten classes, 32 x 32 in colour, 50,000 for training and an official test of 10,000.

Source: Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
"""

from pathlib import Path

import numpy as np
import torch

from hillstart.data.dataset import PictureSet, Preset, Split, assemble_official, only_classes, pick_classes, resized
from hillstart.data.preprocessing import Preprocessing, Size
from hillstart.system.errors import InputError
from hillstart.system.schema import Flag, Location, Names, Seed, Share, checked

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HOME = Path("data")  # where a download goes


@checked("data")
def load(
    *,
    root: Location = None,
    classes: Names = None,
    size: Size = 32,
    augment: Preset = "photo",
    normalise: Flag = True,
    val_fraction: Share = 0.1,
    seed: Seed = 0,
) -> PictureSet:
    """The official splits; validation is taken from the training split by `seed`.

    `root`: the folder that holds `cifar-10-batches-py`; None: ./data, downloaded when missing. Raises InputError naming
    the key.
    """
    names = pick_classes(CLASSES, classes)
    preprocessing = Preprocessing(size=size, channels=3)
    train, test = (
        Split(resized(split.x, preprocessing), split.y)
        for split in (only_classes(part, CLASSES, names) for part in _official(root))
    )
    return assemble_official(
        train,
        test,
        val_fraction=val_fraction,
        seed=seed,
        classes=names,
        preprocessing=preprocessing,
        augment=augment,
        normalise=normalise,
        source=f"cifar10 from {HOME if root is None else root}",
        files=[f"data_batch_{k}" for k in range(1, 6)],
    )


def _official(root: str | Path | None) -> list[Split]:
    import torchvision  # type: ignore[import-untyped]

    splits = []
    for train in (True, False):
        try:
            part = torchvision.datasets.CIFAR10(str(HOME if root is None else root), train=train, download=root is None)
        except (OSError, RuntimeError) as error:
            if root is not None:
                wrong = (
                    f"{root} does not hold CIFAR-10 whole; give the folder of cifar-10-batches-py, or null to fetch it"
                )
            else:
                reason = " ".join(str(error).split()).rstrip(".")
                wrong = (
                    f"CIFAR-10 cannot be downloaded ({reason}); go online, or give the folder of cifar-10-batches-py"
                )
            raise InputError(f"data.root: {wrong}.") from error
        x = torch.from_numpy(np.asarray(part.data)).permute(0, 3, 1, 2).contiguous()
        splits.append(Split(x, torch.tensor(part.targets)))
    return splits
