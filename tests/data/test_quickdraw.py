"""Quick, Draw! in both of its forms: they look alike, and odd files are refused in one sentence."""

import io
import json
import shutil
import struct
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
import torch

from hillstart.data import quickdraw
from hillstart.data.dataset import PictureSet
from hillstart.data.quickdraw import LONGEST_LINE, rasterised, read_drawings
from hillstart.system.errors import InputError

REAL = Path(__file__).parent / "quickdraw"


@pytest.fixture
def bitmaps(tmp_path: Path) -> Path:
    """20 lions and 30 ducks, as published: white on black. A drawing's first pixel is its number."""
    for name, n in (("lion", 20), ("duck", 30)):
        array = np.zeros((n, 784), np.uint8)
        array[:, 0] = np.arange(n)
        array[:, 400] = 100 + (name == "duck")
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


def together(made: PictureSet) -> tuple[torch.Tensor, torch.Tensor]:
    """All pictures, flat, and labels."""
    x, y = (torch.cat([getattr(split, name) for split in (made.train, made.val, made.test)]) for name in "xy")
    return x.flatten(1), y


def test_bitmaps_become_dark_on_white_and_every_split_has_its_share(bitmaps: Path) -> None:
    made = quickdraw.load(root=bitmaps, test_fraction=0.2, val_fraction=0.25)
    assert made.classes == ("lion", "duck") and made.train.x.shape[1:] == (1, 28, 28)
    counts = [split.y.bincount().tolist() for split in (made.train, made.val, made.test)]
    assert counts == [[12, 18], [4, 6], [4, 6]]
    x, y = together(made)
    assert torch.equal(255 - x[:, 400], (100 + y).to(torch.uint8)) and (x[:, 1:400] == 255).all()
    assert sorted((255 - x[y == 0, 0]).tolist()) == list(range(20))
    first = together(quickdraw.load(root=bitmaps, per_class=5))[0]
    assert sorted((255 - first[:, 0]).tolist()) == sorted(2 * [*range(5)])


def test_both_forms_look_alike(bitmaps: Path) -> None:
    for file in REAL.glob("*.ndjson"):
        shutil.copy(file, bitmaps)
    made = quickdraw.load(root=bitmaps, classes=None)
    x, y = together(made)
    assert made.classes == ("bird", "cat", "duck", "lion") and len(y) == 9 + 50, "one bird was not recognised"
    assert (x[y < 2].min(1).values == 0).all() and (x[y < 2].median(1).values == 255).all()


def test_files_as_downloaded_without_what_the_game_did_not_recognise(tmp_path: Path) -> None:
    for name, mark in (("full_simplified_lion", "\ufeff"), ("full_simplified_alarm clock", "")):
        lines = [
            json.dumps({"word": "x", "recognized": k < 6, "drawing": [[[0, 9 + 20 * k], [0, 9]]]}) for k in range(9)
        ]
        (tmp_path / f"{name}.ndjson").write_text(mark + "\n".join(lines), encoding="utf-8")
    np.save(tmp_path / "full_numpy_bitmap_cat.npy", np.zeros((9, 784), np.uint8))
    made = quickdraw.load(root=tmp_path, classes=None)
    assert made.classes == ("alarm clock", "cat", "lion") and together(made)[1].bincount().tolist() == [6, 9, 6]
    every = quickdraw.load(root=tmp_path, classes=["lion", "cat"], unrecognised=True, per_class=8)
    assert together(every)[1].bincount().tolist() == [8, 8]


def test_strokes_are_centred_and_as_thick_as_in_the_bitmaps() -> None:
    across = rasterised([np.array([[0.0, 0.0], [255.0, 0.0]])])  # a stroke along the upper edge of the plane
    ink = 1 - across / 255
    assert np.abs(ink - ink[::-1]).max() < 0.3 and np.abs(ink - ink[:, ::-1]).max() < 0.3
    # 16 of 304 units thick, 255 + 16 long, on 28 pixels; Pillow's pen is whole pixels of a quarter
    assert ink[:, 14].sum() == pytest.approx(16 / 304 * 28, abs=0.3)
    assert (ink.sum(0) > 0.5).sum() == pytest.approx(271 / 304 * 28, abs=1.1)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        *((line, "holds no drawing") for line in ("{", "5", "{}", '{"drawing": []}', '{"drawing": 5}', "[" * 100_000)),
        *(
            (f'{{"drawing": [{stroke}]}}', "holds no drawing")
            for stroke in ("[[1, 2], [1]]", "[[1, 2]]", "[[], []]", '[["a"], ["b"]]', "[[NaN], [1]]")
        ),
        (f'{{"drawing": [[[1{"0" * 400}], [1]]]}}', "holds no drawing"),
        ('{"drawing": [[[0, 256], [0, 9]]]}', "reaches beyond its plane"),
        (f"{{{' ' * LONGEST_LINE}", "is longer than any drawing"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, wrong: str) -> None:
    path = tmp_path / "cat.ndjson"
    path.write_text(f"{json.dumps({'word': 'x', 'drawing': [[[0, 9], [0, 9]]]})}\n\n{line}\n")
    with pytest.raises(InputError, match=rf"cat\.ndjson, line 3: {wrong}"):
        read_drawings(path, 10)
    assert read_drawings(path, 1).shape == (1, 28, 28)


