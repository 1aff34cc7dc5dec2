"""A folder taken for writing: by one process at a time, never through a link, never over an earlier run unasked."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hillstart.runs import claim as claiming
from hillstart.runs.claim import check_free, claim
from hillstart.system.errors import InputError

HOLD = """
import sys
from pathlib import Path
from hillstart.runs.claim import claim
with claim(Path(sys.argv[1]), resume=True):
    print("held", flush=True)
    sys.stdin.read()
"""
OF_A_RUN = [
    *("checkpoints/packs.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "summary.json", "starts.csv"),
    *("history.csv", "network.safetensors", "report.html", "network.onnx", "network-start7.onnx", "network.pt2"),
    *("network-start7.pt2", "network-csv/about.csv", "network-start7-csv/start1-seed7-layer1.csv"),
]
BESIDE_IT = [
    *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "train.log", "csv/version_0/metrics.csv"),
    *("csv/version_1/hparams.yaml", "tensorboard/version_0/events.out.tfevents.17.host.1.0", "multirun.yaml"),
]
OF_SOMEBODY = ["notes.txt", "csv/mine.csv", "checkpoints/epoch-3.ckpt", "network-csv/sums.ods", "data/0/starts.csv"]


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


@contextmanager
def holder(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_later_of_two_is_refused_and_told_who_was_there(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        for options in ({}, {"resume": True}, {"overwrite": True}, {"sweep": True}):
            with pytest.raises(InputError, match=rf"{tmp_path}.*process {process.pid} on "), claim(tmp_path, **options):
                pass


@pytest.mark.slow
def test_one_that_is_stopped_still_holds_it_and_one_that_is_dead_does_not(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        with pytest.raises(InputError), claim(tmp_path):
            pass
        process.kill()
        process.wait()
        with claim(tmp_path):
            pass
    assert files(tmp_path) == []


def test_it_is_free_again_in_the_same_process(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    for _ in range(2):
        with claim(folder):
            with pytest.raises(InputError), claim(folder):
                pass
            assert files(folder) == [".lock"]
        assert files(folder) == []


@pytest.mark.parametrize("number", claiming.NO_LOCKS)
def test_where_there_are_no_locks_a_lease_takes_their_place(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(claiming, "LEASE_WAIT", 0.0)
    with claim(tmp_path):
        assert files(tmp_path) == [".lease"]
        with pytest.raises(InputError, match=f"process {os.getpid()} on "), claim(tmp_path):
            pass
    assert files(tmp_path) == []


def test_a_lease_of_a_dead_host_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(claiming, "LEASE_SECONDS", 0.2)
    (tmp_path / ".lease").write_text("filelock/2\npid=1\nhost=gone\nmode=lease\ntoken=" + "0" * 32 + "\nduration=0.2\n")
    with claim(tmp_path):
        pass
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(InputError, match=r"\.lock cannot be written: Read-only"), claim(tmp_path):
        pass


@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path, name: str) -> None:
    fill(tmp_path, [name])
    with pytest.raises(InputError, match=name), claim(tmp_path):
        pass
    with claim(tmp_path, resume=True):
        pass
    assert files(tmp_path) == [name]


def test_a_folder_in_which_no_run_began_is_free(tmp_path: Path) -> None:
    fill(tmp_path, [*BESIDE_IT, *OF_SOMEBODY])
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    with claim(tmp_path):
        pass
    assert files(tmp_path) == sorted([*BESIDE_IT, *OF_SOMEBODY])


def test_overwriting_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path, [*OF_A_RUN, *BESIDE_IT, *OF_SOMEBODY])
    with claim(tmp_path, overwrite=True):
        assert files(tmp_path) == sorted([".lock", *OF_SOMEBODY])
    assert not (tmp_path / "tensorboard").exists()
    assert not (tmp_path / "network-start7-csv").exists()


def test_overwriting_removes_nothing_of_a_run_that_goes_on(tmp_path: Path) -> None:
    fill(tmp_path, [*OF_A_RUN, *BESIDE_IT])
    with claim(tmp_path, resume=True, overwrite=True):
        pass
    assert files(tmp_path) == sorted([*OF_A_RUN, *BESIDE_IT])


@pytest.mark.parametrize("at", range(len(OF_A_RUN) + len(BESIDE_IT)))
def test_an_interrupted_removal_leaves_nothing_to_resume_and_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    fill(tmp_path, [*OF_A_RUN, *BESIDE_IT])
    removed, unlink = [], Path.unlink

    def dying(self: Path, missing_ok: bool = False) -> None:
        if self.name != ".lock":
            if len(removed) == at:
                raise InterruptedError
            removed.append(self)
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", dying)
    with pytest.raises((InterruptedError, InputError)), claim(tmp_path, overwrite=True):
        pass
    monkeypatch.undo()
    if (tmp_path / ".hydra/overrides.yaml").exists():
        assert (tmp_path / "checkpoints/last.ckpt").exists()
    with pytest.raises(InputError):
        check_free(tmp_path)
    with claim(tmp_path, overwrite=True):
        assert files(tmp_path) == [".lock"]


@pytest.mark.parametrize("name", ["starts.csv", "train.log", "checkpoints", "csv/version_0/metrics.csv", "report.html"])
@pytest.mark.parametrize("options", [{"resume": True}, {}, {"overwrite": True}], ids=str)
def test_nothing_is_written_or_removed_through_a_link(tmp_path: Path, name: str, options: dict[str, bool]) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    fill(elsewhere, ["precious", "last.ckpt"])
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(elsewhere if name == "checkpoints" else elsewhere / "precious")
    with pytest.raises(InputError, match=name), claim(folder, **options):
        pass
    assert files(elsewhere) == ["last.ckpt", "precious"]
    assert (elsewhere / "precious").read_text() == "precious"
    assert (folder / name).is_symlink()


# ---------------------------------------------------------------- the root of a multirun


@pytest.mark.parametrize("job", ["0/summary.json", "a/b/summary.json", "3/.hydra/overrides.yaml"])
def test_the_root_of_a_sweep_that_holds_jobs_is_refused(tmp_path: Path, job: str) -> None:
    fill(tmp_path, [job, "notes.txt"])
    with pytest.raises(InputError, match=job.split("/")[0]), claim(tmp_path, sweep=True):
        pass
    with claim(tmp_path):  # a run beside others in folders within takes nothing from them
        pass
    assert files(tmp_path) == sorted([job, "notes.txt"])


def test_overwriting_a_sweep_removes_its_jobs_and_nothing_else(tmp_path: Path) -> None:
    ours = ["starts.csv", "multirun.yaml", "0/.hydra/config.yaml", "0/starts.csv", "12/.hydra/config.yaml"]
    fill(tmp_path, [*ours, "0/notes.txt", "7/notes.txt"])
    with claim(tmp_path, sweep=True, overwrite=True):
        assert files(tmp_path) == [".lock", "0/notes.txt", "7/notes.txt"]
    assert not (tmp_path / "12").exists()


def test_overwriting_a_sweep_leaves_other_runs_within_and_says_so(tmp_path: Path) -> None:
    other = ["2026-11-02/12-00-00/.hydra/config.yaml", "2026-11-02/12-00-00/summary.json"]
    fill(tmp_path, other)
    with pytest.raises(InputError, match="2026-11-02/12-00-00"), claim(tmp_path, sweep=True, overwrite=True):
        pass
    assert files(tmp_path) == other
