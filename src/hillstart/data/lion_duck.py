"""Lions and ducks, drawn on the fly as people doodle them on paper: a data set that needs no download."""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch

from hillstart.data.dataset import PictureSet, Preset, Split, assemble
from hillstart.data.ducks import duck
from hillstart.data.lions import lion
from hillstart.data.pen import Pen
from hillstart.data.preprocessing import Preprocessing, Size
from hillstart.system.errors import InputError
from hillstart.system.schema import Flag, Seed, Share, checked, whole

CLASSES = ("lion", "duck")
DOODLES: tuple[Callable[[Pen], None], ...] = (lion, duck)
TRAIN, VAL, TEST = range(3)  # random streams, one for each split, so that no drawing is in two splits


@checked("data")
def load(
    *,
    train: Annotated[int, *whole(8, 10**6)] = 4000,
    test: Annotated[int, *whole(2, 10**6)] = 2000,
    val_fraction: Share = 0.2,
    seed: Seed = 0,
    size: Size = 28,
    augment: Preset = "doodle",
    normalise: Flag = True,
) -> PictureSet:
    """Draw equal halves of lions and ducks, dark on light; the same seed gives the same pictures.

    `train`: drawings for training and validation together; `test`: for the test.
    """
    for key, number in (("train", train), ("test", test)):
        if number % 2:
            raise InputError(f"data.{key}: {number} drawings cannot be halves of lions and ducks; give an even number.")
    pairs = min(max(round(train * val_fraction / 2), 1), train // 2 - 1)
    return assemble(
        train=_drawn(train // 2 - pairs, seed, TRAIN, size),
        val=_drawn(pairs, seed, VAL, size),
        test=_drawn(test // 2, seed, TEST, size),
        classes=CLASSES,
        preprocessing=Preprocessing(size=size, channels=1),
        augment=augment,
        normalise=normalise,
        source=f"lion_duck: {train} and {test} doodles drawn from seed {seed}",
    )


def _drawn(pairs: int, seed: int, stream: int, size: int) -> Split:
    y = np.arange(2 * pairs) % 2
    x = np.stack([draw(int(k), size, np.random.default_rng([seed, stream, i])) for i, k in enumerate(y)])
    return Split(torch.from_numpy(x).unsqueeze(1), torch.from_numpy(y))


def draw(k: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """One doodle of class k (0 lion, 1 duck): uint8 (size, size), 255 white."""
    pen = Pen(rng)
    DOODLES[k](pen)
    return pen.render(size)
