"""The interface to Lightning: steps, checkpoints, the learning rate, resuming; chunks do not change results."""

import itertools
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

import hillstart.training.module
from hillstart.engine import ensemble
from hillstart.engine.ensemble import StartEnsemble, Tile
from hillstart.engine.starts import Hyperparameters
from hillstart.network import Network
from hillstart.system.errors import InputError
from hillstart.training.module import Training
from hillstart.training.optimizer import SCHEDULES, Chunks, SGDConfig
from made import blobs, rows, trainer, training
from pretended import Device

DESCENT = ("eta", "momentum", "nesterov", "schedule", "optimiser", "lmbda")
PER_EPOCH = 11  # mini-batches: 103 pictures, 10 in each but the last


def fit(folder: Path, *, resume: Path | None = None, starts: int = 3, data: Any = None, **options: Any) -> Training:
    descent = {key: options.pop(key) for key in DESCENT if key in options}
    made = training(starts, data, **descent)
    trainer(folder, **options).fit(made, ckpt_path=resume, weights_only=True)
    return made


def same(one: Training, other: Training) -> bool:
    return all(
        torch.equal(p, q)
        for mine, others in ((one.pack.network(), other.pack.network()), (one.best, other.best))
        for p, q in zip(mine.parameters, others.parameters, strict=True)
    ) and torch.equal(one.history.figures, other.history.figures)


def test_the_starts_learn(tmp_path: Path) -> None:
    made = fit(tmp_path, max_epochs=25)
    assert made.history.figures[-1, :, 2].min() > 0.9
    assert made.history.figures[-1, :, 0].max() < made.history.figures[0, :, 0].min()


@pytest.mark.parametrize("steps", [7, 2 * PER_EPOCH + 3])
def test_max_steps_stops_there(tmp_path: Path, steps: int) -> None:
    made = fit(tmp_path, max_steps=steps, max_epochs=-1)
    assert made.trainer.global_step == steps


