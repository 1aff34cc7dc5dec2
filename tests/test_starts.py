"""Ranking, divergence and the tables of starts."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hillstart.descent import Hyperparameters
from hillstart.starts import Record, Start, spread, standard_error


def record(*epochs: list[list[float]]) -> Record:
    """Seeds 5, 6, 7; each epoch is train_cost, val_cost, val_accuracy, a list over the starts each."""
    made = Record([Start(seed, Hyperparameters(0.1)) for seed in (5, 6, 7)])
    for epoch in epochs:
        made.add(*torch.tensor(epoch, dtype=torch.float64))
    return made


def test_starts_are_ranked_by_their_lowest_validation_cost() -> None:
    made = record([[1, 1, 1], [0.5, 0.9, 0.7], [0.8, 0.6, 0.7]], [[0.9, 0.9, 0.9], [0.6, 0.3, 0.7], [0.8, 0.9, 0.7]])
    rows = made.rows()
    assert [(row.rank, row.start.seed) for row in rows] == [(1, 6), (2, 5), (3, 7)]
    assert [row.val_cost for row in rows] == pytest.approx([0.3, 0.5, 0.7])
    assert [row.train_cost for row in rows] == pytest.approx([0.9, 1, 1])  # of the best epoch, not the last
    assert [row.epochs for row in rows] == [2, 2, 2]


def test_improved_starts_are_named() -> None:
    made = Record([Start(seed, Hyperparameters(1.0)) for seed in (0, 1)])

    def add(*val: float) -> Tensor:
        return made.add(torch.ones(2), torch.tensor(val), torch.ones(2))

    assert add(0.5, 0.5).tolist() == [True, True]
    assert add(0.6, 0.4).tolist() == [False, True]
    assert add(0.4, math.nan).tolist() == [True, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_start_comes_last_with_its_epoch(bad: float) -> None:
    made = record(
        [[1, 1, 1], [0.1, 0.9, 0.7], [0.8, 0.6, 0.7]],
        [[bad, 1, 1], [0.1, 0.8, 0.6], [0.1, 0.6, 0.7]],
        [[bad, 1, 1], [bad, 0.8, 0.6], [0.1, 0.6, 0.7]],
    )
    rows = made.rows()
    ends = [(row.start.seed, row.status, row.epochs) for row in rows]
    assert ends == [(7, "finished", 3), (6, "finished", 3), (5, "diverged", 2)]


def test_the_tables_hold_every_start_and_epoch(tmp_path: Path) -> None:
    record([[1, 1, 1], [0.5, 0.9, 0.7], [0.8, 0.6, 0.7]], [[1, 1, 1], [0.4, 0.8, 0.6], [0.8, 0.6, 0.7]]).write(tmp_path)
    with (tmp_path / "starts.csv").open() as file:
        starts = list(csv.DictReader(file))
    assert list(starts[0]) == ["seed", "eta", "epochs", "status", "train_cost", "val_cost", "val_accuracy", "rank"]
    assert [row["seed"] for row in starts] == ["5", "7", "6"]
    with (tmp_path / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert list(history[0]) == ["seed", "epoch", "train_cost", "val_cost", "val_accuracy"]
    assert [(row["seed"], row["epoch"]) for row in history] == [(s, e) for e in "12" for s in "567"]


def test_what_varies_has_a_column(tmp_path: Path) -> None:
    made = Record([Start(0, Hyperparameters(eta, lmbda=lmbda)) for eta, lmbda in ((0.1, 0.0), (0.2, 3.0))])
    made.add(*torch.tensor([[1, 1], [0.5, 0.4], [0.8, 0.6]], dtype=torch.float64))
    made.write(tmp_path)
    with (tmp_path / "starts.csv").open() as file:
        starts = list(csv.DictReader(file))
    assert [(row["rank"], row["eta"], row["lmbda"]) for row in starts] == [("1", "0.2", "3.0"), ("2", "0.1", "0.0")]
    assert "momentum" not in starts[0]
    with (tmp_path / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [(row["eta"], row["lmbda"], row["val_cost"]) for row in history] == [
        ("0.1", "0.0", "0.5"),
        ("0.2", "3.0", "0.4"),
    ]


def test_spread_is_that_of_the_values() -> None:
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == {
        "n": 5,
        "min": 1,
        "lower_quartile": 2,
        "median": 3,
        "upper_quartile": 4,
        "max": 5,
    }
    assert spread([]) == {"n": 0}


def test_the_standard_error_is_that_of_so_many_tosses() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    tosses = torch.rand(4000, 50, generator=torch.Generator().manual_seed(0)) < 0.9
    assert standard_error(0.9, 50) == pytest.approx(tosses.float().mean(1).std().item(), rel=0.03)
