"""Quick, Draw!: doodles that people made in a game, from local files of either public form or by download.

Source: the Quick, Draw! Dataset, made available by Google, Inc. under CC BY 4.0. Its forms are `numpy_bitmap`, a
CLASS.npy of uint8 (N, 784), white strokes on black, and simplified drawings, a CLASS.ndjson of one drawing a line. Both
become dark strokes on white paper.
"""

import io
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image, ImageDraw

from hillstart.data.dataset import PictureSet, Preset, Split, assemble_drawn, pick_classes, resized
from hillstart.data.preprocessing import Preprocessing, Size
from hillstart.system.console import ProgressBar
from hillstart.system.errors import InputError
from hillstart.system.files import open_regular, replacing
from hillstart.system.schema import Flag, Location, Names, Seed, Share, checked, whole
from hillstart.system.untrusted import briefly

BITMAPS = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap"
HOME = Path("data/quickdraw")  # where downloads go
SIDE = 28
TIMEOUT_SECONDS = 30


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
    unrecognised: Flag = False,
) -> PictureSet:
    """Load the first `per_class` drawings of each class, dark on white; test and validation are drawn by `seed`.

    `root`: a folder of CLASS.npy or CLASS.ndjson; `classes` None takes all in it. None: ./data/quickdraw, where missing
    classes are downloaded. `unrecognised`: keep drawings that the game did not recognise, which only .ndjson tells.
    """
    if root is None:
        names = pick_classes([*map(str, classes or ())], classes)
        for name in names:
            if not re.fullmatch(r"[A-Za-z][A-Za-z .'-]*", name):  # it becomes part of a path
                raise InputError(f"data.classes: Quick, Draw! has no class {name!r}; give one of its names.")
        there = _found(HOME)
        files = [there.get(name) or _downloaded(name) for name in names]
    else:
        names, files = _local(Path(root), classes)
    preprocessing = Preprocessing(size=size, channels=1)
    drawings = [torch.from_numpy(_read(file, per_class, unrecognised)).unsqueeze(1) for file in files]
    y = torch.cat([torch.full((len(x),), k) for k, x in enumerate(drawings)])
    return assemble_drawn(
        Split(resized(torch.cat(drawings), preprocessing), y),
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        seed=seed,
        classes=names,
        preprocessing=preprocessing,
        augment=augment,
        normalise=normalise,
        source=f"quickdraw from {HOME if root is None else root}",
        files=[file.name for file in files],
    )


def _local(root: Path, classes: Sequence[str | int] | None) -> tuple[tuple[str, ...], list[Path]]:
    known = _found(root)
    if not known:
        raise InputError(f"data.root: {root} is no folder of drawings; give one of CLASS.npy or CLASS.ndjson files.")
    names = pick_classes(sorted(known), classes)
    return names, [known[name] for name in names]


def _found(root: Path) -> dict[str, Path]:
    """The file of each class, bitmaps first. Google's storage names downloads full_simplified_CLASS.ndjson."""
    files = [path for suffix in (".ndjson", ".npy") for path in sorted(root.glob(f"*{suffix}")) if path.is_file()]
    return {re.sub("^full(_|%2F)(simplified|numpy_bitmap)(_|%2F)", "", path.stem): path for path in files}


def _read(path: Path, per_class: int, unrecognised: bool) -> np.ndarray:
    """The first drawings of a file: uint8 (N, 28, 28), dark on white."""
    if path.suffix == ".ndjson":
        drawings = read_drawings(path, per_class, unrecognised)
    else:
        drawings = _read_bitmaps(path, per_class)
    if len(drawings) < 3:
        raise InputError(f"{path}: holds {len(drawings)} drawings; give at least 3, since each split needs one.")
    return drawings


def _read_bitmaps(path: Path, per_class: int) -> np.ndarray:
    open_regular(path).close()
    try:
        # Unlike `np.load` it reads one format only, and never a pickle.
        bitmaps = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy and Python's parser raise many classes for damaged files
        raise InputError(f"{path}: is not a complete .npy file ({briefly(error)}); give the original file.") from error
    if bitmaps.dtype != np.uint8 or bitmaps.ndim != 2 or bitmaps.shape[1] != SIDE * SIDE:
        kind = briefly(f"{bitmaps.dtype} {bitmaps.shape}")
        raise InputError(f"{path}: holds {kind}; give drawings as uint8 (N, {SIDE * SIDE}).")
    return 255 - bitmaps[:per_class].reshape(-1, SIDE, SIDE)


