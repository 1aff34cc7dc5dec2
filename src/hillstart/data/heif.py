"""HEIC and HEIF, the pictures of most phones, by pillow-heif; and how large a file becomes before it is decoded.

Source: ISO/IEC 14496-12 (boxes, the item boxes `iinf` and `iloc`) and 23008-12 (`ispe`, `grid`). libheif holds every
coded picture to the size of its `ispe`, but allocates a grid of pictures as large as the grid itself says.
"""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import BinaryIO

from PIL import Image, ImageFile

SUFFIXES = frozenset([".heic", ".heif", ".hif"])
BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
INSTALL = "pip install 'hillstart[heif]' brings what reads them"
MAX_BYTES = 2**28
"""Largest file in bytes: it is held in memory. A picture of 108 million pixels has about 30 million."""
GRID_BYTES = 12  # the longest description of a grid
MOST_ITEMS, MOST_PARTS = 1000, 32
"""libheif's limits of the pictures and metadata in a file, and of the parts of each."""


def is_heif(beginning: bytes) -> bool:
    """True if a file that begins with these 12 bytes or more is HEIC or HEIF."""
    return beginning[4:8] == b"ftyp" and beginning[8:12] in BRANDS


@cache
def installed() -> str | None:
    """The version of pillow-heif; None if it is not installed."""
    with suppress(PackageNotFoundError):
        return version("pillow-heif")
    return None


@cache
def _register() -> None:
    import pillow_heif  # type: ignore[import-untyped, unused-ignore] # an extra

    # One thread, as each core decodes a picture of its own; nothing beside the picture itself is looked at.
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


def open_heif(file: io.BytesIO | BinaryIO, check: Callable[[int], None]) -> ImageFile.ImageFile:
    """Open a picture without decoding it. `check` is called with the pixels that decoding takes, and may refuse them.

    Raises ValueError if the file is damaged, or of a kind whose size is not known before it is decoded.
    """
    size = file.seek(0, io.SEEK_END)
    if size > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
    file.seek(0)
    content = file.read(size)
    check(_pixels(content))
    _register()
    image = Image.open(io.BytesIO(content), formats=("HEIF",))
    if tiles := image.info.get("tiling"):
        check(tiles["num_columns"] * tiles["tile_width"] * tiles["num_rows"] * tiles["tile_height"])
    return image


# ---------------------------------------------------------------- boxes


def _pixels(content: bytes) -> int:
    """The pixels of the largest picture, part of a picture or grid in a file."""
    try:
        return max(_sizes(content), default=0)
    except (struct.error, IndexError) as error:
        raise ValueError("a box ends too early") from error


def _sizes(content: bytes) -> Iterator[int]:
    places: dict[int, list[bytes]] = {}
    grids = []
    for at, end in _boxes(content, 0, len(content), b"meta"):
        idat = b"".join(content[a:b] for a, b in _boxes(content, at + 4, end, b"idat"))
        for a, b in _boxes(content, at + 4, end, b"iprp"):
            for c, d in _boxes(content, a, b, b"ipco"):
                for e, _ in _boxes(content, c, d, b"ispe"):
                    width, height = struct.unpack_from(">II", content, e + 4)
                    yield width * height
        for a, _ in _boxes(content, at + 4, end, b"iloc"):
            for item, place in _places(content, a, idat):
                places.setdefault(item, []).append(place)
        for a, b in _boxes(content, at + 4, end, b"iinf"):
            for c, _ in _boxes(content, a + (8 if content[a] else 6), b, b"infe"):
                item, kind = struct.unpack_from(">I2x4s" if content[c] > 2 else ">H2x4s", content, c + 4)
                if kind in (b"iovl", b"iden"):
                    raise ValueError("it is made of other pictures in a way that is not read")
                grids += [item] * (kind == b"grid")
    for item in grids:
        for grid in places.get(item, []):
            width, height = struct.unpack_from(">II" if grid[1] & 1 else ">HH", grid, 4)
            yield width * height


def _boxes(content: bytes, at: int, end: int, wanted: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of the content of each box of a kind, among the boxes from `at` to `end`."""
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", content, at)
        begin = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, begin)
            begin += 8
        last = at + size if size else end
        if not begin <= last <= end:
            raise ValueError("a box is longer than what it is in")
        if kind == wanted:
            yield begin, last
        at = last


def _places(content: bytes, at: int, idat: bytes) -> Iterator[tuple[int, bytes]]:
    """The number of each item, and its first bytes."""
    version, sizes = content[at], struct.unpack_from(">H", content, at + 4)[0]
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    at += 6

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > len(content):
            raise ValueError("a box ends too early")
        return int.from_bytes(content[at - size : at])

    def count(size: int, most: int) -> int:
        if (found := number(size)) > most:
            raise ValueError(f"it has {found} parts")
        return found

    for _ in range(count(4 if version == 2 else 2, MOST_ITEMS)):
        item = number(4 if version == 2 else 2)
        source = idat if version and number(2) & 15 == 1 else content
        number(2)
        base, first = number(base_size), b""
        for _ in range(count(2, MOST_PARTS)):
            number(index_size if version else 0)
            begin = base + number(offset_size)
            first += source[begin : begin + min(number(length_size) or GRID_BYTES, GRID_BYTES)]
        yield item, first
