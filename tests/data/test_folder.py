"""One's own photos: any sensible layout is read, any odd one ends in a sentence that names it."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hillstart.data import folder
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.system.errors import InputError


def fill(root: Path, name: str, n: int, level: int = 0) -> None:
    """n pictures of a class, of different sizes, recognisable by their grey level: level, level + 1, ..."""
    (root / name).mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (40 + i, 50), (level + i,) * 3).save(root / name / f"{i:03}.png")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for k, name in enumerate(("dog", "cat", "ant")):
        fill(tmp_path, name, 10, 50 * k)
    return tmp_path


def levels(x: torch.Tensor) -> list[int]:
    return sorted(x[:, 0, 0, 0].tolist())


def test_classes_and_splits_from_one_folder(pets: Path) -> None:
    made = folder.load(root=pets, size=8, val_fraction=0.25, test_fraction=0.2)
    assert made.classes == ("ant", "cat", "dog")
    assert [len(s.y) for s in (made.train, made.val, made.test)] == [18, 6, 6]
    assert made.train.x.shape == (18, 3, 8, 8)
    for split in (made.train, made.val, made.test):
        assert split.y.unique().tolist() == [0, 1, 2]
        assert (2 - split.x[:, 0, 0, 0] // 50 == split.y).all()  # each picture kept its own label
    everything = torch.cat([made.train.x, made.val.x, made.test.x])
    assert levels(everything) == [50 * k + i for k in range(3) for i in range(10)]
    again, other = folder.load(root=str(pets), size=8), folder.load(root=pets, size=8, seed=1)
    assert torch.equal(folder.load(root=pets, size=8).test.x, again.test.x)
    assert not torch.equal(again.test.x, other.test.x)


def test_folders_of_splits_are_kept(tmp_path: Path) -> None:
    for split, n, level in (("train", 6, 0), ("val", 2, 100), ("test", 3, 200)):
        for name in ("a", "b"):
            fill(tmp_path, f"{split}/{name}", n, level)
    made = folder.load(root=tmp_path, size=4, colour=False)
    assert made.train.x.shape == (12, 1, 4, 4) and levels(made.train.x) == sorted(2 * [*range(6)])
    assert levels(made.val.x) == [100, 100, 101, 101] and levels(made.test.x) == [200, 200, 201, 201, 202, 202]
    assert made.test.y.tolist() == [0, 0, 0, 1, 1, 1]


def test_validation_is_drawn_from_train_where_it_has_no_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path, f"train/{name}", 5)
        fill(tmp_path, f"test/{name}", 2, 200)
    made = folder.load(root=tmp_path, size=4)
    assert (len(made.train.y), len(made.val.y), len(made.test.y)) == (8, 2, 4)
    assert made.train.x.max() < 200 and made.val.x.max() < 200 and made.test.x.min() == 200


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "bus"):
        fill(tmp_path, name, 4)
    assert folder.load(root=tmp_path, size=4).classes == ("bus", "train")


def test_pictures_are_read_as_for_prediction(pets: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (30, 50, 4), dtype=np.uint8)
    for i in range(3):
        Image.fromarray(array).save(pets / "ant" / f"{i:03}.png")
    made = folder.load(root=pets, classes=["ant", "cat"], size=8, background=9)
    expected = read_picture(pets / "ant" / "000.png", Preprocessing(size=8, channels=3, background=9))
    assert any(torch.equal(x, expected) for x in torch.cat([made.train.x, made.val.x, made.test.x]))
    assert read_picture(pets / "ant" / "000.png", made.preprocessing).equal(expected)


def test_classes_can_be_picked(pets: Path) -> None:
    made = folder.load(root=pets, classes=["dog", "ant"], size=4)
    assert made.classes == ("dog", "ant") and (made.train.x[made.train.y == 0] < 50).all()
    with pytest.raises(InputError, match=r"^data\.classes: there is no class 'dgo'; did you mean 'dog'"):
        folder.load(root=pets, classes=["dgo", "ant"], size=4)


def test_what_is_no_class_or_picture_is_passed_over(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("__MACOSX", ".ipynb_checkpoints", ".git"):
        fill(pets, name, 1)
    for name in ("a.txt", "b.txt", "c.MOV"):
        (pets / "cat" / name).touch()
    with caplog.at_level(logging.WARNING):
        assert folder.load(root=pets, size=4).classes == ("ant", "cat", "dog")
    (message,) = caplog.messages
    assert message == f"{pets / 'cat'}: passed over 3 files that are not pictures (.txt 2, .MOV 1)"


def test_links_in_circles_bring_nothing_twice(pets: Path) -> None:
    (pets / "cat" / "loop").symlink_to(pets / "cat")
    (pets / "cat" / "up").symlink_to(pets)
    made = folder.load(root=pets, size=4)
    assert sum(len(split.y) for split in (made.train, made.val, made.test)) == 30


def test_unreadable_pictures_are_named_and_counted(pets: Path) -> None:
    (pets / "ant" / "003.png").write_text("no picture")
    with pytest.raises(InputError, match=r"ant/003\.png: is not a picture; .* \(1 file of 30 cannot be used; .*\)\.$"):
        folder.load(root=pets, size=4)
    (pets / "dog" / "001.png").write_bytes((pets / "dog" / "001.png").read_bytes()[:-40])
    with pytest.raises(InputError, match=r"ant/003\.png: .* \(2 files of 30 cannot be used; .*bad_files=skip"):
        folder.load(root=pets, size=4)


def test_wrong_roots(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    fill(tmp_path, "one/cat", 5)
    for root, said in (
        (None, r"^data\.root: is not set"),
        (tmp_path / "none", "none does not exist"),
        (tmp_path / "file", "file is not a folder"),
        (tmp_path / "empty", "empty holds no folders"),
        (tmp_path / "one", "holds one class only"),
    ):
        with pytest.raises(InputError, match=said):
            folder.load(root=root)


def test_splits_that_do_not_agree(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "test/a"):
        fill(tmp_path, name, 4)
    with pytest.raises(InputError, match=r"test: there is no folder for the class 'b'"):
        folder.load(root=tmp_path, size=4)
    fill(tmp_path, "test/b", 1)
    fill(tmp_path, "test/c", 1)
    with pytest.raises(InputError, match=r"test/c: there is no class 'c' in"):
        folder.load(root=tmp_path, size=4)
    fill(tmp_path, "extra/a", 1)
    with pytest.raises(InputError, match=r"extra: lies beside folders of splits \(test, train\)"):
        folder.load(root=tmp_path, size=4)


def test_too_few_pictures(pets: Path) -> None:
    (pets / "bee").mkdir()
    with pytest.raises(InputError, match="bee: holds no pictures"):
        folder.load(root=pets, size=4)
    fill(pets, "bee/deep", 2)
    with pytest.raises(InputError, match="bee: holds 2 pictures; give at least 3"):
        folder.load(root=pets, size=4)
    fill(pets, "bee/more", 1)
    assert len(folder.load(root=pets, size=4).classes) == 4


def test_what_was_trained_on_is_told_by_the_names_of_its_files(pets: Path, tmp_path: Path) -> None:
    made = folder.load(root=pets, size=8, val_fraction=0.25, test_fraction=0.2)
    assert len(made.files) == len(set(made.files)) == len(made.train.y) == 18
    for name, x, y in zip(made.files, made.train.x, made.train.y, strict=True):
        assert torch.equal(read_picture(pets / name, made.preprocessing), x)
        assert name.startswith(made.classes[int(y)] + "/")
    told = made.trained_on
    assert (told["pictures"], told["files"], len(told["sha256"])) == (18, 18, 64)
    pets.rename(moved := pets.with_name("moved"))
    again = folder.load(root=moved, size=4, val_fraction=0.25, test_fraction=0.2)
    assert again.trained_on == told
    assert folder.load(root=moved, size=4, seed=1).trained_on["sha256"] != told["sha256"]


def test_bad_files_can_be_left_out_with_their_count_in_every_run(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pets / "ant" / "003.png").write_text("no picture")
    (pets / "dog" / "001.png").write_bytes((pets / "dog" / "001.png").read_bytes()[:-40])
    said = []
    for _ in range(2):  # the second run finds its pictures in the cache
        caplog.clear()
        made = folder.load(root=pets, size=4, bad_files="skip")
        said.append(caplog.messages)
    assert sum(len(split.y) for split in (made.train, made.val, made.test)) == 28
    assert not {"ant/003.png", "dog/001.png"} & set(made.files)
    for split in (made.train, made.val, made.test):
        assert (2 - split.x[:, 0, 0, 0] // 50 == split.y).all()
    assert said[0] == said[1] and said[0][0].startswith("left out 2 files of 30 that cannot be used (first: ")
    for path in (pets / "ant").iterdir():
        path.write_text("no picture")
    with pytest.raises(InputError, match="ant: holds no picture that can be used"):
        folder.load(root=pets, size=4, bad_files="skip")
    with pytest.raises(InputError, match=r"^data\.bad_files is 'drop'"):
        folder.load(root=pets, bad_files="drop")


def test_a_leak_is_told_in_every_run_and_the_pictures_stay(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("ant", "cat"):
        fill(pets, f"split/train/{name}", 6, 0 if name == "ant" else 100)
        fill(pets, f"split/test/{name}", 5, 20 if name == "ant" else 120)
    (pets / "split/test/cat/000.png").write_bytes((pets / "split/train/cat/003.png").read_bytes())
    said = []
    for _ in range(2):
        caplog.clear()
        assert len(folder.load(root=pets / "split", size=4).test.y) == 10
        said.append(caplog.messages)
    assert said[0] == said[1]
    (message,) = said[0]
    assert (
        message.startswith("LEAK: test pictures that are in training or validation too") and ": 1 (first: " in message
    )
    assert "train/cat/003.png = " in message


def test_copies_on_both_sides_of_a_drawn_split_are_a_leak(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (pets / "cat").iterdir():
        Image.new("RGB", (40, 50), (77,) * 3).save(path)
    folder.load(root=pets, size=4)
    assert [message[:5] for message in caplog.messages] == ["LEAK:"]


def both(*places: str) -> list[str]:
    return [f"{place}/{name}" for place in places for name in ("cat", "dog")]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", None, "Testing"),
        ("Train", "Val", "Test"),
        ("TRAIN", None, "TEST"),
        ("seg_train/seg_train", None, "seg_test/seg_test"),
        ("train", "valid", None),
        ("train", "valid", "test"),
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
        if split is not None:
            for place in both(split):
                fill(tmp_path, place, n, level)
    made = folder.load(root=tmp_path, size=4)
    assert made.classes == ("cat", "dog")
    if val is not None:
        assert levels(made.val.x) == [100, 100, 101, 101]
    if test is not None:
        assert levels(made.test.x) == [200, 200, 201, 201, 202, 202]
    assert made.train.x.max() < 100
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
        (both("val", "test"), "D/test: is named like a split"),
        (["cats_train", "cats_test", "dogs_train", "dogs_test"], "D/cats_test: is named like a split"),
        (both("train/train", "train/val"), "D/train/val: is named like a split"),
        (both("train", "val", "valid"), "D/valid: is a second folder for val, beside .*D/val;"),
        (both("Train", "train"), "D/train: is a second folder for train"),
        ([*both("train", "test"), "docs"], "D/docs: lies beside folders of splits"),
        (["train/cat", "train/dog", "test/cat", "test/fox"], "D/test/fox: there is no class 'fox'"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], "D/cat: holds folders named like splits"),
        ([*both("data/train", "data/test"), "models"], "D/data: holds folders named like splits"),
        (both("fold1", "fold2"), "D/fold2: holds folders of the same names as .*D/fold1 "),
        (both("train/a", "train/b"), "D/train/b: holds folders of the same names as "),
        (both("entrainement/images", "essai/images"), "D/essai: holds folders of the same names as "),
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


def test_what_the_user_lists_is_a_class(tmp_path: Path) -> None:
    for place in ("valid/in", "valid/out", "invalid/in", "invalid/out"):
        fill(tmp_path, place, 5)
    with pytest.raises(InputError, match="valid: is named like a split"):
        folder.load(root=tmp_path, size=4)
    assert folder.load(root=tmp_path, size=4, classes=["valid", "invalid"]).classes == ("valid", "invalid")


def test_words_in_other_names_are_no_splits(tmp_path: Path) -> None:
    for name in ("test_tube", "train_station", "strain", "device"):
        fill(tmp_path, f"{name}/images", 4)
    assert folder.load(root=tmp_path, size=4).classes == ("device", "strain", "test_tube", "train_station")


def test_pictures_without_labels_are_passed_over_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for place in (*both("seg_train", "seg_test"), "seg_pred"):
        fill(tmp_path, place, 5)
    with caplog.at_level(logging.INFO):
        made = folder.load(root=tmp_path, size=4)
    assert sum(len(split.y) for split in (made.train, made.val, made.test)) == 20
    assert "seg_pred" in caplog.text and "seg_train: train" in caplog.text


def test_a_class_whose_name_is_not_utf8_is_refused_by_its_name(pets: Path) -> None:
    odd = pets / os.fsdecode(b"L\xf6we")
    (pets / "cat").rename(odd)
    with pytest.raises(InputError, match="L\udcf6we: its name, or that"):
        folder.load(root=pets, size=4)
    assert [f.paths for f in folder.examine(root=pets, size=4)[0] if f.kind == "layout"] == [(odd,)]


def test_a_root_whose_name_is_not_utf8_is_refused(pets: Path) -> None:
    odd = pets.with_name(os.fsdecode(b"\xf6"))
    pets.rename(odd)
    with pytest.raises(InputError, match="\udcf6: its name"):
        folder.load(root=odd, size=4)
    odd.rename(pets)


def test_a_file_whose_name_is_not_utf8_is_a_picture_like_others(pets: Path) -> None:
    (pets / "cat/000.png").rename(pets / "cat" / os.fsdecode(b"\xf6.png"))
    assert folder.load(root=pets, size=4).trained_on["sha256"]
