"""The bench measures what it says: the right counts, the same work for every contestant, a JSON with all of it."""

import csv
import dataclasses
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import command, many_starts, memory, multirun, peers, predicting, seeds, serving, speed, sweep
from benchmarks.runs import Run, options
from benchmarks.timing import Spread, in_turns
from hillstart.data.batches import MiniBatches
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference.loading import load
from hillstart.network import Network
from hillstart.training.module import Training
from hillstart.training.optimizer import SGDConfig
from hillstart.training.packs import RunSpec
from made import blobs, trainer

CPU = torch.device("cpu")
TINY = ("data.train=40", "data.test=20")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "FULL", speed.Size([[36, 5, 3]], (50,), (2, 4), repeats=2))
    monkeypatch.setattr(speed, "QUICK", speed.Size([[36, 5, 3]], (50,), (2,), repeats=2))
    monkeypatch.setattr(speed, "PICTURES", 1000)
    compiled = dataclasses.replace(peers.PEERS["torch-vmap-compiled"], package="no_such_package")  # half a minute
    monkeypatch.setitem(peers.PEERS, "torch-vmap-compiled", compiled)


@pytest.fixture
def no_fashion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(seeds, "SIZES", [36, 5, 3])
    monkeypatch.setattr(seeds, "HOME", tmp_path / "none")
    monkeypatch.setattr(seeds, "DEBIAN", {"fashion_mnist": tmp_path})
    return tmp_path


def section(of: Any, console: Console) -> tuple[dict[str, Any], str]:
    """What a section found, and what it showed."""
    with console.capture() as shown:
        found = of.section(console, CPU, True)
    assert max(map(len, shown.get().splitlines())) <= 110
    return found, shown.get()


@pytest.fixture
def console() -> Console:
    return Console(width=110)


# ---------------------------------------------------------------- timing


def test_repeats_are_in_turns() -> None:
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    found = in_turns({name: partial(measure, name) for name in "ab"}, 2)
    assert calls == ["a", "b", "a", "b"] and found == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
    assert Spread.of([3.0, 1.0, 9.0]) == Spread(3.0, 1.0, 9.0) and Spread(3, 1, 9).shown(2) == ["3.00", "1.00", "9.00"]


# ---------------------------------------------------------------- speed


def test_flops_are_those_of_the_design() -> None:
    """2 (n_0 n_1 + n_1 n_2) 2 + 2 n_1 n_2: the first layer needs no error of its inputs."""
    assert speed.flops([784, 30, 10]) == 2 * (784 * 30 + 30 * 10) * 2 + 2 * 30 * 10


def test_every_contestant_does_the_same_work(small: None) -> None:
    """From the same starts over the same pictures in the same order, all end with the costs of float64."""
    match = speed.Match([36, 5, 3], 50, CPU)
    assert set(match.contestants()) == {"hillstart", "hillstart-engine", *peers.PEERS} - {"torch-vmap-compiled"}
    for name in match.contestants():
        assert match.error(name) < 1e-6, name


def test_a_contestant_that_does_something_else_is_noticed(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = dataclasses.replace(peers.PEERS["torch-vmap"], make=lambda course: peers.torch_vmap(halved(course)))
    monkeypatch.setitem(peers.PEERS, "torch-vmap", lazy)
    with pytest.raises(AssertionError, match="torch-vmap ends with costs that are off"):
        speed.Match([36, 5, 3], 50, CPU).rows((2,), 1)


def halved(course: peers.Course) -> peers.Course:
    return dataclasses.replace(course, eta=course.eta / 2)


def test_single_starts_stay_single_and_others_are_tried_at_every_size(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, int]] = []
    make = speed.Match.make

    def noting(self: Any, name: str, starts: int, *rest: Any, **more: Any) -> Any:
        tried.append((name, starts))
        return make(self, name, starts, *rest, **more)

    monkeypatch.setattr(speed.Match, "make", noting)
    match = speed.Match([36, 5, 3], 50, CPU)
    assert match.best("torch-autograd", (2, 4))[0] == 1
    assert match.best("hillstart", (2, 4))[0] in (2, 4)
    assert set(tried) == {("torch-autograd", 1), ("hillstart", 2), ("hillstart", 4)}


def test_a_peer_that_is_not_installed_says_what_brings_it() -> None:
    missing = dataclasses.replace(peers.PEERS["jax-vmap"], package="no_such_package").missing
    assert "pip install 'hillstart[bench]'" in missing
    assert "scikit-learn" not in speed.Match([36, 5, 3], 50, torch.device("cuda", 0)).contestants()


