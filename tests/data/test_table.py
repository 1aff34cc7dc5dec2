"""A csv file of numbers becomes rows in three splits; what cannot be used is named by its row and column."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hillstart.data import points, sklearn_tables, table
from hillstart.data.preprocessing import Standardisation
from hillstart.system.errors import InputError


def write(path: Path, head: str = "a,b,species", rows: int = 20, change: tuple[str, str] = ("", "")) -> Path:
    lines = [f"{k},{k * k / 2},{'xy'[k % 2]}" for k in range(rows)]
    path.write_text("\n".join([head, *lines, ""]).replace(*change) if change[0] else "\n".join([head, *lines, ""]))
    return path


def test_columns_are_standardised_by_the_training_rows(tmp_path: Path) -> None:
    made = table.load(root=write(tmp_path / "rows.csv"))
    assert made.classes == ("x", "y") and [len(s.y) for s in (made.train, made.val, made.test)] == [12, 4, 4]
    of = made.preprocessing
    assert isinstance(of, Standardisation) and of.columns == ("a", "b") and of.label == "species"
    assert of.mean == pytest.approx(made.train.x.mean(0).tolist()) and Standardisation.from_dict(of.as_dict()) == of
    every = torch.cat([s.x[:, 0] for s in (made.train, made.val, made.test)])
    assert sorted(every.tolist()) == list(range(20))
    for split in (made.train, made.val, made.test):
        assert torch.equal(split.y, split.x[:, 0].long() % 2) and torch.equal(split.x[:, 1], split.x[:, 0] ** 2 / 2)


def test_the_label_and_the_inputs_may_be_named(tmp_path: Path) -> None:
    root = write(tmp_path / "rows.csv", head="a,b,kind")
    assert table.load(root=root).preprocessing.input_names == ["a", "b"]  # the last column labels
    assert table.load(root=root, label="kind", columns=["b"]).preprocessing.input_names == ["b"]
    without = tmp_path / "bare.csv"
    without.write_text("".join(root.read_text().replace(",", ";").splitlines(keepends=True)[1:]))
    assert table.load(root=without).preprocessing.input_names == ["1", "2"]


@pytest.mark.parametrize(
    ("change", "options", "wrong"),
    [
        (("\n3,", "\nmany,"), {}, "row 4, column a: 'many' is not a number"),
        (("\n3,", "\n,"), {}, "row 4, column a: is empty"),
        (("\n3,", "\nnan,"), {}, "row 4, column a: 'nan' is not a finite number"),
        (("4.5,y", "4.5,"), {}, "row 4, column species: is empty"),
        (("4.5,y", "4.5"), {}, "row 4 has 2 cells where the first line has 3"),
        ((",y", ",x"), {}, "column species has one value, x"),
        (("\n3,4.5,y", "\n3,4.5,z"), {}, "class z of column species has too few rows"),
        (("a,b", "a,a"), {}, "two columns are called a"),
        (("", ""), {"label": "b"}, "column b has 20 different values in 20 rows"),
        (("", ""), {"label": "specie"}, "no column specie; the nearest is species"),
        (("", ""), {"columns": ["species"]}, "not the label, species"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, change: tuple[str, str], options: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(InputError, match=wrong):
        table.load(root=write(tmp_path / "rows.csv", change=change), **options)


@pytest.mark.parametrize("name", list(points.KINDS))
def test_points_follow_from_the_seed(name: str) -> None:
    first, again, other = (points.load(name=name, rows=100, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.x, again.train.x) and not torch.equal(first.train.x, other.train.x)
    assert first.preprocessing.input_names == ["x1", "x2"] and set(first.train.y.tolist()) == {0, 1}


def test_xor_is_1_where_the_signs_differ() -> None:
    made = points.load(name="xor", rows=100, noise=0)
    assert torch.equal(made.train.y, ((made.train.x[:, 0] > 0) ^ (made.train.x[:, 1] > 0)).long())


def test_two_columns_of_iris() -> None:
    made = sklearn_tables.load(name="iris", columns=["petal_length", "petal_width"])
    assert made.train.x.shape == (96, 2) and made.classes == ("setosa", "versicolor", "virginica")
    with pytest.raises(InputError, match="no column 'petal_lenght'; the nearest is petal_length"):
        sklearn_tables.load(columns=["petal_lenght"])
