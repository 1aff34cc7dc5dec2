"""Starts over ranks: shares, gathering, each way to launch, and the one sentence when a rank is lost."""

import multiprocessing
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

import ranks_toy
from hillstart.system import interrupts
from hillstart.system.errors import InputError
from hillstart.training import distributed
from hillstart.training.distributed import AcrossRanks, Heartbeat, Ranks, ranks_of
from launching import BOUND, TORCHRUN, alone

TOY = str(Path(ranks_toy.__file__))


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=alone(), capture_output=True, text=True, timeout=BOUND, check=False)


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """Forks of a process that has Lightning imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning.pytorch", "hillstart.training.distributed"])
    return context


def by_hand(server: ForkServerContext, size: int, folder: Path, *options: str) -> tuple[list[int | None], list[str]]:
    """Exit codes and stderr of `size` processes started one by one, as SLURM does."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [str(folder), f"--devices={size}", *options]
    tasks = [server.Process(target=ranks_toy.as_slurm_task, args=(r, size, port, arguments)) for r in range(size)]
    try:
        for task in tasks:
            task.start()
        # A stopped task never ends: those that must are the others.
        stopped = 1 if "--how=stop" in options else None
        for rank, task in enumerate(tasks):
            if rank != stopped:
                task.join(BOUND)
    finally:
        for task in tasks:
            if task.is_alive():
                task.kill()
            task.join()
    return [task.exitcode for task in tasks], [(folder / f"stderr{rank}").read_text() for rank in range(size)]


def check_fits(folder: Path, size: int = 2, fits: int = 3) -> None:
    for fit in range(fits):
        gathered = torch.load(folder / f"{fit}.pt")
        expected = (torch.arange(ranks_toy.STARTS, dtype=torch.float64) + 100 * fit) / 2**8
        assert (gathered["size"], gathered["told"]) == (size, [0, "told", 0.5, True])
        assert torch.equal(gathered["w"], expected)
        stored = torch.load(folder / f"fit{fit}" / "last.ckpt", weights_only=True)
        assert torch.equal(stored["state_dict"]["w"], expected)
    assert len((folder / "processes").read_text().split()) == size


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 64, 1000])
@pytest.mark.parametrize("unit", [1, 3, 64])
def test_shares_are_whole_tiles_and_even(size: int, n: int, unit: int) -> None:
    shares = [Ranks(size, rank).share(n, unit) for rank in range(size)]
    assert shares == [Ranks(size).share(n, unit, rank) for rank in range(size)]
    assert [i for share in shares for i in range(n)[share]] == list(range(n))
    assert all(share.start % unit == 0 or share.start == n for share in shares)
    units = [-(-(share.stop - share.start) // unit) for share in shares]
    assert max(units) - min(units) <= 1


def test_a_single_process_needs_no_group() -> None:
    ranks = ranks_of(pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False))
    t = torch.ones(3)
    assert ranks == Ranks(1, 0)
    assert ranks.is_first
    assert ranks.gather(t) is t
    assert ranks.gather_first(t) is t
    assert ranks.from_first("x") == "x"
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("devices", "nodes"), [(1, 1), (3, 1), (1, 2)])
def test_other_numbers_than_the_launchers_are_one_sentence(
    devices: int, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"SLURM_PROCID": 1, "SLURM_LOCALID": 1, "SLURM_NODEID": 0, "SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2}
    for name, value in (task | {"SLURM_JOB_NAME": "toy", "SLURM_NNODES": 1}).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # Lightning notes the rank there, which must not outlive this test
    with pytest.raises(InputError, match=f"trainer.devices={devices} trainer.num_nodes={nodes}: started as rank 1 of"):
        pl.Trainer(accelerator="cpu", devices=devices, num_nodes=nodes, strategy=AcrossRanks(""), logger=False)


# A share may be empty: of 7 starts in units of 4, rank 0 of 3 has none.
@pytest.mark.slow
@pytest.mark.parametrize(("size", "fits", "unit"), [(2, 3, 2), (3, 1, 4)])
def test_processes_started_by_slurm(size: int, fits: int, unit: int, server: ForkServerContext, tmp_path: Path) -> None:
    codes, _ = by_hand(server, size, tmp_path, f"--fits={fits}", f"--unit={unit}")
    assert codes == [0] * size
    check_fits(tmp_path, size, fits)
    shares = [ranks_toy.various(Ranks(), rank) for rank in range(size)]
    for rank in range(size):
        for name, gathered in torch.load(tmp_path / f"various{rank}.pt").items():
            expected = torch.cat([share[name] for share in shares])
            assert gathered.dtype == expected.dtype
            assert gathered.shape == expected.shape
            assert gathered.numpy().tobytes() == expected.numpy().tobytes(), name


@pytest.mark.slow
def test_lightning_launches_once_for_all_fits(tmp_path: Path) -> None:
    done = launch(sys.executable, "-W", "error", TOY, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert not done.stdout
    check_fits(tmp_path)


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    done = launch(*TORCHRUN, "--standalone", "--nproc-per-node=2", TOY, str(tmp_path))
    assert done.returncode == 0, done.stderr
    check_fits(tmp_path)


@pytest.mark.slow
def test_a_killed_child_of_lightning(tmp_path: Path) -> None:
    done = launch(sys.executable, TOY, str(tmp_path), "--lose=1")
    assert done.returncode == os.EX_TEMPFAIL, done.stderr
    said = [line for line in done.stderr.splitlines() if "lost" in line]
    assert said == [sentence(1, "its process ended")]
    assert "Traceback" not in done.stderr
    check_fits(tmp_path, fits=1)


def sentence(rank: int, why: str) -> str:
    return f"hillstart: rank {rank} of 2, on {socket.gethostname()}, was lost ({why}); the rest is kept."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "how", "why", "bound"),
    [
        (0, "kill", "its process ended", None),
        (1, "stop", "no sign of it for 3 s", "--limit=3"),  # its silence is all that tells
        (1, "error", "it ended with an error", "--grace=3"),  # rank 0 waits for an error of its own that never comes
    ],
)
def test_a_lost_rank_is_named(
    victim: int, how: str, why: str, bound: str | None, server: ForkServerContext, tmp_path: Path
) -> None:
    options = ["--fits=1", "--lose=0", f"--victims={victim}", f"--how={how}", *([bound] if bound else [])]
    codes, said = by_hand(server, 2, tmp_path, *options)
    assert codes[1 - victim] == os.EX_TEMPFAIL
    assert said[1 - victim].splitlines()[-1:] == [sentence(victim, why)]
    assert "Traceback" not in said[1 - victim]
    assert ("a mistake of rank" in said[victim]) == (how == "error")