def test_the_json_holds_machine_versions_peak_and_rows(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", "--quick", "--only", "speed", "--json", str(tmp_path / "bench.json")])
    command.main()
    found = json.loads((tmp_path / "bench.json").read_text())
    assert set(found) == {"machine", "versions", "peak_gflops", "rows"}
    assert found["peak_gflops"] > 0
    names = ["hillstart", "hillstart-engine", "lightning", "torch-autograd", "scikit-learn", "torch-vmap", "jax-vmap"]
    assert [row["contestant"] for row in found["rows"]] == names
    assert {"torch", "jax", "scikit-learn"} <= set(found["versions"])
    for row in found["rows"]:
        single = row["contestant"] in ("lightning", "torch-autograd", "scikit-learn")
        assert (row["sizes"], row["batch"], row["starts"]) == ([36, 5, 3], 50, 1 if single else 2)
        assert 0 < row["low"] <= row["net_samples_per_second"] <= row["high"]
        share = row["net_samples_per_second"] * speed.flops([36, 5, 3]) / (found["peak_gflops"] * 1e9)
        assert row["fraction_of_peak"] == pytest.approx(share)
    assert "hillstart-engine" in capsys.readouterr().out


def section_of(name: str, console: Console, device: torch.device, quick: bool) -> list[Any]:
    return [name, quick]


def test_each_section_has_a_key_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "section", lambda console, device, quick, peak: (["a row"], 2e9))
    for name in command.SECTIONS:
        monkeypatch.setitem(command.SECTIONS, name, partial(section_of, name))
    file = tmp_path / "bench.json"
    for chosen, rows, keys in (
        ([], ["a row"], ["starts", "sweep", "seeds", "predict", "serve"]),
        (["--quick"], ["a row"], []),
        (["--quick", "--only", "seeds", "sweep"], [], ["sweep", "seeds"]),
    ):
        monkeypatch.setattr(sys, "argv", ["bench.py", "--json", str(file), *chosen])
        command.main()
        found = json.loads(file.read_text())
        assert [*found] == ["machine", "versions", "peak_gflops", "rows", *keys] and found["rows"] == rows
        assert all(found[key] == [key, "--quick" in chosen] for key in keys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", "--device", "cuda"])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 2
    assert "no CUDA device here" in capsys.readouterr().err


# ---------------------------------------------------------------- starts


def test_the_engine_alone_does_the_work_of_the_run(tmp_path: Path) -> None:
    """Every start stands where the run left it: same packs, order, augmentation, schedule, momentum and decay."""
    run = Run(options(CPU, "starts=3", "trainer.max_epochs=2", "descent.eta=[0.1,0.02]", *TINY), CPU)
    assert run.seconds_in(tmp_path) > 0 and (tmp_path / "summary.json").is_file()
    with (tmp_path / "history.csv").open(newline="") as file:
        ours = [float(row["val_cost"]) for row in csv.DictReader(file) if row["epoch"] == "2"]
    engine = many_starts.engine_alone(run.population, 2, CPU).tolist()
    assert len(ours) == 6 and engine == pytest.approx(ours, abs=1e-6)


def test_a_straight_line_is_found_and_what_is_off_it() -> None:
    a, b, errors = many_starts.straight_line([1, 10, 100], [5.0, 23.0, 203.0])
    assert (a, b) == pytest.approx((3, 2)) and errors == pytest.approx([0, 0, 0], abs=1e-9)
    a, b, errors = many_starts.straight_line([1, 2, 3], [1.0, 3.0, 3.0])
    assert errors == pytest.approx([(a + b * x - y) / y for x, y in ((1, 1), (2, 3), (3, 3))])
    assert sum(errors[k] / y for k, y in enumerate((1, 3, 3))) == pytest.approx(0, abs=1e-9)  # its derivative by a


def test_starts_beside_the_engine_in_time_and_in_memory(monkeypatch: pytest.MonkeyPatch, console: Console) -> None:
    trained: list[int] = []
    seconds_of = Run.seconds

    def seconds(run: Run, population: RunSpec | None = None) -> float:
        trained.append(len((population or run.population).starts))
        return seconds_of(run, population)

    monkeypatch.setattr(Run, "seconds", seconds)
    monkeypatch.setattr(memory, "peak_bytes_of_run", lambda starts, pictures, device: starts * pictures << 20)
    monkeypatch.setattr(many_starts, "SIZES", [36, 5, 3])
    monkeypatch.setattr(many_starts, "WARM", 2)
    size = many_starts.Size(starts=3, epochs=1, repeats=2, chosen=TINY, growing=(1, 2, 4), growing_pictures=150,
                            growing_epochs=2, growing_repeats=2, remembered=(2, 5), remembered_pictures=7)  # fmt: skip
    monkeypatch.setattr(many_starts, "QUICK", size)
    found, shown = section(many_starts, console)
    assert trained == [2, 3, 3, 1, 1, 2, 4, 1, 2, 4]
    beside, growth = found["beside_engine"], found["growth"]
    assert (beside["starts"], beside["epochs"], beside["repeats"]) == (3, 1, 2)
    for kind in ("low", "median", "high"):
        assert beside["run_seconds"][kind] > 0 and beside["engine_seconds"][kind] > 0
    more = beside["run_seconds"]["median"] - beside["engine_seconds"]["median"]
    assert beside["difference_seconds"]["median"] == pytest.approx(more)  # of two repeats the median is the mean
    assert [row["starts"] for row in growth["rows"]] == [1, 2, 4]
    for row in growth["rows"]:
        line = growth["a_seconds"] + growth["b_seconds_per_start"] * row["starts"]
        assert row["line_off_by"] == pytest.approx(line / row["seconds"] - 1)
        assert row["ms_per_start"] == pytest.approx(1000 * row["seconds"] / row["starts"])
    assert growth["largest_deviation"] == max(abs(row["line_off_by"]) for row in growth["rows"])
    assert found["memory"]["rows"] == [{"starts": 2, "peak_mib": 14.0}, {"starts": 5, "peak_mib": 35.0}]
    assert found["memory"]["ratio"] == 2.5 and "ratio 2.50" in shown


def test_the_peak_is_that_of_a_process_of_its_own() -> None:
    """And not of the one that asks, which held a GiB more for a moment."""
    before = memory.peak_bytes()
    torch.ones(1 << 28)
    peak = memory.peak_bytes()
    assert peak > 1 << 30 and peak >= before
    assert 100 << 20 < memory.peak_bytes_of_run(2, 40, CPU) < peak - (256 << 20)


@pytest.mark.parametrize(
    "measure", [partial(memory.peak_bytes_of_run, 2, 40, CPU), partial(sweep.milliseconds_per_job, 2)]
)
def test_a_process_that_fails_is_not_measured(measure: Callable[[], float], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "1", "no such module")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(RuntimeError, match="no such module"):
        measure()


# ---------------------------------------------------------------- sweep


@pytest.fixture
def hydra_and_logging_restored(hydra_restore_singletons: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("name", sweep.OPTIONS)
def test_each_job_of_a_sweep_has_a_folder(name: str, tmp_path: Path, hydra_and_logging_restored: None) -> None:
    task = multirun.Nothing()
    assert multirun.multirun(task, 3, tmp_path, sweep.OPTIONS[name]) > 0
    assert (task.alone, task.together_at_once) == ((0, [3]) if name == "hillstart" else (3, []))
    for job in range(3):
        assert f"seed={job}" in (tmp_path / str(job) / ".hydra" / "overrides.yaml").read_text()


def test_a_sweep_in_a_process_of_its_own() -> None:
    assert sweep.milliseconds_per_job(3) > 0


def test_a_sweep_that_was_not_packed_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.dumps({"seconds": 1, "alone": 2, "together": []})
    done = subprocess.CompletedProcess([], 0, f"some log\n{found}\n", "")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: done)
    with pytest.raises(RuntimeError, match="0 folders of jobs"):
        sweep.milliseconds_per_job(2)


def test_the_ratio_of_sweeps_is_by_the_job(monkeypatch: pytest.MonkeyPatch, console: Console) -> None:
    asked: list[tuple[int, str]] = []

    def made_up(jobs: int, *options: str) -> float:
        asked.append((jobs, " ".join(options)))
        return (290.0 if options else 14.5) + len(asked)

    monkeypatch.setattr(sweep, "milliseconds_per_job", made_up)
    monkeypatch.setattr(sweep, "QUICK", sweep.Size(40, 5, 3))
    found, shown = section(sweep, console)
    assert asked == [(40, ""), (5, "hydra/sweeper=basic hydra/launcher=basic")] * 3
    assert found["rows"] == [
        {"contestant": "hillstart", "jobs": 40, "ms_per_job": 17.5, "low": 15.5, "high": 19.5},
        {"contestant": "hydra basic", "jobs": 5, "ms_per_job": 294.0, "low": 292.0, "high": 296.0},
    ]
    assert found["ratio"] == 294 / 17.5 and "ratio 16.8" in shown


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
    ordinary = seeds.Ordinary(sizes, eta, bare)
    ordinary.begin_as(begin([7]))
    before = ordinary.cost(x, y).item()
    assert before == pytest.approx(begin([7]).evaluate(x, y)[0].mean().item(), abs=1e-5)
    loader = DataLoader(TensorDataset(x, y), batch_size=batch)
    seeds.fit(ordinary, loader, loader, CPU)
    after = ordinary.cost(x, y).item()
    assert after == pytest.approx(ours.pack.network().evaluate(x, y)[0].mean().item(), abs=1e-4)
    assert after < before - 0.1


def test_ordinary_seconds_are_scaled_to_all_starts(
    no_fashion: Path, monkeypatch: pytest.MonkeyPatch, console: Console
) -> None:
    monkeypatch.setattr(seeds, "WARM", 2)
    monkeypatch.setattr(seeds, "QUICK", seeds.Size(starts=4, repeats=2, seeds=3, pictures=100))
    found, shown = section(seeds, console)
    assert (found["data"], found["pictures"], found["starts"]) == ("noise", 100, 4)
    assert (found["repeats"], found["seeds"]) == (2, 3)
    assert "noise of its shape" in shown
    for kind in ("ordinary", "bare"):
        one = found[kind]
        assert 0 < one["low"] <= one["mean_seconds"] <= one["high"]
        assert one["scaled_seconds"] == pytest.approx(4 * one["mean_seconds"])
        assert one["ratio"] == pytest.approx(one["scaled_seconds"] / found["seconds"]["median"])
        assert one["ratio_at_worst"] == pytest.approx(4 * one["low"] / found["seconds"]["high"])


def test_fashion_mnist_is_taken_where_it_lies(no_fashion: Path) -> None:
    (no_fashion / "train-images-idx3-ubyte.gz").touch()
    cfg = seeds.chosen_options(seeds.FULL, CPU)
    assert (cfg.data.name, cfg.data.root) == ("fashion_mnist", str(no_fashion))
    assert (cfg.starts, cfg.descent.batch_size, cfg.descent.momentum, cfg.descent.lmbda) == (1024, 32, 0, 0)


# ---------------------------------------------------------------- predict and serve


def test_predictions_are_timed_beside_what_they_cannot_do_without() -> None:
    found = predicting.measure(predicting.Size(pictures=12, few=3, repeats=1))
    assert (
        found["one_ratio"] == found["seconds_of_one"]["predict"]["median"] / found["seconds_of_one"]["import"]["median"]
    )
    rate = found["pictures_per_second"]
    assert found["many_ratio"] == rate["ours"]["median"] / rate["bare"]["median"] > 0
    assert found["many_ratio_to_small"] == rate["ours"]["median"] / rate["small"]["median"] > 0
    assert list(found["peak_mebibytes"]) == [3, 12] and min(found["peak_mebibytes"].values()) > 50


def test_both_contestants_read_the_same_pictures(tmp_path: Path) -> None:
    predicting.make_pictures(tmp_path, 3)
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert (image.size, image.mode, image.format) == ((128, 128), "RGB", "JPEG")
            assert 3000 < path.stat().st_size < 20_000
    predicting.bare(sorted(tmp_path.iterdir()))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    predicting.make_model(tmp_path / "network.safetensors")
    with pytest.raises(RuntimeError, match="predict ended with 1"):
        predicting.ours(tmp_path, tmp_path / "network.safetensors")
    with pytest.raises(OSError, match="cannot identify"):
        predicting.bare([tmp_path / "bad.jpg"])


def test_what_a_server_loses_or_gets_wrong_is_counted(tmp_path: Path) -> None:
    found = serving.measure(serving.Size(pictures=70, repeats=1), torch.device("cpu"))
    assert (found["pictures"], found["clients"], found["lost"], found["wrong"]) == (70, 64, 0, 0)
    assert 0 < found["p50_ms"]["median"] <= found["p99_ms"]["median"]
    predicting.make_pictures(tmp_path, 2)
    (tmp_path / "2.jpg").write_bytes(b"no picture")
    predicting.make_model(model := tmp_path / "network.safetensors")
    answer = load(model).predict(tmp_path / "00000.jpg")
    expected = dict.fromkeys(("00000.jpg", "00001.jpg", "2.jpg"), (answer.label, answer.probability))
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    with serving.serving(model, torch.device("cpu")) as url:
        heard = serving.ask(url, tmp_path, tmp_path / "expected.json")
    assert (heard["lost"], heard["wrong"]) == (1, 1)
