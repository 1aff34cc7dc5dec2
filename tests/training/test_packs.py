"""Starts in packs: the size of packs, what limited memory does to it, and that packs change no result."""

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

import hillstart
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference import model_file
from hillstart.inference.calibration import expected_calibration_error
from hillstart.network import Network
from hillstart.runs import experiment
from hillstart.runs.writer import RunFolder
from hillstart.system.errors import InputError
from hillstart.system.files import WritingError
from hillstart.system.statistics import accuracy_interval
from hillstart.training import packs
from hillstart.training.callbacks import Checkpoints, WholeCheckpoints
from hillstart.training.module import Training
from hillstart.training.optimizer import SGDConfig
from hillstart.training.packs import RunSpec
from hillstart.training.stopping import EarlyStopping
from made import blobs, rows, trainer
from pretended import pretended

CPU = torch.device("cpu")


def run_spec(starts: int = 10, *, stopping: EarlyStopping | None = None, seed: int = 0, **descent: Any) -> RunSpec:
    data = blobs()
    descents = SGDConfig(**({"eta": 0.5, "batch_size": 10} | descent))
    all_of_them = [Start(s, p) for p in descents.grid() for s in range(seed, seed + starts)]
    begin = partial(Network.start, [36, 5, 3])
    return RunSpec(begin, [36, 5, 3], data, descents, stopping or EarlyStopping(), all_of_them)


def maker(folder: Path, **options: Any) -> Callable[[], pl.Trainer]:
    checkpoints = Checkpoints(folder / "checkpoints")
    more = options.pop("more_callbacks", [])
    return lambda packs_left=1: trainer(
        folder, **({"callbacks": [checkpoints, *more], "plugins": [WholeCheckpoints()], "max_epochs": 4} | options)
    )


def table(folder: Path, name: str = "starts.csv") -> list[dict[str, str]]:
    return rows(folder / name)


def assert_same_files(folder: Path, other: Path) -> None:
    """Two runs have written the same results."""
    for name in ("starts.csv", "history.csv", "network.safetensors"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), f"{folder.name}: {name}"


