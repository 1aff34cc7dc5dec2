"""Decode many picture files in parallel, with a cache by content: the next run decodes only new pictures.

Every run reads every file and looks up its pixels by the SHA-256 of its bytes, which costs little beside decoding, so
the cache is never outdated. Files that cannot be used are not cached: each run tries them again and reports them again.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, TiffImagePlugin, features
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hillstart.data import heif, images
from hillstart.data.images import PictureError, read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.system.console import ProgressBar
from hillstart.system.files import open_regular, replacing
from hillstart.system.machine import made_cache, parallel_map
from hillstart.system.untrusted import briefly

log = logging.getLogger(__name__)
LARGEST_FILE = 2**30
"""Largest picture file in bytes; 128 million pixels of 16 bit in four channels take less."""
CACHE_BYTES = 4 * 2**30
"""Limit of the cache on the disk; the least recently used pictures are removed first."""
DARK = 2**14
"""A 16 bit picture with no grey level above this counts as dark."""
DAY_SECONDS = 86_400
AHEAD = 256
"""Files that wait for a thread, so that one slow file does not hold up the others."""


@dataclass(frozen=True)
class Decoded:
    """The decoded pictures x, which are the files at the indices `good`, in order.

    `traits`: the conversions of each picture beyond resizing, out of `deep`, `dark`, `transparent`, `turned`, `colours`
    and `animated`. `errors`: why other files could not be used, by index.
    """

    x: UInt8[Tensor, "N C H W"]
    good: tuple[int, ...]
    traits: tuple[frozenset[str], ...]
    errors: dict[int, PictureError]


Entries = dict[str, tuple[int, frozenset[str]]]
"""The row of a picture's pixels in the cache and its traits, by the SHA-256 of its file."""


def decode(paths: Sequence[Path], preprocessing: Preprocessing, cache_name: str | None = None) -> Decoded:
    """Read all files by `read_picture`, in a thread for each core, with a progress bar on a terminal.

    `cache_name`: the name of this set of pictures in the cache, such as the path of its folder; None: no cache.
    """
    file = _cache_file(cache_name, preprocessing) if cache_name is not None else None
    shape = (preprocessing.channels, preprocessing.size, preprocessing.size)
    x = torch.empty(len(paths), *shape, dtype=torch.uint8)  # filled in place, so that no picture is in memory twice
    cached, entries = (file and _load(file, shape)) or (x[:0], {})

    def read(i: int) -> tuple[str, frozenset[str]] | PictureError:
        try:
            content = _content(paths[i])
            sha256 = hashlib.sha256(content).hexdigest()
            if sha256 in entries:
                return sha256, entries[sha256][1]
            traits: set[str] = set()
            notice = lambda image: traits.update(_traits(image, content))  # noqa: E731
            x[i] = read_picture(content, preprocessing, name=str(paths[i]), notice=notice)
            return sha256, frozenset(traits)
        except PictureError as error:
            return error

    good: dict[int, tuple[str, frozenset[str]]] = {}
    errors: dict[int, PictureError] = {}
    with ProgressBar("reading pictures", len(paths)) as bar:
        for i, result in enumerate(parallel_map(read, range(len(paths)), AHEAD)):
            if isinstance(result, PictureError):
                errors[i] = result
            else:
                good[i] = result
            bar.advance()
    rows = {i: entries[sha256][0] for i, (sha256, _) in good.items() if sha256 in entries}
    if len(rows) == len(paths) and list(rows.values()) == list(range(len(cached))):
        x = cached
    elif rows:
        x[list(rows)] = cached[list(rows.values())]
    if file and len(rows) < len(good):
        _save(file, x, good)
    return Decoded(x[list(good)] if errors else x, tuple(good), tuple(traits for _, traits in good.values()), errors)


