"""Runs over several processes: the rows of one process, on one host and on two, and what a lost process leaves."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forking import ForkedPopen, run_forked
from launching import BOUND, PATIENT, TORCHRUN, alone, children, wait_for, waiting_in

SMALL = [
    "data.train=400",
    "data.test=40",
    "network.hidden=[6]",
    "trainer.max_epochs=3",
    "descent.momentum=0.9",
    "report=false",
]
MANY = [*SMALL, "starts=30", "pack=2", "keep=3", "stop.patience=1"]
IN_THE_FIFTH_PACK = waiting_in("hillstart.training.module:Training.training_step", "args[0].number == 5")


def train(folder: Path, *options: str, launcher: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*(launcher or [sys.executable]), PATIENT, *options]
    return run_forked(command, cwd=folder, env=alone(), capture_output=True, text=True, timeout=BOUND)


def rows(run: Path) -> list[tuple[str, ...]]:
    """`starts.csv` to 4 digits; across tilings the last bits differ."""
    with (run / "starts.csv").open() as file:
        return [tuple(f"{float(v):.3e}" if "." in v else v for v in line.strip().split(",")) for line in file]


def same(folder: Path, one: str, other: str) -> bool:
    """Whether two runs have the same tables to the last bit, and summaries that differ in nothing but how they ran."""
    apart = {"seconds", "device", "ranks"}
    first, second = (json.loads((folder / run / "summary.json").read_text()) for run in (one, other))
    assert {k: v for k, v in first.items() if k not in apart} == {k: v for k, v in second.items() if k not in apart}
    names = ("starts.csv", "history.csv", "network.safetensors")
    return all((folder / one / name).read_bytes() == (folder / other / name).read_bytes() for name in names)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """One thread for each rank: two on one host share its cores, and products of several threads round otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`few` starts by one process; `many`, in packs of two, by one and by two."""
    folder = tmp_path_factory.mktemp("runs")
    for run, options in {
        "few": [*SMALL, "starts=6", "stop.patience=1"],
        "many": MANY,
        "many-by-two": [*MANY, "trainer.devices=2"],
    }.items():
        done = train(folder, *options, f"hydra.run.dir={run}")
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("launcher", [None, [*TORCHRUN, "--standalone", "--nproc-per-node=2"]], ids=["own", "torchrun"])
def test_two_ranks_end_with_the_rows_of_one(runs: Path, launcher: list[str] | None) -> None:
    run = f"ranks{launcher is None}"
    done = train(
        runs, *SMALL, "starts=6", "stop.patience=1", "trainer.devices=2", f"hydra.run.dir={run}", launcher=launcher
    )
    assert done.returncode == 0, done.stderr
    assert "shared by 2 ranks" in done.stdout
    assert done.stdout.count("chosen by val cost") == 1
    assert rows(runs / run) == rows(runs / "few")
    assert not [path.name for path in (runs / run).rglob("*rank*")] + list(runs.glob("outputs"))


@pytest.mark.parametrize(
    ("number", "code", "why"),
    [(signal.SIGKILL, 1, "ended by SIGKILL"), (signal.SIGSTOP, os.EX_TEMPFAIL, "no sign of it")],
    ids=["killed", "hung"],
)
def test_a_lost_rank_ends_the_run_and_resume_completes_it(
    runs: Path, number: signal.Signals, code: int, why: str
) -> None:
    folder = f"cut{number}"
    (runs / "waiting").unlink(missing_ok=True)
    command = [sys.executable, PATIENT, *MANY, "trainer.devices=2", f"hydra.run.dir={folder}"]
    pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    run = ForkedPopen(command, cwd=runs, env=IN_THE_FIFTH_PACK, text=True, **pipes)
    wait_for(run, (runs / "waiting").is_file)
    (second,) = [child for child in children(run.pid) if "RANK=1" in variables(child)]
    os.kill(second, number)
    printed = run.communicate(timeout=BOUND)[1]
    assert run.returncode == code, printed
    assert "Traceback" not in printed
    (sentence,) = [line for line in printed.splitlines() if "was lost" in line]
    assert sentence.startswith("hillstart: rank 1 of 2 was lost") and why in sentence and "resume=RUN" in sentence
    kept = json.loads((runs / folder / "checkpoints/packs.json").read_text())["done"]
    assert 3 <= kept < 15
    done = train(runs, f"resume={folder}")
    assert done.returncode == 0, done.stderr
    assert same(runs, "many-by-two", folder)
    assert rows(runs / "many") == rows(runs / folder)


def variables(process: int) -> list[str]:
    return Path(f"/proc/{process}/environ").read_text().split("\0")


def test_processes_that_slurm_started(runs: Path) -> None:
    """The second pack has one start, so that the first process has none to train."""
    task = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "127.0.0.1", "SLURM_JOB_ID": "77"}
    options = [*SMALL, "starts=3", "pack=2", "trainer.devices=2", "hydra.run.dir=slurm"]
    pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    tasks = []
    for rank in ("0", "1"):
        env = (
            alone() | task | {"SLURM_JOB_NAME": "toy", "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": "0"}
        )
        tasks.append(ForkedPopen([sys.executable, PATIENT, *options], cwd=runs, env=env, **pipes))
    printed = [task.communicate(timeout=BOUND)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], printed
    assert json.loads((runs / "slurm/checkpoints/packs.json").read_text())["packs"] == [2, 1]
    assert sorted(row[0] for row in rows(runs / "slurm")) == ["0", "1", "2", "seed"]


def test_two_hosts_one_killed_and_resumed(runs: Path, hosts: list[str]) -> None:
    options = [*MANY, "trainer.num_nodes=2", "hydra.run.dir=hosts"]
    (runs / "waiting").unlink(missing_ok=True)
    nodes = _on_hosts(runs, hosts, *options, environment=IN_THE_FIFTH_PACK)
    try:
        wait_for(nodes[0], (runs / "waiting").is_file)
        (worker,) = children(nodes[1].pid)
        os.kill(worker, signal.SIGKILL)
        said = [node.communicate(timeout=BOUND)[1] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert all(node.returncode for node in nodes)
    assert sum("was lost" in line for line in said[0].splitlines()) == 1, said
    assert json.loads((runs / "hosts/checkpoints/packs.json").read_text())["done"] >= 3
    nodes = _on_hosts(runs, hosts, "resume=hosts")
    said = [node.communicate(timeout=BOUND)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert same(runs, "many-by-two", "hosts")


def test_a_multirun_over_ranks_is_refused(runs: Path) -> None:
    done = train(runs, "-m", *SMALL, "seed=0,1", "trainer.devices=2", "hydra.sweep.dir=sweep")
    assert done.returncode == 1
    assert "trainer.devices=2 trainer.num_nodes=1: the jobs of a multirun are trained on one device" in done.stderr
    assert "Traceback" not in done.stderr


def _on_hosts(
    folder: Path, hosts: list[str], *options: str, environment: dict[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    nodes = []
    for i, host in enumerate(hosts):
        torchrun = [*TORCHRUN, "--nnodes=2", f"--node-rank={i}", "--master-addr=10.77.0.1", "--master-port=29500"]
        command = ["ip", "netns", "exec", host, *torchrun, PATIENT, *options]
        pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        env = (environment or alone()) | {"GLOO_SOCKET_IFNAME": "veth"}
        nodes.append(subprocess.Popen(command, cwd=folder, env=env, text=True, **pipes))
    return nodes
