"""Pictures that a csv file labels: it has a row of pixels for each picture, or the name of its file.

`label,pixel0,pixel1,...` is the form of Kaggle's digits, `id,breed` beside a folder of pictures that of its dogs.
"""

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from hillstart.data.audit import UNREAD, Finding, LabelledPicture
from hillstart.data.cache import Decoded
from hillstart.data.dataset import pick_classes
from hillstart.data.images import find_pictures, read_picture, skipped_as
from hillstart.data.layout import Layout, Refuse, check_enough, class_names
from hillstart.data.preprocessing import MAX_SIZE, Preprocessing
from hillstart.data.split_names import named_like_splits
from hillstart.data.table import LABELS, in_order, is_name, opened_csv
from hillstart.system.errors import InputError
from hillstart.system.machine import parallel_map
from hillstart.system.untrusted import briefly


@dataclass(frozen=True)
class PictureCsv:
    """A csv file of pictures; `label`, `columns`: indices of the label, and of the pixels or file name, in a row."""

    path: Path
    headed: bool
    label: int
    columns: tuple[int, ...]

    @property
    def holds_pixels(self) -> bool:
        return len(self.columns) != 1


def find_tables(root: str | Path | None) -> dict[str, Path]:
    """The csv file of each split, if root is one, or holds some and no folders of classes."""
    root = Path(root or "")
    if root.suffix.lower() == ".csv" and root.is_file():
        return {"train": root}
    names = class_names(root)
    tables = {path.stem: path for path in sorted(root.glob("*.csv"))} if root.is_dir() else {}
    if not tables or any(class_names(root / name) for name in names):
        return {}
    if len(names) > 1 and not named_like_splits(names):
        return {}
    splits = named_like_splits(tables)
    rest = [path for stem, path in tables.items() if stem not in splits]
    found = {split: tables[stem] for stem, split in splits.items()} | ({"train": rest[0]} if len(rest) == 1 else {})
    if "train" not in found or len(rest) > 1:
        listed = ", ".join(path.name for path in tables.values())
        raise InputError(f"data.root is {root}, which holds {listed}; give the one that labels the pictures.")
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def read_tables(
    paths: dict[str, Path], classes: Sequence[str | int] | None, preprocessing: Preprocessing, refuse: Refuse
) -> tuple[Layout, Decoded | None]:
    """The layout of the pictures that csv files label, and the pictures themselves if the files hold their pixels.

    Raises InputError if a file is damaged or labels no pictures.
    """
    folder = paths["train"].parent
    pictures, others = find_pictures(folder)
    by_name = _by_name(folder, pictures)
    labelled: list[LabelledPicture] = []
    pixels: list[Tensor] = []
    splits: list[str] = []
    for split, path in paths.items():
        table = _table(path, by_name)
        if table is None and split != "train":
            continue  # the test of a competition, without labels
        if table is None:
            raise InputError(
                f"{path}: has no column of labels with pixels or names of pictures; call it label, or take data=table "
                "if the columns are other numbers."
            )
        splits.append(split)
        if table.holds_pixels:
            x, of_rows = _read_pixels(table, preprocessing)
            pixels.append(x)
            labelled += [
                LabelledPicture(path.with_name(f"{path.name}:{n}"), split, name) for n, name in enumerate(of_rows)
            ]
        else:
            labelled += _read_names(table, split, by_name, refuse)
    known = tuple(sorted({p.label for p in labelled}, key=in_order))
    if wrong := [name for name in known if not is_name(name)]:
        raise InputError(f"{paths['train']}: the label {briefly(wrong[0])!r:.60} is no name of a class; mend it.")
    if sorted({p.label for p in labelled if p.split == "train"}) != sorted(known):
        refuse(paths["train"], "lacks a class that another split has; add it there.")
    names = pick_classes(known, classes)
    chosen = [i for i, picture in enumerate(labelled) if picture.label in names]
    used = {picture.path for picture in labelled}
    skipped = [Finding("no class", (path,)) for path in pictures if path not in used]
    skipped += [Finding(kind, (path,)) for path in others if (kind := skipped_as(path)) in UNREAD]
    layout = Layout(paths["train"], dict.fromkeys(splits, folder), names, [labelled[i] for i in chosen], skipped)
    check_enough(layout, refuse)
    if not pixels:
        return layout, None
    if sum(map(len, pixels)) != len(labelled):
        raise InputError(f"{paths['train']}: holds pixels, and another split names of files; give the same for all.")
    return layout, Decoded(torch.cat(pixels)[chosen], tuple(range(len(chosen))), (frozenset(),) * len(chosen), {})


