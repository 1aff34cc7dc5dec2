"""The bench measures what it says: the right counts, the same work for every contestant, a JSON with all of it."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import command, first, many_starts, peers, predicting, seeds, serving, speed, sweep
from benchmarks.runs import Run
from benchmarks.timing import Part, in_new_process, in_turns, peak_bytes, quiet, spread
from forking import ForkedPopen, run_forked
from hillstart.data import idx
from hillstart.data.batches import MiniBatches
from hillstart.engine.ensemble import Tile
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference.loading import load
from hillstart.network import Network
from hillstart.training.module import Training
from hillstart.training.optimizer import SGDConfig
from hillstart.training.packs import RunSpec
from made import blobs, trainer
from pretended import Device

CPU = torch.device("cpu")
SIZE = {"networks": [[36, 5, 3]], "batches": (50,), "starts": {"cpu": (2,), "cuda": (2,)}, "repeats": 2}


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process, because new ones spend most of their time on imports."""
    for section in (sweep, predicting, serving):
        monkeypatch.setattr(section, "in_new_process", lambda function, *arguments: function(*arguments))


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start commands as forks, for the same reason."""
    forks = SimpleNamespace(Popen=ForkedPopen, run=run_forked, PIPE=subprocess.PIPE)
    for section in (first, predicting, serving):
        monkeypatch.setattr(section, "subprocess", forks)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "QUICK", SIZE)
    monkeypatch.setattr(speed, "PICTURES", 1000)
    monkeypatch.delitem(speed.MAKERS, "torch-vmap-compiled")  # it takes half a minute


# ---------------------------------------------------------------- timing


def test_repeats_are_in_turns() -> None:
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    found = in_turns({name: partial(measure, name) for name in "ab"}, 2)
    assert calls == ["a", "b", "a", "b"] and found == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
    assert spread([3.0, 1.0, 9.0], "seconds") == {"seconds": 3.0, "low": 1.0, "high": 9.0}


def test_a_command_that_fails_is_not_measured() -> None:
    with pytest.raises(RuntimeError, match=r"exit code 3: .*no such module"), quiet():
        print("no such module")
        sys.exit(3)
    with pytest.raises(RuntimeError, match="exit code 2"):
        in_new_process(predicting.ours, Path("nowhere"), Path("nothing"))


# ---------------------------------------------------------------- speed


def test_flops_are_those_of_the_design() -> None:
    """2 (n_0 n_1 + n_1 n_2) 2 + 2 n_1 n_2: the first layer needs no error of its inputs."""
    assert speed.flops([784, 30, 10]) == 2 * (784 * 30 + 30 * 10) * 2 + 2 * 30 * 10


def test_every_contestant_does_the_same_work(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same starts over the same pictures in the same order, all end with the costs of float64."""
    match = speed.Match([36, 5, 3], 50, CPU)
    on_cpu = {name for name, maker in peers.PEERS.items() if maker.only != "cuda"}
    ours = {"hillstart", "hillstart-momentum", "hillstart-engine"}
    assert set(match.makers) == {*ours, *on_cpu} - {"torch-vmap-compiled"}
    for name in match.makers:
        assert match.error(name) < 1e-6, name
    other_eta = peers.Maker(lambda task: peers.torch_vmap(dataclasses.replace(task, eta=task.eta / 2)))
    monkeypatch.setitem(speed.MAKERS, "torch-vmap", other_eta)
    with pytest.raises(AssertionError, match="torch-vmap ends with costs that are off"):
        speed.Match([36, 5, 3], 50, CPU).rows((2,), 1)


def test_single_starts_stay_single_and_others_are_tried_at_every_size(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, int]] = []
    make = speed.Match.make

    def recorded(self: Any, name: str, starts: int, *rest: Any, **more: Any) -> Any:
        tried.append((name, starts))
        return make(self, name, starts, *rest, **more)

    monkeypatch.setattr(speed.Match, "make", recorded)
    match = speed.Match([36, 5, 3], 50, CPU)
    assert match.best("torch-autograd", (2, 4))[0] == 1
    assert match.best("hillstart", (2, 4))[0] in (2, 4)
    assert set(tried) == {("torch-autograd", 1), ("hillstart", 2), ("hillstart", 4)}


