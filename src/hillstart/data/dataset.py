"""The result of every data source, labelled pictures or rows in three splits, and what the sources share."""

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import torch
from jaxtyping import Int64, Real, UInt8
from torch import Tensor

from hillstart.data.augment import PRESETS, Augment
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Preprocessing, Standardisation
from hillstart.system.errors import InputError
from hillstart.system.schema import one_of

Preset = Annotated[str, *one_of(PRESETS)]  # the name of a kind of augmentation
Balance = Annotated[str, *one_of(("none", "sampling"))]  # as in `batches.MiniBatches`


@dataclass(frozen=True)
class Split:
    """Pictures x, uint8 (N, C, H, W), or rows of a table (N, D), and their classes y, int64 (N,): indices into
    `PictureSet.classes`."""

    x: UInt8[Tensor, "N C H W"] | Real[Tensor, "N D"]
    y: Int64[Tensor, " N"]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of all pixels and labels in order; it identifies these pictures, whatever their source."""
        digest = hashlib.sha256()
        for tensor in (self.x, self.y):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def take(self, indices: Int64[Tensor, " M"]) -> "Split":
        return Split(self.x[indices], self.y[indices])


@dataclass(frozen=True)
class PictureSet:
    """A data set to train on: starts are chosen by `val`; `test` is used once, for the chosen start and the vote.

    `classes`: names in the order of the labels. `source`: one line about the origin of the pictures. `files`: names of
    the files of the training pictures, independent of their location, or hashes of the arrays that they came from;
    empty if the pictures were drawn. `balance`: how often each class is shown in training (see `batches.MiniBatches`).
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    preprocessing: Preprocessing | Standardisation
    augment: Augment
    source: str
    files: Sequence[str] = ()
    balance: str = "none"

    @cached_property
    def trained_on(self) -> dict[str, Any]:
        """Number of training pictures and of the files they came from, and the SHA-256 of the sorted list of files."""
        sha256 = _sha256("\n".join(sorted(self.files))).hexdigest() if self.files else None
        return {"pictures": len(self.train.y), "files": len(self.files), "sha256": sha256}

    @cached_property
    def brightness(self) -> float:
        """Mean of all training pixels, from 0 (black) to 1 (white)."""
        return int(self.train.x.sum(dtype=torch.int64)) / (255 * self.train.x.numel())

    @cached_property
    def validated_on(self) -> dict[str, Any]:
        """Identity of the validation pictures: `shape` (C, H, W), `sha256` of pixels and labels, and `labels`.

        Costs and accuracies of two trainings are comparable only on the same pictures. At another size the same
        pictures have other pixels; then `labels`, a hash of labels, classes and `source`, is compared instead.
        """
        labels = _sha256(repr((self.classes, self.source)))
        labels.update(self.val.y.numpy().tobytes())
        pixels = _sha256(f"{self.val.sha256} {self.classes!r}")
        shape = list(self.val.x.shape[1:])
        return {"shape": shape, "sha256": pixels.hexdigest(), "labels": labels.hexdigest()}


def _sha256(text: str) -> Any:
    return hashlib.sha256(text.encode(errors="surrogateescape"))


def stratified(
    y: Int64[Tensor, " N"], fraction: float, seed: int, key: str = "data.val_fraction"
) -> tuple[Int64[Tensor, " rest"], Int64[Tensor, " part"]]:
    """Sorted indices of two parts of y: the rest, and a fraction of every class, drawn by `seed`.

    Every class has at least one example in each part. Raises InputError, naming `key`, if a class has fewer than two.
    """
    generator = torch.Generator().manual_seed(seed)
    rest, part = [], []
    for k in y.unique().tolist():
        members = (y == k).nonzero().squeeze(1)
        if len(members) < 2:
            raise InputError(f"{key}: class {k} has a single example and cannot be split; give at least two of each.")
        members = members[torch.randperm(len(members), generator=generator)]
        n = min(max(round(fraction * len(members)), 1), len(members) - 1)
        part.append(members[:n])
        rest.append(members[n:])
    if not rest:
        raise InputError(f"{key}: there is nothing to split; give at least two examples of each class.")
    return torch.cat(rest).sort().values, torch.cat(part).sort().values


def pick_classes(known: Sequence[str], wanted: Sequence[str | int] | None) -> tuple[str, ...]:
    """The wanted classes in their order, or all known ones when None.

    Raises InputError for an unknown name, naming the nearest known ones, for a name listed twice, and for fewer than
    two names.
    """
    names = tuple(known) if wanted is None else tuple(map(str, wanted))  # a name may be a number
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or list(known[:10])
            raise InputError(f"data.classes: there is no class {name!r}; did you mean {' or '.join(map(repr, near))}?")
        if names.count(name) > 1:
            raise InputError(f"data.classes: {name!r} is listed twice; list each class once.")
    if len(names) < 2:
        raise InputError(f"data.classes: {list(names)} is fewer than two classes; give at least two to tell apart.")
    return names


def only_classes(split: Split, known: Sequence[str], names: Sequence[str]) -> Split:
    """The pictures of the named classes, their labels renumbered in the order of `names`."""
    if tuple(names) == tuple(known):
        return split
    new = torch.tensor([names.index(name) if name in names else -1 for name in known])
    y = new[split.y]
    return Split(split.x[y >= 0], y[y >= 0])


def resized(x: UInt8[Tensor, "N C H W"], preprocessing: Preprocessing) -> UInt8[Tensor, "N C size size"]:
    """Pictures resized by `read_picture`, as those of a prediction are."""
    if x.shape[2] == x.shape[3] == preprocessing.size:
        return x
    pictures = x.permute(0, 2, 3, 1).numpy()
    return torch.stack([read_picture(picture, preprocessing) for picture in pictures])


def assemble(
    *,
    train: Split,
    val: Split,
    test: Split,
    classes: tuple[str, ...],
    preprocessing: Preprocessing | Standardisation,
    augment: str = "none",
    normalise: bool = True,
    source: str,
    files: Sequence[str] = (),
    balance: str = "none",
) -> PictureSet:
    """Make the data set, the last step of every source. Normalisation is fitted to the training split alone."""
    chosen = Augment.preset(augment, preprocessing.size) if isinstance(preprocessing, Preprocessing) else Augment()
    fitted = preprocessing.fitted(train.x) if normalise else preprocessing
    return PictureSet(train, val, test, classes, fitted, chosen, source, files, balance)


def assemble_official(
    splits: Sequence[Split], known: Sequence[str], *, val_fraction: float, seed: int, **options: Any
) -> PictureSet:
    """`assemble` for a set with an official training and test split, of which `options` give the classes and size.

    Validation is taken from the training split by `seed`. `known`: the names of all classes of the set.
    """
    train, test = (only_classes(split, known, options["classes"]) for split in splits)
    train, test = (Split(resized(split.x, options["preprocessing"]), split.y) for split in (train, test))
    rest, part = stratified(train.y, val_fraction, seed)
    return assemble(train=train.take(rest), val=train.take(part), test=test, **options)


def assemble_drawn(rows: Split, *, test_fraction: float, val_fraction: float, seed: int, **options: Any) -> PictureSet:
    """`assemble` for a set without official splits: the test is drawn by `seed` first, then validation from the rest.

    Raises InputError as `stratified`.
    """
    rest, test = stratified(rows.y, test_fraction, seed, "data.test_fraction")
    train, val = stratified(rows.y[rest], val_fraction, seed)
    return assemble(train=rows.take(rest[train]), val=rows.take(rest[val]), test=rows.take(test), **options)
