"""One's own pictures: a folder for each class, with the splits as folders above them or drawn by a seed."""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hillstart.data import audit
from hillstart.data.audit import NOTED, SPOILS, Finding, Labelled
from hillstart.data.decoded import Decoded, decode
from hillstart.data.pictures import PictureSet, Split, assemble, check_common, check_fraction, pick_classes, stratified
from hillstart.errors import InputError
from hillstart.images import PICTURE_SUFFIXES, Preprocessing, find_pictures, is_passed_over

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")


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
    bad_files: str = "fail",
    cache: bool = True,
) -> PictureSet:
    """The pictures under root/CLASS, or under root/train/CLASS, root/test/CLASS and, if wanted, root/val/CLASS.

    A split without a folder is drawn from the rest by `seed`, class by class: the test first, then the validation.
    Classes are in the order of their names. What spoils the measurement is logged as a warning, in every run.
    `bad_files`: `fail` refuses files that cannot be used, `skip` leaves them out and says how many. `cache`: keep the
    decoded pictures for the next run. Raises InputError naming the key, the folder or the file.
    """
    check_common(size=size, augment=augment, seed=seed, val_fraction=val_fraction)
    check_fraction("data.test_fraction", test_fraction)
    if bad_files not in ("fail", "skip"):
        raise InputError(f"data.bad_files: {bad_files!r} is neither fail nor skip; give one of them.")
    if not isinstance(cache, bool):
        raise InputError(f"data.cache: {cache!r} is neither true nor false; give one of them.")
    preprocessing = Preprocessing(size=size, channels=3 if colour else 1, background=background)
    found = _laid_out(_checked_root(root), classes, _raise)
    _tell_others(found)
    read = decode([picture.path for picture in found.pictures], preprocessing, found.name if cache else None)
    if read.errors:
        found = _without(found, read, bad_files)
    names, train = found.classes, found.folders["train"]
    places = {split: [i for i, p in enumerate(found.pictures) if p.split == split] for split in found.folders}
    y = torch.tensor([names.index(picture.label) for picture in found.pictures])
    for split, fraction in (("test", test_fraction), ("val", val_fraction)):
        if split not in places:
            rest, part = stratified(y[places["train"]], fraction, seed, f"data.{split}_fraction")
            places[split] = [places["train"][i] for i in part.tolist()]
            places["train"] = [places["train"][i] for i in rest.tolist()]
    splits = {split: Split(read.x[of_split], y[of_split]) for split, of_split in places.items()}
    drawn = [replace(found.pictures[i], split=split) for split, of_split in places.items() for i in of_split]
    seen = torch.cat([splits[split].x for split in places])
    spoilt = [*audit.copies(seen, drawn), *audit.alike([train / name for name in names]), *found.few()]
    for line in audit.summary(spoilt, found.root, [SPOILS]):
        log.warning("%s", line)
    converted = audit.conversions(found.pictures, read.traits)
    for line in audit.summary(converted, found.root, [NOTED]):
        log.info("%s", line)
    return assemble(
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        classes=names,
        preprocessing=preprocessing,
        augment=augment,
        normalise=normalise,
        source=f"pictures from {root}",
        files=[found.pictures[i].path.relative_to(train).as_posix() for i in places["train"]],
    )


def examine(root: str | Path, size: int = 32) -> tuple[list[Finding], dict[str, dict[str, int]]]:
    """All that an audit of the folder finds, and the usable pictures of each class in each split that has a folder.

    Raises InputError where the folder does not exist, or holds no folders.
    """
    findings: list[Finding] = []

    def note(error: InputError, folder: Path) -> None:
        findings.append(Finding("layout", (folder,), str(error)))

    found = _laid_out(_checked_root(root), None, note)
    read = decode([p.path for p in found.pictures], Preprocessing(size=size, channels=3), found.name)
    findings += found.passed
    findings += audit.faults((found.pictures[i].path, error) for i, error in read.errors.items())
    usable = replace(found, pictures=[found.pictures[i] for i in read.good])
    findings += audit.copies(read.x, usable.pictures)
    findings += audit.alike([found.folders["train"] / name for name in found.classes])
    findings += [*usable.few(), *audit.conversions(usable.pictures, read.traits)]
    return findings, usable.counts()


@dataclass(frozen=True)
class _Layout:
    """The folder of each split that has one, and the pictures in them: split by split, class by class, by name."""

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
        count = Counter((picture.split, picture.label) for picture in self.pictures)
        return {split: {name: count[split, name] for name in self.classes} for split in self.folders}

    def few(self) -> Iterator[Finding]:
        return audit.few(
            (self.folders[split] / name, n) for split, of_split in self.counts().items() for name, n in of_split.items()
        )


Refuse = Callable[[InputError, Path], None]


def _raise(error: InputError, folder: Path) -> None:
    raise error


def _laid_out(root: Path, classes: Sequence[str] | None, refuse: Refuse) -> _Layout:
    """What lies in root. `refuse` is given what does not fit; where it returns, the rest is looked at all the same."""
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
    found = _Layout(root, folders, names, pictures, passed)
    _check_enough(found, refuse)
    return found


def _without(found: _Layout, read: Decoded, bad_files: str) -> _Layout:
    """The layout without the files that could not be used, if that is wanted."""
    first, n, of = str(next(iter(read.errors.values()))).rstrip("."), len(read.errors), len(found.pictures)
    are = "file" if n == 1 else "files"
    if bad_files == "fail":
        raise InputError(
            f"{first} ({n} {are} of {of} cannot be used; python scripts/audit.py {found.root} lists all that is wrong, "
            "data.bad_files=skip leaves them out)."
        )
    log.warning("left out %d %s of %d that cannot be used (first: %s)", n, are, of, audit.visible(first))
    left = replace(found, pictures=[found.pictures[i] for i in read.good])
    for split, of_split in left.counts().items():
        for name, count in of_split.items():
            if not count:
                folder = found.folders[split] / name
                raise InputError(f"{folder}: holds no picture that can be used; add some, or remove the folder.")
    _check_enough(left, _raise)
    return left


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


def _tell_others(found: _Layout) -> None:
    others = [finding.paths[0] for finding in found.passed if finding.kind == "extension"]
    for folder in (folder / name for folder in found.folders.values() for name in found.classes):
        kinds = Counter(path.suffix or "no suffix" for path in others if path.is_relative_to(folder))
        if kinds:
            listed = audit.visible(", ".join(f"{kind} {n}" for kind, n in kinds.most_common()))
            where = audit.visible(str(folder))
            log.warning("%s: passed over %d files that are not pictures (%s)", where, kinds.total(), listed)


def _check_enough(found: _Layout, refuse: Refuse) -> None:
    least = 1 + len(SPLITS) - len(found.folders)
    for name, n in found.counts()["train"].items():
        if 0 < n < least:  # without any, that was said already
            folder = found.folders["train"] / name
            sentence = f"{folder}: holds {n} pictures; give at least {least}, since each split needs one."
            refuse(InputError(sentence), folder)
