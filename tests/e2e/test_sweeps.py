"""Multiruns by the launchers of others, and multiruns that are killed, interrupted or doubled, and resumed."""

import os
import random
import shutil
import signal
import sys
import textwrap
import time
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest

from forking import ForkedPopen
from launching import BOUND, PATIENT, alone, wait_for

SMALL = ["data.train=60", "data.test=20", "network.hidden=[4],[5]", "trainer.max_epochs=4", "report=false"]
JOBS = ["-m", "seed=range(0,7)", "pack=4", *SMALL]


def started(folder: Path, *options: str, env: dict[str, str] | None = None) -> ForkedPopen:
    command, env = [sys.executable, PATIENT, *options], (env or alone()) | {"PWD": str(folder)}
    return ForkedPopen(command, cwd=folder, env=env, stdout=PIPE, stderr=STDOUT, text=True)


def ended(process: ForkedPopen, code: int = 0) -> str:
    out, _ = process.communicate(timeout=BOUND)
    assert process.returncode == code, out
    return str(out)


def results(folder: Path) -> dict[str, bytes]:
    """The bytes of the tables, the options and the weights of all jobs, and of the table of the whole."""
    found = [*folder.glob("starts.csv"), *folder.glob("[0-9]*/*.csv"), *folder.glob("[0-9]*/.hydra/[co]*.yaml")]
    found += folder.glob("[0-9]*/network.safetensors")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multirun of four packs, of two sizes, that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    ended(started(folder.parent, *JOBS, f"hydra.sweep.dir={folder}"))
    assert len(list(folder.glob("packs/*/pack.json"))) == 4 and len(results(folder)) == 1 + 14 * 5
    return folder


def test_two_workers_of_joblib(whole: Path, tmp_path: Path) -> None:
    ended(started(tmp_path, *JOBS, "hydra.sweep.dir=sweep", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"))
    assert results(tmp_path / "sweep") == results(whole)
    assert all((pack / "train.log").is_file() for pack in tmp_path.glob("sweep/packs/*"))


def test_jobs_of_submitit(whole: Path, tmp_path: Path) -> None:
    ended(started(tmp_path, *JOBS, "hydra.sweep.dir=sweep", "hydra/launcher=submitit_local"))
    assert results(tmp_path / "sweep") == results(whole)


SBATCH = """
    import os, re, subprocess, sys
    text = open(sys.argv[-1]).read()
    last = int(re.search(r"--array=0-(\\d+)", text)[1])
    command = text.split("srun", 1)[1]
    command = command[command.index(sys.executable):]
    for task in range(last + 1):
        env = os.environ | {"SLURM_JOB_ID": f"{70 + task}", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": f"{task}"}
        env |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "1", "SLURM_JOB_NODELIST": "here", "SLURM_NODEID": "0"}
        env |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SUBMITIT_EXECUTOR": "slurm"}
        subprocess.Popen(["sh", "-c", command], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print("Submitted batch job 7")
"""


def test_an_array_of_slurm(whole: Path, tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in (("sbatch", SBATCH), ("srun", ""), ("sacct", "print('JobID|State')")):
        command = commands / name
        command.write_text(
            f"#!{sys.executable}\n{textwrap.dedent(body).replace('sys.executable', repr(sys.executable))}"
        )
        command.chmod(0o755)
    env = alone() | {"PATH": f"{commands}:{os.environ['PATH']}"}
    ended(started(tmp_path, *JOBS, "hydra.sweep.dir=sweep", "hydra/launcher=submitit_slurm", env=env))
    assert results(tmp_path / "sweep") == results(whole)


def test_a_killed_multirun_is_resumed_to_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    moments, expected = random.Random(0), results(whole)
    times, met = int(os.environ.get("KILLS", "2")), 0
    seconds = (whole / "starts.csv").stat().st_mtime - (whole / "multirun.yaml").stat().st_mtime
    while met < times:
        run = started(tmp_path, *JOBS, "hydra.sweep.dir=sweep")
        wait_for(run, (tmp_path / "sweep" / "multirun.yaml").is_file)
        time.sleep(moments.uniform(0, seconds))
        run.kill()
        run.communicate()
        if run.returncode < 0:
            met += 1
            options = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"] if met % 2 else []
            ended(started(tmp_path, "resume=sweep", *options))
            assert results(tmp_path / "sweep") == expected
        else:
            seconds *= 0.8
        shutil.rmtree(tmp_path / "sweep")


def test_a_lone_job_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    jobs = ["-m", "network.hidden=[4],[5]", "starts=2", *SMALL[:2], "trainer.max_epochs=300", "report=false"]
    ended(started(tmp_path, *jobs, "hydra.sweep.dir=whole"))
    run = started(tmp_path, *jobs, "hydra.sweep.dir=sweep")
    wait_for(run, lambda: any(tmp_path.glob("sweep/1/checkpoints/*.ckpt")))
    run.send_signal(signal.SIGINT)
    out = ended(run, code=130)
    assert "done of 2 jobs: 1; go on with the others by: " in out and out.rstrip().endswith("resume=sweep")
    assert "going on from" in ended(started(tmp_path, "resume=sweep"))
    assert results(tmp_path / "sweep") == results(tmp_path / "whole")


def test_two_processes_do_not_train_one_multirun_or_one_pack(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "sweep")
    shutil.rmtree(tmp_path / "sweep" / "0")
    holding = "from hillstart.runs.claim import claim; from pathlib import Path; import sys, time\n"
    holding += "with claim(Path(sys.argv[1]), resume=True): Path('held').touch(); time.sleep(1e6)"
    for held in ("sweep", "sweep/packs/0"):
        holder = ForkedPopen([sys.executable, "-c", holding, held], cwd=tmp_path)
        wait_for(holder, (tmp_path / "held").is_file)
        out = ended(started(tmp_path, "resume=sweep"), code=1)
        assert f"{held}: another training writes into it (process {holder.pid} on" in out
        holder.kill()
        holder.wait()
        (tmp_path / "held").unlink()
    ended(started(tmp_path, "resume=sweep"))
    assert results(tmp_path / "sweep") == results(whole)


def test_what_cannot_be_resumed_is_named(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "sweep")
    assert "trainer.max_epochs=9" in ended(started(tmp_path, "resume=sweep", "trainer.max_epochs=9"), code=1)
    file = tmp_path / "sweep" / "multirun.yaml"
    file.write_text(file.read_text().replace("pack=4", "data._target_=os.system"))
    assert "data._target_=os.system" in ended(started(tmp_path, "resume=sweep"), code=1)
    file.write_text("[]")
    assert "multirun.yaml" in ended(started(tmp_path, "resume=sweep"), code=1)
