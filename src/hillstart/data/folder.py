"""Pictures of the user: a folder for each class; splits are folders above them or drawn by a seed."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch

from hillstart.data import audit
from hillstart.data.audit import NOTED, SPOILS, Finding
from hillstart.data.cache import Decoded, decode
from hillstart.data.dataset import PictureSet, Preset, Split, assemble, stratified
from hillstart.data.layout import Layout, check_enough, laid_out
from hillstart.data.preprocessing import Grey, Preprocessing, Size
from hillstart.system.errors import InputError
from hillstart.system.schema import Flag, Location, Names, Says, Seed, Share, checked, one_of

log = logging.getLogger(__name__)


@checked("data")
def load(
    *,
    root: Location,
    classes: Names = None,
    size: Size = 32,
    colour: Flag = True,
    background: Grey = 255,
    augment: Preset = "photo",
    normalise: Flag = True,
    val_fraction: Share = 0.2,
    test_fraction: Share = 0.2,
    seed: Seed = 0,
    bad_files: Annotated[str, *one_of(("fail", "skip"))] = "fail",
    cache: Flag = True,
) -> PictureSet:
    """The pictures under root/CLASS, or under root/train/CLASS, root/test/CLASS and, if wanted, root/val/CLASS.

    Folders of splits may have other usual names, such as Training, valid or test_set (see `split_names`).

    A split without a folder is drawn from the rest by `seed`, class by class: the test first, then the validation.
    Classes are in the order of their names. Findings that spoil the measurement are logged as warnings in every run.
    `bad_files`: `fail` refuses files that cannot be used, `skip` leaves them out and says how many. `cache`: keep the
    decoded pictures for the next run. Raises InputError naming the key, the folder or the file.
    """
    preprocessing = Preprocessing(size=size, channels=3 if colour else 1, background=background)
    found = laid_out(root, classes, _raise)
    for line in audit.summary([of for of in found.passed if of.kind in ("split", "no class")], found.root, [NOTED]):
        log.info("%s", line)
    _warn_of_other_files(found)
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


@checked("")
def examine(
    *, root: Annotated[str | Path, Says("the path of a folder")], size: Size = 32
) -> tuple[list[Finding], dict[str, dict[str, int]]]:
    """The findings of an audit, and the usable pictures of each class in each split that has a folder.

    Raises InputError if the folder does not exist or holds no folders.
    """
    findings: list[Finding] = []

    def note(error: InputError, folder: Path) -> None:
        findings.append(Finding("layout", (folder,), str(error)))

    found = laid_out(root, None, note)
    read = decode([p.path for p in found.pictures], Preprocessing(size=size, channels=3), found.name)
    findings += found.passed
    findings += audit.faults((found.pictures[i].path, error) for i, error in read.errors.items())
    usable = replace(found, pictures=[found.pictures[i] for i in read.good])
    findings += audit.copies(read.x, usable.pictures)
    findings += audit.alike([found.folders["train"] / name for name in found.classes])
    findings += [*usable.few(), *audit.conversions(usable.pictures, read.traits)]
    return findings, usable.counts()


def _raise(error: InputError, folder: Path) -> None:
    raise error


def _without(found: Layout, read: Decoded, bad_files: str) -> Layout:
    """The layout without unusable files if `bad_files` is `skip`; else an InputError."""
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
    check_enough(left, _raise)
    return left


def _warn_of_other_files(found: Layout) -> None:
    others = [finding.paths[0] for finding in found.passed if finding.kind == "extension"]
    for folder in (folder / name for folder in found.folders.values() for name in found.classes):
        kinds = Counter(path.suffix or "no suffix" for path in others if path.is_relative_to(folder))
        if kinds:
            listed = audit.visible(", ".join(f"{kind} {n}" for kind, n in kinds.most_common()))
            where = audit.visible(str(folder))
            log.warning("%s: passed over %d files that are not pictures (%s)", where, kinds.total(), listed)
