"""Odd pictures are read correctly or refused in one sentence; training and prediction see the same numbers."""

import io
import json
import os
import struct
import warnings
import zlib
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from hillstart.data.images import MAX_PIXELS, PictureError, PictureSource, read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.system.errors import InputError

GREY, COLOUR = Preprocessing(size=8, channels=1), Preprocessing(size=8, channels=3)


def saved(image: Image.Image, path: Path, **how: object) -> Path:
    image.save(path, **how)
    return path


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def check_refused(source: PictureSource, reason: str, match: str | None = None, max_pixels: int = MAX_PIXELS) -> None:
    with pytest.raises(PictureError, match=match) as refused:
        read_picture(source, GREY, max_pixels)
    assert refused.value.reason == reason


# ---------------------------------------------------------------- pixels


def test_a_picture_of_the_right_size_is_unchanged(tmp_path: Path) -> None:
    array = noise(0, 8, 8, 3)
    path = saved(Image.fromarray(array), tmp_path / "a.png")
    expected = torch.from_numpy(array).permute(2, 0, 1)
    before = list(warnings.filters)
    for source in (path, str(path), path.read_bytes(), Image.fromarray(array), array):
        assert torch.equal(read_picture(source, COLOUR), expected)
    assert warnings.filters == before


def test_the_centre_square_is_kept_and_reduced_smoothly() -> None:
    array = np.zeros((8, 24), np.uint8)
    array[:, 8:16] = 200
    assert (read_picture(array, GREY) == 200).all()
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)  # single pixels: else they would stay 0 or 255
    assert (read_picture(checks, GREY)[0, 2:6, 2:6] - 127.5).abs().max() < 3


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    array = np.zeros((8, 8), np.uint8)
    array[0] = 255  # a bright upper edge, which orientation 6 turns to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_picture(saved(Image.fromarray(array), tmp_path / "a.png", exif=exif), GREY)[0]
    assert (turned[:, -1] == 255).all() and (turned[:, :-1] == 0).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_deep_grey_is_scaled_not_clipped(tmp_path: Path, mode: str) -> None:
    deep = np.full((8, 8), 257 * 100, np.uint16)
    deep[0, :2] = 0, 65535
    image = Image.fromarray(deep.astype(np.int32))
    if mode != "I":
        image = Image.frombytes(mode, (8, 8), deep.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    assert image.mode == mode
    for source in (saved(image, tmp_path / "a.tif"), image, deep):
        grey = read_picture(source, COLOUR)
        assert (grey[:, 0, 0] == 0).all() and (grey[:, 0, 1] == 255).all() and (grey[:, 1:] == 100).all()


def test_deep_grey_is_rounded_and_may_have_a_transparent_level(tmp_path: Path) -> None:
    deep = np.full((8, 8), 257 * 100, np.uint16)
    deep[0] = 257 * 7
    deep[1] = 257 * 200 + 60  # nearer to 200 than to 201, which the upper byte alone would give
    image = Image.fromarray(deep)
    assert read_picture(saved(image, tmp_path / "a.png"), GREY)[0, :3, 0].tolist() == [7, 200, 100]
    image.info["transparency"] = 257 * 7
    assert (read_picture(image, GREY)[0, 0] == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_transparency_is_laid_on_the_background(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    image = image.convert("LA").convert(mode) if mode in ("LA", "La") else image.convert(mode)
    for background in (255, 90):
        for channels in (1, 3):
            x = read_picture(image, Preprocessing(size=8, channels=channels, background=background))
            assert (x[..., :4] == 0).all() and (x[..., 4:] == background).all()


def test_a_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(1, (0, 0, 4, 8))
    for name, transparency in (("a.gif", 0), ("a.png", 0), ("b.png", b"\x00\xff")):
        x = read_picture(saved(image, tmp_path / name, transparency=transparency), COLOUR)
        assert x[:, 0, 0].tolist() == [40, 50, 60] and x[:, 0, 7].tolist() == [255, 255, 255]


def test_other_modes(tmp_path: Path) -> None:
    assert (read_picture(Image.new("RGBA", (8, 8), (0, 0, 0, 127)), GREY) == 128).all()
    assert (read_picture(saved(Image.new("1", (20, 20), 1), tmp_path / "a.png"), COLOUR) == 255).all()
    cmyk = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=100)
    assert (read_picture(cmyk, COLOUR)[:, 0, 0].int() - torch.tensor([255, 0, 0])).abs().max() <= 2
    assert not read_picture(Image.new("HSV", (8, 8)), COLOUR).any()
    assert not read_picture(np.zeros((8, 8), np.uint16), GREY).any(), "black is not of few bits"


def test_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), level) for level in (50, 150, 250)]
    for name in ("a.gif", "a.png", "a.webp"):
        path = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert (read_picture(path, GREY) == 50).all()


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path: Path) -> None:
    soft = Image.fromarray(noise(0, 6, 9, 3)).resize((900, 600), Image.Resampling.BICUBIC)
    path = saved(soft, tmp_path / "a.jpg", quality=95)
    assert (read_picture(path, COLOUR).int() - read_picture(np.asarray(soft), COLOUR).int()).abs().max() <= 8
    whole = path.read_bytes()
    check_refused(whole[: len(whole) * 9 // 10], "damaged")  # decoding small still reads all of it


def test_a_jpeg_of_a_phone_that_holds_more_pictures_is_decoded_small_too(tmp_path: Path) -> None:
    photo = Image.fromarray(noise(0, 60, 90, 3)).resize((900, 600))
    both = saved(photo, tmp_path / "a.mpo", save_all=True, append_images=[photo.reduce(4)])
    with Image.open(both) as image:
        assert image.format == "MPO"
    assert read_picture(both, COLOUR, 900 * 600 // 4).equal(read_picture(saved(photo, tmp_path / "a.jpg"), COLOUR))


def test_a_jpeg_counts_a_fourth_unless_it_is_progressive_or_decoded_whole(tmp_path: Path) -> None:
    photo = Image.fromarray(noise(0, 40, 60, 3))
    path = saved(photo, tmp_path / "a.jpg")
    assert read_picture(path, COLOUR, 600).shape == (3, 8, 8)
    check_refused(path, "too large", max_pixels=599)
    check_refused(saved(photo, tmp_path / "b.jpg", progressive=True), "too large", max_pixels=2399)
    check_refused(saved(photo.resize((30, 30)), tmp_path / "c.jpg"), "too large", max_pixels=899)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.tif", "a.bmp"])
def test_a_cut_file_is_noticed(tmp_path: Path, name: str) -> None:
    path = saved(Image.fromarray(noise(0, 64, 64, 3)), tmp_path / name)
    read_picture(path, COLOUR)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 9 // 10])
    check_refused(path, "damaged", name)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_damaged_exif_gives_no_warning(tmp_path: Path) -> None:
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x05\x00\x12\x01\x03\x00\xff\x00\x00\x00"
    path = saved(Image.new("L", (8, 8), 77), tmp_path / "a.jpg", exif=exif, quality=100, dpi=(72, 72))
    assert (read_picture(path, GREY) == 77).all()


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    (tmp_path / "b.png").touch()
    (tmp_path / "c.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("a.png", "b.png", "c.eps", "pipe.png", "", "/dev/zero"):
        check_refused(tmp_path / name, "no picture", name or "a folder")
    check_refused(tmp_path / "none.png", "missing", "none.png")
    check_refused(b"hello", "no picture", "the given bytes")
    check_refused(b"\xff\x0a" + bytes(99), "unsupported", "JPEG XL")


def test_grey_of_unknown_range_is_refused(tmp_path: Path) -> None:
    for levels in (np.ones((8, 8), np.float32), np.full((8, 8), 70000, np.int32)):
        check_refused(saved(Image.fromarray(levels), tmp_path / "a.tif"), "unsupported", r"a\.tif: holds")


@pytest.mark.parametrize("size", [(12000, 9000), (12000, 12000), (20000, 20000)])
def test_large_pictures_are_refused_by_their_header_without_a_warning(size: tuple[int, int]) -> None:
    content = io.BytesIO()
    Image.new("1", (1, 1)).save(content, "PNG")
    whole = bytearray(content.getvalue())
    whole[16:24] = struct.pack(">2I", *size)
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    check_refused(bytes(whole), "too large" if size[0] * size[1] > MAX_PIXELS else "damaged")


def test_a_picture_of_short_rows_counts_as_what_it_costs() -> None:
    """Pillow holds each row apart: 1 x 90 pixels take as much as 16 x 90."""

    def png(width: int, height: int) -> bytes:
        content = io.BytesIO()
        Image.new("RGBA", (width, height)).save(content, "PNG")
        return content.getvalue()

    for width, height in ((1, 90), (15, 90), (90, 1), (1439, 1), (40, 40)):
        check_refused(png(width, height), "too large", max_pixels=1439)
    for width, height in ((1, 89), (89, 1), (16, 89), (89, 16), (40, 35)):
        assert read_picture(png(width, height), GREY, max_pixels=1439).shape == (1, 8, 8)


# ---------------------------------------------------------------- TIFF of all kinds, written by hand


def tiff(
    *strips: bytes, order: str = "<", bits: int = 16, white: int = 1, channels: int = 1, planar: int = 1, sign: int = 1
) -> bytes:
    """8 x 8 pixels; `white`: the photometric interpretation (0: zero is white, 1: zero is black, 2: colours)."""
    tags = {256: [8], 257: [8], 258: [bits] * channels, 259: [1], 262: [white], 273: [0] * len(strips)}
    tags |= {277: [channels], 278: [8], 279: [*map(len, strips)], 284: [planar], 339: [sign] * channels}
    behind = 14 + 12 * len(tags)
    begin = behind + 4 * sum(len(values) for values in tags.values() if len(values) > 1)
    tags[273] = list(accumulate(tags[279][:-1], initial=begin))
    entries, arrays = b"", b""
    for tag, values in tags.items():
        packed = struct.pack(f"{order}{len(values)}I", *values)
        entries += struct.pack(order + "HHI", tag, 4, len(values))
        entries += packed if len(values) == 1 else struct.pack(order + "I", behind + len(arrays))
        arrays += packed if len(values) > 1 else b""
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, len(tags))
    return header + entries + bytes(4) + arrays + b"".join(strips)


LEVELS = np.arange(64).reshape(8, 8) * 4  # 0 to 252
COLOURS = np.stack([LEVELS, LEVELS[::-1], LEVELS.T])
SHALLOW, SHALLOW_PLANES = LEVELS.astype(np.uint8).tobytes(), [c.astype(np.uint8).tobytes() for c in COLOURS]


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_usual_kinds_is_read_right(order: str) -> None:
    deep = (LEVELS * 257).astype(order + "u2").tobytes()
    for content in (tiff(deep, order=order), tiff(SHALLOW, order=order, bits=8)):
        assert read_picture(content, GREY)[0].tolist() == LEVELS.tolist()
    inverted = tiff(SHALLOW, order=order, bits=8, white=0)
    assert read_picture(inverted, GREY)[0].tolist() == (255 - LEVELS).tolist()
    assert read_picture(tiff(b"\x80" * 8, order=order, bits=1, white=0), GREY)[0, :, :2].tolist() == [[0, 255]] * 8
    mixed = COLOURS.transpose(1, 2, 0)
    for content in (
        tiff((mixed * 257).astype(order + "u2").tobytes(), order=order, white=2, channels=3),
        tiff(mixed.astype(np.uint8).tobytes(), order=order, bits=8, white=2, channels=3),
        tiff(*SHALLOW_PLANES, order=order, bits=8, white=2, channels=3, planar=2),
    ):
        assert read_picture(content, COLOUR).tolist() == COLOURS.tolist()


def test_a_tiff_of_12_bits_is_scaled_by_them() -> None:
    bits = np.unpackbits((LEVELS * 4095 // 252).astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 4:]
    found = read_picture(tiff(np.packbits(bits).tobytes(), bits=12), GREY)[0]
    assert (found.int() - torch.from_numpy(LEVELS * 255 // 252)).abs().max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_that_would_be_read_wrong_is_refused(order: str) -> None:
    deep = (LEVELS * 257).astype(order + "u2").tobytes()
    planes = [(c * 257).astype(order + "u2").tobytes() for c in COLOURS]
    for content in (
        tiff(deep, order=order, white=0),
        tiff(*planes, order=order, white=2, channels=3, planar=2),
        tiff((LEVELS * 100).astype(order + "i2").tobytes(), order=order, sign=2),
        tiff(SHALLOW, order=order, bits=8, sign=2),
        tiff((LEVELS / 255).astype(order + "f4").tobytes(), order=order, bits=32, sign=3),
        tiff(deep + deep, order=order, channels=2),
        tiff(bytes(8 * 8 * 3), order=order, bits=8, white=6, channels=3),  # raw YCbCr: 2 x 2 pixels share a colour
    ):
        check_refused(content, "unsupported", "the given bytes: ")


def test_a_tiff_palette_of_8_bits_is_refused(tmp_path: Path) -> None:
    sound = saved(Image.fromarray(LEVELS.astype(np.uint8)).convert("P"), tmp_path / "a.tif").read_bytes()
    palette = Image.open(io.BytesIO(sound)).tag_v2[320]  # type: ignore[attr-defined]
    packed = [struct.pack(f"<{len(palette)}H", *levels) for levels in (palette, [level >> 8 for level in palette])]
    assert read_picture(sound, GREY)[0].float().std() > 0
    check_refused(sound.replace(*packed), "unsupported")


@pytest.mark.parametrize("bits", [8, 12])
def test_few_bits_in_sixteen_are_refused(bits: int, tmp_path: Path) -> None:
    low = (LEVELS * (2**bits - 1) // 252).astype(np.uint16)
    image, mixed = Image.fromarray(low), np.stack([low] * 3, -1)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in mixed)
    chunks = [(b"IHDR", struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    for source in (
        *(image, saved(image, tmp_path / "a.png"), saved(image, tmp_path / "a.tif"), png),
        b"P5 8 8 65535\n" + low.astype(">u2").tobytes(),
        b"P6 8 8 65535\n" + mixed.astype(">u2").tobytes(),
        tiff(mixed.astype("<u2").tobytes(), white=2, channels=3),
    ):
        with pytest.raises(PictureError, match="at most 12 of its 16 bits"):
            read_picture(source, COLOUR)
    pgm = b"P5 8 8 %d\n" % (2**bits - 1) + low.astype(">u2" if bits > 8 else "u1").tobytes()
    error = read_picture(pgm, GREY)[0].int() - torch.from_numpy(LEVELS * 255 // 252)
    assert error.abs().max() <= 1, "the header of this one states its highest level"


# ---------------------------------------------------------------- preprocessing


def test_normalise_against_numpy() -> None:
    x = torch.from_numpy(noise(2, 5, 3, 4, 4))
    p = Preprocessing(size=4, channels=3).fitted(x)
    as_double = x.numpy() / 255.0
    assert np.allclose(p.mean, as_double.mean((0, 2, 3)), atol=1e-12)
    assert np.allclose(p.std, as_double.std((0, 2, 3)), atol=1e-12)
    mean, std = (np.array(v).reshape(3, 1, 1) for v in (p.mean, p.std))
    expected = ((as_double - mean) / std).reshape(5, -1)
    for given in (x, x.float()):
        before = given.clone()
        assert np.abs(p.normalise(given).numpy() - expected).max() < 1e-6
        assert torch.equal(given, before)
    plain = Preprocessing(size=4, channels=3).normalise(x)
    assert plain.dtype == torch.float32 and torch.equal(plain, x.flatten(1) / 255)
    flat = torch.full((3, 1, 4, 4), 99, dtype=torch.uint8)
    p = Preprocessing(size=4, channels=1).fitted(flat)
    assert p.std == (1.0,) and p.normalise(flat).abs().max() < 1e-6


def test_preprocessing_as_plain_data() -> None:
    p = Preprocessing(size=4, channels=3, background=7, mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25))
    assert Preprocessing.from_dict(json.loads(json.dumps(p.as_dict()))) == p


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        *(("size", value) for value in (0, 10**6, "8", True)),
        *(("channels", 2), ("background", 256), ("colour", 1)),
        *(("mean", value) for value in ([0.0, 0.0], [float("nan")], "0")),
        *(("std", value) for value in ([0.0], [None])),
    ],
)
def test_unusable_preprocessing_is_named(key: str, wrong: object) -> None:
    plain = Preprocessing(size=8, channels=1).as_dict() | {key: wrong}
    with pytest.raises(InputError, match=rf"^preprocessing.*{key}"):
        Preprocessing.from_dict(plain)


# ---------------------------------------------------------------- arrays and tensors


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_and_tensors_of_each_layout_and_range_are_one_picture(channels: int) -> None:
    levels = noise(2, 12, 9, channels)
    expected = read_picture(Image.fromarray(levels if channels > 1 else levels[..., 0]), COLOUR)
    for layout in (levels, levels.transpose(2, 0, 1)):
        floats = layout / 255
        for array in (layout, floats, floats.astype(np.float32), layout[::-1][::-1]):
            assert torch.equal(read_picture(array, COLOUR), expected)
        for tensor in (torch.tensor(layout), torch.tensor(floats), torch.tensor(floats, requires_grad=True)):
            assert torch.equal(read_picture(tensor, COLOUR), expected)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((3, 8, 3), r"transpose \(C, H, W\) first"),  # a picture of 3 columns, or of 3 channels
        ((8, 3, 9), "transpose"),
        ((5, 28, 28), r"\(N, H, W, 1\)"),
        ((784,), "reshape"),
        ((2, 8, 8, 3), "several pictures"),
    ],
)
def test_shapes_that_are_not_one_picture_are_refused_with_a_hint(shape: tuple[int, ...], hint: str) -> None:
    for given, name in ((np.zeros(shape), "array"), (torch.zeros(shape), "tensor")):
        with pytest.raises(InputError, match=rf"^the given {name}: .*{hint}.*\.$"):
            read_picture(given, GREY)


def test_arrays_of_two_levels_and_of_none() -> None:
    array = noise(1, 8, 8) > 99
    assert torch.equal(read_picture(array, GREY)[0] == 255, torch.from_numpy(array))
    for source in (Image.new("L", (0, 5)), np.zeros((0, 5), np.uint8), np.zeros((5, 0, 3), np.uint8)):
        with pytest.raises(InputError, match="holds no pixels"):
            read_picture(source, GREY)


def test_numbers_without_a_known_range_are_refused_with_a_hint() -> None:
    for given, hint in (
        (np.full((8, 8), 255.0), "divide"),
        (np.zeros((8, 8), np.int64), "uint8"),
        (torch.zeros(8, 8, dtype=torch.int32), "uint8"),
        (np.zeros((8, 8, 3), np.uint16), "257"),
    ):
        with pytest.raises(InputError, match=hint):
            read_picture(given, GREY)


def test_an_open_file_is_read_and_one_of_text_is_refused(tmp_path: Path) -> None:
    path = saved(Image.fromarray(noise(0, 8, 8)), tmp_path / "a.png")
    with path.open("rb") as file:
        assert torch.equal(read_picture(file, GREY), read_picture(path, GREY))
    with path.open(encoding="latin-1") as file, pytest.raises(InputError, match=r"a\.png: is opened as text.*'rb'"):
        read_picture(file, GREY)
