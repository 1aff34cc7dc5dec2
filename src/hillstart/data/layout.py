"""How a folder of pictures is laid out: a folder for each class, directly or in those of the splits."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hillstart.data import audit
from hillstart.data.audit import Finding, Labelled
from hillstart.data.pictures import pick_classes
from hillstart.errors import InputError
from hillstart.images import PICTURE_SUFFIXES, find_pictures, is_passed_over

SPLITS = ("train", "val", "test")

Refuse = Callable[[InputError, Path], None]
"""Is given what does not fit; where it returns, the rest is looked at all the same."""


@dataclass(frozen=True)
class Layout:
    """The folder of each split that has one, and the pictures in them: split by split, class by class, by name.

    `passed`: what was passed over, hidden files and others that are no pictures.
    """

    root: Path
    folders: dict[str, Path]
    classes: tuple[str, ...]
    pictures: list[Labelled]
    passed: list[Finding]

    @property
    def name(self) -> str:
        """What its decoded pictures are called in the cache."""
        return json.dumps([os.path.realpath(self.root), self.classes])

    def counts(self) -> dict[str, dict[str, int]]:
        """Pictures of each class in each split that has a folder."""
        count = Counter((picture.split, picture.label) for picture in self.pictures)
        return {split: {name: count[split, name] for name in self.classes} for split in self.folders}

    def few(self) -> Iterator[Finding]:
        """A finding for each class that has but a handful."""
        return audit.few(
            (self.folders[split] / name, n) for split, of_split in self.counts().items() for name, n in of_split.items()
        )


def laid_out(root: str | Path | None, classes: Sequence[str] | None, refuse: Refuse) -> Layout:
    """What lies in root, of these classes; None: of all.

    Raises InputError where root is not set, does not exist or holds no folders, or a class is not there.
    """
    root = _checked_root(root)
    folders = _split_folders(root, refuse)
    train = folders["train"]
    known = _class_names(train)
    if len(known) < 2:
        sentence = (
            f"{train}: holds one class only, {', '.join(known)}; give a folder of pictures for each of two or more "
            "classes."
        )
        refuse(InputError(sentence), train)
    names = known if classes is None else pick_classes(known, classes)
    for folder in folders.values():
        _check_same_classes(folder, train, known, refuse)
    passed = list(_beside(root, folders))
    pictures = [
        Labelled(path, split, name)
        for split, folder in folders.items()
        for name in names
        if (folder / name).is_dir()
        for path in _pictures(folder / name, passed, refuse)
    ]
    found = Layout(root, folders, names, pictures, passed)
    check_enough(found, refuse)
    return found


def check_enough(found: Layout, refuse: Refuse) -> None:
    """Refuse classes of fewer training pictures than there are splits to be drawn from them."""
    least = 1 + len(SPLITS) - len(found.folders)
    for name, n in found.counts()["train"].items():
        if 0 < n < least:  # without any, that was said already
            folder = found.folders["train"] / name
            sentence = f"{folder}: holds {n} pictures; give at least {least}, since each split needs one."
            refuse(InputError(sentence), folder)


def _checked_root(root: str | Path | None) -> Path:
    if root is None:
        raise InputError("data.root: is not set; give the folder that holds a folder of pictures for each class.")
    if not Path(root).is_dir():
        wrong = "is not a folder" if Path(root).exists() else "does not exist"
        raise InputError(f"data.root: {root} {wrong}; give the folder that holds a folder of pictures for each class.")
    return Path(root)


def _class_names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_passed_over(path.name)))


def _split_folders(root: Path, refuse: Refuse) -> dict[str, Path]:
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
        sentence = f"{root / others[0]}: lies beside train; only folders named train, val and test belong there."
        refuse(InputError(sentence), root / others[0])
    return {split: root / split for split in SPLITS if split in names}


def _check_same_classes(folder: Path, train: Path, known: tuple[str, ...], refuse: Refuse) -> None:
    here = _class_names(folder)
    for name in here:
        if name not in known:
            sentence = f"{folder / name}: there is no class {name!r} in {train}; add it there or remove it here."
            refuse(InputError(sentence), folder / name)
    for name in known:
        if name not in here:
            sentence = f"{folder}: there is no folder for the class {name!r} of {train}; add it, with pictures."
            refuse(InputError(sentence), folder)


def _beside(root: Path, folders: dict[str, Path]) -> Iterator[Finding]:
    """What lies beside the folders of classes and splits."""
    for path in sorted(entry for folder in {root, *folders.values()} for entry in folder.iterdir()):
        if is_passed_over(path.name):
            yield Finding("hidden", (path,), str(path))
        elif not path.is_dir() and path.suffix.lower() in PICTURE_SUFFIXES:
            yield Finding("no class", (path,), str(path))


def _pictures(folder: Path, passed: list[Finding], refuse: Refuse) -> list[Path]:
    try:
        pictures, others = find_pictures(folder, lambda path, why: passed.append(Finding(why, (path,), str(path))))
    except InputError as error:
        refuse(error, folder)
        return []
    passed += [Finding("extension", (path,), str(path)) for path in others]
    if not pictures:
        refuse(InputError(f"{folder}: holds no pictures; add some, or remove the folder."), folder)
    return pictures
