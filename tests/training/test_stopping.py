"""Starts that end early: each for itself, at the right epoch, and without a bit of change for the others."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hillstart.engine.starts import History, Hyperparameters, Start
from hillstart.system.errors import InputError
from hillstart.training.module import Training
from hillstart.training.stopping import EXPLODED, EarlyStopping
from made import trainer, training


def ends(stopping: EarlyStopping, *epochs: list[float], last: bool = False) -> list[tuple[int, str]]:
    """(epochs, status) of each start, given the validation costs of all, epoch by epoch."""
    history = History([Start(seed, Hyperparameters(1.0)) for seed in range(len(epochs[0]))])
    for k, costs in enumerate(epochs):
        figures = torch.tensor([[1.0, cost, 0.5] for cost in costs])[history.active]
        history.add(figures)
        stopping.after_epoch(history, last=last and k == len(epochs) - 1)
    return [(row.epochs, row.status) for row in history.rows()]


def test_without_a_reason_no_start_ends() -> None:
    assert ends(EarlyStopping(), [1.0, 2.0], [2.0, 2.0], [3.0, 2.0], [4.0, 2.0]) == [(4, "finished")] * 2


def test_patience_is_counted_from_the_lowest_cost_of_each_start() -> None:
    costs = [[5.0, 1.0, 3.0], [4.0, 2.0, 2.0], [3.0, 2.0, 2.5], [2.0, 2.0, 1.9], [1.0, 2.0, 2.0]]
    assert ends(EarlyStopping(patience=2), *costs) == [(5, "finished"), (3, "stopped"), (5, "finished")]
    assert ends(EarlyStopping(patience=1), *costs) == [(5, "finished"), (2, "stopped"), (3, "stopped")]


def test_who_rolls_to_the_last_epoch_has_finished() -> None:
    assert ends(EarlyStopping(patience=1), [1.0, 2.0], [2.0, 1.0], last=True) == [(2, "finished")] * 2
    assert ends(EarlyStopping(race=1), [1.0, 2.0], last=True) == [(1, "finished")] * 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, EXPLODED, 1e30])
def test_a_cost_that_explodes_ends_its_start(bad: float) -> None:
    assert ends(EarlyStopping(), [1.0, 2.0], [1.0, bad], [0.5, 1.0]) == [(3, "finished"), (2, "diverged")]
    assert ends(EarlyStopping(), [1.0, bad], last=True) == [(1, "finished"), (1, "diverged")]


def test_a_race_halves_the_pack_again_and_again() -> None:
    costs = [[float(s) for s in range(9)]] * 9
    # after 2 epochs 5 of 9 go on, after 4 there are 3, after 8 there are 2
    stopped = [2, 2, 2, 2, 4, 4, 8]
    assert ends(EarlyStopping(race=2), *costs) == [(9, "finished")] * 2 + [(e, "stopped") for e in reversed(stopped)]
    assert [s for _, s in ends(EarlyStopping(race=1), *[[1.0, 2.0, 3.0]] * 8)] == ["finished", "stopped", "stopped"]


def test_in_a_race_places_are_counted_from_all_that_began() -> None:
    """Of 4 starts 2 go on after the first epoch, though one has exploded."""
    costs = [[math.nan, 1.0, 2.0, 3.0]] * 2
    expected = [(1, "diverged"), (2, "finished"), (2, "finished"), (1, "stopped")]
    assert ends(EarlyStopping(race=1), *costs, last=True) == expected


@pytest.mark.parametrize("key", ["patience", "race"])
@pytest.mark.parametrize("bad", [0, -1, True])
def test_what_is_no_number_of_epochs_is_refused(key: str, bad: Any) -> None:
    with pytest.raises(InputError, match=rf"^stop\.{key} is {bad}; it must be "):
        EarlyStopping(**{key: bad})


def fit(folder: Path, starts: int, stopping: EarlyStopping | None = None, **options: Any) -> Training:
    descent = {key: options.pop(key) for key in ("eta", "momentum") if key in options}
    made = training(starts, stopping=stopping, hidden=(8,), **descent)
    trainer(folder, **options).fit(made)
    return made


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_others_do_not_notice_by_a_bit(tmp_path: Path, momentum: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16 starts, in which every layer of [36,8,3] has whole columns."""
    monkeypatch.setattr("hillstart.engine.tiling.TILE_FLOPS", 0)
    monkeypatch.setattr("hillstart.engine.tiling.TILE_BYTES", 16 * 36 * 8 * 4)
    free = fit(tmp_path / "free", 64, eta=3.0, momentum=momentum, max_epochs=8)
    for stopping in (EarlyStopping(patience=1), EarlyStopping(race=2)):
        some = fit(tmp_path / f"{stopping}", 64, stopping, eta=3.0, momentum=momentum, max_epochs=8)
        epochs = some.history.epochs
        assert 0 < (epochs < 8).sum() < 64
        assert len(some.pack.tiles) < len(free.pack.tiles)
        for s in range(64):
            alike = free.history.figures[: epochs[s], s], some.history.figures[: epochs[s], s]
            assert torch.equal(*alike), f"{stopping}, start {s}"
            if epochs[s] == 8:
                for p, q in zip(free.best.parameters, some.best.parameters, strict=True):
                    assert torch.equal(p[s], q[s]), f"{stopping}, start {s}"


def test_when_all_have_ended_the_fit_ends(tmp_path: Path) -> None:
    made = fit(tmp_path, 3, EarlyStopping(patience=1), eta=30.0, max_epochs=500)
    assert not made.history.active.any()
    assert len(made.history.figures) == made.history.epochs.max() < 500
