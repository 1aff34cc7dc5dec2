"""Quick, Draw!: doodles that people made in a game, from local files of either public form or by download.

Source: the Quick, Draw! Dataset, made available by Google, Inc. under CC BY 4.0. Its forms are `numpy_bitmap`, a
CLASS.npy of uint8 (N, 784), white strokes on black, and simplified drawings, a CLASS.ndjson of one drawing a line. Both
come out as dark strokes on white paper, as one draws.
"""

import os
import re
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from hillstart.data.dataset import PictureSet, Preset, Split, assemble, pick_classes, resized, stratified
from hillstart.data.preprocessing import Preprocessing, Size
from hillstart.data.strokes import read_drawings
from hillstart.system.console import ProgressBar
from hillstart.system.errors import InputError
from hillstart.system.files import open_regular
from hillstart.system.schema import Flag, Location, Names, Seed, Share, checked, whole
from hillstart.system.untrusted import briefly

BITMAPS = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap"
HOME = Path("data/quickdraw")  # where downloads go
SIDE = 28
SECONDS = 30  # without an answer until a download is given up


@checked("data")
def load(
    *,
    root: Location = None,
    classes: Names = ("lion", "duck"),
    per_class: Annotated[int, *whole(3, 10**6)] = 5000,
    size: Size = 28,
    augment: Preset = "doodle",
    normalise: Flag = True,
    val_fraction: Share = 0.15,
    test_fraction: Share = 0.15,
    seed: Seed = 0,
) -> PictureSet:
    """The first `per_class` drawings of each class, grey, dark on white; test and validation are drawn by `seed`.

    `root`: a folder of CLASS.npy or CLASS.ndjson, of which `classes` None takes all; None: ./data/quickdraw, where
    missing classes are downloaded. Raises InputError naming the key, or the file and line.
    """
    if root is None:
        names = pick_classes(classes or (), classes)
        for name in names:
            if not re.fullmatch(r"[A-Za-z][A-Za-z .'-]*", name):  # it becomes part of a path
                raise InputError(f"data.classes: Quick, Draw! has no class {name!r}; give one of its names.")
        files = [_file(HOME, name) or _downloaded(name) for name in names]
    else:
        names, files = _local(Path(root), classes)
    preprocessing = Preprocessing(size=size, channels=1)
    drawings = [_read(file, per_class) for file in files]
    y = torch.arange(len(names)).repeat_interleave(torch.tensor([len(drawing) for drawing in drawings]))
    all_ = Split(resized(torch.from_numpy(np.concatenate(drawings)).unsqueeze(1), preprocessing), y)
    rest, test = stratified(all_.y, test_fraction, seed, "data.test_fraction")
    train, val = stratified(all_.y[rest], val_fraction, seed)
    return assemble(
        train=all_.take(rest[train]),
        val=all_.take(rest[val]),
        test=all_.take(test),
        classes=names,
        preprocessing=preprocessing,
        augment=augment,
        normalise=normalise,
        source=f"quickdraw from {HOME if root is None else root}",
        files=[file.name for file in files],
    )


def _local(root: Path, classes: Sequence[str] | None) -> tuple[tuple[str, ...], list[Path]]:
    if not root.is_dir():
        raise InputError(f"data.root: {root} is not a folder; give one that holds CLASS.npy or CLASS.ndjson files.")
    known = sorted({path.stem for path in root.iterdir() if path.suffix in (".npy", ".ndjson")})
    if not known:
        raise InputError(f"data.root: {root} holds no drawings; give a folder of CLASS.npy or CLASS.ndjson files.")
    names = pick_classes(known, classes)
    return names, [path for name in names if (path := _file(root, name))]


def _file(root: Path, name: str) -> Path | None:
    return next((path for path in (root / f"{name}.npy", root / f"{name}.ndjson") if path.is_file()), None)


def _read(path: Path, per_class: int) -> np.ndarray:
    """The first drawings of a file: uint8 (N, 28, 28), dark on white."""
    drawings = read_drawings(path, per_class, SIDE) if path.suffix == ".ndjson" else _read_bitmaps(path, per_class)
    if len(drawings) < 3:
        raise InputError(f"{path}: holds {len(drawings)} drawings; give at least 3, since each split needs one.")
    return drawings


def _read_bitmaps(path: Path, per_class: int) -> np.ndarray:
    open_regular(path).close()
    try:
        # Unlike `np.load` it knows one format, and no way to what is pickled.
        bitmaps = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy, and Python's parser, raise whatever the damage leads to
        raise InputError(f"{path}: is not a whole .npy file ({briefly(error)}); give the original file.") from error
    if bitmaps.dtype != np.uint8 or bitmaps.ndim != 2 or bitmaps.shape[1] != SIDE * SIDE:
        kind = briefly(f"{bitmaps.dtype} {bitmaps.shape}")
        raise InputError(f"{path}: holds {kind}; give drawings as uint8 (N, {SIDE * SIDE}).")
    return 255 - bitmaps[:per_class].reshape(-1, SIDE, SIDE)


def _downloaded(name: str) -> Path:
    """CLASS.npy, fetched whole before it takes its name, so that an interrupted download leaves nothing half done."""
    url = f"{BITMAPS}/{urllib.parse.quote(name, safe='')}.npy"
    HOME.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=HOME, suffix=".part")
    path = HOME / f"{name}.npy"
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=SECONDS) as answer:
            total = int(answer.headers["Content-Length"])
            with ProgressBar(f"downloading {name}.npy, MB", total / 1e6) as bar:
                while block := answer.read(1 << 20):
                    file.write(block)
                    bar.advance(len(block) / 1e6)
            if file.tell() != total:
                raise OSError(f"the connection ended after {file.tell()} of {total} bytes")
        Path(temporary).replace(path)
    except urllib.error.HTTPError as error:
        if error.code in (403, 404):
            raise InputError(f"data.classes: Quick, Draw! has no class {name!r}; give one of its names.") from error
        raise InputError(
            f"data.root: {name}.npy cannot be downloaded ({error}); try later, or give local files."
        ) from error
    except (OSError, HTTPException) as error:
        raise InputError(
            f"data.root: {name}.npy is not in {HOME} and cannot be downloaded ({error}); go online, or give the folder "
            "that holds it."
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path
