"""Drawings stored as strokes, one JSON object a line, put on paper as the bitmaps of the same data set are."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hillstart.system.errors import InputError
from hillstart.system.files import open_regular
from hillstart.system.untrusted import briefly

FINER = 4  # drawn this many times larger, then reduced, so that lines have soft edges
# The published bitmaps were made of drawings on a plane of 256, with lines 16 thick and a margin of 16 beyond the line.
PLANE, THICK, MARGIN = 256, 16, 16
WHOLE = PLANE + THICK + 2 * MARGIN
LONGEST_LINE = 1 << 20  # characters, of which the published ones have some hundred; Python objects take 30 times that
GIVE = 'give JSON with "drawing": [[[x, ...], [y, ...]], ...].'


def read_drawings(path: Path, most: int, side: int) -> np.ndarray:
    """The first drawings of a simplified .ndjson file: uint8 (N, side, side), dark on white.

    Raises InputError naming the file and line that is no drawing.
    """
    drawings: list[np.ndarray] = []
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), ""), start=1):
                if len(drawings) == most:
                    break
                if len(line) > LONGEST_LINE:
                    raise InputError(f"{path}, line {number}: is longer than any drawing; {GIVE}")
                if line.strip():
                    drawings.append(rasterised(_strokes(line, f"{path}, line {number}"), side))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({briefly(error)}); give a simplified .ndjson file.") from error
    return np.stack(drawings) if drawings else np.empty((0, side, side), np.uint8)


def _strokes(line: str, where: str) -> list[np.ndarray]:
    """Strokes as (n, 2) points x, y."""
    try:
        strokes = [np.array(stroke[:2], dtype=np.float64).T for stroke in json.loads(line)["drawing"]]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        strokes = []
    if not strokes or not all(s.ndim == 2 and s.shape[1] == 2 and len(s) and np.isfinite(s).all() for s in strokes):
        raise InputError(f"{where}: holds no drawing; {GIVE}")
    if not all(((s >= 0) & (s < PLANE)).all() for s in strokes):
        raise InputError(f"{where}: reaches beyond its plane; give a simplified drawing, with x and y from 0 to 255.")
    return strokes


def rasterised(strokes: list[np.ndarray], side: int) -> np.ndarray:
    """Strokes on the plane, centred: uint8 (side, side), dark on white."""
    points = np.concatenate(strokes)
    page = side * FINER
    scale = page / WHOLE
    centre = (points.min(0) + points.max(0)) / 2
    image = Image.new("L", (page, page), 255)
    draw = ImageDraw.Draw(image)
    r = THICK * scale / 2
    for stroke in strokes:
        path = (stroke - centre) * scale + (page - 1) / 2
        draw.line(path.ravel().tolist(), fill=0, width=round(2 * r))
        for x, y in path.tolist():  # round corners and ends
            draw.ellipse((x - r, y - r, x + r, y + r), fill=0)
    return np.asarray(image.reduce(FINER))