@pytest.mark.slow
def test_an_error_of_all_ranks_is_no_loss(server: ForkServerContext, tmp_path: Path) -> None:
    codes, said = by_hand(server, 2, tmp_path, "--fits=1", "--lose=0", "--how=error", "--victims", "0", "1")
    assert codes == [1, 1]
    for rank in range(2):
        assert f"a mistake of rank {rank}" in said[rank]
        assert "was lost" not in said[rank]


@pytest.mark.slow
def test_a_killed_rank_on_one_of_two_hosts(hosts: list[str], tmp_path: Path) -> None:
    nodes = []
    for i, host in enumerate(hosts):
        torchrun = [*TORCHRUN, "--nnodes=2", f"--node-rank={i}", "--master-addr=10.77.0.1", "--master-port=29500"]
        command = ["ip", "netns", "exec", host, *torchrun, TOY, str(tmp_path), "--devices=1", "--nodes=2", "--lose=2"]
        environment = alone() | {"GLOO_SOCKET_IFNAME": "veth"}
        nodes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        said = [node.communicate(timeout=BOUND)[1] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert all(node.returncode for node in nodes)
    assert sentence(1, "its process ended") in said[0].splitlines()
    check_fits(tmp_path, fits=2)


# ---------------------------------------------------------------- on a busy machine


def test_ranks_may_be_slow_to_tell_who_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks and two strangers have connected before the first of them says a word."""
    heart: Any = object.__new__(Heartbeat)
    heart.size, heart.group = 3, None
    knocking, words, asleep = [], [], distributed.wait

    def tell(value: tuple[int, str], group: None) -> tuple[int, str]:
        port, token = value
        knocking.extend(Connection(socket.create_connection(("127.0.0.1", port)).detach()) for _ in range(4))
        words.extend([(3, f"{token} 2"), (1, "another token 1"), (0, f"{token} 1")])  # and the third one is silent
        return value

    def wait(objects: list[Any]) -> list[Any]:
        if len(objects) == 1 + len(words) + 1:
            who, said = words.pop(0)
            knocking[who].send_bytes(said.encode())
        return asleep(objects)

    monkeypatch.setattr(distributed, "broadcast", tell)
    monkeypatch.setattr(distributed, "wait", wait)
    peers = heart._accept()
    assert sorted(peers.values()) == [1, 2]
    for connection in [*peers, *knocking]:
        connection.close()


@pytest.mark.parametrize("asked", [None, 2])
def test_a_rank_that_fails_says_so_before_it_ends(monkeypatch: pytest.MonkeyPatch, asked: int | None) -> None:
    """Even if its thread has no turn any more."""
    heart: Any = object.__new__(Heartbeat)
    ours, theirs = multiprocessing.Pipe()
    heart.state, heart.interval, heart.peers = "here", 0.0, {ours: 0}
    heart.thread = SimpleNamespace(join=lambda seconds: None)
    monkeypatch.setattr(interrupts, "asked", asked)
    heart._fail()
    ours.close()
    said = []
    while (word := distributed._receive(theirs)) != "gone":
        said.append(word)
    theirs.close()
    assert said == ([] if asked is None else ["signal 2"]) + ["failed"]