def _by_name(folder: Path, pictures: Sequence[Path]) -> dict[str, Path]:
    """The pictures by their path below folder, and by their file name, with and without suffix, where it is unique."""
    found = defaultdict[str, set[Path]](set)
    for path in pictures:
        for name in (path.relative_to(folder).as_posix(), path.name, path.stem):
            found[name].add(path)
    return {name: paths.pop() for name, paths in found.items() if len(paths) == 1}


def _table(path: Path, by_name: dict[str, Path]) -> PictureCsv | None:
    """Find the columns of labels and of pixels or names in a csv file; None if it has no labels."""
    with opened_csv(path) as file:
        rows = filter(None, csv.reader(file))
        first, second = next(rows, []), next(rows, [])
    headed = not (first and all(cell.strip().isdecimal() for cell in first)) and not any(c in by_name for c in first)
    row = second if headed else first
    label = next((k for k, cell in enumerate(first) if headed and cell.strip().lower() in LABELS), None)
    if len(row) > 16:  # pixels, and perhaps a label, which is the first unless a heading says otherwise
        if label is None and math.isqrt(len(row)) ** 2 == len(row):
            return None
        label = label or 0
        # Other columns, such as a number of each row, have no number in their heading.
        numbered = [k for k, cell in enumerate(first) if not headed or any(c.isdigit() for c in cell)]
        return PictureCsv(path, headed, label, tuple(k for k in numbered if k != label))
    named = [k for k, cell in enumerate(row) if cell in by_name and k != label]
    if label is None and len(row) == 2:
        label = 1 - named[0] if named else None
    return PictureCsv(path, headed, label, (named[0],)) if named and label is not None else None


def _read_pixels(table: PictureCsv, preprocessing: Preprocessing) -> tuple[UInt8[Tensor, "N C H W"], list[str]]:
    side = math.isqrt(len(table.columns))
    if side**2 != len(table.columns) or not 1 < side <= MAX_SIZE:
        raise InputError(f"{table.path}: has {len(table.columns)} columns of pixels, which make no square; give S x S.")
    with opened_csv(table.path) as file:
        start = file.tell()
        labels = [row[table.label].strip() for row in islice(filter(None, csv.reader(file)), int(table.headed), None)]
        file.seek(start)
        lines = islice(filter(str.strip, file), int(table.headed), None)
        x = np.loadtxt(lines, np.uint8, delimiter=",", comments=None, usecols=table.columns, ndmin=2)
    if len(x) != len(labels):
        raise InputError(f"{table.path}: has {len(labels)} labels for {len(x)} rows of pixels; complete it.")
    grey = x.reshape(-1, side, side)
    if (preprocessing.size, preprocessing.channels) == (side, 1):
        return torch.from_numpy(grey).unsqueeze(1), labels
    return torch.stack(list(parallel_map(lambda picture: read_picture(picture, preprocessing), grey, 64))), labels


def _read_names(table: PictureCsv, split: str, by_name: dict[str, Path], refuse: Refuse) -> list[LabelledPicture]:
    with opened_csv(table.path) as file:
        rows = [row for row in csv.reader(file) if row][table.headed :]
    width = max(table.label, *table.columns)
    if short := [n for n, row in enumerate(rows) if len(row) <= width]:
        raise InputError(f"{table.path}: row {short[0] + 1} has fewer columns than the first; complete it.")
    named = [(row[table.columns[0]], row[table.label].strip()) for row in rows]
    if missing := [name for name, _ in named if name not in by_name]:
        first = briefly(missing[0])
        refuse(
            table.path, f"names {len(missing)} pictures that are not there, or twice (first: {first}); complete them."
        )
    found = [LabelledPicture(by_name[name], split, label) for name, label in named if name in by_name]
    if twice := [(path, n) for path, n in Counter(p.path for p in found).items() if n > 1]:
        path, n = twice[0]
        refuse(path, f"is named {n} times in {table.path}; name each picture once.")
    return found
