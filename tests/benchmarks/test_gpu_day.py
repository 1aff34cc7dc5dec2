"""The measurements of a GPU run without one: in small on the CPU, and by graphs on a pretended device."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_day, gpu_steps, speed
from benchmarks.gpu_day import PARTS, Step
from benchmarks.timing import Row
from forking import ForkedPopen
from hillstart.engine.cuda import CudaGraphs
from launching import ran
from pretended import Device

TOP = Path(__file__).parents[2]


@pytest.mark.parametrize("part", PARTS)
def test_every_step_runs_in_small_on_the_cpu(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(TOP)
    monkeypatch.setattr(subprocess, "Popen", ForkedPopen)
    words = ["--part", part, "--device", "cpu", "--quick", "--out", tmp_path, "--seconds", "3000"]
    done = ran(gpu_day.main, monkeypatch, capsys, *words)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row.get("exit") == 0] == [*PARTS[part]], (tmp_path / "log.txt").read_text()
    assert done.code == 0 and [json.loads(line) for line in done.out.splitlines()] == rows
    assert {row["step"] for row in rows if "exit" not in row} == {*PARTS[part]}


@pytest.mark.parametrize("name", ["graphs", "engine", "accuracy", "drift", "whole run"])
def test_a_step_works_on_a_device(name: str, cuda: Device | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if cuda is not None:  # which counts no bytes
        for function in ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"):
            monkeypatch.setattr(torch.cuda, function, lambda: 0)
    monkeypatch.setattr(gpu_steps, "tests", lambda *_: iter([]))
    monkeypatch.setattr(speed, "PICTURES", 1000)
    step = next(steps[name] for steps in PARTS.values() if name in steps)
    rows = [*step.run(torch.device("cuda", 0), **step.quick)]
    assert rows and all(row.get("ok", True) for row in rows), rows
    if name == "graphs":
        assert rows[0]["same_bits"] and 0.5 < rows[0]["replayed"] < 1


def test_graphs_that_do_something_else_are_seen(cuda: Device | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "PICTURES", 1000)
    run = CudaGraphs.run

    def twice(self: CudaGraphs, *inputs: Any) -> None:
        run(self, *inputs)
        run(self, *inputs)

    monkeypatch.setattr(CudaGraphs, "run", twice)
    rows = [*gpu_steps.graphs(torch.device("cuda", 0), **PARTS["first"]["graphs"].quick)]
    assert not rows[0]["same_bits"] and not rows[0]["ok"]


# ---------------------------------------------------------------- the session


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Row]]:
    """A session of steps, each of which is a command of Python's and its limit in seconds."""

    def run(seconds: float, **made: tuple[str, float]) -> list[Row]:
        steps = {name: Step(lambda _: iter([]), 10, limit) for name, (_, limit) in made.items()}
        popen = subprocess.Popen
        code = lambda command: [sys.executable, "-c", made[command[-1]][0]]  # noqa: E731
        monkeypatch.setattr(subprocess, "Popen", lambda command, **options: popen(code(command), **options))
        gpu_day.session(steps, seconds, tmp_path, [])
        return [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]

    return run


def test_a_step_that_fails_or_hangs_costs_itself_alone(session: Callable[..., list[Row]]) -> None:
    hangs = "import os, time; os.fork(); time.sleep(600)"
    rows = session(3000, fails=("raise SystemExit(3)", 1000), hangs=(hangs, 3), works=("", 1000))
    assert [(row["step"], row["exit"]) for row in rows] == [("fails", 3), ("hangs", "out of time"), ("works", 0)]


def test_a_step_without_time_is_left_out(session: Callable[..., list[Row]]) -> None:
    (row,) = session(gpu_day.RESERVE + 4, late=("", 60))
    assert row["step"] == "late" and row["skipped"].endswith("seconds are left")