def test_training_by_steps_is_training_by_epochs(tmp_path: Path) -> None:
    by_epochs = fit(tmp_path / "epochs", max_epochs=2)
    by_steps = fit(tmp_path / "steps", max_steps=2 * PER_EPOCH, max_epochs=-1)
    assert same(by_epochs, by_steps)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_chunks_do_not_matter(tmp_path: Path, momentum: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch is one chunk, or one of a block or four and the rest."""
    data = blobs(augment="photo")
    expected = fit(tmp_path / "whole", data=data, momentum=momentum, schedule="linear")
    for chunk in (1, 4):
        monkeypatch.setattr(Training, "chunk_steps", property(lambda self: chunk * self.pack.block))  # noqa: B023
        assert same(fit(tmp_path / f"{chunk}", data=data, momentum=momentum, schedule="linear"), expected)


def test_a_chunk_is_bounded_in_time_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fit(tmp_path, max_epochs=1, momentum=0.9)
    assert made.chunk_steps * hillstart.training.module.SECONDS_PER_STEP <= hillstart.training.module.CHUNK_SECONDS
    monkeypatch.setattr(hillstart.training.module, "CHUNK_BYTES", 3 * 10 * 36 * 4)
    assert made.chunk_steps == 3


def test_a_chunk_holds_whole_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fit(tmp_path, max_epochs=1)
    assert made.pack.block == 9
    for fitting, steps in ((1, 9), (10, 9), (25, 18)):
        monkeypatch.setattr(hillstart.training.module, "CHUNK_BYTES", fitting * 10 * 36 * 4)
        assert made.chunk_steps == steps


@pytest.mark.parametrize("sizes", [[784, 30, 10], [784, 100, 10], [3072, 64, 2]], ids=str)
def test_cuda_replays_almost_all_mini_batches(
    sizes: list[int], monkeypatch: pytest.MonkeyPatch, cuda: Device | None
) -> None:
    """All but those of the first epoch, whatever the number of starts: more than 95 % of 30 epochs.

    The chunks and graphs are those of networks of these sizes; what is descended is only counted.
    """
    pictures, from_python = 5003, 0

    def count(tile: Tile, blocks: list[int], *_: Any) -> None:
        nonlocal from_python
        from_python += 0 if torch.cuda.is_current_stream_capturing() else sum(blocks)
        tile.network.b[0].add_(0)  # torch warns of a graph without a kernel

    monkeypatch.setattr(ensemble, "block_at", lambda first, most, *rest: min(most, len(rest[2]) - first))
    monkeypatch.setattr(Tile, "descend", count)
    x, weights = torch.zeros(pictures, 1, device="cuda"), sum(a * b for a, b in itertools.pairwise(sizes))
    for starts, batch in itertools.product((1, 1024, 10_000), (1, 32, 500)):
        pack = StartEnsemble(Network.start([1, 1], [0], device="cuda"), [Hyperparameters(0.5)], pictures, batch)
        monkeypatch.setattr(StartEnsemble, "step_flops", 6 * batch * weights * starts)
        pack.sizes, batches = sizes, -(-pictures // batch)
        made = SimpleNamespace(pack=pack, batches=SimpleNamespace(batch_size=batch))
        size = Training.chunk_steps.fget(made)
        for epoch in range(2):
            before, done = from_python, 0
            for chunk in Chunks(lambda: (batches, size)):  # noqa: B023
                rows = slice(done * batch, (done + chunk) * batch)
                pack.descend(lambda _: (x[rows], x[rows]), [1.0] * chunk)  # noqa: B023
                done += chunk
            assert done == batches
            assert from_python - before <= (batches if epoch == 0 else 0), (starts, batch)
        assert len(pack.tiles[0]._graphs._graphs) <= 3, "each takes memory"


def test_last_and_best_checkpoints_are_written(tmp_path: Path) -> None:
    made = fit(tmp_path, max_epochs=4)
    stored = {name: torch.load(tmp_path / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("last", "best")}
    assert stored["last"]["global_step"] == 4 * PER_EPOCH
    assert torch.equal(stored["last"]["state_dict"]["weights.w1"], made.pack.network().w[0])
    lowest = made.history.figures[:, :, 1].amin(1).argmin()
    assert stored["best"]["global_step"] == (lowest + 1) * PER_EPOCH
    assert stored["last"]["hillstart"]["seeds"] == [0, 1, 2]


def test_each_start_is_kept_as_in_its_best_epoch(tmp_path: Path) -> None:
    seen = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            assert isinstance(pl_module, Training)
            seen.append(pl_module.pack.network())

    made = fit(tmp_path, max_epochs=8, eta=20.0, more_callbacks=[Watch()])  # so steep that costs rise and fall
    best = made.history.figures[:, :, 1].argmin(0).tolist()
    assert len(set(best)) > 1 or best[0] < 7
    for s, epoch in enumerate(best):
        for kept, then in zip(made.best.parameters, seen[epoch].parameters, strict=True):
            assert torch.equal(kept[s], then[s])


TORCHS: dict[str, tuple[dict[str, Any], Callable[[torch.optim.Optimizer], LRScheduler]]] = {
    "warm-up": (
        {"warmup": 0.2},
        lambda of: SequentialLR(of, [LinearLR(of, 1 / 8, total_iters=7), ConstantLR(of, 1.0)], [8]),
    ),
    "warm-up and linear": (
        {"warmup": 0.2, "schedule": "linear"},
        lambda of: SequentialLR(of, [LinearLR(of, 1 / 8, total_iters=7), LinearLR(of, 1.0, 0.0, 32)], [8]),
    ),
    "steps": ({"milestones": [0.25, 0.8], "gamma": 0.3}, lambda of: MultiStepLR(of, [10, 32], 0.3)),
    "cosine": ({"schedule": "cosine"}, lambda of: CosineAnnealingLR(of, 40)),
    "restarts": ({"schedule": "cosine", "cycles": 5}, lambda of: CosineAnnealingWarmRestarts(of, 8)),
    "longer restarts": (
        {"schedule": "cosine", "cycles": 2, "cycle_growth": 3},
        lambda of: CosineAnnealingWarmRestarts(of, 10, 3),
    ),
    "all": (
        {"schedule": "cosine", "warmup": 0.3, "cycles": 3, "cycle_growth": 2, "milestones": [0.5]},
        lambda of: SequentialLR(
            of,
            [LinearLR(of, 1 / 12, total_iters=11), CosineAnnealingWarmRestarts(of, 4, 2)],
            [12],
        ),
    ),
}


@pytest.mark.parametrize("name", TORCHS)
def test_courses_of_eta_are_those_of_torch(name: str) -> None:
    """Multipliers over 40 mini-batches."""
    options, torchs = TORCHS[name]
    of = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR warns of itself
        scheduler = torchs(of)
        expected = []
        for step in range(40):
            expected.append(of.param_groups[0]["lr"] * (0.1 if name == "all" and step >= 26 else 1))
            of.step()
            scheduler.step()
    descent = SGDConfig(eta=0.1, batch_size=1, **options)
    assert [descent.multiplier(step, 40) for step in range(40)] == pytest.approx(expected, abs=1e-12)


def test_a_course_that_does_not_divide_the_training_still_ends_with_it() -> None:
    descent = SGDConfig(eta=0.1, batch_size=1, schedule="cosine", cycles=3, cycle_growth=2, warmup=0.1)
    seen = [descent.multiplier(step, 101) for step in range(102)]
    assert seen[-1] == 0 and seen[9] == seen[10] == 1 and min(seen) >= 0 and max(seen) == 1
    assert [k for k in range(11, 101) if seen[k] > seen[k - 1]] == [23, 49]  # 91 of 1 + 2 + 4 parts: 13, 39
    assert SGDConfig(eta=0.1, batch_size=1, warmup=0.9).multiplier(0, 1) == 1  # one mini-batch alone
    assert descent.course == "cosine, warmup=0.1, cycles=3, cycle_growth=2"
    assert SGDConfig(eta=0.1, batch_size=1, milestones=[]).course == "constant"


def test_the_learning_rate_monitor_sees_eta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Training, "chunk_steps", property(lambda self: 1))
    logger = CSVLogger(tmp_path, name="", version="csv")
    monitor = LearningRateMonitor(logging_interval="step")
    fit(tmp_path, schedule="cosine", logger=logger, more_callbacks=[monitor], max_epochs=2)
    seen = [float(cell) for row in rows(tmp_path / "csv/metrics.csv") if (cell := row["lr-ChunkOptimizer"])]
    total = 2 * PER_EPOCH
    # the monitor looks before a step is taken, so that it sees the eta of the step before
    assert seen[1:] == pytest.approx([0.5 * SCHEDULES["cosine"](k / total) for k in range(total - 1)])


def test_schedules_begin_at_eta_and_end_at_nothing() -> None:
    assert {name: [round(f(t), 12) for t in (0, 0.5, 1)] for name, f in SCHEDULES.items()} == {
        "constant": [1, 1, 1],
        "linear": [1, 0.5, 0],
        "cosine": [1, 0.5, 0],
    }


@pytest.mark.parametrize(
    "descent",
    [
        {},
        {"momentum": [0.9, 0.5], "nesterov": True, "lmbda": 0.1},
        {"optimiser": torch.optim.Adam, "eta": 0.01},
    ],
    ids=["plain", "nesterov", "adam"],
)
def test_resumed_equals_uninterrupted(tmp_path: Path, descent: dict[str, Any]) -> None:
    data = blobs(augment="photo")
    whole = fit(tmp_path / "whole", data=data, max_epochs=4, **descent)
    fit(tmp_path / "half", data=data, max_epochs=2, **descent)
    resumed = fit(tmp_path / "half", data=data, max_epochs=4, resume=tmp_path / "half/checkpoints/last.ckpt", **descent)
    assert same(resumed, whole)
    assert resumed.trainer.global_step == 4 * PER_EPOCH


def test_resumed_in_mid_epoch_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(tmp_path / "whole", max_epochs=4, momentum=0.9)
    monkeypatch.setattr(Training, "chunk_steps", property(lambda self: 4))

    class Interrupt(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == PER_EPOCH + 8:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")
                raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(tmp_path / "half", max_epochs=4, momentum=0.9, more_callbacks=[Interrupt()])
    resumed = fit(tmp_path / "rest", max_epochs=4, momentum=0.9, resume=tmp_path / "middle.ckpt")
    assert same(resumed, whole)


def test_a_checkpoint_of_another_network_or_descent_is_refused(tmp_path: Path) -> None:
    """Else the tables would state for all epochs what was true of the last ones alone."""
    fit(tmp_path, max_epochs=1)
    for other, named in (
        ({"hidden": (7,)}, r"network sizes \[36, 5, 3\]"),
        ({"eta": 0.1}, r"\[eta, momentum, lmbda\] \[\[0.5, 0.0, 0.0\]\], this run \[\[0.1"),
        ({"optimiser": torch.optim.Adam}, "the optimiser gradient descent, this run Adam"),
        ({"momentum": 0.9, "nesterov": True}, "the optimiser gradient descent, this run .*Nesterov"),
    ):
        with pytest.raises(InputError, match=named):
            trainer(tmp_path).fit(training(**other), ckpt_path=tmp_path / "checkpoints/last.ckpt", weights_only=True)


def test_a_grid_is_every_combination_for_every_seed(tmp_path: Path) -> None:
    made = training(2, eta=[0.5, 0.1], momentum=0.9, lmbda=[0.0, 3.0])
    trainer(tmp_path).fit(made)
    rolls = [(s.seed, s.hyperparameters.eta, s.hyperparameters.lmbda) for s in made.history.starts]
    assert rolls == [(seed, eta, lmbda) for eta in (0.5, 0.1) for lmbda in (0.0, 3.0) for seed in (0, 1)]
    for place, (_, eta, lmbda) in enumerate(rolls[::2]):
        alone = training(2, eta=eta, momentum=0.9, lmbda=lmbda)
        trainer(tmp_path / f"{place}").fit(alone)
        of_setting = made.history.figures[:, 2 * place : 2 * place + 2]
        torch.testing.assert_close(of_setting, alone.history.figures, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("eta", 0.0),
        ("eta", -1),
        ("eta", float("nan")),
        ("eta", []),
        ("eta", [0.1, 0]),
        ("momentum", 1.0),
        ("lmbda", -0.1),
    ],
)
def test_a_descent_out_of_range_is_refused(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^descent\.{key} is .*; it must be .*\.$"):
        SGDConfig(**({"eta": 0.1, "batch_size": 10} | {key: value}))


def test_nesterov_trains_and_is_refused_where_it_cannot_act(tmp_path: Path) -> None:
    classical, nesterov = (fit(tmp_path / f"{flag}", momentum=0.9, nesterov=flag) for flag in (False, True))
    assert not same(classical, nesterov)
    assert nesterov.history.figures[-1, :, 0].max() < nesterov.history.figures[0, :, 0].min()
    SGDConfig(eta=0.1, batch_size=10, momentum=[0.0, 0.9], nesterov=True)
    for other in ({}, {"momentum": [0.0]}, {"optimiser": torch.optim.SGD}):
        with pytest.raises(InputError, match=r"descent\.nesterov"):
            SGDConfig(eta=0.1, batch_size=10, nesterov=True, **other)


@pytest.mark.parametrize(("key", "value"), [("fuse", True), ("kernel", "auto")])
def test_what_an_optimiser_of_torch_would_not_use_is_refused(key: str, value: Any) -> None:
    SGDConfig(eta=0.1, batch_size=10, **{key: value})
    with pytest.raises(InputError, match=rf"descent\.{key}"):
        SGDConfig(eta=0.1, batch_size=10, optimiser=torch.optim.SGD, **{key: value})


def test_an_unknown_schedule_and_a_batch_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="constant, linear, cosine"):
        SGDConfig(eta=0.1, batch_size=10, schedule="steep")
    with pytest.raises(InputError, match=r"descent\.eta is \[.*each once"):
        SGDConfig(eta=[0.1, 0.1], batch_size=10)
    with pytest.raises(InputError, match="batch_size is 0; it must be a whole number, 1 or more"):
        SGDConfig(eta=0.1, batch_size=0)
    with pytest.raises(InputError, match="between 1 and the 103 training pictures"):
        trainer(tmp_path).fit(training(batch_size=104))


def test_logged_medians_are_those_of_the_table(tmp_path: Path) -> None:
    """The median of an even number of starts lies between two; a start that diverges is in no median."""
    made = training(2, eta=[0.5, 0.4, 1e30], cost="cross_entropy")
    trainer(tmp_path, logger=CSVLogger(tmp_path)).fit(made)
    assert [row.diverged for row in made.history.rows()] == [False] * 4 + [True] * 2
    (metrics,) = tmp_path.rglob("metrics.csv")
    logged = [row for row in rows(metrics) if row.get("median_val_cost")]
    assert len(logged) == 3
    for figures, row in zip(made.history.figures[:, :4].tolist(), logged, strict=True):
        for k, name in ((1, "median_val_cost"), (2, "median_val_accuracy")):
            assert float(row[name]) == pytest.approx(statistics.median(start[k] for start in figures), rel=1e-6)
