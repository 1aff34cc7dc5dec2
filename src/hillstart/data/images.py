"""Read pictures, from files or arrays, into tensors: the same for training and for prediction."""

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile, ImageOps, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from hillstart.data import heif
from hillstart.data.arrays import check_not_flat, from_array
from hillstart.data.preprocessing import Preprocessing
from hillstart.system.errors import InputError
from hillstart.system.files import open_regular
from hillstart.system.untrusted import briefly

PICTURE_SUFFIXES = frozenset(
    [
        *(".apng", ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
        *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    ]
)
"""Suffixes of the pictures that are read; with pillow-heif also `heif.SUFFIXES`."""
OTHER_SUFFIXES = frozenset(
    [
        *(".ai", ".arw", ".cr2", ".cr3", ".dcm", ".dds", ".dng", ".eps", ".exr"),
        *(".hdr", ".heics", ".ico", ".j2k", ".jp2", ".jpf", ".jpx", ".jxl", ".nef"),
        *(".nrw", ".orf", ".pcx", ".pef", ".psd", ".qoi", ".raf", ".raw", ".rw2"),
        *(".srw", ".svg", ".tga", ".x3f", ".xcf"),
    ]
)
"""Suffixes of pictures in formats that are not read."""
# Only these decoders are tried: Pillow's others run programs (EPS) or read whole documents.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF")
MAX_PIXELS = 128_000_000
"""Limit of pictures that are decoded whole, so that those of 108 million pixels are read."""
JPEG_FASTER = 4
"""The limit of a JPEG that is decoded at a fraction is so many times higher: it takes less time and little memory."""
ADVICE = f", or save it as JPEG, which may have {JPEG_FASTER} times as many"
LARGE = 32_000_000
"""Pictures of more pixels are decoded one at a time, so that their memory is needed once and not for each core."""
OTHER_FORMATS = {
    "TIFF": (b"II*\0", b"MM\0*"),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "PSD": (b"8BPS",),
}
"""First bytes of formats that no decoder takes, so that a message can name them."""
SAVE = "save them as PNG or JPEG"
SHORT_SIDE, PART_PIXELS = 16, 256
"""Pixels that a shorter row or column, and a smaller part of a TIFF, count as, since they take as long to decode."""
SLOW_DECODERS, SLOWER = ("ppm", "ppm_plain", "bmp_rle"), 16
"""Formats that Pillow decodes in Python, and how many ordinary pixels one of theirs counts as."""
LEAST_GREY = 2**12
"""A 16 bit picture without a brighter pixel would keep at most 16 of 256 levels: it stores 8 or 12 bit in 16."""
REDUCING_GAP = 2  # as in Pillow's thumbnails: the final, smooth resize is at least by half

PictureSource = str | os.PathLike[str] | bytes | bytearray | memoryview | io.IOBase | Image.Image | np.ndarray | Tensor

# warnings.catch_warnings affects the whole process, so one thread at a time reads headers; decoding runs in parallel.
_reading_header, _decoding_large = threading.Lock(), threading.Lock()


class PictureError(InputError):
    """A picture that cannot be used; `reason`: missing, unreadable, no picture, damaged, too large or unsupported."""

    def __init__(self, message: str, reason: str = "unsupported"):
        super().__init__(message)
        self.reason = reason


def read_picture(
    source: PictureSource,
    preprocessing: Preprocessing,
    max_pixels: int = MAX_PIXELS,
    name: str = "the given bytes",
    notice: Callable[[Image.Image], None] | None = None,
) -> UInt8[Tensor, "C H W"]:
    """Read a picture as the network sees it: upright, opaque, 8 bit, grey or colour, cut to the centre square.

    `source`: the path of a file, its bytes, a file opened in binary mode, a PIL image, or an array or tensor, as
    `data.arrays` lists them. The first frame of an animation is used (of a PIL image, the current one). The whole file
    is decoded, so that damage is detected. Colour profiles are ignored. `name`: the name of bytes in errors. `notice`:
    is called with the decoded file or bytes before anything is converted.

    Raises InputError, for a file or bytes a PictureError, if the picture is unusable or has more than `max_pixels`.
    """
    if isinstance(source, np.ndarray | Tensor):
        return _square(from_array(source), "the given array or tensor", preprocessing)
    if isinstance(source, Image.Image):
        return _square(source, "the given picture", preprocessing)
    if is_file(source):
        name, source = str(getattr(source, "name", "the given file")), source.read()
        if isinstance(source, str):
            raise InputError(f"{name}: is opened as text; open it in binary mode, open(path, 'rb').")
    if isinstance(source, bytes | bytearray | memoryview):
        return _decoded(io.BytesIO(source), name, preprocessing, max_pixels, notice)
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"the given {type(source).__name__}: is not a picture; give a path, bytes, an open file, a PIL picture, an "
            "array or a tensor."
        )
    path = Path(source)
    with open_picture(path) as file:
        return _decoded(file, str(path), preprocessing, max_pixels, notice)


