"""Pictures that a csv file labels, by rows of pixels or names of files, are read as those in folders of classes are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hillstart.data import folder
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.system.errors import InputError

HEADING = "label," + ",".join(f"pixel{k}" for k in range(25))
GREY = {"size": 5, "colour": False, "augment": "none", "cache": False}


def digits(path: Path, n: int = 30, heading: str = "label,{}", side: int = 5) -> np.ndarray:
    """n digits in turn, the first pixel of each its label."""
    path.parent.mkdir(exist_ok=True)
    x = np.random.default_rng(n).integers(0, 256, (n, side * side))
    x[:, 0] = np.arange(n) % 3 + 8
    rows = [",".join(map(str, [k, *row])) for k, row in zip(x[:, 0], x, strict=True)]
    above = [heading.format(",".join(f"pixel{k}" for k in range(side * side)))] if heading else []
    path.write_text("\n".join([*above, *rows, ""]), encoding="utf-8-sig")
    return x.reshape(n, 1, side, side)


@pytest.mark.parametrize("heading", ["label,{}", ""])
def test_rows_of_pixels(tmp_path: Path, heading: str) -> None:
    x = digits(tmp_path / "digits/train.csv", heading=heading)
    (tmp_path / "digits/test.csv").write_text(",".join(f"pixel{k}" for k in range(25)) + "\n" + ",".join(["7"] * 25))
    (tmp_path / "digits/sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    for root in (tmp_path / "digits", tmp_path / "digits/train.csv"):
        made = folder.load(root=root, **GREY)  # type: ignore[arg-type]
        assert made.classes == ("8", "9", "10") and [len(s.y) for s in (made.train, made.val, made.test)] == [18, 6, 6]
        for split in (made.train, made.val, made.test):
            assert (split.x[:, 0, 0, 0] == split.y + 8).all()
        every = np.concatenate([split.x.numpy() for split in (made.train, made.val, made.test)])
        assert sorted(map(bytes, every)) == sorted(map(bytes, x.astype(np.uint8)))
    large = folder.load(root=tmp_path / "digits", size=10, classes=["10", "8"], cache=False)
    assert large.classes == ("10", "8") and large.train.x.shape[1:] == (3, 10, 10)


def test_an_official_test_stays_one_and_its_copies_are_found(tmp_path: Path) -> None:
    x = digits(tmp_path / "mnist_train.csv")
    digits(tmp_path / "mnist_test.csv", 30)
    made = folder.load(root=tmp_path, **GREY)  # type: ignore[arg-type]
    assert (made.test.x.numpy() == x).all() and len(made.val.y) == 6
    findings, counts = folder.examine(root=tmp_path, size=5)
    assert [f.kind for f in findings].count("leak") == 30 and counts["test"] == {"8": 10, "9": 10, "10": 10}


@pytest.mark.parametrize("heading", ["id,breed", "number,file,label", ""])
def test_names_of_files_beside_a_folder(tmp_path: Path, heading: str) -> None:
    (tmp_path / "dogs/train").mkdir(parents=True)
    rows = []
    for k in range(20):
        Image.new("L", (9, 9), 10 * k).save(tmp_path / f"dogs/train/{k}.jpg")
        name = {"id,breed": f"{k}", "": f"train/{k}.jpg"}.get(heading, f"{k},{k}.jpg")
        rows.append(f"{name},{('pug', 'collie')[k % 2]}")
    Image.new("L", (9, 9)).save(tmp_path / "dogs/train/more.png")
    path = tmp_path / "dogs/labels.csv"
    path.write_text("\n".join([heading, *rows] if heading else rows))
    made = folder.load(root=tmp_path / "dogs", **GREY)  # type: ignore[arg-type]
    assert made.classes == ("collie", "pug") and len(made.train.y) + len(made.val.y) + len(made.test.y) == 20
    pug = read_picture(tmp_path / "dogs/train/0.jpg", Preprocessing(size=5, channels=1))
    (label,) = {
        int(y) for s in (made.train, made.val, made.test) for x, y in zip(s.x, s.y, strict=True) if x.equal(pug)
    }
    assert made.classes[label] == "pug"
    assert [f.paths[0].name for f in folder.examine(root=path)[0] if f.kind == "no class"] == ["more.png"]
    (tmp_path / "dogs/train/3.jpg").unlink()
    with pytest.raises(InputError, match=r"labels\.csv: names 1 pictures that are not there"):
        folder.load(root=path, cache=False)


def test_a_picture_that_is_named_several_times_is_told_with_the_count(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("L", (9, 9)).save(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text("id,label\na,pug\nb,collie\na,pug\na,pug\n")
    with pytest.raises(InputError, match=r"a\.png: is named 3 times in .*labels\.csv"):
        folder.load(root=tmp_path / "labels.csv", cache=False)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("label," + ",".join(f"pixel{k}" for k in range(24)) + "\n" + "1," * 24 + "1\n", "make no square"),
        *((f"{HEADING}\n{'1,' * 25}{cell}\n", "cannot be read") for cell in ("256", "-1", "0.5", "", "a", "1,1\n1")),
        ("a,b,c\n1,2,3\n", "has no column of labels"),
        *(
            (f"{HEADING}\n{label},{'1,' * 24}1", "the label .* is no name of a class")
            for label in ("", "a\tb", "a" * 101)
        ),
        ("", "has no column of labels"),
        ("\x00\udcff", "cannot be read"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, text: str, wrong: str) -> None:
    (tmp_path / "train.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=rf"train\.csv: .*{wrong}"):
        folder.load(root=tmp_path, cache=False)


def test_of_several_tables_one_is_asked_for(tmp_path: Path) -> None:
    for name in ("a", "b"):
        digits(tmp_path / f"{name}.csv")
    with pytest.raises(InputError, match=r"^data\.root is .* a\.csv, b\.csv; give"):
        folder.load(root=tmp_path)
