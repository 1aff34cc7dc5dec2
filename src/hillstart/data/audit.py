"""The findings of an audit of a folder of pictures: errors, what spoils the measurement, and what is good to know."""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from hillstart.data import heif
from hillstart.data.images import SAVE
from hillstart.system.console import visible

MIN_PICTURES = 5
"""Fewer pictures of a class in a split with its own folder are reported: they teach nothing and measure nothing."""

REFUSED, SPOILS, NOTED = "refused", "spoils", "noted"

# In the order of the report: what silently falsifies the result comes first.
KINDS = {
    "leak": (SPOILS, "LEAK: test pictures that are in training or validation too, so that the test is no test"),
    "validation leak": (SPOILS, "validation pictures that are in training too, so that the choice is no choice"),
    "copies across classes": (SPOILS, "the same picture in several classes"),
    "copies": (SPOILS, "the same picture several times in a class"),
    "layout": (REFUSED, "folders that do not fit"),
    "damaged": (REFUSED, "truncated or damaged pictures"),
    "no picture": (REFUSED, "files with the name of a picture that are not pictures"),
    "too large": (REFUSED, "pictures that are too large"),
    "unsupported": (REFUSED, "pictures of a kind that is not read"),
    "unreadable": (REFUSED, "files that cannot be read"),
    "class names": (SPOILS, "class names that differ by case or accents alone, so perhaps one class"),
    "heif": (SPOILS, f"HEIC pictures skipped; {heif.INSTALL}"),
    "format": (SPOILS, f"pictures skipped, as their format is not read; {SAVE}"),
    "few": (SPOILS, f"classes with fewer than {MIN_PICTURES} pictures"),
    "split": (NOTED, "folders read as those of a split, by their names"),
    "extension": (NOTED, "files skipped, as their extension is not that of a picture"),
    "no class": (NOTED, "pictures skipped, as they are in no class folder"),
    "hidden": (NOTED, "hidden files and folders, and __MACOSX, skipped"),
    "linked twice": (NOTED, "links to folders that are read already, circles among them, skipped"),
    "animated": (NOTED, "animations and files of several pages: the first picture counts"),
    "deep": (NOTED, "pictures of more than 8 bit a channel, scaled to 8 bit"),
    "dark": (NOTED, "of these, pictures that use a quarter of their range at most, so that they are dark"),
    "transparent": (NOTED, "transparent pictures, laid on the background"),
    "turned": (NOTED, "pictures turned upright by their EXIF orientation"),
    "colours": (NOTED, "pictures in other colours (such as CMYK), converted to red, green and blue"),
}
"""Weight (training refuses it, it spoils the measurement, or it is good to know) and heading of each kind."""

UNREAD = {kind: KINDS[kind][1] for kind in ("heif", "format")}
"""Pictures that are skipped although they are pictures: their kinds and headings."""


@dataclass
class Finding:
    """One finding. `kind`: a key of KINDS. `paths`: the files concerned. `text`: one line, by default the paths."""

    kind: str
    paths: tuple[Path, ...]
    text: str = ""

    def __post_init__(self) -> None:
        self.text = self.text or " = ".join(map(str, self.paths))

    @property
    def weight(self) -> str:
        return KINDS[self.kind][0]


@dataclass(frozen=True)
class LabelledPicture:
    """A picture file, and the split and the class that it belongs to."""

    path: Path
    split: str
    label: str


def conversions(pictures: Sequence[LabelledPicture], traits: Sequence[frozenset[str]]) -> Iterator[Finding]:
    """A finding for each conversion beyond resizing, as `cache.Decoded` names it."""
    for picture, found in zip(pictures, traits, strict=True):
        yield from (Finding(trait, (picture.path,)) for trait in found)


def copies(x: UInt8[Tensor, "N C H W"], pictures: Sequence[LabelledPicture]) -> Iterator[Finding]:
    """Pictures that are the same to the network: equal in every pixel at its size, in any files.

    A lossless copy in another format or with other metadata is found; a copy that was compressed again is not.
    """
    groups: dict[bytes, list[LabelledPicture]] = defaultdict(list)
    for pixels, picture in zip(x, pictures, strict=True):
        groups[hashlib.sha256(pixels.contiguous().numpy()).digest()].append(picture)
    for group in (group for group in groups.values() if len(group) > 1):
        splits, labels = {picture.split for picture in group}, {picture.label for picture in group}
        group.sort(key=lambda picture: ("train", "val", "test").index(picture.split))
        paths = tuple(picture.path for picture in group)
        if len(splits) > 1:
            yield Finding("leak" if "test" in splits else "validation leak", paths)
        if len(labels) > 1:
            yield Finding("copies across classes", paths)
        if len(splits) == len(labels) == 1:
            yield Finding("copies", paths)


def similar_names(folders: Sequence[Path]) -> Iterator[Finding]:
    """Class folders whose names differ by case alone, or by how an accent is written."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        groups[unicodedata.normalize("NFC", folder.name).casefold()].append(folder)
    for group in groups.values():
        if len(group) > 1:
            yield Finding("class names", tuple(group), " and ".join(map(str, group)))


def by_kind(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """The findings of each kind that has any, in the order of the report."""
    found: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
    for finding in findings:
        found[finding.kind].append(finding)
    return {kind: of_kind for kind, of_kind in found.items() if of_kind}


def summary(findings: Iterable[Finding], root: Path) -> Iterator[str]:
    """A line for each kind: its heading, the count, the first finding, and how to list the others."""
    for kind, found in by_kind(findings).items():
        more = f"; python scripts/audit.py {root} lists them" if len(found) > 1 else ""
        yield visible(f"{KINDS[kind][1]}: {len(found)} (first: {found[0].text}{more})")
