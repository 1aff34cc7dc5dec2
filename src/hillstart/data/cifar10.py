"""CIFAR-10 through torchvision: ten classes, 32 x 32 in colour, 50,000 for training and an official test of 10,000.

Source: Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
"""

from pathlib import Path

import numpy as np
import torch

from hillstart.data.dataset import PictureSet, Preset, Split, assemble_official, pick_classes
from hillstart.data.preprocessing import Preprocessing, Size
from hillstart.system.errors import InputError
from hillstart.system.schema import Flag, Location, Names, Seed, Share, checked
from hillstart.system.untrusted import briefly

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
    """Load the official splits; validation is taken from the training split by `seed`.

    `root`: the folder that holds `cifar-10-batches-py`; None: ./data, downloaded when missing.
    """
    names = pick_classes(CLASSES, classes)
    return assemble_official(
        [_official(root, train=True), _official(root, train=False)],
        CLASSES,
        val_fraction=val_fraction,
        seed=seed,
        classes=names,
        preprocessing=Preprocessing(size=size, channels=3),
        augment=augment,
        normalise=normalise,
        source=f"cifar10 from {HOME if root is None else root}",
        files=[f"data_batch_{k}" for k in range(1, 6)],
    )


def _official(root: str | Path | None, train: bool) -> Split:
    import torchvision  # type: ignore[import-untyped]

    try:
        part = torchvision.datasets.CIFAR10(str(HOME if root is None else root), train=train, download=root is None)
    except (OSError, RuntimeError) as error:
        wrong = f"{root} does not hold all files of CIFAR-10; give its folder, or null to download it"
        if root is None:
            wrong = f"CIFAR-10 cannot be downloaded ({briefly(error)}); go online, or give its folder"
        raise InputError(f"data.root: {wrong}.") from error
    x = torch.from_numpy(np.asarray(part.data)).permute(0, 3, 1, 2).contiguous()
    return Split(x, torch.tensor(part.targets))