def _content(path: Path) -> bytes:
    with images.open_picture(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_FILE:
            wrong = f"the file is larger than {LARGEST_FILE / 2**30:g} GiB"
            raise PictureError(f"{path}: {wrong}; give a smaller one.", "too large")
        try:
            return file.read(LARGEST_FILE)
        except OSError as error:
            raise PictureError(f"{path}: cannot be read ({error.strerror}); check its disk.", "unreadable") from None


def _traits(image: Image.Image, content: bytes) -> set[str]:
    """The conversions that `read_picture` will make. `content`: the file; Pillow does not keep its bit depth."""
    found = set()
    bits = content[24] if image.format == "PNG" else 8  # the bit depth in the IHDR chunk, which is always first
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = max(image.tag_v2.get(ExifTags.Base.BitsPerSample, (8,)))
    if image.mode != "F" and (bits > 8 or image.mode.startswith("I")):  # floating-point pixels are refused later
        found.add("deep")
        grey = image.mode.startswith("I")
        high = int(np.asarray(image).max()) if grey else max(band[1] for band in image.getextrema()[:3]) << 8  # type: ignore[index]
        if 0 < high < DARK and not image.has_transparency_data:
            found.add("dark")
    if image.has_transparency_data and (image.mode not in ("LA", "RGBA") or image.getextrema()[-1][0] < 255):  # type: ignore[index]
        found.add("transparent")
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        found.add("turned")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        found.add("colours")
    try:
        if getattr(image, "is_animated", False):
            found.add("animated")
    except Exception:  # a second frame exists, though damaged; only the first is used
        found.add("animated")
    return found


# ---------------------------------------------------------------- the cache


def _cache_file(cache_name: str, preprocessing: Preprocessing) -> Path | None:
    """The cache file of this set for this code and these decoders; None if there can be no cache."""
    try:
        folder = made_cache("pictures")
        # The source code is part of the key, so that nobody has to increase a version.
        code = [
            hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in (images.__file__, heif.__file__, __file__)
        ]
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        log.info("decoded pictures are not cached for the next run (%s)", error)
        return None
    decoders = {name: features.version(name) for name in ("pil", "jpg", "libjpeg_turbo", "webp", "avif", "libtiff")}
    decoders["heif"] = heif.installed()
    how = [preprocessing.size, preprocessing.channels, preprocessing.background]
    key = json.dumps([cache_name, how, code, decoders], sort_keys=True).encode()
    return folder / f"{hashlib.sha256(key).hexdigest()[:32]}.safetensors"


def _checksum(x: Tensor, entries: str) -> str:
    sha256 = hashlib.sha256(entries.encode())
    sha256.update(x.numpy().data)
    return sha256.hexdigest()


def _load(path: Path, shape: tuple[int, int, int]) -> tuple[Tensor, Entries] | None:
    try:
        open_regular(path).close()  # safetensors would block on a pipe
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            x = file.get_tensor("x").clone()  # a copy: the file may be overwritten after the check
        if _checksum(x, about["entries"]) != about["sha256"]:
            raise ValueError("its checksum differs")
        entries = [(sha256, frozenset(traits)) for sha256, traits in json.loads(about["entries"])]
        if x.dtype != torch.uint8 or x.shape != (len(entries), *shape):
            raise ValueError(f"it holds {x.dtype} {tuple(x.shape)}")
        with suppress(OSError):  # marks the time of use; a read-only cache works too
            os.utime(path, follow_symlinks=False)
        return x, {sha256: (row, traits) for row, (sha256, traits) in enumerate(entries)}
    except FileNotFoundError:
        return None
    except Exception as error:  # safetensors, numpy and json raise many classes for damaged files
        log.warning("%s: the cached pictures are damaged (%s); all are decoded again", path, briefly(error))
        return None


def _save(path: Path, x: Tensor, good: dict[int, tuple[str, frozenset[str]]]) -> None:
    """Save the pictures x at the indices `good`, one for each SHA-256, with their traits."""
    rows = sorted({sha256: i for i, (sha256, _) in reversed(good.items())}.values())
    chosen = x if len(rows) == len(x) else x[rows]
    if chosen.nbytes > CACHE_BYTES:
        log.info("decoded pictures are not cached for the next run, as they take more than %d bytes", CACHE_BYTES)
        return
    entries = json.dumps([(sha256, sorted(traits)) for sha256, traits in (good[i] for i in rows)])
    try:
        with replacing(path, sync=False) as new:
            save_file({"x": chosen}, new, {"entries": entries, "sha256": _checksum(chosen, entries)})
        _remove_oldest(path)
    except (OSError, SafetensorError) as error:
        log.info("decoded pictures are not cached for the next run (%s)", error)


def _remove_oldest(newest: Path) -> None:
    """Remove the least recently used sets beyond `CACHE_BYTES`, and unfinished files of killed processes."""
    found = []
    for path in newest.parent.iterdir():
        with suppress(FileNotFoundError):  # another process may remove it too
            about = path.stat()
            if path.suffix == ".safetensors":
                found.append((about.st_mtime_ns, about.st_size, path))
            elif path.name.startswith(".") and time.time() - about.st_mtime > DAY_SECONDS:
                path.unlink()
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total > CACHE_BYTES and path != newest:
            path.unlink(missing_ok=True)
            total -= size