def run(folder: Path, of: RunSpec, *, pack: int | None = None, **options: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    known = {key: options.pop(key) for key in ("keep", "checkpoint") if key in options}
    return experiment.run(of, maker(folder, **options), folder, pack=pack, **known)


# ---------------------------------------------------------------- how many in a pack


def test_packs_are_as_many_as_fit_and_hold_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    for starts in (1, 2, 65, 1000, 100_000):
        made = run_spec(starts)
        for fit in (1, 7, 64, 640):
            monkeypatch.setattr(packs, "CPU_BYTES", fit * made.start_bytes(CPU))
            sizes = made.packs(CPU)
            assert sum(sizes) == starts
            assert max(sizes) <= fit
            assert min(sizes) > 0
            assert len(sizes) <= 1.5 * (-(-starts // fit)) + 1


def test_ranks_share_packs_in_which_each_has_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    made = run_spec(1000)
    monkeypatch.setattr(packs, "CPU_BYTES", 100 * made.start_bytes(CPU))
    assert max(made.packs(CPU, ranks=3)) <= 300
    assert min(made.packs(CPU, ranks=3)) >= 3
    with pytest.raises(InputError, match=r"^starts is 2"):
        run_spec(2).packs(CPU, ranks=3)


def test_a_pack_on_cuda_is_no_larger_than_a_grid_of_its_kernels() -> None:
    with pretended(free=1 << 40, total=1 << 40):
        sizes = run_spec(70_000).packs(torch.device("cuda", 0))
    assert sum(sizes) == 70_000 and max(sizes) <= 65_535


def test_a_start_takes_the_more_memory_the_more_moves_it() -> None:
    plain, momentum, adam = run_spec(), run_spec(momentum=0.9), run_spec(optimiser=torch.optim.Adam)
    assert plain.start_bytes(CPU) < momentum.start_bytes(CPU) < adam.start_bytes(CPU)
    assert plain.start_bytes(CPU) >= 2 * 4 * (36 * 5 + 5 + 5 * 3 + 3)


def test_a_network_that_the_memory_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = run_spec()
    monkeypatch.setattr(packs, "memory_bytes", lambda: made.start_bytes(CPU))
    assert made.packs(CPU)
    monkeypatch.setattr(packs, "memory_bytes", lambda: made.start_bytes(CPU) - 1)
    with pytest.raises(InputError, match=r"^network\.hidden"):
        made.packs(CPU)


# ---------------------------------------------------------------- what packs change, and what not


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run in packs of 4, 4 and 2 starts that keeps 4, and its summary."""
    folder = tmp_path_factory.mktemp("packed")
    return folder, run(folder, run_spec(momentum=0.9), pack=4, keep=4)


def test_packs_change_no_result(packed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, summary = packed
    assert summary["packs"] == 3 and len(table(folder, "history.csv")) == 40
    for pack, count in ((None, 1), (3, 4)):
        other = run(tmp_path / str(count), run_spec(momentum=0.9), pack=pack, keep=4)
        assert other["packs"] == count
        for key in ("best_seed", "test_accuracy", "vote_test_accuracy", "kept", "starts", "epochs_trained"):
            assert other[key] == summary[key]
        assert same_bits(tmp_path / str(count), folder)


def same_bits(one: Path, other: Path) -> bool:
    """Two runs have the same results of all starts, and the same weights of those that are kept."""
    mine, others = (model_file.load(folder / "network.safetensors").network for folder in (one, other))
    return (one / "starts.csv").read_bytes() == (other / "starts.csv").read_bytes() and all(
        torch.equal(p, q) for p, q in zip(mine.parameters, others.parameters, strict=True)
    )


DESCENTS: dict[str, dict[str, Any]] = {
    "adam": {"optimiser": torch.optim.Adam, "eta": 0.01, "lmbda": 1.0},
    "grid": {"eta": [0.1, 0.5], "momentum": [0.0, 0.9], "lmbda": 1.0},
}


@pytest.mark.parametrize("name", ["adam", pytest.param("grid", marks=pytest.mark.slow)])
def test_a_start_has_the_same_row_and_weights_in_any_company(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starts end by patience; all are tested. Other starts, packs, tiles and cores; engine/test_company.py has more."""

    def result(folder: str, starts: int, seed: int, pack: int | None, cores: int, flops: float) -> tuple[Any, ...]:
        with monkeypatch.context() as patch:
            patch.setattr(torch, "get_num_threads", lambda: cores)
            patch.setattr("hillstart.engine.tiling.TILE_FLOPS", flops)
            patch.setattr("hillstart.engine.tiling.TILE_BYTES", 4 * 4 * 36 * 5)
            spec = run_spec(starts, seed=seed, stopping=EarlyStopping(patience=1), **DESCENTS[name])
            run(tmp_path / folder, replace(spec, test_all=True), pack=pack, keep=1000)
        of_seed = [row for row in table(tmp_path / folder) if row["seed"] == "3"]
        for row in of_seed:
            del row["rank"]
            row.pop("start", None)
        model = model_file.load(tmp_path / folder / "network.safetensors")
        mine = [k for k, start in enumerate(model.origins) if start.seed == 3]
        bits = sorted(
            (model.origins[k].hyperparameters, [p[k].tolist() for p in model.network.parameters]) for k in mine
        )
        return sorted(map(str, of_seed)), bits

    alone = result("1", 1, 3, None, 1, 1e12)
    assert len(alone[0]) == len(alone[1]) == (4 if name == "grid" else 1)
    for folder, case in {"9": (9, 0, 5, 2, 1e12), "18": (18, 2, None, 2, 0), "one core": (18, 2, 16, 1, 0)}.items():
        assert result(folder, *case) == alone, folder


def test_the_best_of_all_packs_are_kept_best_first(packed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, summary = packed
    best = [int(row["seed"]) for row in table(folder)[:4]]
    model = model_file.load(folder / "network.safetensors")
    assert [start.seed for start in model.origins] == best
    assert model.network.starts == summary["kept"] == 4
    alone = run(tmp_path, run_spec(1, seed=best[0], momentum=0.9))
    assert alone["test_accuracy"] == summary["test_accuracy"]
    loaded = model_file.load(tmp_path / "network.safetensors")
    for p, q in zip(model.network.parameters, loaded.network.parameters, strict=True):
        assert torch.equal(p[:1], q)


def test_what_is_kept_predicts_as_the_summary_says(packed: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = packed
    classifier, data = hillstart.load(folder), blobs()
    assert classifier.calibration.vote == summary["calibration"]["temperature"] != 1
    assert data.trained_on == {"pictures": 103, "files": 0, "sha256": None}
    brightness = pytest.approx(float(data.train.x.double().mean() / 255), abs=1e-6)
    assert dict(classifier.trained_on or {}) == data.trained_on | {"brightness": brightness}
    answers, labels = classifier.predict(data.test.x), [data.classes[k] for k in data.test.y.tolist()]
    right = [answer.label == label for answer, label in zip(answers, labels, strict=True)]
    chosen = [answer.opinions[0].label == label for answer, label in zip(answers, labels, strict=True)]
    assert sum(right) / 50 == pytest.approx(summary["vote_test_accuracy"])
    assert sum(chosen) / 50 == pytest.approx(summary["test_accuracy"])
    assert summary["test_interval"] == [*accuracy_interval(summary["test_accuracy"], 50)]
    assert summary["vote_test_interval"] == [*accuracy_interval(summary["vote_test_accuracy"], 50)]
    assert summary["test_standard_error"] > 0 and summary["val_standard_error"] > 0
    p = torch.tensor([[answer.probabilities[name] for name in data.classes] for answer in answers])
    on_test = summary["calibration"]["test"]["after"]
    assert on_test["expected_calibration_error"] == pytest.approx(expected_calibration_error(p, data.test.y), abs=1e-6)
    assert sum(b["pictures"] for b in on_test["reliability"]) == 50


def test_last_and_best_checkpoint_are_of_the_last_pack(packed: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = packed
    for name in ("last", "best"):
        stored = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["hillstart"]
        assert (stored["pack"], stored["seeds"][-1]) == (3, 9)
    assert not list((folder / "checkpoints").glob(".*"))


def test_a_finished_pack_holds_no_memory(tmp_path: Path) -> None:
    import gc
    import weakref

    seen: list[Any] = []

    class Watch(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            assert isinstance(pl_module, Training)
            gc.disable()  # what is freed must be so without the collector
            seen.append([weakref.ref(t) for t in (*pl_module.best.parameters, *pl_module.pack.tiles[0].network.w)])

    try:
        run(tmp_path, run_spec(8), pack=2, more_callbacks=[Watch()])
    finally:
        gc.enable()
    assert len(seen) == 4
    assert [sum(ref() is not None for ref in refs) for refs in seen] == [0, 0, 0, 0]


def test_a_pack_too_large_for_the_device_is_halved_in_the_middle_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    setup = Training.setup

    def narrow(self: Training, stage: str) -> None:
        if len(self.history.starts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        setup(self, stage)

    monkeypatch.setattr(Training, "setup", narrow)
    with caplog.at_level("INFO"):
        summary = run(tmp_path, run_spec(), max_epochs=1)
    assert "10 starts are too many for the memory of the device; going on with 5 at once." in caplog.text
    assert summary["packs"] == 4
    assert sorted(int(row["seed"]) for row in table(tmp_path)) == list(range(10))


class OutOfMemory(pl.Callback):
    """A device whose memory holds `most` starts, and runs out in the middle of an epoch."""

    def __init__(self, most: int):
        self.most = most

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, Training)
        if len(pl_module.history.starts) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_run_whose_packs_were_halved_is_resumed_with_these_packs(tmp_path: Path, saving_often: None) -> None:
    """Killed in its first half, when its checkpoint holds fewer starts than the pack had at the beginning."""
    whole = run(tmp_path / "whole", run_spec(), more_callbacks=[OutOfMemory(5)])
    with pytest.raises(InterruptedError):
        run(tmp_path / "cut", run_spec(), more_callbacks=[OutOfMemory(5), Interrupt(3)])
    assert json.loads((tmp_path / "cut/checkpoints/packs.json").read_text())["packs"] == [5, 5]
    onward = run(tmp_path / "cut", run_spec(), checkpoint=tmp_path / "cut/checkpoints/last.ckpt")
    assert onward["packs"] == whole["packs"] == 2
    assert_same_files(tmp_path / "cut", tmp_path / "whole")


def test_a_plan_that_cannot_be_noted_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a disk that is full just when a pack is halved."""
    note, notes = RunFolder._write_state, iter(range(100))

    def full(self: RunFolder) -> None:
        if next(notes) == 1:  # after that of the beginning
            raise WritingError("no space")
        note(self)

    monkeypatch.setattr(RunFolder, "_write_state", full)
    assert run(tmp_path, run_spec(), more_callbacks=[OutOfMemory(5)])["packs"] == 2
    assert "no space" in caplog.text


def test_what_a_pack_held_is_free_before_its_half_is_trained(tmp_path: Path) -> None:
    import gc

    from torch.multiprocessing.reductions import StorageWeakRef

    held: list[list[Any]] = []
    alive: list[int] = []

    class Watch(pl.Callback):
        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            assert isinstance(pl_module, Training)
            alive.append(sum(not storage.expired() for some in held for storage in some))
            gc.disable()  # what is freed must be so without the collector

        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            assert isinstance(pl_module, Training)
            tensors = (*pl_module.best.parameters, *pl_module.pack.network().parameters)
            tensors += tuple(p for tile in pl_module.pack.tiles for p in tile.network.parameters)
            held.append([StorageWeakRef(t.untyped_storage()) for t in tensors])

    try:
        run(tmp_path, run_spec(4), max_epochs=1, more_callbacks=[Watch(), OutOfMemory(2)])
    finally:
        gc.enable()
    assert len(held) == 3 and alive == [0, 0, 0]


def test_a_grid_has_the_medians_of_its_settings(
    packed: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = partial(Network.start, [36, 5, 3], cost="cross_entropy")
    summary = run(tmp_path, replace(run_spec(4, eta=[0.5, 0.01, 1e30]), begin=begin))
    of: dict[str, list[float]] = {}
    for row in table(tmp_path):
        of.setdefault(f"{float(row['eta']):g}", []).append(float(row["val_cost"]))
    assert [s["setting"]["descent.eta"] for s in summary["settings"]] == ["0.5", "0.01", "1e+30"]
    for setting in summary["settings"][:2]:
        assert (setting["starts"], setting["diverged"]) == (4, 0)
        assert setting["val_cost"]["median"] == pytest.approx(statistics.median(of[setting["setting"]["descent.eta"]]))
    assert (summary["settings"][2]["diverged"], summary["settings"][2]["val_cost"]) == (4, {"n": 0})
    assert "settings, by the median val cost" in " ".join(capsys.readouterr().out.split())
    assert "settings" not in packed[1]


def test_a_single_start_too_large_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Training, stage: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Training, "setup", never)
    with pytest.raises(torch.OutOfMemoryError):
        run(tmp_path, run_spec(2))


def test_epochs_that_stopping_saved_are_counted(tmp_path: Path) -> None:
    summary = run(tmp_path, run_spec(8, stopping=EarlyStopping(race=1)), max_epochs=8)
    assert (summary["finished"], summary["stopped"], summary["diverged"]) == (1, 7, 0)
    assert summary["epochs_trained"] == 4 * 1 + 2 * 2 + 1 * 4 + 8
    assert summary["epochs_saved"] == 4 * 7 + 2 * 6 + 1 * 4
    assert [int(row["epochs"]) for row in sorted(table(tmp_path), key=lambda row: int(row["epochs"]))][-1] == 8


# ---------------------------------------------------------------- interrupted and resumed


class Interrupt(pl.Callback):
    """Stops a run like a power cut: after so many epochs of all packs together, without a word to anyone."""

    def __init__(self, epochs: int):
        self.left = epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.left -= 1
        if self.left == 0:
            raise InterruptedError


@pytest.fixture
def saving_often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("hillstart.training.callbacks.SHARE", float("inf"))
    yield


@pytest.mark.parametrize(
    ("stopping", "epochs"),
    [(EarlyStopping(race=1), (3,)), (EarlyStopping(patience=1), (3, 4, 5, 12))],
    ids=["race", "patience"],
)
def test_an_interrupted_run_ends_with_the_table_of_an_uninterrupted_one(
    tmp_path: Path, stopping: EarlyStopping, epochs: tuple[int, ...], saving_often: None
) -> None:
    """Interrupted after so many of the 12 epochs of three packs; a race has fewer."""

    def of() -> RunSpec:
        return run_spec(stopping=stopping, eta=[0.5, 3.0], momentum=0.9)

    whole = run(tmp_path / "whole", of(), pack=7, keep=5)
    for epoch in epochs:
        cut = tmp_path / str(epoch)
        with pytest.raises(InterruptedError):
            run(cut, of(), pack=7, keep=5, more_callbacks=[Interrupt(epoch)])
        assert not (cut / "summary.json").exists()
        onward = run(cut, of(), keep=5, checkpoint=cut / "checkpoints/last.ckpt")
        assert onward | {"seconds": 0} == whole | {"seconds": 0}, epoch
        assert_same_files(cut, tmp_path / "whole")


def test_what_was_written_but_not_noted_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop between the rows of a pack and the word that the pack is done."""
    run(tmp_path / "whole", run_spec(), pack=4, keep=3)
    note, notes = RunFolder._write_state, iter(range(100))

    def dying(self: RunFolder) -> None:
        if next(notes) == 2:  # of the beginning, of pack 1, and then of pack 2
            raise InterruptedError
        note(self)

    monkeypatch.setattr(RunFolder, "_write_state", dying)
    with pytest.raises(InterruptedError):
        run(tmp_path / "cut", run_spec(), pack=4, keep=3)
    assert len(table(tmp_path / "cut")) == 8
    monkeypatch.setattr(RunFolder, "_write_state", note)
    run(tmp_path / "cut", run_spec(), keep=3, checkpoint=tmp_path / "cut/checkpoints/last.ckpt")
    assert_same_files(tmp_path / "cut", tmp_path / "whole")


def test_a_finished_run_may_be_closed_again(tmp_path: Path) -> None:
    first = run(tmp_path, run_spec(), pack=4)
    before = (tmp_path / "starts.csv").read_text()
    again = run(tmp_path, run_spec(), checkpoint=tmp_path / "checkpoints/last.ckpt")
    assert (tmp_path / "starts.csv").read_text() == before
    assert again | {"seconds": 0} == first | {"seconds": 0}


# ---------------------------------------------------------------- jobs of a sweep


def jobs(*groups: tuple[int, ...], eta: float = 0.5) -> list[list[Start]]:
    return [[Start(seed, Hyperparameters(eta)) for seed in group] for group in groups]


def test_jobs_together_get_what_each_would_get_alone(tmp_path: Path) -> None:
    given = [*jobs((0, 1, 2), (7, 8)), *jobs((4, 5), eta=0.1)]
    done = {f.job: f for f in experiment.run_together(run_spec(), given, maker(tmp_path), keep=2, pack=3)}
    assert sorted(done) == [0, 1, 2]
    for number, starts in enumerate(given):
        folder = tmp_path / str(number)
        folder.mkdir()
        summary = done[number].write(folder)
        eta = starts[0].hyperparameters.eta
        alone = run(tmp_path / f"alone{number}", run_spec(len(starts), seed=starts[0].seed, eta=eta), keep=2)
        for key in ("best_seed", "starts", "kept", "test_accuracy", "vote_test_accuracy", "epochs_trained"):
            assert summary[key] == alone[key], key
        for mine, row in zip(table(folder), table(tmp_path / f"alone{number}"), strict=True):
            assert mine["seed"] == row["seed"]
            assert float(mine["val_cost"]) == pytest.approx(float(row["val_cost"]), rel=1e-4)
        assert len(table(folder, "history.csv")) == 4 * len(starts)
        assert json.loads((folder / "summary.json").read_text()) == summary
        assert (folder / "network.safetensors").is_file()


def test_the_order_of_jobs_changes_no_bit(tmp_path: Path) -> None:
    def results(*groups: tuple[int, ...]) -> dict[int, Any]:
        found = experiment.run_together(run_spec(), jobs(*groups), maker(tmp_path), pack=4)
        return {row.start.seed: row for f in found for row in f.outcome.rows}

    one, other = results((3,), (1,), (2,), (9,), (5,), (0,)), results((0,), (9,), (5,), (2,), (3,), (1,))
    assert one == other


def test_jobs_that_are_done_change_no_bit_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, trainings = jobs((0, 1, 2), (3, 4), (5, 6, 7)), list[int]()

    def written(folder: Path, done: set[int]) -> dict[str, bytes]:
        for result in experiment.run_together(run_spec(), given, maker(tmp_path), pack=3, done=done):
            job = folder / str(result.job)
            job.mkdir(parents=True)
            result.write(job)
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.glob("*/*") if p.suffix != ".json"}

    whole = written(tmp_path / "whole", set())
    fit = packs._fit
    monkeypatch.setattr(packs, "_fit", lambda t, *rest: trainings.append(len(t.history.starts)) or fit(t, *rest))
    for done, trained in (({0}, [3, 2]), ({1}, [3, 3, 2]), ({0, 1, 2}, [])):
        trainings.clear()
        assert written(tmp_path / str(done), done) == {k: v for k, v in whole.items() if int(k[0]) not in done}
        assert trainings == trained


def test_a_start_in_two_jobs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^seed 2 \(eta 0.5, momentum 0, lmbda 0\)"):
        next(experiment.run_together(run_spec(), jobs((0, 1, 2), (2, 3)), maker(tmp_path)))


def test_a_job_whose_starts_all_diverge_fails_alone(tmp_path: Path) -> None:
    whole = run_spec()
    given = [*jobs((0,)), *jobs((1,), eta=1e30)]
    begin = partial(Network.start, [36, 5, 3], cost="cross_entropy")
    whole = RunSpec(begin, whole.sizes, whole.data, whole.descent, whole.stopping, whole.starts)
    done = {f.job: f for f in experiment.run_together(whole, given, maker(tmp_path))}
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    assert done[0].write(tmp_path / "0")["finished"] == 1
    with pytest.raises(InputError, match=r"descent\.eta=1e\+30"):
        done[1].write(tmp_path / "1")
    assert table(tmp_path / "1")[0]["status"] == "diverged"