def is_file(source: Any) -> TypeGuard[BinaryIO]:
    """True for an open file or what reads like one; PIL pictures and tensors have no method `read`."""
    return hasattr(source, "read")


def is_one(sources: Any, preprocessing: Preprocessing) -> bool:
    """True if a value is one picture, or nothing that could hold several; False for a collection of pictures.

    Raises InputError for an array that can be either.
    """
    if isinstance(sources, np.ndarray | Tensor):
        check_not_flat(sources, preprocessing)
        return sources.ndim != 4
    single = isinstance(sources, str | bytes | bytearray | memoryview | os.PathLike | Image.Image)
    return single or is_file(sources) or not isinstance(sources, Iterable)


def pictures_in(folder: str | os.PathLike[str]) -> list[Path]:
    """All pictures below a folder, sorted; raises InputError if there are none or it cannot be read."""
    pictures, _ = find_pictures(folder)
    if not pictures:
        raise InputError(f"{os.fspath(folder)}: holds no pictures; give a folder with some, or the files themselves.")
    return pictures


def open_picture(path: Path) -> BinaryIO:
    """Open the file of a picture. Raises PictureError if it is missing, a folder, a pipe or a device."""
    try:
        return open_regular(path)
    except InputError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "missing" if missing else "unreadable" if error.__cause__ else "no picture"
        raise PictureError(f"{str(error).rstrip('.')}; give the path of a picture.", reason) from error


def _decoded(
    file: io.BytesIO | BinaryIO,
    name: str,
    preprocessing: Preprocessing,
    max_pixels: int,
    notice: Callable[[Image.Image], None] | None,
) -> Tensor:
    def too_large(advice: str = ADVICE) -> PictureError:
        wrong = f"the picture is too large, as at most {max_pixels / 1e6:g} million pixels are read"
        return PictureError(f"{name}: {wrong}; reduce it{advice}.", "too large")

    def check(pixels: int) -> None:
        if pixels > max_pixels:
            raise too_large()

    beginning = file.read(16)
    file.seek(0)
    if heif.is_heif(beginning) and not heif.installed():
        raise PictureError(f"{name}: is a HEIC picture, which is not read; {heif.INSTALL}.")
    try:
        with _reading_header, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures and odd headers; the checks below decide
            image = _opened(file, beginning, check)
            pixels, cost, faster = image.width * image.height, _cost(image), 1
            if image.format == "JPEG":  # decoded at 1/2, 1/4 or 1/8, but at twice the needed size or more
                image.draft(None, (REDUCING_GAP * preprocessing.size,) * 2)
                if image.width * image.height < pixels and not image.info.get("progressive"):
                    faster = JPEG_FASTER
            if pixels > faster * max_pixels:
                raise too_large("" if faster > 1 else ADVICE)
            if cost > faster * max_pixels:
                kind = f"{image.width} x {image.height} pixels, {image.format} in {len(image.tile)} parts"
                raise PictureError(f"{name}: takes too long to read ({kind}); cut it, or save it as PNG.", "too large")
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                _check_tiff(image, name)
            halved = any(map(_is_deep, image.tile))  # in colour pictures Pillow keeps 8 of 16 bits
            if image.format != "PNG":  # PNG metadata may follow the pixels; reading them would decode the picture here
                image.getexif()
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        if heif.is_heif(beginning):
            raise _damaged(name, error) from error
        for kind, begins in OTHER_FORMATS.items():
            if beginning.startswith(begins):
                raise PictureError(
                    f"{name}: is a {kind} file of a kind that is not read; save it as PNG or JPEG."
                ) from None
        raise PictureError(f"{name}: is not a picture; give a file such as PNG, JPEG or WebP.", "no picture") from None
    except Image.DecompressionBombError:
        raise too_large() from None
    except Exception as error:
        raise _damaged(name, error) from error
    with image, _decoding_large if pixels > faster * LARGE else contextlib.nullcontext():
        return _square(image, name, preprocessing, notice, halved)