def test_a_peer_that_is_not_installed_says_what_brings_it() -> None:
    absent = dataclasses.replace(peers.PEERS["jax-vmap"], package="no_such_package")
    assert "pip install 'hillstart[bench]'" in absent.missing(CPU)
    assert peers.PEERS["scikit-learn"].missing(torch.device("cuda", 0)) == "only on cpu"
    assert peers.PEERS["jax-vmap-tf32"].missing(CPU) == "only on cuda"


def watched(seen: set[str | None], function: Callable[..., Any], precision: Callable[[], str | None]) -> Any:
    def call(*arguments: Any) -> Any:
        seen.add(precision())
        return function(*arguments)

    return call


@pytest.mark.parametrize("name", ["hillstart", "torch-vmap", "jax-vmap"])
def test_products_are_in_float32_unless_the_row_says_tf32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the process, and JAX by its default on a GPU, would multiply in TF32."""
    import jax

    seen, of_torch = set[str | None](), torch.get_float32_matmul_precision
    for owner, function, precision in (
        (Tile, "descend", of_torch),
        (peers, "functional_call", of_torch),
        (jax, "block_until_ready", lambda: jax.config.jax_default_matmul_precision),
    ):
        monkeypatch.setattr(owner, function, watched(seen, getattr(owner, function), precision))
    match, in_tf32 = speed.Match([36, 5, 3], 50, CPU), "tensorfloat32" if name == "jax-vmap" else "high"
    monkeypatch.setattr(match, "makers", speed.MAKERS)
    torch.set_float32_matmul_precision("medium")
    try:
        for row, precision in ((name, "highest"), (f"{name}-tf32", in_tf32)):
            seen.clear()
            match.make(row, 2, 100, epochs=1).run()
            assert seen == {precision}
    finally:
        torch.set_float32_matmul_precision("highest")


def test_jax_leaves_the_memory_of_a_gpu_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    speed.Match([36, 5, 3], 50, CPU).make("jax-vmap", 2, 100)
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_lightning_loads_from_the_memory_of_the_host(cuda: Device | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned on CUDA, where a loader of tensors on the device would copy pictures one by one."""
    loaders: list[Any] = []
    monkeypatch.setattr(peers, "DataLoader", lambda pictures, **options: loaders.append((pictures, options)))
    speed.Match([36, 5, 3], 50, torch.device("cuda", 0)).make("lightning", 1, 100)
    ((pictures, options),) = loaders
    assert {t.device.type for t in pictures.tensors} == {"cpu"} and options["pin_memory"]


def test_a_row_of_cuda_has_many_starts_and_the_memory_of_the_device(
    monkeypatch: pytest.MonkeyPatch, cuda: Device | None
) -> None:
    assert speed.STARTS["cuda"][0] == 1024 and speed.STARTS["cuda"][-1] == 10_000
    if cuda is not None:  # which counts no bytes
        figures = {"memory_allocated": 3 << 20, "max_memory_allocated": 5 << 20, "reset_peak_memory_stats": None}
        for name, value in figures.items():
            monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(speed, "MAKERS", {name: speed.MAKERS[name] for name in ("hillstart", "hillstart-engine")})
    monkeypatch.setattr(speed, "PICTURES", 1000)
    monkeypatch.setattr(speed, "peak_flops", lambda _: 1e12)
    (part,) = speed.measure(torch.device("cuda", 0), **SIZE)
    assert [row["contestant"] for row in part.rows] == ["hillstart", "hillstart-engine"]
    assert all(row["device_mib"] == 2 if cuda is not None else row["device_mib"] > 0 for row in part.rows)


# ---------------------------------------------------------------- the command


