"""Quick, Draw! in both of its forms: they look alike, and odd files end in a sentence."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from hillstart.data import quickdraw
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


def line(*strokes: list[list[float]]) -> str:
    return json.dumps({"word": "x", "drawing": strokes})


def test_bitmaps_become_dark_on_white_and_every_split_has_its_share(bitmaps: Path) -> None:
    made = quickdraw.load(root=bitmaps, test_fraction=0.2, val_fraction=0.25)
    assert made.classes == ("lion", "duck")
    counts = [split.y.bincount().tolist() for split in (made.train, made.val, made.test)]
    assert counts == [[12, 18], [4, 6], [4, 6]]
    x, y = (torch.cat([getattr(s, name) for s in (made.train, made.val, made.test)]) for name in "xy")
    assert torch.equal(255 - x.flatten(1)[:, 400], (100 + y).to(torch.uint8))
    assert sorted((255 - x.flatten(1)[y == 0, 0]).tolist()) == list(range(20))
    assert x.shape[1:] == (1, 28, 28) and x.flatten(1)[:, 1:400].eq(255).all()


def test_per_class_takes_the_first(bitmaps: Path) -> None:
    made = quickdraw.load(root=bitmaps, per_class=5)
    x = torch.cat([s.x for s in (made.train, made.val, made.test)])
    assert sorted((255 - x.flatten(1)[:, 0]).tolist()) == sorted(2 * [*range(5)])


def test_both_forms_come_out_alike(bitmaps: Path) -> None:
    for file in REAL.glob("*.ndjson"):
        shutil.copy(file, bitmaps)
    made = quickdraw.load(root=bitmaps, classes=None)
    assert made.classes == ("bird", "cat", "duck", "lion") and made.train.x.shape[1:] == (1, 28, 28)
    drawn = made.train.x[made.train.y < 2]
    assert (drawn.flatten(1).min(1).values == 0).all() and (drawn.flatten(1).median(1).values == 255).all()
    assert len(torch.cat([made.train.y, made.val.y, made.test.y])) == 10 + 50


def test_strokes_are_centred_and_as_thick_as_in_the_bitmaps() -> None:
    across = rasterised([np.array([[0.0, 0.0], [255.0, 0.0]])])  # a stroke along the upper edge of the plane
    ink = 1 - across / 255
    assert np.abs(ink - ink[::-1]).max() < 0.3 and np.abs(ink - ink[:, ::-1]).max() < 0.3
    # 16 of 304 units thick, 255 + 16 long, on 28 pixels; Pillow's pen is whole pixels of a quarter
    assert ink[:, 14].sum() == pytest.approx(16 / 304 * 28, abs=0.3)
    assert (ink.sum(0) > 0.5).sum() == pytest.approx(271 / 304 * 28, abs=1.1)


@pytest.mark.parametrize(
    "wrong",
    [
        "{",
        "5",
        "{}",
        '{"drawing": []}',
        '{"drawing": 5}',
        '{"drawing": [[[1, 2], [1]]]}',
        '{"drawing": [[[1, 2]]]}',
        '{"drawing": [[[], []]]}',
        '{"drawing": [[["a"], ["b"]]]}',
        '{"drawing": [[[NaN], [1]]]}',
        f'{{"drawing": [[[1{"0" * 400}], [1]]]}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "cat.ndjson"
    path.write_text(f"{line([[0, 9], [0, 9]])}\n\n{wrong}\n")
    with pytest.raises(InputError, match=r"cat\.ndjson, line 3: holds no drawing"):
        read_drawings(path, 10)
    assert read_drawings(path, 1).shape == (1, 28, 28)


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cat.ndjson"
    path.write_text(f"{line([[0, 9], [0, 9]])}\n{{{' ' * LONGEST_LINE}")
    with pytest.raises(InputError, match=r"cat\.ndjson, line 2: is longer than any drawing; give JSON"):
        read_drawings(path, 10)


def test_strokes_beyond_the_plane_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cat.ndjson"
    path.write_text(line([[0, 256], [0, 9]]))
    with pytest.raises(InputError, match="line 1: reaches beyond its plane"):
        read_drawings(path, 10)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cat\.ndjson: cannot be read"):
        read_drawings(path, 10)


def test_damaged_bitmaps(bitmaps: Path) -> None:
    path = bitmaps / "lion.npy"
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:50], b"", b"hello"):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"lion\.npy: is not a whole \.npy file"):
            quickdraw.load(root=bitmaps)
    for array in (np.zeros((5, 784)), np.zeros((5, 28, 28), np.uint8), np.zeros(784, np.uint8)):
        np.save(path, array)
        with pytest.raises(InputError, match=r"lion\.npy: holds .* give drawings as uint8 \(N, 784\)"):
            quickdraw.load(root=bitmaps)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match=r"lion\.npy: is not a whole"):
        quickdraw.load(root=bitmaps)
    np.save(path, np.zeros((2, 784), np.uint8))
    with pytest.raises(InputError, match=r"lion\.npy: holds 2 drawings; give at least 3"):
        quickdraw.load(root=bitmaps)


@pytest.mark.parametrize(
    "head",
    [
        "(" * 9000,
        "-" * 9000,
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 784)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 18446744073709551616)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 784)}",
        "{'descr': '|u1', 'fortran_order': False, 3: 4}",
        "{'descr': [('a\\nb', '|u1')], 'fortran_order': False, 'shape': (3, 784)}",
        str(dict.fromkeys(f"key {k}" for k in range(500))),
        f"{{'descr': {[(f'f{k}', '|u1') for k in range(500)]}, 'fortran_order': False, 'shape': (3, 784)}}",
    ],
    ids=["parentheses", "minus signs", "below none", "2^64", "no number", "no shape", "two lines", "names", "a novel"],
)
def test_heads_of_bitmaps_that_led_numpy_astray(bitmaps: Path, head: str) -> None:
    path = bitmaps / "lion.npy"
    path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(head) + 1) + head.encode() + b"\n" + bytes(10**6))
    with pytest.raises(InputError, match=r"lion\.npy: (is not a whole|holds) [^\n]{1,300}$"):
        quickdraw.load(root=bitmaps)


def test_many_arrays_by_the_name_of_one(bitmaps: Path) -> None:
    np.savez(bitmaps / "lion.npz", np.zeros((5, 784), np.uint8))
    (bitmaps / "lion.npz").rename(bitmaps / "lion.npy")
    with pytest.raises(InputError, match=r"lion\.npy: is not a whole"):
        quickdraw.load(root=bitmaps)


def test_wrong_options(bitmaps: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for wrong, said in (
        ({"classes": ["lion", "dcuk"]}, r"data\.classes: there is no class 'dcuk'; did you mean 'duck'"),
        ({"root": bitmaps / "none"}, r"data\.root: .* is not a folder"),
        ({"root": tmp_path_factory.mktemp("empty")}, r"data\.root: .* holds no drawings"),
        ({"per_class": 2}, r"data\.per_class is 2"),
        ({"test_fraction": 0.0}, r"data\.test_fraction"),
    ):
        with pytest.raises(InputError, match=said):
            quickdraw.load(**({"root": bitmaps} | wrong))


def test_missing_classes_are_downloaded_whole_or_not_at_all(
    bitmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setattr(quickdraw, "BITMAPS", bitmaps.as_uri())
    monkeypatch.setattr(quickdraw, "HOME", home)
    made = quickdraw.load()
    assert sorted(path.name for path in home.iterdir()) == ["duck.npy", "lion.npy"]
    assert (home / "duck.npy").read_bytes() == (bitmaps / "duck.npy").read_bytes()
    monkeypatch.setattr(quickdraw, "BITMAPS", (bitmaps / "nowhere").as_uri())
    assert torch.equal(quickdraw.load().train.x, made.train.x)
    with pytest.raises(
        InputError, match=r"^data\.root: cow\.npy is not in .* and cannot be downloaded \(.*\); go online"
    ):
        quickdraw.load(classes=["lion", "cow"])
    assert sorted(path.name for path in home.iterdir()) == ["duck.npy", "lion.npy"]
    with pytest.raises(InputError, match=r"^data\.classes: Quick, Draw! has no class '\.\./lion'"):
        quickdraw.load(classes=["duck", "../lion"])


def test_a_connection_that_ends_early_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        headers = {"Content-Length": "100"}  # noqa: RUF012

        def __enter__(self) -> "Answer":
            self.blocks = [b"x" * 40, b""]
            return self

        def __exit__(self, *_: object) -> None: ...

        def read(self, _: int) -> bytes:
            return self.blocks.pop(0)

    monkeypatch.setattr(quickdraw, "HOME", tmp_path)
    monkeypatch.setattr(quickdraw.urllib.request, "urlopen", lambda *_, **__: Answer())
    with pytest.raises(InputError, match="the connection ended after 40 of 100 bytes"):
        quickdraw.load()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_class_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, **_: object) -> None:
        raise quickdraw.urllib.error.HTTPError(url, 404, "Not Found", {}, None)

    monkeypatch.setattr(quickdraw, "HOME", tmp_path)
    monkeypatch.setattr(quickdraw.urllib.request, "urlopen", refuse)
    with pytest.raises(InputError, match=r"^data\.classes: Quick, Draw! has no class 'lyon'"):
        quickdraw.load(classes=["lyon", "duck"])
