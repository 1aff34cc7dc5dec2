"""The layout of a folder of pictures: a folder for each class, directly or inside the folders of the splits."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from hillstart.data.audit import MIN_PICTURES, UNREAD, Finding, LabelledPicture
from hillstart.data.dataset import pick_classes
from hillstart.data.images import find_pictures, is_skipped, skipped_as
from hillstart.data.split_names import UNLABELLED, is_redundant, named_like_splits
from hillstart.system.errors import InputError

SPLITS = ("train", "val", "test")
MAX_REDUNDANT = 3
"""Levels of nested folders, each holding only one redundant folder, that are looked through."""

Refuse = Callable[[Path, str], None]
"""Called with a path and what is wrong with it; if it returns, the rest is examined too."""


@dataclass(frozen=True)
class Layout:
    """The folder of each split that has one, and the pictures in them, ordered by split, class and name.

    `skipped`: findings about skipped paths, such as hidden files and files that are not pictures.
    """

    root: Path
    folders: dict[str, Path]
    classes: tuple[str, ...]
    pictures: list[LabelledPicture]
    skipped: list[Finding]

    @property
    def name(self) -> str:
        """The name of this set of pictures in the cache."""
        return json.dumps([os.path.realpath(self.root), self.classes])

    def counts(self) -> dict[str, dict[str, int]]:
        """Pictures of each class in each split that has a folder."""
        count = Counter((picture.split, picture.label) for picture in self.pictures)
        return {split: {name: count[split, name] for name in self.classes} for split in self.folders}

    def few(self) -> Iterator[Finding]:
        """A finding for each class with fewer than `MIN_PICTURES` pictures in a split."""
        for split, count in self.counts().items():
            for folder, n in ((self.folders[split] / name, n) for name, n in count.items()):
                if n < MIN_PICTURES:
                    yield Finding("few", (folder,), f"{folder}: {n}")


def read_layout(root: str | Path | None, classes: Sequence[str | int] | None, refuse: Refuse) -> Layout:
    """Read the layout of root, for these classes; None: for all.

    Raises InputError if root is not set, does not exist or holds no folders, or if a class is missing.
    """
    root = _checked_root(root)
    folders = _split_folders(root, classes is not None, refuse)
    train = folders["train"]
    known = class_names(train)
    if len(known) < 2:
        only = _inner(train / known[0])
        below = class_names(only)
        advice = (
            f", which holds folders itself ({_some(below)}); give data.root={only} if these are the classes or splits."
            if below and train == root
            else "; give a folder of pictures for each of two or more classes."
        )
        refuse(train, f"holds one class only, {known[0]}{advice}")
    for folder in (root, *(train / name for name in known)):
        _check_utf8(folder, refuse)
    names = known if classes is None else pick_classes(known, classes)
    for folder in folders.values():
        _check_same_classes(folder, train, known, refuse)
    skipped = list(_outside_classes(root, folders))
    pictures = [
        LabelledPicture(path, split, name)
        for split, folder in folders.items()
        for name in names
        if (folder / name).is_dir()
        for path in _pictures(folder / name, skipped, refuse)
    ]
    layout = Layout(root, folders, names, pictures, skipped)
    check_enough(layout, refuse)
    return layout


def read_labelled(root: Path, classes: Sequence[str], refuse: Refuse) -> Layout:
    """The pictures under root/CLASS, as `read_layout` finds them, to evaluate networks that know these classes.

    Nothing is split and nothing learns from them, so that a class may have one picture or none. What is no class is
    among `skipped`.

    Raises InputError if root does not exist or holds no folder of a class.
    """
    root = _checked_root(root, "FOLDER")
    there = class_names(root)
    names = tuple(name for name in classes if name in there)
    if not names:
        splits = {split: name for name, split in named_like_splits(there).items()}
        split = splits.get("test") or splits.get("val")
        advice = f"give one of its splits, such as {root / split}" if split else "give the folder above them"
        refuse(root, f"holds no folder of a class that the network knows ({_some(classes)}); {advice}.")
    skipped = [Finding("no class", (root / name,)) for name in there if name not in names]
    pictures = [
        LabelledPicture(path, "test", name) for name in names for path in _pictures(root / name, skipped, refuse)
    ]
    return Layout(root, {"test": root}, names, pictures, skipped)


def check_enough(layout: Layout, refuse: Refuse) -> None:
    """Refuse classes with fewer training pictures than splits to draw from them."""
    least = 1 + len(SPLITS) - len(layout.folders)
    for name, n in layout.counts()["train"].items():
        if 0 < n < least:  # a class without pictures was refused already
            folder = layout.folders["train"] / name
            refuse(folder, f"holds {n} pictures; give at least {least}, since each split needs one.")


def _checked_root(root: str | Path | None, key: str = "data.root") -> Path:
    wrong = "is not set"
    if root is not None:
        try:
            os.scandir(root).close()
            return Path(root)
        except OSError as error:
            wrong = f"is {root}, which cannot be read as a folder ({error.strerror})"
    raise InputError(f"{key} {wrong}; give the folder that holds a folder of pictures for each class.")


def _check_utf8(folder: Path, refuse: Refuse) -> None:
    """Class names and data.root are written into UTF-8 files: model, options, tables, report page."""
    try:
        str(folder).encode()
    except UnicodeError:
        refuse(folder, "is not a UTF-8 path, as in some old archives, so that no run can store it; rename it.")


def class_names(folder: Path) -> tuple[str, ...]:
    # scandir knows folders without another system call; `find_pictures` reports what cannot be read.
    with suppress(OSError), os.scandir(folder) as entries:
        return tuple(sorted(e.name for e in entries if e.is_dir() and not is_skipped(e.name)))
    return ()


def _split_folders(root: Path, listed: bool, refuse: Refuse) -> dict[str, Path]:
    """The folder of every split that has one; root itself is `train` if it holds the classes directly.

    `listed`: the user has named the classes, so their folders may be named like splits and hold anything.
    """
    names = class_names(root)
    if not names:
        raise InputError(f"data.root is {root}, which holds no folders; give one with a folder for each class.")
    splits = named_like_splits(names)
    others = [name for name in names if name not in splits]
    if set(splits.values()) == {"train"} and others and not any(class_names(root / name) for name in splits):
        splits = {}  # a class named train that holds pictures, as the others do
    folders = {"train": root}
    if "train" in splits.values():
        folders = _read_as_splits(root, splits, others, refuse)
        if folders["train"] == root:  # the mistake was reported
            return folders
    if not listed:
        _check_no_splits(folders["train"], refuse)
    return folders


def _read_as_splits(root: Path, splits: dict[str, str], others: Sequence[str], refuse: Refuse) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name, split in splits.items():
        folder = _inner(root / name)
        if split in found:
            refuse(root / name, f"is a second folder for {split}, beside {found[split]}; keep one of them.")
        elif split == UNLABELLED and class_names(folder):
            refuse(root / name, "holds folders, but is named like one without labels; rename it or move it away.")
        elif split != UNLABELLED and not class_names(folder):
            wrong = f"is named like a split ({split}), but holds no folders of classes"
            refuse(root / name, f"{wrong}; sort its pictures into such folders, or move it away.")
        else:
            found[split] = folder
    for name in others:
        refuse(root / name, f"is beside folders of splits ({_some(splits)}); name it like a split or move it away.")
    return {split: found[split] for split in SPLITS if split in found} if "train" in found else {"train": root}


def _check_no_splits(root: Path, refuse: Refuse) -> None:
    """Refuse folders that are not classes, judging by their names and contents."""
    names = class_names(root)
    for name, split in named_like_splits(names).items():
        if split != "train":
            wrong = f"is named like a split ({split}), where a class is expected"
            advice = "put it beside a folder named train, move it away, or list data.classes if it is a class"
            return refuse(root / name, f"{wrong}; {advice}.")
    below = {name: class_names(_inner(root / name)) for name in names}
    for name in names:
        splits = named_like_splits(below[name])
        if len(names) > 1 and splits and set(splits.values()) != {"train"}:
            wrong = f"holds folders named like splits ({_some(splits)}), which belong above the classes"
            advice = "move them to train/CLASS and so on, or list data.classes if all in it is one class"
            return refuse(
                root / name, f"{wrong}; give data.root={_inner(root / name)} if it holds all the data, {advice}."
            )
    for one, other in combinations(names, 2):
        if len(same := sorted(set(below[one]) & set(below[other]))) > 1:
            wrong = f"holds folders of the same names as {root / one} ({_some(same)}), which seem to be the classes"
            advice = "name the folders above them train, val and test, or list data.classes if those are the classes"
            return refuse(root / other, f"{wrong}; {advice}.")
    return None


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join([*listed[:3], *(["..."] if len(listed) > 3 else [])])


def _inner(folder: Path) -> Path:
    """The folder itself, or the only redundant one inside, as archives make it: `train/train/CLASS`."""
    for _ in range(MAX_REDUNDANT):
        names = class_names(folder)
        if len(names) != 1 or not is_redundant(names[0], folder.name) or _holds_pictures(folder):
            break
        folder = folder / names[0]
    return folder


def _holds_pictures(folder: Path) -> bool:
    return any(not skipped_as(path) and not path.is_dir() for path in folder.iterdir())


def _check_same_classes(folder: Path, train: Path, known: tuple[str, ...], refuse: Refuse) -> None:
    names = class_names(folder)
    for name in names:
        if name not in known:
            refuse(folder / name, f"there is no class {name!r} in {train}; add it there or remove it here.")
    for name in known:
        if name not in names:
            refuse(folder, f"there is no folder for the class {name!r} of {train}; add it, with pictures.")


def _outside_classes(root: Path, folders: dict[str, Path]) -> Iterator[Finding]:
    """Findings about what is beside the folders of classes and splits."""
    of_splits = {path for folder in folders.values() for path in (folder, *folder.parents)}
    searched = {root, *(path for path in of_splits if path.is_relative_to(root))}
    for path in sorted(entry for folder in searched for entry in folder.iterdir()):
        if is_skipped(path.name):
            yield Finding("hidden", (path,))
        elif not path.is_dir() and not skipped_as(path):
            yield Finding("no class", (path,))
        elif path.is_dir() and path.parent == root != folders["train"] and path not in of_splits:
            yield Finding("no class", (path,), f"{path}: all in it")
    for split, folder in folders.items():
        if folder not in (root, root / split):
            yield Finding("split", (folder,), f"{folder}: {split}")


def _pictures(folder: Path, skipped: list[Finding], refuse: Refuse) -> list[Path]:
    try:
        pictures, others = find_pictures(folder, lambda path, kind: skipped.append(Finding(kind, (path,))))
    except InputError as error:
        refuse(folder, f"cannot be searched ({error.__cause__}); allow it, or move it away.")
        return []
    skipped += [Finding(skipped_as(path), (path,)) for path in others]
    if not pictures:
        unread = Counter(
            finding.kind for finding in skipped if finding.kind in UNREAD and folder in finding.paths[0].parents
        )
        listed = "".join(f", but {n} {UNREAD[kind]}" for kind, n in unread.items())
        refuse(folder, f"holds no pictures that are read{listed or '; add some, or remove the folder'}.")
    return pictures
