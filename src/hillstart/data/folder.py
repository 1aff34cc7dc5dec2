"""The user's own pictures: a folder for each class; splits are folders above them or drawn by a seed."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch

from hillstart.data import audit
from hillstart.data.audit import Finding
from hillstart.data.cache import Decoded, decode
from hillstart.data.dataset import Balance, PictureSet, Preset, Split, assemble, stratified
from hillstart.data.layout import Layout, Refuse, check_enough, read_layout
from hillstart.data.picture_csv import find_tables, read_tables
from hillstart.data.preprocessing import Grey, Preprocessing, Size
from hillstart.system.console import visible
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
    balance: Balance = "none",
) -> PictureSet:
    """Load the pictures under root/CLASS, or under root/train/CLASS, root/test/CLASS and, if wanted, root/val/CLASS.

    Folders of splits may have other usual names, such as Training, valid or test_set (see `split_names`); in place of
    folders a csv file, root itself or in root, may give the labels (see `picture_csv`). A split without a folder is
    drawn from the rest by `seed`, class by class: the test first, then the validation. Classes are in the order of
    their names. Findings that spoil the measurement are logged as warnings. `bad_files`: `fail` refuses files
    that cannot be used, `skip` leaves them out and logs their number. `cache`: keep the decoded pictures for the next
    run. `balance`: `sampling` shows each class equally often in training, however rare it is.
    """
    preprocessing = Preprocessing(size=size, channels=3 if colour else 1, background=background)
    layout, decoded = _read(root, classes, preprocessing, cache, _raise)
    _log(logging.INFO, (finding for finding in layout.skipped if finding.kind in ("split", "no class")), layout.root)
    _log(logging.WARNING, (f for f in layout.skipped if f.kind in ("extension", *audit.UNREAD)), layout.root)
    if decoded.errors:
        layout = _without(layout, decoded, bad_files)
    names, train, pictures = layout.classes, layout.folders["train"], layout.pictures
    y = torch.tensor([names.index(picture.label) for picture in pictures])
    indices = {split: [i for i, p in enumerate(pictures) if p.split == split] for split in layout.folders}
    for split, fraction in (("test", test_fraction), ("val", val_fraction)):
        if split not in indices:
            rest, part = stratified(y[indices["train"]], fraction, seed, f"data.{split}_fraction")
            indices[split] = [indices["train"][i] for i in part.tolist()]
            indices["train"] = [indices["train"][i] for i in rest.tolist()]
    splits = {split: Split(decoded.x[of_split], y[of_split]) for split, of_split in indices.items()}
    drawn = [replace(pictures[i], split=split) for split, of_split in indices.items() for i in of_split]
    copies = audit.copies(torch.cat([splits[split].x for split in indices]), drawn)
    similar = audit.similar_names([train / name for name in names])
    _log(logging.WARNING, [*copies, *similar, *layout.few()], layout.root)
    _log(logging.INFO, audit.conversions(pictures, decoded.traits), layout.root)
    return assemble(
        **splits,
        classes=names,
        preprocessing=preprocessing,
        augment=augment,
        normalise=normalise,
        source=f"pictures from {root}",
        balance=balance,
        files=[pictures[i].path.relative_to(train).as_posix() for i in indices["train"]],
    )


@checked("")
def examine(
    *, root: Annotated[str | Path, Says("the path of a folder")], size: Size = 32
) -> tuple[list[Finding], dict[str, dict[str, int]]]:
    """The findings of an audit, and the number of usable pictures of each class in each split that has a folder.

    Raises InputError if the folder does not exist or holds no folders.
    """
    findings: list[Finding] = []

    def note(path: Path, wrong: str) -> None:
        findings.append(Finding("layout", (path,), f"{path}: {wrong}"))

    layout, decoded = _read(root, None, Preprocessing(size=size, channels=3), True, note)
    findings += layout.skipped
    for i, error in decoded.errors.items():
        kind = "unreadable" if error.reason == "missing" else error.reason
        findings.append(Finding(kind, (layout.pictures[i].path,), str(error)))
    usable = replace(layout, pictures=[layout.pictures[i] for i in decoded.good])
    findings += audit.copies(decoded.x, usable.pictures)
    findings += audit.similar_names([layout.folders["train"] / name for name in layout.classes])
    findings += [*usable.few(), *audit.conversions(usable.pictures, decoded.traits)]
    return findings, usable.counts()


def _read(
    root: str | Path | None, classes: Names, preprocessing: Preprocessing, cache: bool, refuse: Refuse
) -> tuple[Layout, Decoded]:
    """The pictures of root, labelled by their folders or by a csv file."""
    if tables := find_tables(root):
        layout, decoded = read_tables(tables, classes, preprocessing, refuse)
        if decoded is not None:
            return layout, decoded
    else:
        layout = read_layout(root, classes, refuse)
    return layout, decode([p.path for p in layout.pictures], preprocessing, layout.name if cache else None)


def _raise(path: Path, wrong: str) -> None:
    raise InputError(f"{path}: {wrong}")


def _log(level: int, findings: Iterable[Finding], root: Path) -> None:
    for line in audit.summary(findings, root):
        log.log(level, "%s", line)


def _without(layout: Layout, decoded: Decoded, bad_files: str) -> Layout:
    """The layout without unusable files if `bad_files` is `skip`; else an InputError."""
    first, n, total = str(next(iter(decoded.errors.values()))).rstrip("."), len(decoded.errors), len(layout.pictures)
    files = "file" if n == 1 else "files"
    if bad_files == "fail":
        raise InputError(
            f"{first} ({n} {files} of {total} cannot be used; python scripts/audit.py {layout.root} lists all that is "
            "wrong, data.bad_files=skip leaves them out)."
        )
    log.warning("left out %d %s of %d that cannot be used (first: %s)", n, files, total, visible(first))
    usable = replace(layout, pictures=[layout.pictures[i] for i in decoded.good])
    for split, counts in usable.counts().items():
        for name, count in counts.items():
            if not count:
                _raise(usable.folders[split] / name, "holds no usable picture; add some, or remove the folder.")
    check_enough(usable, _raise)
    return usable