def _opened(file: io.BytesIO | BinaryIO, beginning: bytes, check: Callable[[int], None]) -> ImageFile.ImageFile:
    """Open a picture without decoding it."""
    if beginning.startswith(b"\xff\xd8\xff"):
        # `Image.open` has a limit of its own, and takes a phone's file with a second picture for one of MPO.
        return JpegImagePlugin.JpegImageFile(file)
    if heif.is_heif(beginning):
        return heif.open_heif(file, check)
    return Image.open(file, formats=FORMATS)


def _is_deep(tile: Any) -> bool:
    """True if a part of a file has 16 bits: its mode is like `RGB;16B`, or the highest level of a PPM is over 255."""
    args = tile.args if isinstance(tile.args, tuple) else ()
    return ";16" in str(tile.args) or (tile.codec_name.startswith("ppm") and any(level > 255 for level in args[1:]))


def _cost(image: ImageFile.ImageFile) -> int:
    """The number of ordinary pixels that take as long to decode."""
    slower = SLOWER if image.tile and image.tile[0].codec_name in SLOW_DECODERS else 1
    return max(slower * max(image.size) * max(min(image.size), SHORT_SIDE), len(image.tile) * PART_PIXELS)


def _check_tiff(image: TiffImagePlugin.TiffImageFile, name: str) -> None:
    """Refuse kinds of TIFF that Pillow misreads."""
    tags, grey = image.tag_v2, image.mode in ("I;16", "I", "F")
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    deep, signed = bits > 8, bits <= 16 and 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, ())
    zero_is_white = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    planar = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 and not grey
    uncompressed = image.mode == "YCbCr" and image.info.get("compression") == "raw"
    subsampled = uncompressed and list(tags.get(TiffImagePlugin.YCBCRSUBSAMPLING, (2, 2))) != [1, 1]
    shallow_palette = image.mode in ("P", "PA") and 0 < max(tags.get(TiffImagePlugin.COLORMAP, (0,))) < 256
    if signed or subsampled or shallow_palette or (deep and (zero_is_white or planar)):
        raise PictureError(f"{name}: is a TIFF of a kind that is not read ({bits} bit {image.mode}); save it as PNG.")


def _damaged(name: str, error: Exception) -> PictureError:
    wrong = f"the picture is damaged ({briefly(error)})"
    return PictureError(f"{name}: {wrong}; give a file that a picture viewer shows completely.", "damaged")


