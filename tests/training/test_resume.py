"""A training that was interrupted and resumed, or ended and extended, ends as one that never stopped, bit for bit."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

import hillstart.engine.tiling
from hillstart.engine.tiling import Tiling
from hillstart.training.callbacks import Checkpoints, WholeCheckpoints
from hillstart.training.module import Training
from hillstart.training.stopping import EarlyStopping
from made import blobs, trainer, training

DATA = blobs(train=203, augment="photo")
PER_EPOCH = 21
BLOCK = 9
"""Mini-batches in a block where they go in blocks, as 96 // 10."""

DESCENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear": {"schedule": "linear"},
    "momentum": {"momentum": 0.9, "schedule": "linear", "lmbda": 0.1},
    "nesterov": {"momentum": 0.3, "nesterov": True, "schedule": "linear", "lmbda": 0.1},
    "adam": {"optimiser": torch.optim.Adam, "eta": 0.01, "schedule": "cosine"},
}


class Interrupt(pl.Callback):
    """Interrupts training between two chunks, as a signal does, after `step` mini-batches."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError


@pytest.fixture(autouse=True)
def chunks_of_one_block(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Training, "chunk_steps", property(lambda self: BLOCK))
    yield


def fit(folder: Path, *, resume: bool = False, epochs: int = 10, callbacks: Any = (), **of: Any) -> Training:
    """Train in `folder`, which then has the checkpoint of the last epoch or of the interruption."""
    folder.mkdir(exist_ok=True)
    made = training(of.pop("starts", 6), DATA, **of)
    own = [Checkpoints(folder / "checkpoints"), *callbacks]
    fits = trainer(folder, callbacks=own, plugins=[WholeCheckpoints()], max_epochs=epochs)
    fits.fit(made, ckpt_path=folder / "checkpoints/last.ckpt" if resume else None, weights_only=True)
    return made


def interrupted(folder: Path, step: int, **of: Any) -> None:
    with pytest.raises(InterruptedError):
        fit(folder, callbacks=[Interrupt(step)], **of)


def state(made: Training) -> dict[str, Any]:
    """All that training has changed, as bytes, so that nan equals nan."""
    history = made.history
    tensors = made.state_dict() | {"history": history.figures, "epochs": history.epochs, "status": history.status}
    return {name: t.cpu().numpy().tobytes() for name, t in tensors.items()}


def company(name: str) -> dict[str, Any]:
    """Options for starts of which some stop early and some diverge."""
    descent = dict(DESCENTS[name])
    if "optimiser" not in descent:
        descent["eta"] = [0.5, 1e30]
    return descent | {"cost": "cross_entropy", "stopping": EarlyStopping(patience=1)}


@pytest.mark.slow
@pytest.mark.parametrize("name", DESCENTS)
def test_the_company_holds_starts_that_stop_and_starts_that_diverge(tmp_path: Path, name: str) -> None:
    made = fit(tmp_path, **company(name))
    ends = {row.status for row in made.history.rows()}
    assert "stopped" in ends
    assert "diverged" in ends or name == "adam"


def test_plain_starts_go_in_blocks(tmp_path: Path) -> None:
    assert fit(tmp_path, epochs=1, starts=1, **DESCENTS["plain"]).pack.block == BLOCK


@pytest.mark.slow
@pytest.mark.parametrize("name", DESCENTS)
@pytest.mark.parametrize("alone", [True, False], ids=["one start", "a pack"])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, alone: bool, name: str) -> None:
    of: dict[str, Any] = {"starts": 1} | DESCENTS[name] if alone else company(name)
    whole = fit(tmp_path / "whole", **of)
    for step in (BLOCK, 5 * PER_EPOCH + BLOCK, 5 * PER_EPOCH + 2 * BLOCK):
        interrupted(tmp_path / f"{step}", step, **of)
        resumed = fit(tmp_path / f"{step}", resume=True, **of)
        assert state(resumed) == state(whole), step
        assert resumed.trainer.global_step == whole.trainer.global_step


@pytest.mark.slow
def test_interrupted_again_and_again(tmp_path: Path) -> None:
    of = company("momentum")
    whole = fit(tmp_path / "whole", **of)
    interrupted(tmp_path / "cut", BLOCK, **of)
    for step in range(2 * BLOCK, 4 * PER_EPOCH, BLOCK):
        if step % PER_EPOCH in (BLOCK, 2 * BLOCK):
            with pytest.raises(InterruptedError):
                fit(tmp_path / "cut", resume=True, callbacks=[Interrupt(step)], **of)
    assert state(fit(tmp_path / "cut", resume=True, **of)) == state(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stopping",
    [EarlyStopping(), EarlyStopping(patience=1), EarlyStopping(patience=2), EarlyStopping(race=5)],
    ids=["", "1", "2", "race"],
)
@pytest.mark.parametrize("name", ["plain", "momentum", "adam"])
def test_five_epochs_and_five_more_are_ten(tmp_path: Path, name: str, stopping: EarlyStopping) -> None:
    of = company(name) | {"schedule": "constant", "stopping": stopping}
    whole = fit(tmp_path / "whole", **of)
    fit(tmp_path / "more", epochs=5, **of)
    assert state(fit(tmp_path / "more", resume=True, **of)) == state(whole)


def test_a_pack_is_tiled_as_if_it_had_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiling depends on the order in which starts ended, and on CUDA the rounding depends on the tiling."""
    monkeypatch.setattr(hillstart.engine.tiling, "TILE_FLOPS", 0)
    monkeypatch.setattr(Tiling, "_cache_sized", lambda self, S, cores, room: 4)
    of = {"starts": 24, "stopping": EarlyStopping(race=1)}
    whole = fit(tmp_path / "whole", epochs=4, **of)
    interrupted(tmp_path / "cut", 3 * PER_EPOCH + BLOCK, epochs=4, **of)
    resumed = fit(tmp_path / "cut", resume=True, epochs=4, **of)
    tiles = [[tile.columns for tile in made.pack.tiles] for made in (whole, resumed)]
    assert tiles[0] == tiles[1]
    assert len(whole.pack.active) == 6


