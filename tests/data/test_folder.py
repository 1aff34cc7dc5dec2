"""The user's own photos: any sensible layout is read, and an error names the folder or file of any odd one."""

import logging
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from hillstart.data import folder
from hillstart.data.dataset import PictureSet
from hillstart.data.images import read_picture
from hillstart.system.errors import InputError


def fill(root: Path, name: str, n: int, level: int = 0) -> None:
    """n pictures of a class, of different sizes, recognisable by their grey level: level, level + 1, ..."""
    (root / name).mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (40 + i, 50), (level + i,) * 3).save(root / name / f"{i:03}.png")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Ten pictures of each class."""
    for k, name in enumerate(("dog", "cat", "ant")):
        fill(tmp_path / "pets", name, 10, 50 * k)
    return tmp_path / "pets"


def spoil(*paths: Path) -> None:
    for path in paths:
        path.write_text("no picture")


def levels(x: torch.Tensor) -> list[int]:
    return sorted(x[:, 0, 0, 0].tolist())


def check_labels(made: PictureSet, n: int) -> None:
    """Each of the n pictures of `pets` has its own label."""
    splits = (made.train, made.val, made.test)
    assert sum(len(split.y) for split in splits) == n
    for split in splits:
        assert split.y.unique().tolist() == [0, 1, 2] and (2 - split.x[:, 0, 0, 0] // 50 == split.y).all()


def test_classes_and_splits_from_one_folder(pets: Path) -> None:
    made = folder.load(root=pets, size=8, val_fraction=0.25, test_fraction=0.2)
    assert made.classes == ("ant", "cat", "dog") and made.train.x.shape == (18, 3, 8, 8)
    assert [len(split.y) for split in (made.val, made.test)] == [6, 6]
    check_labels(made, 30)
    assert levels(torch.cat([made.train.x, made.val.x, made.test.x])) == [
        50 * k + i for k in range(3) for i in range(10)
    ]
    again, other = folder.load(root=str(pets), size=8), folder.load(root=pets, size=8, seed=1)
    assert torch.equal(made.test.x, again.test.x) and not torch.equal(made.test.x, other.test.x)


def test_other_files_hidden_folders_and_links_are_skipped(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("__MACOSX", ".ipynb_checkpoints", ".git"):
        fill(pets, name, 1)
    for name in ("a.txt", "b.MOV"):
        (pets / "cat" / name).touch()
    (pets / "cat/.hidden.png").touch()
    (pets / "cat/000.png").rename(pets / "cat/000.PNG")
    (pets / "cat/loop").symlink_to(pets / "cat")
    (pets / "cat/up").symlink_to(pets)
    check_labels(folder.load(root=pets, size=4), 30)
    (message,) = caplog.messages
    assert "not that of a picture: 2 (first: " in message and "a.txt" in message


@pytest.mark.parametrize("root", [None, "none", "file", "empty"])
def test_an_unusable_root_is_named(tmp_path: Path, root: str | None) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"^data\.root is .*{root or 'not set'}"):
        folder.load(root=root and tmp_path / root)


def test_each_class_needs_a_picture_for_each_split(pets: Path) -> None:
    (pets / "bee").mkdir()
    with pytest.raises(InputError, match="bee: holds no pictures"):
        folder.load(root=pets, size=4)
    fill(pets, "bee/deep", 2)
    with pytest.raises(InputError, match="bee: holds 2 pictures; give at least 3"):
        folder.load(root=pets, size=4)
    fill(pets, "bee/more", 1)
    assert len(folder.load(root=pets, size=4).classes) == 4
    found, counts = folder.examine(root=pets)
    assert [f.paths for f in found if f.kind == "few"] == [(pets / "bee",)] and counts["train"]["bee"] == 3


def test_the_files_trained_on_are_identified_by_name(pets: Path) -> None:
    made = folder.load(root=pets, size=8)
    assert len(made.files) == len(set(made.files)) == len(made.train.y)
    for name, x, y in zip(made.files, made.train.x, made.train.y, strict=True):
        assert torch.equal(read_picture(pets / name, made.preprocessing), x)
        assert name.startswith(made.classes[int(y)] + "/")
    assert (made.trained_on["pictures"], made.trained_on["files"]) == (len(made.files),) * 2
    moved = pets.rename(pets.with_name("moved"))
    assert folder.load(root=moved, size=4).trained_on == made.trained_on
    assert folder.load(root=moved, size=4, seed=1).trained_on["sha256"] != made.trained_on["sha256"]


def test_bad_files_are_refused_or_skipped_in_every_run(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    spoil(pets / "ant/003.png")
    (pets / "dog/001.png").write_bytes((pets / "dog/001.png").read_bytes()[:-40])
    with pytest.raises(InputError, match=r"ant/003\.png: .* \(2 files of 30 cannot be used; .*bad_files=skip"):
        folder.load(root=pets, size=4)
    for _ in range(2):  # the second run finds its pictures in the cache
        caplog.clear()
        made = folder.load(root=pets, size=4, bad_files="skip")
        check_labels(made, 28)
        assert not {"ant/003.png", "dog/001.png"} & set(made.files)
        assert "left out 2 files of 30" in caplog.messages[0] and "ant/003.png" in caplog.messages[0]
    spoil(*(pets / "ant").iterdir())
    with pytest.raises(InputError, match="ant: holds no usable picture"):
        folder.load(root=pets, size=4, bad_files="skip")
    with pytest.raises(InputError, match=r"^data\.bad_files is 'drop'"):
        folder.load(root=pets, bad_files="drop")


@pytest.mark.parametrize("test", ["test", "drawn"])
def test_a_leak_is_a_warning_in_every_run(test: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for k, name in enumerate(("ant", "cat")):
        fill(tmp_path, f"train/{name}", 6, 100 * k)
        fill(tmp_path, f"test/{name}", 5, 100 * k + 20)
    (tmp_path / "test/cat/000.png").write_bytes((tmp_path / "train/cat/003.png").read_bytes())
    root = tmp_path
    if test == "drawn":  # all pictures of a class are alike
        root = tmp_path / "train"
        for path in (root / "cat").iterdir():
            Image.new("RGB", (40, 50), (77,) * 3).save(path)
    for _ in range(2):
        caplog.clear()
        made = folder.load(root=root, size=4)
        (message,) = caplog.messages
        assert message.startswith("LEAK:") and ": 1 (first: " in message and "train/cat/003.png" in message
        assert len(made.test.y) == (10 if test == "test" else 2), "the pictures stay"


# ---------------------------------------------------------------- layouts


def both(*places: str) -> list[str]:
    return [f"{place}/{name}" for place in places for name in ("cat", "dog")]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", None, "Testing"),
        ("TRAIN", None, "TEST"),
        ("seg_train/seg_train", None, "seg_test/seg_test"),
        ("train", "valid", None),
        ("train", "val", "test"),
        ("training", "validation", "evaluation"),
        ("train", "dev", "hold-out"),
        ("trainset", "valset", "testset"),
        ("train_images", None, "Test Images"),
        ("training_set/training_set", None, "test_set/test_set"),
        ("train2017/images", "val2017/images", None),
        ("pets-train", None, "pets-test"),
        ("train", None, "test1"),
    ],
)
def test_the_usual_names_of_splits(train: str, val: str | None, test: str | None, tmp_path: Path) -> None:
    for split, n, level in ((train, 6, 0), (val, 2, 100), (test, 3, 200)):
        for place in both(split) if split else ():
            fill(tmp_path, place, n, level)
    made = folder.load(root=tmp_path, size=4)
    assert made.classes == ("cat", "dog") and made.train.x.max() < 100
    assert levels(made.val.x) == [100, 100, 101, 101] if val else made.val.x.max() < 100
    assert levels(made.test.x) == [200, 200, 201, 201, 202, 202] if test else made.test.x.max() < 100
    found, counts = folder.examine(root=tmp_path, size=4)
    assert set(counts) == {"train"} | ({"val"} if val else set()) | ({"test"} if test else set())
    assert "layout" not in {finding.kind for finding in found}


@pytest.mark.parametrize(
    ("places", "named"),
    [
        (["train", "test1"], "D/test1: is named like a split"),
        ([*both("train"), "test"], "D/test: is named like a split"),
        (["train", *both("test")], "D/train: is named like a split"),
        (["train"], "D/train: is named like a split"),
        (["cat", "dog", "test"], "D/test: is named like a split"),
        (["cat", "dog", "unlabeled"], "D/unlabeled: is named like a split"),
        ([*both("train"), "unlabeled/x"], "D/unlabeled: holds folders"),
        (both("val", "test"), "D/test: is named like a split"),
        (["cats_train", "cats_test", "dogs_train", "dogs_test"], "D/cats_test: is named like a split"),
        (both("train/train", "train/val"), "D/train/val: is named like a split"),
        (both("train", "val", "valid"), "D/valid: is a second folder for val, beside .*D/val;"),
        (both("Train", "train"), "D/train: is a second folder for train"),
        ([*both("train", "test"), "docs"], "D/docs: is beside folders of splits"),
        (["train/cat", "train/dog", "test/cat"], "D/test: there is no folder for the class 'dog'"),
        (["train/cat", "train/dog", "test/cat", "test/fox"], "D/test/fox: there is no class 'fox'"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], "D/cat: holds folders named like splits"),
        ([*both("data/train", "data/test"), "models"], "D/data: holds folders named like splits"),
        (both("fold1", "fold2"), "D/fold2: holds folders of the same names as .*D/fold1 "),
        (both("train/a", "train/b"), "D/train/b: holds folders of the same names as "),
        (both("entrainement/images", "essai/images"), "D/essai: holds folders of the same names as "),
        (["cat"], "D: holds one class only, cat;"),
        (both("data/train", "data/test"), r"D: holds one class only, data, which holds .*give data\.root=.*D/data if"),
        (both("x/data/train", "x/data/test"), "D: holds one class only, x, which holds .*=.*D/x/data if"),
        (both("pets"), "D: holds one class only, pets, which holds .*D/pets if"),
    ],
)
def test_folders_of_splits_never_become_classes(places: list[str], named: str, tmp_path: Path) -> None:
    for place in places:
        fill(tmp_path / "D", place, 5)
    with pytest.raises(InputError, match=named):
        folder.load(root=tmp_path / "D", size=4)
    found, _ = folder.examine(root=tmp_path / "D", size=4)
    assert "layout" in {finding.kind for finding in found}


def test_classes_may_be_named_like_splits(tmp_path: Path) -> None:
    for place in ("a/train", "a/bus", "b/test_tube/images", "b/train_station/images", "b/strain", *both("c/valid")):
        fill(tmp_path, place, 4)
    assert folder.load(root=tmp_path / "a", size=4).classes == ("bus", "train")
    assert folder.load(root=tmp_path / "b", size=4).classes == ("strain", "test_tube", "train_station")
    (tmp_path / "a").rename(tmp_path / "c/invalid")
    assert folder.load(root=tmp_path / "c", size=4, classes=["valid", "invalid"]).classes == ("valid", "invalid")


def test_pictures_without_labels_are_skipped_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for place in (*both("seg_train", "seg_test"), "seg_pred"):
        fill(tmp_path, place, 5)
    with caplog.at_level(logging.INFO):
        made = folder.load(root=tmp_path, size=4)
    assert sum(len(split.y) for split in (made.train, made.val, made.test)) == 20
    assert "seg_pred" in caplog.text and "seg_train: train" in caplog.text


def test_folders_whose_names_are_not_utf8_are_refused_but_not_files(pets: Path) -> None:
    (pets / "cat/000.png").rename(pets / "cat" / os.fsdecode(b"\xf6.png"))
    assert folder.load(root=pets, size=4).trained_on["sha256"]
    odd = (pets / "cat").rename(pets / os.fsdecode(b"L\xf6we"))
    with pytest.raises(InputError, match="L\udcf6we: "):
        folder.load(root=pets, size=4)
    assert [f.paths for f in folder.examine(root=pets, size=4)[0] if f.kind == "layout"] == [(odd,)]
    odd.rename(pets / "cat")
    with pytest.raises(InputError, match="\udcf6: "):
        folder.load(root=(moved := pets.rename(pets.with_name(os.fsdecode(b"\xf6")))), size=4)
    moved.rename(pets)
