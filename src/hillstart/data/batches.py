"""Labelled pictures on the device, as mini-batches in an order that depends on seed and epoch alone."""

import hashlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hillstart.data.augment import Augment
from hillstart.data.dataset import Split
from hillstart.data.preprocessing import Preprocessing, Standardisation
from hillstart.system.errors import InputError


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator for one purpose, independent of those for any other purpose of the same seed."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class MiniBatches:
    """The training pictures, kept as bytes on the device and turned into network inputs a chunk at a time.

    The order of an epoch and the augmentation of each picture depend on `seed` and the number of the epoch alone, not
    on the device, the size of the chunks or the starts that are trained; so training can continue at any position.

    `balance`: `none` shows every picture once in an epoch; `sampling` shows as many pictures, equally many of each
    class: the pictures of a rare class several times each, and only some of a frequent class, others in each epoch.
    Cost and gradient stay those of plain mini-batches, for every kind of step; weights in the cost would change both.

    `batch_size`: pictures in a mini-batch, except the last one of an epoch, which may be smaller. Raises InputError if
    it is not from 1 to the number of pictures.
    """

    def __init__(
        self,
        split: Split,
        classes: int,
        preprocessing: Preprocessing | Standardisation,
        augment: Augment,
        batch_size: int,
        seed: int,
        device: torch.device,
        balance: str = "none",
    ):
        self.pictures = len(split.y)
        if not 1 <= batch_size <= self.pictures:
            raise InputError(
                f"descent.batch_size is {batch_size}; it must be between 1 and the {self.pictures} training pictures."
            )
        self.batch_size, self.per_epoch = batch_size, -(-self.pictures // batch_size)
        self._x, self._y = split.x.to(device), one_hot(split, classes, device)
        self._preprocessing, self._augment, self._seed = preprocessing, augment, seed
        of_class = [(split.y.cpu() == k).nonzero().flatten() for k in range(classes if balance == "sampling" else 0)]
        self._of_class = [members for members in of_class if len(members)]
        self._epoch, self._order, self._drawn = -1, torch.empty(0, dtype=torch.long), torch.empty(0)

    def chunk(
        self, epoch: int, first: int, count: int
    ) -> Callable[[slice], tuple[Float[Tensor, "P n_in"], Float[Tensor, "P n_out"]]]:
        """A function that reads rows of the mini-batches first to first + count - 1 of an epoch, joined.

        Pictures are gathered when they are read, by any thread, so that they are then still in that core's cache.
        """
        if epoch != self._epoch:
            self._order = self._drawn_order(generator(self._seed, "order", epoch)).to(self._x.device)
            if not self._augment.is_none:
                drawn = self._augment.draw(self.pictures, generator(self._seed, "augment", epoch))
                self._drawn = drawn.to(self._x.device)
            self._epoch = epoch
        chunk = slice(first * self.batch_size, (first + count) * self.batch_size)
        order, drawn = self._order[chunk], self._drawn[chunk]

        def read(rows: slice) -> tuple[Tensor, Tensor]:
            x = self._x.index_select(0, order[rows])
            if not self._augment.is_none:
                x = self._augment.apply(x, drawn[rows])
            return self._preprocessing.normalise(x), self._y.index_select(0, order[rows])

        return read

    def _drawn_order(self, g: torch.Generator) -> Int64[Tensor, " pictures"]:
        """The pictures of an epoch, in their order."""
        order = torch.randperm(self.pictures, generator=g)
        if not self._of_class:
            return order
        shown = []
        for k, members in enumerate(self._of_class):
            count = (self.pictures + k) // len(self._of_class)  # the shares of all classes make up the epoch
            rounds = -(-count // len(members))
            turns = torch.cat([torch.randperm(len(members), generator=g) for _ in range(rounds)])
            shown.append(members[turns[:count]])
        return torch.cat(shown)[order]


class Sample:
    """Pictures to evaluate on, in a fixed order and never augmented: all, or `limit` spread evenly over the split."""

    def __init__(
        self,
        split: Split,
        classes: int,
        preprocessing: Preprocessing | Standardisation,
        device: torch.device,
        limit: int | None = None,
    ):
        self.pictures = len(split.y) if limit is None else min(limit, len(split.y))
        chosen = torch.arange(self.pictures) * len(split.y) // self.pictures
        split = Split(split.x[chosen], split.y[chosen])
        self._x, self._y, self._preprocessing = split.x.to(device), one_hot(split, classes, device), preprocessing

    def batches(self, size: int = 1000) -> Iterator[tuple[Float[Tensor, "P n_in"], Float[Tensor, "P n_out"]]]:
        """Inputs and targets, `size` pictures at a time."""
        for x, y in zip(self._x.split(size), self._y.split(size), strict=True):
            yield self._preprocessing.normalise(x), y


def one_hot(split: Split, classes: int, device: torch.device) -> Float[Tensor, "N classes"]:
    """The target outputs: 1 for the class of each picture, else 0."""
    return torch.nn.functional.one_hot(split.y, classes).to(device, torch.float32)
