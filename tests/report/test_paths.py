"""Training a pack again gives the weights that a run kept, bit for bit, and the path to them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from hillstart.engine.starts import STATUS, STOPPED, Start, StartResult
from hillstart.network import Network
from hillstart.report import paths as module
from hillstart.report.landscape import flat
from hillstart.report.paths import Paths, retrain
from hillstart.training.optimizer import SGDConfig
from hillstart.training.packs import RunSpec, train
from hillstart.training.stopping import EarlyStopping
from made import blobs, trainer


def run_spec(starts: int = 6, stopping: EarlyStopping | None = None, **descent: Any) -> RunSpec:
    made = SGDConfig(**({"eta": 0.5, "batch_size": 10, "momentum": 0.5} | descent))
    seeds = [Start(seed, point) for point in made.grid() for seed in range(starts)]
    return RunSpec(partial(Network.start, [36, 5, 3]), [36, 5, 3], blobs(), made, stopping or EarlyStopping(), seeds)


def run(of: RunSpec, packs: list[int], folder: Path, **options: Any) -> tuple[list[StartResult], list[Network]]:
    """The rows of a run, and each start as it is kept."""
    rows, kept = list[StartResult](), list[Network]()
    for trained in train(of, lambda packs_left: trainer(folder, **options), packs):
        best = trained.best_of(range(len(trained.rows)))
        rows += trained.rows
        kept += [best.pick([s]) for s in range(len(trained.rows))]
    return rows, kept


def drift(paths: Paths, kept: Network) -> float:
    """The largest difference between any weight of the best epochs and what a run kept; 0.0 when bit-equal."""
    return (paths.best_weights - flat(kept)).abs().max().item()


def test_the_same_pack_gives_the_same_bits(tmp_path: Path) -> None:
    of = run_spec(stopping=EarlyStopping(patience=1), eta=[0.5, 10.0])
    rows, kept = run(of, [5, 7], tmp_path / "run", max_epochs=8)
    wanted = [9, 5, 10]  # of the second pack
    assert [rows[s].status == STATUS[STOPPED] for s in wanted] == [True, False, True]
    assert rows[9].epochs < rows[10].epochs < rows[5].epochs == 8
    paths = retrain(of, of.starts[5:], [of.starts[s] for s in wanted], 8)
    assert drift(paths, Network.join([kept[s] for s in wanted])) == 0.0
    assert paths.last == tuple(rows[s].epochs for s in wanted)
    assert paths.epochs == tuple(range(9))
    begun = flat(of.begin([of.starts[s].seed for s in wanted]))
    assert torch.equal(paths.weights[0], begun)
    for k, (best, last) in enumerate(zip(paths.best, paths.last, strict=True)):
        assert torch.equal(paths.weights[best, k], paths.best_weights[k])
        steps = paths.weights[:, k].diff(dim=0).abs().amax(1)
        assert (steps[:last] > 0).all() and (steps[last:] == 0).all()  # it stays where it was when it has ended
        assert best <= last


def test_without_its_pack_the_difference_is_small(tmp_path: Path) -> None:
    of = run_spec(stopping=EarlyStopping(race=2))
    rows, kept = run(of, [6], tmp_path / "run", max_epochs=4)
    wanted = [s for s, row in enumerate(rows) if row.epochs == 4]
    paths = retrain(of, [], [of.starts[s] for s in wanted], 4)
    assert paths.last == (4,) * len(wanted)  # alone, they race against nobody
    assert drift(paths, Network.join([kept[s] for s in wanted])) < 1e-5


def test_nothing_is_written_or_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    of = run_spec(2)
    with caplog.at_level("INFO"):
        paths = retrain(of, of.starts, of.starts[:1], max_epochs=9, max_steps=14)  # ends within the second epoch of 11
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "") and caplog.records == []
    assert paths.epochs[:2] == (0, 1)


def test_a_long_path_keeps_every_kth_epoch_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    of = run_spec(2)
    whole = retrain(of, of.starts, of.starts, 8)
    monkeypatch.setattr(module, "PATH_BYTES", whole.weights.nbytes // 3)
    some = retrain(of, of.starts, of.starts, 8)
    assert some.epochs == (0, 3, 6, 8) and (whole.best, whole.last) == (some.best, some.last)
    assert torch.equal(some.weights, whole.weights[list(some.epochs)])
    assert torch.equal(some.best_weights, whole.best_weights)