def npy(header: str) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + bytes(10**6)


def test_damaged_files_are_named(bitmaps: Path) -> None:
    path = bitmaps / "lion.npy"
    whole, zipped, pickled = path.read_bytes(), io.BytesIO(), io.BytesIO()
    np.savez(zipped, np.zeros((5, 784), np.uint8))
    np.save(pickled, np.array([{}]), allow_pickle=True)
    kind = "{'descr': '|u1', 'fortran_order': False, "
    for data in (
        *(whole[:-1], whole[:50], b"", b"hello", zipped.getvalue(), pickled.getvalue()),
        *map(npy, ("(" * 9000, "-" * 9000, kind + "3: 4}", str(dict.fromkeys(f"key {k}" for k in range(500))))),
        *(npy(f"{kind}'shape': {shape}}}") for shape in ("(-1, 784)", "(True, 784)", "(0, 18446744073709551616)")),
        *(
            npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': (3, 784)}}")
            for descr in ([("a\nb", "|u1")], [(f"f{k}", "|u1") for k in range(500)])
        ),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"lion\.npy: (is not a complete|holds) [^\n]{1,300}$"):
            quickdraw.load(root=bitmaps)
    for array in (
        np.zeros((5, 784)),
        np.zeros((5, 28, 28), np.uint8),
        np.zeros(784, np.uint8),
        np.zeros((2, 784), "u1"),
    ):
        np.save(path, array)
        with pytest.raises(InputError, match=r"lion\.npy: holds .*; give"):
            quickdraw.load(root=bitmaps)
    path.with_suffix(".ndjson").write_bytes(b"\xff\xfe\x00")
    path.unlink()
    with pytest.raises(InputError, match=r"lion\.ndjson: cannot be read"):
        quickdraw.load(root=bitmaps)


def test_wrong_roots(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=rf"^data\.root: {root} is no folder of drawings"):
            quickdraw.load(root=root)


# ---------------------------------------------------------------- download


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(quickdraw, "HOME", tmp_path / "home")
    return tmp_path / "home"


def test_missing_classes_are_downloaded(bitmaps: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickdraw, "BITMAPS", bitmaps.as_uri())
    made = quickdraw.load()
    assert (home / "duck.npy").read_bytes() == (bitmaps / "duck.npy").read_bytes()
    monkeypatch.setattr(quickdraw, "BITMAPS", (bitmaps / "nowhere").as_uri())
    assert torch.equal(quickdraw.load().train.x, made.train.x)
    with pytest.raises(InputError, match=r"^data\.root: cow\.npy is not in .* and cannot be downloaded \(.*\); go"):
        quickdraw.load(classes=["lion", "cow"])
    assert sorted(path.name for path in home.iterdir()) == ["duck.npy", "lion.npy"]
    with pytest.raises(InputError, match=r"^data\.classes: Quick, Draw! has no class '\.\./lion'"):
        quickdraw.load(classes=["duck", "../lion"])


def test_a_connection_that_ends_early_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = io.BytesIO(b"x" * 40)
    answer.headers = {"Content-Length": "100"}  # type: ignore[attr-defined]
    monkeypatch.setattr(quickdraw.urllib.request, "urlopen", lambda *_, **__: answer)
    with pytest.raises(InputError, match="the connection ended after 40 of 100 bytes"):
        quickdraw.load()
    assert list(home.iterdir()) == []


def test_an_unknown_class_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, **_: object) -> None:
        raise quickdraw.urllib.error.HTTPError(url, 404, "Not Found", Message(), None)

    monkeypatch.setattr(quickdraw.urllib.request, "urlopen", refuse)
    with pytest.raises(InputError, match=r"^data\.classes: Quick, Draw! has no class 'lyon'"):
        quickdraw.load(classes=["lyon", "duck"])
