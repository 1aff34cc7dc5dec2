"""Arrays and PictureSets from Python become the same splits as files do; what cannot be used is named."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hillstart.data import given, table
from hillstart.data.dataset import PictureSet
from hillstart.data.given import choice, giving
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Preprocessing, Standardisation
from hillstart.system.errors import InputError
from made import blobs

X = np.array([[k, k * k / 2] for k in range(20)], float)
Y = np.arange(20) % 2
NAMES = np.array(["x", "y"])[Y]
LOADERS = {"arrays": given.load, "picture_arrays": given.load_pictures, "picture_set": given.load_picture_set}


def loaded(data: Any, **options: Any) -> PictureSet:
    with giving(data):
        return LOADERS[choice(data)](**options)


def frame(X: np.ndarray = X) -> pd.DataFrame:
    return pd.DataFrame(X, columns=["a", "b"])


def test_rows_are_split_and_standardised_as_those_of_a_file(tmp_path: Any) -> None:
    frame().assign(species=NAMES).to_csv(tmp_path / "rows.csv", index=False)
    for options in ({}, {"seed": 3, "test_fraction": 0.4, "val_fraction": 0.3, "balance": "sampling"}):
        here, there = loaded((frame(), NAMES), **options), table.load(root=tmp_path / "rows.csv", **options)
        for split in ("train", "val", "test"):
            assert getattr(here, split).sha256 == getattr(there, split).sha256
        assert (here.classes, here.balance) == (there.classes, there.balance)
        assert here.preprocessing.as_dict() | {"label": "species"} == there.preprocessing.as_dict()


@pytest.mark.parametrize(
    "same",
    [X, torch.tensor(X, requires_grad=True), X.tolist(), frame(), frame().convert_dtypes(), X[:, ::-1][:, ::-1]],
    ids=["NumPy", "torch", "lists", "frame", "nullable", "backwards"],
)
def test_arrays_of_any_kind_are_the_same_rows(same: Any) -> None:
    assert loaded((same, Y)).train.sha256 == loaded((X, Y)).train.sha256


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["lion", "duck"], ("duck", "lion")),
        ([-1, 10], ("-1", "10")),
        ([10, 9], ("9", "10")),
        ([True, False], ("False", "True")),
        ([1.0, 0.0], ("0", "1")),
    ],
)
def test_labels_of_any_kind_name_the_classes(labels: list[Any], classes: tuple[str, str]) -> None:
    y = np.array(labels)[Y]
    series = pd.Series(y)
    for same in (y, y.tolist(), series, series.astype("category"), series.convert_dtypes(), y.astype(object)):
        found = loaded((X, same))
        assert found.classes == classes
        expected = (found.test.x[:, 0].long() % 2 + classes.index(str(int(y[0]) if y.dtype == float else y[0]))) % 2
        assert torch.equal(found.test.y, expected)


def test_columns_are_named_by_a_data_frame_or_by_their_numbers() -> None:
    found = [loaded((rows, Y)).preprocessing for rows in (frame(), X)]
    assert [isinstance(of, Standardisation) and of.columns for of in found] == [("a", "b"), ("1", "2")]


def test_small_numbers_keep_their_type() -> None:
    for dtype, stays in ((np.uint8, torch.uint8), (np.float32, torch.float32), (np.int16, torch.float64)):
        assert loaded((X.astype(dtype), Y)).train.x.dtype == stays


def test_a_test_set_of_its_own_is_kept() -> None:
    found = loaded(((frame(), NAMES), (frame(X[:5] + 100), NAMES[:5])))
    assert torch.equal(found.test.x, torch.tensor(X[:5] + 100)) and found.test.y.tolist() == Y[:5].tolist()
    assert (len(found.train.y), len(found.val.y)) == (16, 4)
    assert sorted([*found.train.x[:, 0].tolist(), *found.val.x[:, 0].tolist()]) == list(range(20))


@pytest.mark.parametrize(
    "shape", [(20, 6, 6), (20, 9, 12), (20, 9, 12, 1), (20, 1, 9, 12), (20, 9, 12, 3), (20, 4, 9, 12)]
)
def test_pictures_are_read_as_those_of_files(shape: tuple[int, ...]) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for x in (pictures, torch.tensor(pictures / 255)):
        made, small = loaded((x, NAMES), augment="photo", seed=2), loaded((x, NAMES), size=6, normalise=False, seed=2)
        channels, side = 1 if len(shape) == 3 or 1 in shape else 3, 6 if 6 in shape else 9
        assert made.train.x.shape[1:] == (channels, side, side) and not made.augment.is_none
        assert small.preprocessing == Preprocessing(6, channels)
        expected = torch.stack([read_picture(picture, Preprocessing(6, channels)) for picture in pictures])
        both = [torch.cat([of.train.y, of.val.y, of.test.y]) for of in (made, small)]
        assert torch.equal(*both)
        rows = {bytes(picture.numpy().data): int(label) for picture, label in zip(expected, Y, strict=True)}
        assert all(rows[bytes(p.numpy().data)] == k for p, k in zip(small.train.x, small.train.y, strict=True))


def test_a_picture_set_is_taken_as_it_is() -> None:
    data = blobs()
    found = loaded(data)
    assert found.train is data.train and found.test is data.test and found.preprocessing == data.preprocessing


def test_the_same_arrays_have_the_same_identity_and_others_another() -> None:
    other = X.copy()
    other[3, 1] += 1
    assert loaded((X, Y)).trained_on == loaded((X.copy(), Y)).trained_on != loaded((other, Y)).trained_on
    first, second = ((X, Y), (X, Y)), ((X, Y), (other, Y))
    assert loaded(first).trained_on != loaded(second).trained_on
    data, changed = blobs(), blobs()
    changed.test.x[0] += 1
    assert loaded(data).trained_on == loaded(blobs()).trained_on != loaded(changed).trained_on


def test_what_is_given_is_only_given_inside() -> None:
    for name, load in LOADERS.items():
        with giving((X, Y)):
            with giving(None), pytest.raises(InputError, match=f"^data={name}: .*hillstart.train"):
                load()
            assert given.load().classes == ("0", "1")
        with pytest.raises(InputError, match=f"^data={name}: .*hillstart.train"):
            load()
    with giving(blobs()), pytest.raises(InputError, match=r"^data=arrays: .*data=picture_set"):
        given.load()


def changed(cell: Any) -> pd.DataFrame:
    rows = frame().astype(object)
    rows.iloc[3, 1] = cell
    return rows


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (X, "^data is not one of"),
        ((X, Y, X), "^data is not one of"),
        (((X, Y), X), "^data is not one of"),
        ((), "^data is not one of"),
        ((changed("many"), Y), "X: row 4, column b: 'many' is not a number"),
        ((changed(np.nan), Y), "X: row 4, column b: 'nan' is not a finite number"),
        ((changed(pd.NA), Y), "X: row 4, column b"),
        ((changed(np.inf).astype(float), Y), "X: row 4, column b: 'inf'"),
        ((X.astype(str), Y), "X is of type <U"),
        ((X + 1j, Y), "X is of type complex"),
        ((X[:, 0], Y), r"X has shape \(20,\)"),
        ((X[:, :0], Y), r"X has shape \(20, 0\)"),
        (([[1, 2], [3]] * 10, Y), "X is not an array"),
        ((pd.DataFrame(X, columns=["a", "a"]), Y), "two columns of X have the same name"),
        ((X, Y[:19]), r"y has shape \(19,\)"),
        ((X, Y[:, None]), r"y has shape \(20, 1\)"),
        ((X, X[:, 1]), "y: row 2: 0.5 is no label"),
        ((X, X[:, 0]), "20 different labels in 20 rows.* class 0 has too few rows"),
        ((X, Y * 0), "y holds one class, 0"),
        ((X, [None, *NAMES[1:]]), "y: row 1: None is no label"),
        ((X, [np.nan, *Y[1:]]), "y: row 1: nan is no label"),
        ((X, ["a\nb", *NAMES[1:]]), "y: row 1: "),
        ((X, ["", *NAMES[1:]]), "y: row 1: '' is no label"),
        ((X, ["z", *NAMES[1:]]), "class z has too few rows"),
        (((X, NAMES), (X, ["z", *NAMES[1:]])), "y_test holds z"),
        (((frame(), NAMES), (frame()[["b", "a"]], NAMES)), "X_test has the columns b, a, X has a, b"),
        (((X, NAMES), (X[:, :1], NAMES)), "X_test has the columns 1, X has 1, 2"),
        ((np.full((20, 6, 6), 200.0), Y), "X: the given array: holds numbers outside 0 to 1"),
        ((np.zeros((20, 3, 5, 4), np.uint8), Y), "can be"),
        ((np.zeros((20, 3, 3), np.uint8), Y), "data.size is null"),
        ((np.zeros((20, 0, 3), np.uint8), Y), r"X: has shape \(20, 0, 3\)"),
        (((np.zeros((20, 6, 6), np.uint8), Y), (X, Y)), "X_test: has shape"),
    ],
)
def test_what_cannot_be_used_is_named(data: Any, named: str) -> None:
    with pytest.raises(InputError, match=named) as raised:
        loaded(data)
    assert "\n" not in str(raised.value)