# ---------------------------------------------------------------- drawings as strokes

SUPERSAMPLING = 4  # drawn this many times larger, then reduced, so that lines have soft edges
# The published bitmaps were made of drawings on a plane of 256, with lines 16 thick and a margin of 16 beyond the line.
PLANE, THICK, MARGIN = 256, 16, 16
LONGEST_LINE = 1 << 20  # characters, of which the published ones have some hundred; Python objects take 30 times that
ADVICE = 'give JSON with "drawing": [[[x, ...], [y, ...]], ...].'


def read_drawings(path: Path, most: int, unrecognised: bool = False) -> np.ndarray:
    """Read the first drawings of a simplified .ndjson file: uint8 (N, 28, 28), dark on white.

    Those that the game did not recognise are left out unless `unrecognised`.

    Raises InputError naming the file and the line that is no drawing.
    """
    drawings: list[np.ndarray] = []
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), ""), start=1):
                where = f"{path}, line {number}"
                if len(drawings) == most:
                    break
                if len(line) > LONGEST_LINE:
                    raise InputError(f"{where}: is longer than any drawing; {ADVICE}")
                if line.strip() and (strokes := _strokes(line, where, unrecognised)):
                    drawings.append(rasterised(strokes))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({briefly(error)}); give a simplified .ndjson file.") from error
    return np.stack(drawings) if drawings else np.empty((0, SIDE, SIDE), np.uint8)


def _strokes(line: str, where: str, unrecognised: bool) -> list[np.ndarray]:
    """Strokes as (n, 2) points x, y; none for a drawing that is left out."""
    try:
        drawing = json.loads(line)
        if drawing.get("recognized") is False and not unrecognised:
            return []
        strokes = [np.array(stroke[:2], dtype=np.float64).T for stroke in drawing["drawing"]]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        strokes = []
    if not strokes or not all(s.ndim == 2 and s.shape[1] == 2 and len(s) and np.isfinite(s).all() for s in strokes):
        raise InputError(f"{where}: holds no drawing; {ADVICE}")
    if not all(((s >= 0) & (s < PLANE)).all() for s in strokes):
        raise InputError(f"{where}: reaches beyond its plane; give a simplified drawing, with x and y from 0 to 255.")
    return strokes


def rasterised(strokes: list[np.ndarray]) -> np.ndarray:
    """Strokes on the plane, centred: uint8 (28, 28), dark on white."""
    points = np.concatenate(strokes)
    canvas = SIDE * SUPERSAMPLING
    scale = canvas / (PLANE + THICK + 2 * MARGIN)
    centre = (points.min(0) + points.max(0)) / 2
    image = Image.new("L", (canvas, canvas), 255)
    draw = ImageDraw.Draw(image)
    r = THICK * scale / 2
    for stroke in strokes:
        path = (stroke - centre) * scale + (canvas - 1) / 2
        draw.line(path.ravel().tolist(), fill=0, width=round(2 * r))
        for x, y in path.tolist():  # round corners and ends
            draw.ellipse((x - r, y - r, x + r, y + r), fill=0)
    return np.asarray(image.reduce(SUPERSAMPLING))


# ---------------------------------------------------------------- download


def _downloaded(name: str) -> Path:
    """Download CLASS.npy; an interrupted download leaves nothing."""
    url = f"{BITMAPS}/{urllib.parse.quote(name, safe='')}.npy"
    HOME.mkdir(parents=True, exist_ok=True)
    path = HOME / f"{name}.npy"
    try:
        with (
            replacing(path, sync=False) as new,
            new.open("wb") as file,
            urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer,
        ):
            total = int(answer.headers["Content-Length"])
            with ProgressBar(f"downloading {name}.npy, MB", total / 1e6) as bar:
                while block := answer.read(1 << 20):
                    file.write(block)
                    bar.advance(len(block) / 1e6)
            if file.tell() != total:
                raise OSError(f"the connection ended after {file.tell()} of {total} bytes")
    except (OSError, HTTPException) as error:
        cause = error.__cause__ or error  # `replacing` raises a WritingError from an OSError
        if isinstance(cause, urllib.error.HTTPError) and cause.code in (403, 404):
            raise InputError(f"data.classes: Quick, Draw! has no class {name!r}; give one of its names.") from error
        wrong = f"{name}.npy is not in {HOME} and cannot be downloaded ({briefly(cause)})"
        raise InputError(f"data.root: {wrong}; go online, or give the folder that holds it.") from error
    return path