def _square(
    image: Image.Image,
    name: str,
    preprocessing: Preprocessing,
    notice: Callable[[Image.Image], None] | None = None,
    halved: bool = False,
) -> Tensor:
    """Bring a picture to the form of `preprocessing`. `halved`: Pillow kept the upper 8 of 16 bits a channel."""
    if 0 in image.size:
        raise PictureError(f"{name}: holds no pixels; give a picture of at least 1 x 1.")
    try:
        image.load()  # decodes the whole picture
        if notice:
            notice(image)
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise many classes for damaged files
        raise _damaged(name, error) from error
    if halved and image.mode in ("RGB", "RGBA", "LA", "CMYK"):
        bands = image.getextrema()
        colours = bands[:-1] if image.mode in ("RGBA", "LA") else bands
        if bands[len(colours) :] in ((), ((255, 255),)) and max(high for _, high in colours) <= LEAST_GREY >> 8:  # type: ignore[misc]
            raise _low(name)
    image = _opaque(_eight_bit(image, name, preprocessing), preprocessing)
    try:
        image = image if image.mode in ("1", "L", "RGB") else image.convert("RGB")
    except ValueError:
        raise PictureError(f"{name}: pictures of mode {image.mode} are not read; save it as an RGB picture.") from None
    mode = "L" if preprocessing.channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    image = ImageOps.fit(image, (preprocessing.size, preprocessing.size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _eight_bit(image: Image.Image, name: str, preprocessing: Preprocessing) -> Image.Image:
    """Scale 16 bit grey to 8 bit; Pillow's own conversion would clip everything above 255 to white."""
    if image.mode == "F":
        raise PictureError(f"{name}: holds floating-point pixels of unknown range; save it as 8 or 16 bit.")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    deep = np.asarray(image).astype(np.int64)
    if deep.min() < 0 or deep.max() > 65535:
        raise PictureError(f"{name}: holds grey levels beyond 16 bit; save it as 8 or 16 bit.")
    top = 65535
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE) == (12,):
        top = LEAST_GREY - 1  # the file says that it holds 12 bit
    elif 0 < deep.max() < LEAST_GREY:
        raise _low(name)
    grey = ((deep * 255 + top // 2) // top).astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):
        grey[deep == image.info["transparency"]] = preprocessing.background
    return Image.fromarray(grey)


def _low(name: str) -> PictureError:
    return PictureError(f"{name}: uses at most 12 of its 16 bits and would be black; scale it, or save it as 8 bit.")


def _opaque(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    if not image.has_transparency_data:
        return image
    paper = Image.new("RGBA", image.size, (*(preprocessing.background,) * 3, 255))
    paper.alpha_composite(image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA"))
    return paper


def find_pictures(
    folder: str | os.PathLike[str], skip: Callable[[Path, str], None] = lambda path, kind: None
) -> tuple[list[Path], list[Path]]:
    """Find the pictures under a folder, by their suffix, and the other files, both sorted.

    Hidden files and folders and `__MACOSX` are skipped. Links are followed, but each folder is read once. `skip` is
    called with each skipped path and `hidden` or `linked twice`. Raises InputError for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); allow it, or move it away.") from error

    def identity(path: Path) -> tuple[int, int]:
        about = path.stat()
        return about.st_dev, about.st_ino

    pictures: list[Path] = []
    others: list[Path] = []
    # The parents count as read: a link to one of them would include what is beside `folder`.
    read = set(map(identity, Path(folder).resolve().parents))
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if identity(Path(parent)) in read:
            folders.clear()
            skip(Path(parent), "linked twice")
            continue
        read.add(identity(Path(parent)))
        for name in filter(is_skipped, sorted([*folders, *names])):
            skip(Path(parent, name), "hidden")
        folders[:] = sorted(name for name in folders if not is_skipped(name))
        for path in (Path(parent, name) for name in names if not is_skipped(name)):
            (others if skipped_as(path) else pictures).append(path)
    return sorted(pictures), sorted(others)


def skipped_as(path: Path) -> str:
    """Return the reason by suffix for not reading a file: `heif`, `format` or `extension`; empty if it is read."""
    suffix = path.suffix.lower()
    if suffix in heif.SUFFIXES:
        return "" if heif.installed() else "heif"
    return "" if suffix in PICTURE_SUFFIXES else "format" if suffix in OTHER_SUFFIXES else "extension"


def is_skipped(name: str) -> bool:
    """True if a file or folder of this name is skipped: hidden, or left by an archive."""
    return name.startswith(".") or name == "__MACOSX"
