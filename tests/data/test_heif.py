"""HEIC, the pictures of phones: read as shown, bounded before they are decoded, named without the extra."""

import io
import logging
import struct
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from hillstart.data import folder, heif
from hillstart.data.images import PictureError, read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.system.errors import InputError

COLOUR = Preprocessing(size=8, channels=3)
HALVES = Image.fromarray(np.repeat(np.uint8([[255, 0]]), 64, 1).repeat(128, 0)).convert("RGB")  # bright on the left


def heic(image: Image.Image = HALVES, **how: object) -> bytes:
    pillow_heif.register_heif_opener()
    file = io.BytesIO()
    image.save(file, "HEIF", **how)
    return file.getvalue()


def test_pixels_transparency_and_rotation(tmp_path: Path) -> None:
    x = read_picture(heic(), COLOUR).int()
    assert (x[..., :3] > 250).all() and (x[..., 5:] < 5).all()
    turned = Image.Exif()
    turned[0x0112] = 6  # the left is up
    x = read_picture(heic(exif=turned.tobytes()), COLOUR).int()
    assert (x[:, :3] > 250).all() and (x[:, 5:] < 5).all()
    clear = HALVES.copy()
    clear.putalpha(0)
    assert (read_picture(heic(clear), Preprocessing(size=8, channels=1, background=90)) == 90).all()
    deep = pillow_heif.from_bytes("RGB;16", (64, 64), np.full((64, 64, 3), 51400, np.uint16).tobytes())
    deep.save(tmp_path / "deep.heic")
    assert (read_picture(tmp_path / "deep.heic", COLOUR).int() - 200).abs().max() <= 2
    assert read_picture(heic(tile_size=64), COLOUR).shape == (3, 8, 8)


def of_size(content: bytes, width: int, height: int, what: bytes = b"ispe") -> bytes:
    """The file with another size of its first picture or, if `what` is `grid`, of its grid of 2 x 2."""
    old = struct.pack(">4s4x2I", b"ispe", 128, 128) if what == b"ispe" else struct.pack(">4B2H", 0, 0, 1, 1, 128, 128)
    new = (
        struct.pack(">4s4x2I", b"ispe", width, height)
        if what == b"ispe"
        else old[:4] + struct.pack(">2H", width, height)
    )
    assert old in content
    return content.replace(old, new, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: of_size(heic(), 16000, 16000), "too large"),
        (lambda: of_size(heic(), 8, 8), "damaged"),  # libheif decodes nothing larger than it was told
        (lambda: of_size(heic(tile_size=64), 16000, 16000), "too large"),
        (lambda: of_size(heic(tile_size=64), 16000, 16000, b"grid"), "too large"),
        (lambda: of_size(heic(tile_size=64), 8, 8, b"grid"), "damaged"),
        (lambda: heic(tile_size=64).replace(b"grid", b"iovl"), "damaged"),
        (lambda: heic()[:-50], "damaged"),
        (lambda: heic()[:20], "damaged"),
        (lambda: heic().replace(b"iloc\0", b"iloc\2"), "damaged"),
    ],
)
def test_a_file_that_would_become_large_is_refused_before_it_is_decoded(content: object, reason: str) -> None:
    with pytest.raises(PictureError) as refused:
        read_picture(content(), COLOUR, max_pixels=128 * 128 * 4)  # type: ignore[operator]
    assert refused.value.reason == reason


def test_without_the_extra_every_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.new("L", (9, 9), i).save(tmp_path / name / f"{i}.png")
            (tmp_path / name / f"{i}.HEIC").write_bytes(heic(HALVES.rotate(i)))
    assert sum(folder.examine(root=tmp_path)[1]["train"].values()) == 40
    monkeypatch.setattr(heif, "installed", lambda: None)
    with pytest.raises(PictureError, match=r"hillstart\[heif\]"):
        read_picture(tmp_path / "cat/1.HEIC", COLOUR)
    findings, counts = folder.examine(root=tmp_path)
    assert [f.kind for f in findings].count("heif") == 20 and sum(counts["train"].values()) == 20
    with caplog.at_level(logging.WARNING):
        folder.load(root=tmp_path, size=8, cache=False)
    assert "hillstart[heif]" in caplog.text and ": 20 (first: " in caplog.text
    for path in (tmp_path / "dog").glob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"dog: .* 10 HEIC .*hillstart\[heif\]"):
        folder.load(root=tmp_path, cache=False)
