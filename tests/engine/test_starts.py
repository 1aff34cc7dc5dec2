"""The history of starts epoch by epoch, their results and their ranking; quantiles and standard errors."""

import math

import pytest
import torch
from torch import Tensor

from hillstart.engine.starts import DIVERGED, STOPPED, History, Hyperparameters, Start, ranking_key, varying


def history(*epochs: list[list[float]]) -> History:
    """Seeds 5, 6, 7; each epoch is train_cost, val_cost, val_accuracy, a list over the starts each."""
    made = History([Start(seed, Hyperparameters(0.1)) for seed in (5, 6, 7)])
    for epoch in epochs:
        made.add(torch.tensor(epoch, dtype=torch.float64).T)
    return made


def test_starts_are_ranked_by_their_lowest_validation_cost() -> None:
    made = history([[1, 1, 1], [0.5, 0.9, 0.7], [0.8, 0.6, 0.7]], [[0.9, 0.9, 0.9], [0.6, 0.3, 0.7], [0.8, 0.9, 0.7]])
    rows = sorted(made.rows(), key=ranking_key)
    assert [row.start.seed for row in rows] == [6, 5, 7]
    assert made.ranking() == [1, 0, 2]
    assert [row.val_cost for row in rows] == pytest.approx([0.3, 0.5, 0.7])
    assert [row.train_cost for row in rows] == pytest.approx([0.9, 1, 1])  # of the best epoch, not the last
    assert [row.epochs for row in rows] == [2, 2, 2]


def test_equal_costs_are_ranked_by_seed() -> None:
    assert history([[1, 1, 1], [0.5, 0.4, 0.4], [1, 1, 1]]).ranking() == [1, 2, 0]


def test_add_returns_which_starts_improved() -> None:
    made = History([Start(seed, Hyperparameters(1.0)) for seed in (0, 1)])

    def add(*val: float) -> Tensor:
        return made.add(torch.tensor([[1.0, v, 1.0] for v in val]))

    assert add(0.5, 0.5).tolist() == [True, True]
    assert add(0.6, 0.4).tolist() == [False, True]
    assert add(0.4, math.nan).tolist() == [True, False]


def test_the_history_of_a_start_ends_with_it() -> None:
    made = history([[1, 1, 1], [0.5, 0.9, 0.7], [0.8, 0.6, 0.7]])
    made.end(torch.tensor([False, True, False]), STOPPED)
    assert made.active.tolist() == [True, False, True]
    lower = made.add(torch.tensor([[1.0, 0.4, 0.9], [1.0, 0.8, 0.9]]))
    assert lower.tolist() == [True, False, False]
    assert [(row.epochs, row.status, row.val_cost) for row in made.rows()] == [
        (2, "finished", pytest.approx(0.4)),
        (1, "stopped", pytest.approx(0.9)),
        (2, "finished", pytest.approx(0.7)),
    ]
    assert made.figures[1, 1].isnan().all()
    assert made.epochs_since_lowest().tolist() == [0, 1, 1]


def test_joined_histories_have_the_rows_of_each() -> None:
    first, second = ([[1, 1, 1], [0.5, 0.4, 0.6], [0.8, 0.9, 0.7]], [[0.9, 0.9, 0.9], [0.6, 0.3, 0.7], [0.8, 0.9, 0.7]])
    short, long = history(first), history(first, second)
    short.test, long.test = torch.rand(len(short.starts), 2), torch.rand(len(long.starts), 2)
    joined = History.join([short, History([]), long])
    assert joined.figures.shape == (2, 6, 3)
    assert joined.figures[1, :3].isnan().all() and not joined.figures[:, 3:].isnan().any()
    assert joined.rows() == [*short.rows(), *long.rows()]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_start_comes_last(bad: float) -> None:
    made = history([[1, 1, 1], [0.1, 0.9, 0.7], [0.8, 0.6, 0.7]], [[bad, 1, 1], [bad, 0.8, 0.6], [0.1, 0.6, 0.7]])
    made.end(torch.tensor([True, False, False]), DIVERGED)
    made.add(torch.tensor([[1.0, 0.8, 0.6], [1.0, 0.6, 0.7]]))
    ends = [(row.start.seed, row.status, row.epochs) for row in sorted(made.rows(), key=ranking_key)]
    assert ends == [(7, "finished", 3), (6, "finished", 3), (5, "diverged", 2)]


def test_a_start_without_a_finite_cost_is_ranked_too() -> None:
    made = history([[1, 1, 1], [math.nan, 0.9, math.inf], [0.8, 0.6, 0.7]])
    assert made.ranking() == [1, 0, 2]


def test_the_ranking_of_many_starts_is_that_of_their_rows() -> None:
    """With equal costs, a grid for each seed, costs that are not finite, and starts that diverged."""
    g = torch.Generator().manual_seed(0)
    made = History([Start(seed, Hyperparameters(eta)) for eta in (0.2, 0.1) for seed in (*range(40), *range(20))])
    costs = torch.randint(0, 9, (3, 120), generator=g).double()
    costs[:, ::7], costs[1, ::5], costs[:, ::11] = math.inf, math.nan, -math.inf
    for epoch in costs:
        made.add(epoch.view(-1, 1).expand(-1, 3))
    made.end(torch.arange(120) % 13 == 0, DIVERGED)
    rows = made.rows()
    assert made.ranking() == sorted(range(120), key=lambda s: ranking_key(rows[s]))


def test_varying_names_the_hyperparameters_that_differ() -> None:
    def starts(*points: Hyperparameters) -> list[Start]:
        return [Start(0, point) for point in points]

    assert varying(starts(Hyperparameters(0.1), Hyperparameters(0.1))) == []
    assert varying(starts(Hyperparameters(0.1, lmbda=1.0), Hyperparameters(0.2, lmbda=2.0))) == ["eta", "lmbda"]
