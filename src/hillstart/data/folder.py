"""One's own pictures: a folder for each class, with the splits as folders above them or drawn by a seed."""

import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import track
from torch import Tensor

from hillstart.data.pictures import PictureSet, Split, assemble, check_common, check_fraction, pick_classes, stratified
from hillstart.errors import InputError
from hillstart.images import Preprocessing, find_pictures, is_passed_over, read_picture

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
Labelled = dict[str, list[Path]]  # pictures of each class


def load(
    *,
    root: str | Path | None,
    classes: Sequence[str] | None = None,
    size: int = 32,
    colour: bool = True,
    background: int = 255,
    augment: str = "photo",
    normalise: bool = True,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> PictureSet:
    """The pictures under root/CLASS, or under root/train/CLASS, root/test/CLASS and, if wanted, root/val/CLASS.

    A split without a folder is drawn from the rest by `seed`, class by class: the test first, then the validation.
    Classes are in the order of their names. Raises InputError naming the key, the folder or the file.
    """
    check_common(size=size, augment=augment, seed=seed, val_fraction=val_fraction)
    check_fraction("data.test_fraction", test_fraction)
    preprocessing = Preprocessing(size=size, channels=3 if colour else 1, background=background)
    folders = _split_folders(_checked_root(root))
    known = _class_names(folders["train"])
    if len(known) < 2:
        raise InputError(
            f"{folders['train']}: holds one class only, {', '.join(known)}; give a folder of pictures for each of "
            "two or more classes."
        )
    names = pick_classes(known, classes)
    for folder in folders.values():
        _check_same_classes(folder, folders["train"], known)
    found = {split: {name: _pictures(folder / name) for name in names} for split, folder in folders.items()}
    _check_enough(found, folders["train"])
    splits = _read(found, names, preprocessing)
    files = [path.relative_to(folders["train"]).as_posix() for name in names for path in found["train"][name]]
    for split, fraction in (("test", test_fraction), ("val", val_fraction)):
        if split not in splits:
            rest, part = stratified(splits["train"].y, fraction, seed, f"data.{split}_fraction")
            splits[split], splits["train"] = splits["train"].take(part), splits["train"].take(rest)
            files = [files[i] for i in rest.tolist()]
    return assemble(
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        classes=names,
        preprocessing=preprocessing,
        augment=augment,
        normalise=normalise,
        source=f"pictures from {root}",
        files=files,
    )


def _checked_root(root: str | Path | None) -> Path:
    if root is None:
        raise InputError("data.root: is not set; give the folder that holds a folder of pictures for each class.")
    if not Path(root).is_dir():
        wrong = "is not a folder" if Path(root).exists() else "does not exist"
        raise InputError(f"data.root: {root} {wrong}; give the folder that holds a folder of pictures for each class.")
    return Path(root)


def _class_names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_passed_over(path.name)))


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of every split that has one; root itself is `train` where classes lie in it directly."""
    names = _class_names(root)
    if not names:
        raise InputError(
            f"data.root: {root} holds no folders; give one that holds a folder of pictures for each class."
        )
    if "train" not in names or not _class_names(root / "train"):  # a class may be called train
        return {"train": root}
    others = [name for name in names if name not in SPLITS]
    if others:
        raise InputError(f"{root / others[0]}: lies beside train; only folders named train, val and test belong there.")
    return {split: root / split for split in SPLITS if split in names}


def _check_same_classes(folder: Path, train: Path, known: tuple[str, ...]) -> None:
    here = _class_names(folder)
    for name in here:
        if name not in known:
            raise InputError(f"{folder / name}: there is no class {name!r} in {train}; add it there or remove it here.")
    for name in known:
        if name not in here:
            raise InputError(f"{folder}: there is no folder for the class {name!r} of {train}; add it, with pictures.")


def _pictures(folder: Path) -> list[Path]:
    pictures, others = find_pictures(folder)
    if others:
        kinds = Counter(path.suffix or "no suffix" for path in others)
        listed = ", ".join(f"{kind} {n}" for kind, n in kinds.most_common())
        log.warning("%s: passed over %d files that are not pictures (%s)", folder, len(others), listed)
    if not pictures:
        raise InputError(f"{folder}: holds no pictures; add some, or remove the folder.")
    return pictures


def _check_enough(found: dict[str, Labelled], train: Path) -> None:
    least = 1 + len(SPLITS) - len(found)
    for name, pictures in found["train"].items():
        if len(pictures) < least:
            raise InputError(
                f"{train / name}: holds {len(pictures)} pictures; give at least {least}, since each split needs one."
            )


def _read(found: dict[str, Labelled], names: tuple[str, ...], preprocessing: Preprocessing) -> dict[str, Split]:
    paths = [path for labelled in found.values() for name in names for path in labelled[name]]
    x = _read_pictures(paths, preprocessing)
    splits, start = {}, 0
    for split, labelled in found.items():
        counts = torch.tensor([len(labelled[name]) for name in names])
        end = start + int(counts.sum())
        splits[split] = Split(x[start:end], torch.arange(len(names)).repeat_interleave(counts))
        start = end
    return splits


def _read_pictures(paths: list[Path], preprocessing: Preprocessing) -> UInt8[Tensor, "N C H W"]:
    """All pictures, several at a time; every one is tried, so that the error can say how many are unreadable."""

    def read(path: Path) -> Tensor | InputError:
        try:
            return read_picture(path, preprocessing)
        except InputError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(
            track(
                pool.map(read, paths),
                description="reading pictures",
                total=len(paths),
                console=Console(stderr=True),
                disable=not sys.stderr.isatty(),
                transient=True,
            )
        )
    errors = [result for result in results if isinstance(result, InputError)]
    if errors:
        more = f" (and {len(errors) - 1} more of {len(paths)} pictures cannot be read)" if len(errors) > 1 else ""
        raise InputError(f"{str(errors[0]).rstrip('.')}{more}.")
    return torch.stack([result for result in results if isinstance(result, Tensor)])