def bench(monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", *map(str, options)])
    command.main()


def test_the_json_holds_machine_versions_peak_and_rows(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(monkeypatch, "--quick", "--only", "speed", "--json", tmp_path / "bench.json")
    found = json.loads((tmp_path / "bench.json").read_text())
    assert set(found) == {"machine", "versions", "peak_gflops", "rows"}
    assert {"torch", "jax", "scikit-learn"} <= set(found["versions"])
    on_cpu = [name for name, maker in speed.MAKERS.items() if maker.only != "cuda"]
    assert [row["contestant"] for row in found["rows"]] == on_cpu
    for row in found["rows"]:
        starts = 1 if speed.MAKERS[row["contestant"]].single else 2
        assert (row["sizes"], row["batch"], row["starts"]) == ([36, 5, 3], 50, starts)
        assert 0 < row["low"] <= row["net_samples_per_second"] <= row["high"]
        share = row["net_samples_per_second"] * speed.flops([36, 5, 3]) / (found["peak_gflops"] * 1e9)
        assert row["fraction_of_peak"] >= share > 0  # of the peak that was seen beside it
    shown = capsys.readouterr().out
    assert "hillstart-engine" in shown and max(map(len, shown.splitlines())) <= 110


def test_each_section_has_a_key_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(device: torch.device, size: str = "full") -> Iterator[Part]:
        """A section."""
        yield Part("title", [{"size": size}], {"peak_gflops": 1e9})

    section = SimpleNamespace(measure=measure, QUICK={"size": "quick"}, __doc__="A section.", peak_flops=lambda _: 1.0)
    monkeypatch.setattr(command, "speed", section)
    monkeypatch.setattr(command, "SECTIONS", dict.fromkeys(command.SECTIONS, section))
    for options, keys in (
        ([], [*command.SECTIONS]),
        (["--quick"], ["speed"]),
        (["--quick", "--only", "seeds", "sweep"], ["sweep", "seeds"]),
    ):
        bench(monkeypatch, "--json", tmp_path / "bench.json", *options)
        found = json.loads((tmp_path / "bench.json").read_text())
        assert [*found] == ["machine", "versions", "peak_gflops", "rows", *(key for key in keys if key != "speed")]
        rows = [{"size": "quick" if options else "full"}]
        assert found["rows"] == (rows if "speed" in keys else [])
        assert all(found[key][0]["rows"] == rows for key in keys if key != "speed")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench(monkeypatch, "--device", "cuda")
    assert "no CUDA device here" in capsys.readouterr().err


def test_a_table_shows_rows_of_different_keys() -> None:
    console = Console(width=110)
    with console.capture() as shown:
        command.show(console, Part("[784, 30]", [{"what": "[a]", "s": 1.23456}, {"what": "b", "n": 7}], {"ratio": 0.5}))
    assert all(text in shown.get() for text in ("[784, 30]", "[a]", "1.235", "7", "ratio: 0.5"))


# ---------------------------------------------------------------- starts


def test_a_run_and_its_engine_are_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_starts, "WARM", 2)
    part = many_starts.engine_share(CPU, 3, 1, 2, "data.train=40", "data.test=20")
    whole, descent, evaluation, rest = (row["seconds"] for row in part.rows)
    assert min(rest, descent, evaluation) > 0
    assert whole == pytest.approx(descent + evaluation + rest)  # of two repeats the median is the mean


def test_a_straight_line_is_found_and_what_is_off_it() -> None:
    a, b, errors = many_starts.straight_line([1, 10, 100], [5.0, 23.0, 203.0])
    assert (a, b) == pytest.approx((3, 2)) and errors == pytest.approx([0, 0, 0], abs=1e-9)
    a, b, errors = many_starts.straight_line([1, 2, 3], [1.0, 3.0, 3.0])
    assert errors == pytest.approx([(a + b * x - y) / y for x, y in ((1, 1), (2, 3), (3, 3))])
    assert sum(errors[k] / y for k, y in enumerate((1, 3, 3))) == pytest.approx(0, abs=1e-9)  # its derivative by a


def test_growth_of_time_with_the_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    seconds = Run.seconds

    def recorded(run: Run, spec: RunSpec | None = None) -> float:
        trained.append(len((spec or run.spec).starts))
        return seconds(run, spec)

    monkeypatch.setattr(Run, "seconds", recorded)
    monkeypatch.setattr(many_starts, "SIZES", [36, 5, 3])
    part = many_starts.growth(CPU, (1, 2, 4), repeats=2, pictures=150, epochs=2)
    assert trained == [1, 1, 2, 4, 1, 2, 4] and [row["starts"] for row in part.rows] == [1, 2, 4]
    for row in part.rows:
        line = part.figures["line_seconds"] + part.figures["line_seconds_per_start"] * row["starts"]
        assert row["line_off_by"] == pytest.approx(line / row["seconds"] - 1)
    assert part.figures["largest_deviation"] == max(abs(row["line_off_by"]) for row in part.rows)


def test_the_peak_is_that_of_a_process_of_its_own() -> None:
    """And not of the one that asks, which held a GiB more for a moment."""
    torch.ones(1 << 28)
    part = many_starts.memory(CPU, (2,), pictures=40)
    assert 100 < part.rows[0]["peak_mib"] < peak_bytes() / 2**20 - 256


# ---------------------------------------------------------------- sweep


@pytest.fixture
def hydra_and_logging_restored(hydra_restore_singletons: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_sweep_that_was_not_packed_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hydra_and_logging_restored: None
) -> None:
    monkeypatch.delattr(sweep.Nothing, "together")
    with pytest.raises(RuntimeError):
        sweep.multirun(2, tmp_path)


def test_sweeps_are_compared_by_the_job(in_this_process: None, hydra_and_logging_restored: None) -> None:
    """Each checks that every job was taken once, as it should be, and has a folder."""
    (part,) = sweep.measure(CPU, ours=3, basic=2, repeats=1)
    ours, basic = (row["ms_per_job"] for row in part.rows)
    assert [row["jobs"] for row in part.rows] == [3, 2] and part.figures["ratio"] == basic / ours > 0


# ---------------------------------------------------------------- seeds


@pytest.mark.parametrize("bare", [True, False])
def test_an_ordinary_run_learns_as_ours_does(tmp_path: Path, bare: bool) -> None:
    """From the same weights through the same mini-batches to the same cost, after 11 steps."""
    data, sizes, eta, batch = blobs(), [36, 5, 3], 0.5, 10
    begin = partial(Network.start, sizes, cost="cross_entropy", start="scaled_normal")
    ours = Training(begin, data, SGDConfig(eta, batch), [Start(7, Hyperparameters(eta))])
    trainer(tmp_path, max_epochs=1).fit(ours)
    batches = MiniBatches(data.train, 3, data.preprocessing, data.augment, batch, 0, CPU)
    x, y = batches.chunk(0, 0, batches.per_epoch)(slice(None))
    ordinary = peers.Ordinary(sizes, eta, bare)
    ordinary.begin_as(begin([7]))
    before = ordinary.cost(x, y).item()
    assert before == pytest.approx(begin([7]).evaluate(x, y)[0].mean().item(), abs=1e-5)
    loader = DataLoader(TensorDataset(x, y), batch_size=batch)
    peers.fit(ordinary, loader, loader, CPU)
    after = ordinary.cost(x, y).item()
    assert after == pytest.approx(ours.pack.network().evaluate(x, y)[0].mean().item(), abs=1e-4)
    assert after < before - 0.1


def test_ordinary_seconds_are_scaled_to_all_starts_and_fashion_mnist_is_taken_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(seeds, "SIZES", [36, 5, 3])
    monkeypatch.setattr(idx, "HOME", tmp_path / "none")
    monkeypatch.setattr(idx, "DEBIAN", {"fashion_mnist": tmp_path})
    monkeypatch.setattr(seeds, "WARM", 2)
    (part,) = seeds.measure(CPU, starts=4, repeats=2, seeds=3, pictures=100)
    assert (part.figures["data"], part.figures["pictures"]) == ("noise", 100)
    ours, *others = part.rows
    assert [row["n"] for row in part.rows] == [2, 3, 3]
    for one in others:
        assert 0 < one["low"] <= one["seconds"] <= one["high"]
        assert one["scaled_seconds"] == pytest.approx(4 * one["seconds"])
        assert one["ratio"] == pytest.approx(one["scaled_seconds"] / ours["seconds"])
        assert one["ratio_at_worst"] == pytest.approx(4 * one["low"] / ours["high"])
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    cfg = seeds.chosen_options(1024, CPU)
    assert (cfg.data.name, cfg.data.root) == ("fashion_mnist", str(tmp_path))
    assert (cfg.starts, cfg.descent.batch_size, cfg.descent.momentum, cfg.descent.lmbda) == (1024, 32, 0, 0)


# ---------------------------------------------------------------- predict and serve


def test_predictions_are_timed_beside_what_they_cannot_do_without(
    in_this_process: None, forked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    one, many, memory = predicting.measure(CPU, pictures=12, few=3, repeats=1)
    assert one.figures["ratio"] == one.rows[0]["seconds"] / one.rows[1]["seconds"] > 0
    ours, bare, small = (row["per_second"] for row in many.rows)
    assert many.figures["ratio"] == ours / bare > 0 and many.figures["ratio_to_small"] == ours / small > 0
    assert [row["pictures"] for row in memory.rows] == [3, 12] and memory.rows[0]["peak_mib"] > 50


@pytest.mark.parametrize(
    ("predict", "error"),
    [
        (lambda folder, model: predicting.ours(folder, model), "exit code 1"),
        (lambda folder, model: predicting.bare(folder), "cannot identify"),
    ],
)
def test_both_contestants_read_all_pictures(
    tmp_path: Path, predict: Callable[[Path, Path], None], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    predicting.make_pictures(tmp_path / "pictures", 2)
    predicting.make_model(model := tmp_path / "network.safetensors")
    predict(tmp_path / "pictures", model)
    (tmp_path / "pictures/bad.jpg").write_bytes(b"no picture")
    with pytest.raises((RuntimeError, OSError), match=error):
        predict(tmp_path / "pictures", model)


def test_a_first_run_is_measured_import_by_import(forked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first, "IMPORTS", first.IMPORTS[-1:])  # it imports what the others do
    (part,) = first.measure(CPU, 1, ("data.train=120", "data.test=40", "starts=2"))
    assert [row["what"] for row in part.rows] == ["python", *first.IMPORTS, "scripts/train.py, one epoch"]
    assert all(row["seconds"] > 0 for row in part.rows)
    assert part.figures["imports_share"] == part.rows[-2]["seconds"] / part.rows[-1]["seconds"]
    monkeypatch.setattr(first, "IMPORTS", ("raise SystemExit(1)",))
    with pytest.raises(subprocess.CalledProcessError):
        next(first.measure(CPU, 1))


def test_what_a_server_loses_or_gets_wrong_is_counted(tmp_path: Path, in_this_process: None, forked: None) -> None:
    rates, times = serving.measure(CPU, pictures=70, repeats=1)
    assert (rates.figures["clients"], rates.figures["lost"], rates.figures["wrong"]) == (64, 0, 0)
    assert 0 < times.rows[0]["ms"] <= times.rows[1]["ms"]
    predicting.make_pictures(tmp_path, 3)
    predicting.make_model(model := tmp_path / "network.safetensors")
    answers = load(model).predict([tmp_path / f"{k:05}.jpg" for k in range(3)])
    expected = {f"{k:05}.jpg": (answer.label, answer.probability) for k, answer in enumerate(answers)}
    label, probability = expected["00001.jpg"]
    expected["00001.jpg"] = label, probability + 0.01
    expected["00002.jpg"] = "lion" if label == "duck" else "duck", probability
    expected["bad.jpg"] = label, probability
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with serving.serving(model, CPU) as url:
        found = serving.ask(url, tmp_path, expected)
    assert (found["lost"], found["wrong"]) == (1, 2)
