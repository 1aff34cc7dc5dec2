"""Ctrl-C, SIGTERM and a closed terminal end a training in good order, wherever they meet it."""

import fcntl
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import hillstart
from forking import ForkedPopen
from hillstart.system import interrupts
from hillstart.training.module import Training
from killing import OPTIONS, differences, whole_run
from launching import BOUND, PATIENT, alone, wait_for, waiting_in
from made import rows
from training.test_resume import PER_EPOCH, company, fit, state

LONG = ["data.train=200", "data.test=40", "network.hidden=[6]", "trainer.max_epochs=1000000", "report=false"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


started: list["subprocess.Popen[str] | ForkedPopen"] = []
"""By this test."""


class Command:
    """A training as a terminal starts it: the first process of a group of its own.

    Args:
        new: start a new interpreter, by `subprocess.Popen`.
    """

    def __init__(self, folder: Path, *command: str, new: bool = False, **of: Any):
        self.folder = folder
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        start: Any = partial(subprocess.Popen, preexec_fn=_as_a_terminal) if new else ForkedPopen
        env = of.pop("env", alone()) | {"PWD": str(folder)}
        self.process = start([sys.executable, *command], cwd=folder, env=env, start_new_session=True, **(pipes | of))
        started.append(self.process)

    def wait_for(self, met: Callable[[], Any]) -> None:
        wait_for(self.process, met)

    def wait_for_file(self, pattern: str) -> None:
        self.wait_for(lambda: any(self.folder.glob(pattern)))

    def end_by(self, number: signal.Signals, group: bool = False) -> list[str]:
        """What it had said, line by line, when it has ended by the signal as it should."""
        (os.killpg if group else os.kill)(self.process.pid, number)
        out, _ = self.process.communicate(timeout=BOUND)
        assert self.process.returncode == CODES[number], out
        assert "Traceback" not in out, out
        return str(out).splitlines()


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """Kill what a test that failed has left running."""
    yield
    for process in started:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    started.clear()


def _as_a_terminal() -> None:
    for number in CODES:
        signal.signal(number, signal.SIG_DFL)


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "whole"
    whole_run(folder)
    return folder


def test_between_packs_and_on_again(tmp_path: Path, whole: Path) -> None:
    """Ctrl-C in a run of many packs, then what its last line says to type: the run ends as if nothing had been."""
    name = "odd, 'named'"
    quoted = name.replace("'", "\\'")
    of = waiting_in(
        "hillstart.training.module:Training.training_step", "args[0].number == 3 and args[0].current_epoch == 3"
    )
    run = Command(tmp_path, PATIENT, *OPTIONS, f"hydra.run.dir='{quoted}'", env=of)
    run.wait_for_file("waiting")
    folder = tmp_path / name
    said = run.end_by(signal.SIGINT, group=True)
    assert said[-1].startswith("hillstart: stopped by Ctrl-C; go on with it by: python ")
    starts = rows(folder / "starts.csv")
    assert {row["status"] for row in starts} >= {"active", "diverged"}
    assert len(starts) > 7
    assert {row["seed"] for row in rows(folder / "history.csv")} == {row["seed"] for row in starts}
    assert len(hillstart.load(folder).seeds) > 4  # those of the packs that are done, and of the one under way
    typed = shlex.split(said[-1].partition(": python ")[2])
    assert typed[0] == PATIENT
    on = Command(tmp_path, *typed)
    out, _ = on.process.communicate(timeout=BOUND)
    assert on.process.returncode == 0, out
    assert differences(folder, whole) == []


def test_sigterm_to_one_process(tmp_path: Path) -> None:
    run = Command(tmp_path, PATIENT, *LONG, "starts=3", "hydra.run.dir=run")
    run.wait_for_file("run/checkpoints/best.ckpt")
    assert run.end_by(signal.SIGTERM)[-1] == (
        f"hillstart: stopped by SIGTERM; go on with it by: python {PATIENT} resume=run"
    )
    starts = rows(tmp_path / "run/starts.csv")
    assert [(row["seed"], row["status"]) for row in starts] == [("0", "active"), ("1", "active"), ("2", "active")]
    assert {row["epoch"] for row in rows(tmp_path / "run/history.csv")} == {
        str(epoch) for epoch in range(1, int(starts[0]["epochs"]) + 1)
    }
    assert hillstart.load(tmp_path / "run").seeds == (0, 1, 2)
    assert not list(tmp_path.rglob(".*.part"))


def test_a_closed_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()

    def controlled() -> None:
        _as_a_terminal()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    of = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "preexec_fn": controlled}
    run = Command(tmp_path, PATIENT, *LONG, "hydra.run.dir=run", new=True, **of)
    os.close(theirs)
    os.set_blocking(ours, False)

    def met() -> bool:
        with suppress(BlockingIOError):
            os.read(ours, 65536)  # the bar would else wait for someone to read it
        return (tmp_path / "run/checkpoints/best.ckpt").is_file()

    run.wait_for(met)
    before = (tmp_path / "run/checkpoints/last.ckpt").stat().st_mtime_ns
    os.close(ours)
    assert run.process.wait(timeout=BOUND) == 129
    assert (tmp_path / "run/checkpoints/last.ckpt").stat().st_mtime_ns > before
    assert {row["status"] for row in rows(tmp_path / "run/starts.csv")} == {"active"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_torch_is_imported(tmp_path: Path, number: signal.Signals) -> None:
    run = Command(tmp_path, PATIENT, *LONG, new=True)
    maps = Path(f"/proc/{run.process.pid}/maps")
    run.wait_for(lambda: "libtorch" in maps.read_text())
    said = run.end_by(number, group=True)
    assert said == [f"hillstart: stopped by {interrupts.CAUGHT[number]}; nothing was trained yet."]


def test_while_pictures_are_drawn(tmp_path: Path) -> None:
    run = Command(tmp_path, PATIENT, "data.train=60000", "hydra.run.dir=run")
    run.wait_for_file("run/train.log")
    assert run.end_by(signal.SIGINT, group=True)[-1] == "hillstart: stopped by Ctrl-C; nothing was trained yet."


def test_while_the_report_is_written(tmp_path: Path) -> None:
    short = [*LONG[:3], "trainer.max_epochs=2", "hydra.run.dir=run"]
    run = Command(tmp_path, PATIENT, *short, env=waiting_in("hillstart.report.write:write"))
    run.wait_for_file("waiting")
    report = PATIENT.replace("train.py", "report.py")
    said = run.end_by(signal.SIGTERM)[-1]
    assert said == f"hillstart: stopped by SIGTERM; only its page is missing: python {report} run"
    assert len(rows(tmp_path / "run/starts.csv")) == 16
    assert not (tmp_path / "run/report.html").exists()


def test_a_reader_that_ends_by_the_same_signal(tmp_path: Path) -> None:
    """As in `make train | tee log`: nobody is left to hear what is said."""
    reading, writing = os.pipe()
    run = Command(tmp_path, PATIENT, *LONG, "hydra.run.dir=run", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    run.wait_for_file("run/checkpoints/best.ckpt")
    os.close(reading)
    os.killpg(run.process.pid, signal.SIGINT)
    _, said = run.process.communicate(timeout=BOUND)
    assert run.process.returncode == 130, said
    assert said == f"hillstart: stopped by Ctrl-C; go on with it by: python {PATIENT} resume=run\n"


# ---------------------------------------------------------------- many jobs, many processes


@pytest.mark.parametrize("way", ["packed", "one after another"])
def test_a_multirun(tmp_path: Path, way: str) -> None:
    first = ["network.hidden=[4],[5]"] if way == "packed" else ["hydra.job.chdir=true"]
    options = ["-m", "seed=0,1,2", *first, *LONG[:2], "trainer.max_epochs=100", "report=false", "hydra.sweep.dir=many"]
    of = waiting_in("hillstart.training.module:Training.training_step", "any(Path('ROOT').glob('many/*/summary.json'))")
    run = Command(tmp_path, PATIENT, *options, env=of | {"WAIT_WHEN": of["WAIT_WHEN"].replace("ROOT", str(tmp_path))})
    run.wait_for(lambda: any(tmp_path.rglob("waiting")))
    printed = run.end_by(signal.SIGINT, group=True)
    done = sorted(path.parent.name for path in tmp_path.glob("many/*/summary.json"))
    jobs = 6 if way == "packed" else 3
    assert 0 < len(done) < jobs
    onward = f"go on with the others by: python {PATIENT} resume=many"
    assert printed[-1] == f"hillstart: stopped by Ctrl-C; done of {jobs} jobs: {len(done)}; {onward}"
    for job in done:
        assert [row["status"] for row in rows(tmp_path / "many" / job / "starts.csv")] == ["finished"]
        assert len(hillstart.load(tmp_path / "many" / job).seeds) == 1
    assert sorted(row["job"] for row in rows(tmp_path / "many/starts.csv")) == done


@pytest.mark.parametrize(("number", "group"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_two_ranks(tmp_path: Path, number: signal.Signals, group: bool) -> None:
    run = Command(tmp_path, PATIENT, *LONG, "starts=4", "trainer.devices=2", "hydra.run.dir=run")
    run.wait_for_file("run/checkpoints/packs.json")
    said = run.end_by(number, group)
    assert said[-1].endswith(f"go on with it by: python {PATIENT} resume=run")
    assert sum(line.startswith("hillstart:") for line in said) == 1, said


# ---------------------------------------------------------------- by itself


def test_the_second_wish_is_at_once(tmp_path: Path) -> None:
    run = Command(tmp_path, "-c", _deaf(patience=1e6, twice=0), stderr=subprocess.PIPE)
    run.wait_for_file("here")
    run.process.send_signal(signal.SIGINT)
    run.wait_for_file("heard")
    run.process.send_signal(signal.SIGINT)
    _, said = run.process.communicate(timeout=BOUND)
    assert run.process.returncode == 130
    assert said == "hillstart: stopped by Ctrl-C; nothing was trained yet.\n"


@pytest.mark.parametrize("came", [[signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]], ids=["one", "two at once"])
def test_the_same_wish_by_two_ways_is_one(monkeypatch: pytest.MonkeyPatch, came: list[int]) -> None:
    """What is heard together, or soon after, is one wish; what is heard later is another one."""
    reading, writing = os.pipe()
    times = [0.0, 0.9 * interrupts.TWICE, 1.1 * interrupts.TWICE]

    def clock() -> float:
        if len(times) > 1:
            os.write(writing, bytes([signal.SIGTERM]))  # the next one
        return times.pop(0)

    def end() -> None:
        raise InterruptedError

    monkeypatch.setattr(interrupts, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(interrupts, "_end_at_once", end)
    for name in ("_receive", "_end_if_unnoticed"):
        monkeypatch.setattr(interrupts, name, lambda *_: None)
    os.write(writing, bytes(came))
    with pytest.raises(InterruptedError):
        interrupts._listen(reading)
    os.close(writing)
    with os.fdopen(reading, "rb") as unheard:
        assert (times, unheard.read()) == ([], b"")


def test_a_main_thread_that_does_not_notice(tmp_path: Path) -> None:
    assert interrupts.PATIENCE < 5  # as docs/reliability.md has it
    run = Command(tmp_path, "-c", _deaf(patience=0.1, twice=1e6))
    run.wait_for_file("here")
    assert run.end_by(signal.SIGTERM) == ["hillstart: stopped by SIGTERM; nothing was trained yet."]


def test_what_was_ignored_stays_ignored(tmp_path: Path) -> None:
    """As under nohup: the signal that ends it is the next one."""
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    run = Command(tmp_path, "-c", _deaf(patience=0.1, twice=1e6), new=True, **ignoring)
    run.wait_for_file("here")
    run.process.send_signal(signal.SIGHUP)
    assert run.end_by(signal.SIGTERM) == ["hillstart: stopped by SIGTERM; nothing was trained yet."]


def _deaf(patience: float, twice: float) -> str:
    """A command whose main thread never heeds a signal; the file `heard` says that the other thread has heard one."""
    return (
        "import pathlib, threading, time; from hillstart.system import interrupts as signals\n"
        f"signals.PATIENCE, signals.TWICE = {patience}, {twice}\n"
        "with signals.caught(), signals.deferred():\n"
        "  pathlib.Path('here').touch()\n"
        "  while not any(thread.name == 'patience' for thread in threading.enumerate()): time.sleep(0.005)\n"
        "  pathlib.Path('heard').touch()\n"
        "  while True: time.sleep(60)"
    )


@pytest.mark.parametrize("chunk", [9, 100], ids=["chunks", "one chunk an epoch"])
@pytest.mark.parametrize("moment", range(6))
def test_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int, chunk: int) -> None:
    """The moments from the second epoch on at which a training heeds signals, one after the other."""
    monkeypatch.setattr(Training, "chunk_steps", property(lambda self: chunk))
    of = company("momentum")
    whole = fit(tmp_path / "whole", epochs=5, **of)
    check_interrupt, moments = interrupts.check_interrupt, []

    def counted() -> None:
        moments.append(None)
        monkeypatch.setattr(interrupts, "received", 15 if len(moments) == 4 + moment else None)
        check_interrupt()

    monkeypatch.setattr(interrupts, "check_interrupt", counted)
    with pytest.raises(interrupts.Interrupted):
        fit(tmp_path / "cut", epochs=5, **of)
    monkeypatch.undo()
    monkeypatch.setattr(Training, "chunk_steps", property(lambda self: chunk))
    resumed = fit(tmp_path / "cut", resume=True, epochs=5, **of)
    assert state(resumed) == state(whole)
    assert resumed.trainer.global_step == whole.trainer.global_step == 5 * PER_EPOCH


def test_in_the_middle_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch may take minutes: a signal does not wait for its end."""
    monkeypatch.setattr(Training, "chunk_steps", property(lambda self: 3))
    step = Training.training_step

    def signalled(self: Training, size: int, index: int) -> None:
        step(self, size, index)
        if self.global_step == PER_EPOCH + 3:
            monkeypatch.setattr(interrupts, "received", 15)

    monkeypatch.setattr(Training, "training_step", signalled)
    with pytest.raises(interrupts.Interrupted):
        fit(tmp_path, epochs=5, **company("momentum"))
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == PER_EPOCH + 3
