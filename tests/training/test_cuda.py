"""Training on CUDA, pretended where there is none: every kind of it ends as on the CPU, by replayed graphs."""

import gc
from collections.abc import Container, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import hillstart.engine.ensemble
from hillstart.engine.ensemble import Tile
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.network import Network
from hillstart.runs import experiment, results
from hillstart.training.module import Training
from hillstart.training.optimizer import SGDConfig
from hillstart.training.packs import RunSpec
from hillstart.training.stopping import EarlyStopping
from made import blobs, trainer, training
from pretended import Device

CAPTURED = 4
"""Mini-batches in a graph; an epoch has 11, of which the last is smaller."""

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "in blocks": {"batch_size": 40, "data": blobs(train=403)},
    "schedule": {"schedule": "cosine", "warmup": 0.2},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "decay": {"lmbda": 5.0},
    "momentum and decay": {"momentum": 0.9, "lmbda": 5.0, "schedule": "linear"},
    "grid": {"eta": [0.1, 0.5], "momentum": [0.0, 0.9], "lmbda": [0.0, 3.0], "starts": 2},
    "adam": {"optimiser": torch.optim.Adam, "eta": 0.01},
    "grid of adam": {"optimiser": torch.optim.Adam, "eta": [0.01, 0.02], "starts": 2},
    "quadratic": {"cost": "quadratic"},
    "softmax, relu, two layers": {"cost": "log_likelihood", "activation": "relu", "hidden": (6, 4), "eta": 0.05},
    "augmented": {"data": blobs(train=103, augment="photo")},
    "race": {"stopping": EarlyStopping(race=1), "starts": 9},
    "patience": {"stopping": EarlyStopping(patience=1), "momentum": 0.9},
}


@pytest.fixture(autouse=True)
def short_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of four mini-batches in chunks of eight: an epoch has whole graphs, a rest and a smaller batch."""
    monkeypatch.setattr(hillstart.engine.ensemble, "CAPTURED", CAPTURED)
    monkeypatch.setattr(Training, "chunk_steps", property(lambda self: 2 * CAPTURED))


def fit(folder: Path, accelerator: str, epochs: int = 3, resume: Path | None = None, **options: Any) -> Training:
    made = training(**{"starts": 4, "cost": "cross_entropy"} | options)
    trainer(folder, accelerator=accelerator, max_epochs=epochs).fit(made, ckpt_path=resume, weights_only=True)
    return made


FAST = {"in blocks", "momentum and decay", "race"}


def kinds(names: Iterable[str], fast: Container[str]) -> list[Any]:
    """Parameters of a test, of which most are slow together."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", kinds(KINDS, FAST))
def test_every_kind_of_training_ends_as_on_the_cpu(name: str, tmp_path: Path, cuda: Device | None) -> None:
    on_cpu, on_cuda = (fit(tmp_path / where, where, **KINDS[name]) for where in ("cpu", "cuda"))
    assert {p.device.type for p in (*on_cuda.best.parameters, *on_cuda.pack.network().parameters)} == {"cuda"}
    figures = on_cpu.history.figures, on_cuda.history.figures
    torch.testing.assert_close(*figures, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert torch.equal(on_cuda.history.status, on_cpu.history.status)
    torch.testing.assert_close(on_cuda.best.to("cpu").parameters, on_cpu.best.parameters, rtol=1e-3, atol=1e-3)
    if cuda is not None:
        assert cuda.replays > 0 or "adam" in name


WAYS = ("momentum cpu cuda", "race cuda cuda", "plain cuda cpu", "adam cuda cpu", "adam cpu cuda")


@pytest.mark.parametrize("way", kinds(WAYS, WAYS[:1]))
def test_a_checkpoint_goes_on_on_another_device(way: str, tmp_path: Path, cuda: Device | None) -> None:
    name, before, after = way.split()
    whole = fit(tmp_path / "whole", "cpu", epochs=4, **KINDS[name])
    fit(tmp_path / "cut", before, epochs=2, **KINDS[name])
    resumed = fit(tmp_path / "cut", after, epochs=4, resume=tmp_path / "cut/checkpoints/last.ckpt", **KINDS[name])
    figures = resumed.history.figures, whole.history.figures
    torch.testing.assert_close(*figures, rtol=1e-4, atol=1e-4, equal_nan=True)


# ---------------------------------------------------------------- memory


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def storages(training: Training) -> list[StorageWeakRef]:
    """The memory of all tensors that change in training."""
    tensors = [t for tile in training.pack.tiles for of in tile.state().values() for t in of]
    return [StorageWeakRef(t.untyped_storage()) for t in tensors]


def test_a_trained_pack_frees_its_memory_at_once(tmp_path: Path, without_collector: None, cuda: Device | None) -> None:
    """All of it, though the trainer, whose optimiser Lightning keeps, is still there."""
    trained = fit(tmp_path, "cuda", momentum=0.9)
    held = storages(trained)
    assert len(held) == 8 and not any(storage.expired() for storage in held)
    trained.release()
    assert trained.trainer.optimizers
    assert all(storage.expired() for storage in held)


def test_starts_that_have_ended_free_their_memory_at_once(
    tmp_path: Path, without_collector: None, cuda: Device | None
) -> None:
    trained = fit(tmp_path, "cuda", momentum=0.9)
    held = storages(trained)
    trained.pack.retain([1, 3])
    assert trained.pack.tiles[0].network.starts == 2
    assert all(storage.expired() for storage in held)


def test_what_ranks_gather_is_on_the_cpu(tmp_path: Path, cuda: Device | None) -> None:
    """The kept starts of all ranks need not fit the memory of one device."""
    trained = fit(tmp_path, "cuda", epochs=1)
    network, device = trained.best_of([0, 2]), trained.best.w[0].device.type
    assert device == "cuda" and {p.device.type for p in network.parameters} == {"cpu"}


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("precision", kinds(("highest", "high", "medium"), {"high"}))
def test_only_descent_rounds_products(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: Device | None
) -> None:
    """Starts are measured, chosen and tested in float32, whatever the descent, or the process, multiplies in."""
    seen: set[tuple[str, str]] = set()

    def spied(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def spy(*arguments: Any) -> Any:
            seen.add((name, torch.get_float32_matmul_precision()))
            return function(*arguments)

        monkeypatch.setattr(owner, name, spy)

    for owner, name in ((Tile, "descend"), (Tile, "evaluate"), (results, "_outputs"), (Network, "evaluate")):
        spied(owner, name)
    data, descent = blobs(), SGDConfig(0.5, 10)
    begin, starts = partial(Network.start, [36, 5, 3]), [Start(s, Hyperparameters(0.5)) for s in range(3)]
    spec = RunSpec(begin, [36, 5, 3], data, descent, EarlyStopping(), starts, True, matmul_precision=precision)
    torch.set_float32_matmul_precision("medium")
    try:
        experiment.run(spec, lambda _=1: trainer(tmp_path, accelerator="cuda", max_epochs=1), tmp_path)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == {("descend", precision), ("evaluate", "highest"), ("_outputs", "highest")}


@pytest.mark.slow
def test_bfloat16_ends_near_float32(tmp_path: Path, cuda: Device | None) -> None:
    exact, rounded = (fit(tmp_path / name, "cuda", matmul_precision=name) for name in ("highest", "medium"))
    assert (exact.pack.matmul.name, rounded.pack.matmul.name) == ("torch", "bfloat16")
    figures = exact.history.figures, rounded.history.figures
    assert not torch.equal(*figures)
    torch.testing.assert_close(*figures, rtol=5e-2, atol=5e-2)
