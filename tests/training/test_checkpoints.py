"""Whatever happens to a run, it goes on from what is there and ends as if nothing had happened."""

import os
import signal
import sys
from pathlib import Path
from subprocess import DEVNULL, CompletedProcess

import pytest

import hillstart
from forking import ForkedPopen, run_forked
from killing import OPTIONS, begun, differences, killed_often, process, resumed_run, whole_run
from launching import BOUND, wait_for

KILLS = int(os.environ.get("KILLS", "4"))
SMALL = ["data.train=200", "data.test=40", "network.hidden=[6]", "starts=9", "pack=5", "report=false"]
TRAIN = "from hillstart.cli.train import train; train()"


def trained(folder: Path, *options: str, most_bytes: int = -1) -> "CompletedProcess[str]":
    """A run in `folder`, no file of which may grow larger than so many bytes."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, -1)); {TRAIN}"
    command = [sys.executable, "-c", limited, *options, f"hydra.run.dir={folder}"]
    env = os.environ | {"PWD": str(folder.parent)}  # as a shell has it
    return run_forked(command, cwd=folder.parent, env=env, capture_output=True, text=True, timeout=BOUND)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nothing interrupted, and its seconds."""
    folder = tmp_path_factory.mktemp("whole") / "whole"
    return folder, whole_run(folder)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(whole: tuple[Path, float], tmp_path: Path) -> None:
    """KILLS=50 in the environment makes it fifty moments."""
    assert not killed_often(tmp_path, *whole, KILLS)


@pytest.mark.slow
def test_a_disk_that_is_full_loses_nothing(tmp_path: Path) -> None:
    """The first checkpoint does not fit, later nothing does; when there is room again the run goes on."""
    whole, full = tmp_path / "whole", tmp_path / "full"
    assert trained(whole, *SMALL, "trainer.max_epochs=20").returncode == 0
    ran = trained(full, *SMALL, "trainer.max_epochs=20", most_bytes=10_000)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr + ran.stdout
    assert "a checkpoint was not written; training continues and tries again: " in ran.stdout
    assert ran.stderr.startswith("hillstart: full/network.safe") and "resume=full goes on" in ran.stderr
    assert not list(full.rglob("*.part"))
    again = trained(full, "resume=full")
    assert again.returncode == 0, again.stderr
    assert differences(full, whole) == []


@pytest.mark.slow
def test_what_was_best_so_far_stays_loadable(tmp_path: Path) -> None:
    """A run that is done is taken further, and then nothing can be written any more."""
    run = tmp_path / "run"
    assert trained(run, *SMALL[:3], "starts=2", "report=false", "trainer.max_epochs=2").returncode == 0
    before = hillstart.load(run / "checkpoints/last.ckpt").seeds
    ran = trained(run, "resume=run", "trainer.max_epochs=40", most_bytes=10_000)
    assert ran.returncode == 1
    assert "cannot be written: File too large" in ran.stderr
    assert hillstart.load(run / "checkpoints/last.ckpt").seeds == before == hillstart.load(run).seeds


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    ran = trained(tmp_path / "shut" / "run", *SMALL)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr and "Permission denied" in ran.stderr


@pytest.mark.slow
def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    options = [*SMALL, "trainer.max_epochs=1", "hydra.run.dir=${own_folder:same}"]
    command = [sys.executable, "-c", TRAIN, *options]
    runs = [ForkedPopen(command, cwd=tmp_path, stdout=DEVNULL) for _ in range(3)]
    assert [run.wait(BOUND) for run in runs] == [0, 0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["same", "same-2", "same-3"]
    assert all((path / "summary.json").is_file() for path in tmp_path.iterdir())


@pytest.mark.slow
def test_of_two_in_one_folder_the_later_is_refused(whole: tuple[Path, float], tmp_path: Path) -> None:
    """A second run, with the same or other options, and a resume beside the run, which then ends undisturbed."""
    first = process(tmp_path / "run", *OPTIONS, "hydra.run.dir=run")
    begun(first, tmp_path / "run")
    first.send_signal(signal.SIGSTOP)
    try:
        for options in ([*OPTIONS, "hydra.run.dir=run"], [*SMALL, "hydra.run.dir=run"], ["resume=run"]):
            later = process(tmp_path / "run", *options)
            said, _ = later.communicate(timeout=BOUND)
            assert later.returncode == 1
            assert f"process {first.pid} on " in said and "Traceback" not in said
    finally:
        first.send_signal(signal.SIGCONT)
    out, _ = first.communicate(timeout=BOUND)
    assert first.returncode == 0, out
    assert differences(tmp_path / "run", whole[0]) == []
    assert not list((tmp_path / "run").glob(".l*"))


@pytest.mark.slow
def test_a_run_that_was_moved_goes_on(whole: tuple[Path, float], tmp_path: Path) -> None:
    run = process(tmp_path / "here", *OPTIONS, "hydra.run.dir=here")
    wait_for(run, (tmp_path / "here/checkpoints/last.ckpt").is_file)
    run.kill()
    run.communicate()
    (tmp_path / "here").rename(tmp_path / "there")
    resumed_run(tmp_path / "there")
    assert differences(tmp_path / "there", whole[0]) == []