@pytest.mark.slow
def test_nothing_is_saved_in_the_middle_of_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a chunk some tiles are further than others, so the previous checkpoint stays."""
    of = company("momentum")
    whole = fit(tmp_path / "whole", **of)
    interrupted(tmp_path / "cut", 2 * PER_EPOCH + BLOCK, **of)
    before = (tmp_path / "cut/checkpoints/last.ckpt").read_bytes()
    from hillstart.engine.ensemble import StartEnsemble

    descend = StartEnsemble.descend

    def half(self: StartEnsemble, read: Any, schedule: Any) -> None:
        self.tiles[0].network.w[0].add_(1)
        raise InterruptedError

    monkeypatch.setattr(StartEnsemble, "descend", half)
    with pytest.raises(InterruptedError):
        fit(tmp_path / "cut", resume=True, **of)
    monkeypatch.setattr(StartEnsemble, "descend", descend)
    assert (tmp_path / "cut/checkpoints/last.ckpt").read_bytes() == before
    assert state(fit(tmp_path / "cut", resume=True, **of)) == state(whole)


@pytest.mark.slow
def test_a_checkpoint_resumes_wherever_its_folder_is_taken(tmp_path: Path) -> None:
    of = company("momentum")
    whole = fit(tmp_path / "whole", **of)
    interrupted(tmp_path / "here", 3 * PER_EPOCH + BLOCK, **of)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    assert state(fit(tmp_path / "there", resume=True, **of)) == state(whole)


def test_best_is_replaced_only_by_a_new_lowest_cost(tmp_path: Path) -> None:
    """Also compared with the costs before the interruption."""
    fit(tmp_path, epochs=2)
    last, best = (tmp_path / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    stored, before = torch.load(last, weights_only=True), best.read_bytes()
    (ours,) = (state for state in stored["callbacks"].values() if "lowest" in state)
    assert math.isfinite(ours["lowest"])
    ours |= {"lowest": 0.0, "owed": False}
    last.unlink()  # which may be best.ckpt by another name
    torch.save(stored, last)
    fit(tmp_path, resume=True, epochs=4)
    assert best.read_bytes() == before
    assert torch.load(last, weights_only=True)["epoch"] > stored["epoch"]
