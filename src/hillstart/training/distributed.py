"""The starts shared out over ranks: the shares, what travels between them, and how all end where one is lost."""

import atexit
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from hillstart.system import interrupts
from hillstart.system.errors import InputError
from hillstart.training import distributed

INTERVAL = 0.5  # seconds from one sign of life to the next
LIMIT = 20.0  # seconds without one until rank 0 gives up another rank; the others wait for rank 0 twice as long
GRACE = 2.0  # seconds to end with an error of its own, for a rank that hears that another one did
ERROR = "it ended with an error"

children: list["subprocess.Popen[bytes]"] = []
"""The ranks that this process has launched."""
heart: "Heartbeat | None" = None
"""That of this process, whatever the number of its trainers; None while it is alone."""
_ending = threading.Lock()


class Heartbeat:
    """Signs of life between rank 0 and each other rank; when one is lost, all end with a sentence that names it.

    Silence is counted in this process's own beats, so that a job which is stopped as a whole may go on later.

    Args:
        group: of all the ranks, for gloo.
        per_host: ranks on each host.
        address: of the first rank's host.
        interval, limit: seconds from one sign to the next, and without one until a rank counts as lost.
        advice: how the sentence about a lost rank ends.
    """

    def __init__(self, group: Any, per_host: int, address: str, interval: float, limit: float, advice: str):
        self.group, self.per_host, self.advice = group, per_host, advice
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.interval, self.limit = interval, 2 * limit if self.rank else limit
        self.state, self.lost = "here", threading.Event()
        self.hosts: list[Any] = [None] * self.size
        dist.all_gather_object(self.hosts, socket.gethostname(), group=group)
        self.peers = self._meet_first(address) if self.rank else self._meet_all()
        self.thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.thread.start()
        atexit.register(self._fail)

    def leave(self) -> None:
        """Wait until every rank wants to leave."""
        self.state = "done"
        self.thread.join()

    def _fail(self) -> None:
        if self.state != "done":
            self.state = "failed"
            self._tell_state()  # now: a busy machine may give the thread no turn before this process has ended
            self.thread.join(2 * self.interval)
            # After a signal they have nothing to write, and one that waits in a collective hears of it too late.
            see_children_off(self.interval if interrupts.asked else 2 * GRACE)

    def _from_first(self, value: Any) -> Any:
        values = [value]
        with word_of_the_lost():
            dist.broadcast_object_list(values, src=0, group=self.group, device=torch.device("cpu"))
        return values[0]

    def _meet_all(self) -> dict[Connection, int]:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(("", 0), family=family, dualstack_ipv6=dual, backlog=self.size) as server:
            _, token = self._from_first((server.getsockname()[1], secrets.token_hex()))
            peers: dict[Connection, int] = {}
            unknown: list[Any] = [server]
            while len(peers) < self.size - 1:
                for ready in wait(unknown):
                    if not isinstance(ready, Connection):
                        unknown.append(Connection(server.accept()[0].detach()))
                        continue
                    unknown.remove(ready)
                    assert isinstance(ready, Connection)
                    # Whoever does not know the token is a stranger that knocks at every port.
                    name, _, rank = _hear(ready).partition(" ")
                    if secrets.compare_digest(name.encode(), token.encode()):
                        peers[ready] = int(rank)
        return peers

    def _meet_first(self, address: str) -> dict[Connection, int]:
        port, token = self._from_first(None)
        connection = Connection(socket.create_connection((address, port)).detach())
        connection.send_bytes(f"{token} {self.rank}".encode())
        return {connection: 0}

    def _beat(self) -> None:
        silence, states, due = dict.fromkeys(self.peers, 0), dict.fromkeys(self.peers, "here"), time.monotonic()
        while True:
            if time.monotonic() >= due:
                due = time.monotonic() + self.interval
                if self._tell_state() == "failed":
                    return
                for peer, rank in self.peers.items():
                    silence[peer] += 1
                    if silence[peer] * self.interval > self.limit:
                        self._lose(rank, f"no sign of it for {self.limit:g} s")
            heard = wait(self.peers, max(0.0, due - time.monotonic()))
            for peer, rank in self.peers.items():
                if peer in heard:
                    silence[peer], states[peer] = 0, _hear(peer)
                    match states[peer].split(" ", 2):
                        case ["signal", number]:
                            if interrupts.asked is None:
                                interrupts.pass_on(int(number))
                        case ["gone" | "failed"] if interrupts.asked is not None:
                            return  # it has heeded the signal before this one did
                        case ["gone"]:
                            self._lose(rank, "its process ended")
                        case ["failed"]:
                            self._lose(rank, ERROR)
                        case ["lost", which, why]:
                            self._lose(int(which), why)
            # Rank 0 closes, having heard from all; what it says last is all that the others wait for.
            if self.rank == 0 and self.state == "done" and set(states.values()) == {"done"}:
                self._tell("end")
                return
            if "end" in states.values():
                return

    def _tell_state(self) -> str:
        state = self.state
        if interrupts.asked is not None:
            self._tell(f"signal {interrupts.asked}")
        self._tell(state)
        return state

    def _tell(self, message: str) -> None:
        for peer in self.peers:
            with suppress(OSError):  # who went is noticed where it is listened to, after its last words
                peer.send_bytes(message.encode())

    def _lose(self, lost: int, why: str) -> None:
        self.lost.set()
        if self.rank == 0:
            self._tell(f"lost {lost} {why}")
        if why == ERROR:
            time.sleep(GRACE)
        if self.state == "failed":
            return
        here = self.rank // self.per_host * self.per_host
        speaks = self.rank == min(rank for rank in range(here, here + self.per_host) if rank != lost)
        which = f"rank {lost} of {self.size}, on {self.hosts[lost]},"
        end(f"hillstart: {which} was lost ({why}); {self.advice}" if speaks else "")


def _hear(peer: Connection) -> str:
    try:
        return peer.recv_bytes(256).decode(errors="replace")
    except (EOFError, OSError):
        return "gone"


def end(sentence: str) -> None:
    """End this process, whatever its main thread is at, and the processes it launched."""
    _ending.acquire()
    if sentence:
        below_a_bar = "\n\x1b[?25h" if sys.stderr.isatty() else ""  # which had hidden the cursor
        os.write(2, f"{below_a_bar}{sentence}\n".encode())
    see_children_off(GRACE)
    os._exit(os.EX_TEMPFAIL)


def see_children_off(patience: float) -> None:
    """Wait so many seconds for each process that this one launched, and kill what stays."""
    for child in children:
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def end_children() -> None:
    """Kill the processes that this one launched."""
    for child in children:
        child.kill()


@contextmanager
def word_of_the_lost() -> Iterator[None]:
    """A collective fails when a rank is lost, but cannot tell which: that sentence is left to the heartbeat."""
    try:
        yield
    except RuntimeError:
        interrupts.check_interrupt()
        if heart and heart.lost.wait(heart.limit):
            heart.thread.join()
        interrupts.check_interrupt()  # another rank heard of it first, and went
        raise


PATIENCE = timedelta(days=7)  # in a collective: a rank may have far more to do, and the lost are noticed otherwise

_group: Any = None  # a gloo group of our own, beside whatever backend Lightning chose; one for all trainers


@dataclass(frozen=True)
class Ranks:
    """Who shares the work; the collectives must be called on every rank, in the same order."""

    size: int = 1
    rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, n: int, unit: int = 1, rank: int | None = None) -> slice:
        """Which of n starts are this (or another) rank's: whole units of starts, as even as can be, maybe none."""
        rank, units = self.rank if rank is None else rank, -(-n // unit)
        # The larger shares fall to the last ranks, for the first one writes the files.
        return slice(*(min(n, units * r // self.size * unit) for r in (rank, rank + 1)))

    def gather(self, t: Tensor) -> Tensor:
        """The ranks' (n_rank, ...) joined to (n, ...) in the order of ranks, bit for bit, on every rank."""
        if self.size == 1:
            return t
        out, parts = self._room(t)
        with word_of_the_lost():
            for rank, part in enumerate(parts):
                dist.broadcast(part, src=rank, group=_group)
        return out.to(t.device)

    def gather_first(self, t: Tensor) -> Tensor | None:
        """What `gather` returns, on rank 0; None, and no memory taken, on the others."""
        if self.size == 1:
            return t
        if not self.is_first:
            self._lengths(t)
            with word_of_the_lost():
                dist.send(_bytes(t.cpu().contiguous()), dst=0, group=_group)
            return None
        out, parts = self._room(t)
        with word_of_the_lost():
            for rank in range(1, self.size):
                dist.recv(parts[rank], src=rank, group=_group)
        return out.to(t.device)

    def from_first(self, value: Any) -> Any:
        """Rank 0's `value`, small and plain, on every rank."""
        values = [value]
        if self.size > 1:
            with word_of_the_lost():
                dist.broadcast_object_list(values, src=0, group=_group, device=torch.device("cpu"))
        return values[0]

    def _lengths(self, t: Tensor) -> list[int]:
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with word_of_the_lost():
            dist.all_gather(lengths, torch.tensor([len(t)]), group=_group)
        return [int(length) for length in lengths]

    def _room(self, t: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Room for all shares, this rank's filled in, and each share of it as bytes."""
        lengths = self._lengths(t)
        out = torch.empty(sum(lengths), *t.shape[1:], dtype=t.dtype)
        shares = out.split(lengths)
        shares[self.rank].copy_(t)
        return out, [_bytes(share) for share in shares]


def _bytes(t: Tensor) -> Tensor:
    return t.view(-1).view(torch.uint8)


def ranks_of(trainer: pl.Trainer) -> Ranks:
    """The ranks of a trainer; where Lightning is to launch the others, it does so now, once for all trainers."""
    strategy = trainer.strategy
    if not isinstance(strategy, AcrossRanks) or strategy.world_size == 1:
        return Ranks()
    if _group is None:
        assert strategy.launcher is not None
        strategy.launcher.launch(strategy.setup_environment, trainer=trainer)
    return Ranks(strategy.world_size, strategy.global_rank)


def on_first_rank() -> bool:
    """Whether this process is the first of its ranks, or alone, before or after any fit."""
    return not getattr(rank_zero_only, "rank", 0)  # set by Lightning from the environment


def leave() -> None:
    """The good end of the program, on every rank: waits for all of them; who goes without it is reported lost."""
    global _group
    if distributed.heart:
        distributed.heart.leave()
    if _group:
        dist.destroy_process_group()
        _group = None
    distributed.see_children_off(LIMIT)


class AcrossRanks(DDPStrategy):
    """Lightning's launchers, environments and collectives without DDP: no gradients travel, so nothing is wrapped.

    Args:
        advice: how the sentence about a lost rank ends.
        interval: seconds from one sign of life to the next.
        limit: seconds without one until a rank counts as lost.

    Raises:
        InputError: from the trainer, when the launcher started other ranks than it asks for; at the first fit or
            `ranks_of`, when the ranks do not reach each other.
    """

    def __init__(self, advice: str, interval: float = INTERVAL, limit: float = LIMIT, **options: Any):
        super().__init__(**options)
        self._pulse = interval, limit, advice

    def _configure_launcher(self) -> None:
        environment, devices, nodes = self.cluster_environment, self.num_processes, self.num_nodes
        assert environment is not None
        asked = f"trainer.devices={devices} trainer.num_nodes={nodes}"
        started, local = environment.world_size(), environment.local_rank()
        if started != devices * nodes or local >= devices:
            which = f"rank {environment.global_rank()} of {started}, number {local} on host {environment.node_rank()}"
            raise InputError(f"{asked}: started as {which}; give the launcher and the trainer the same numbers.")
        try:
            environment.validate_settings(devices, nodes)
        except ValueError as error:
            raise InputError(f"{asked}: {error}") from error
        self._launcher = Launcher(environment, devices, nodes)

    def setup_distributed(self) -> None:
        global _group
        try:
            super().setup_distributed()
            if _group is not None or self.world_size == 1:
                return
            _group = dist.new_group(timeout=PATIENCE, backend="gloo")
        except RuntimeError as error:
            raise InputError(
                f"trainer.num_nodes={self.num_nodes}: rank {self.global_rank} of {self.world_size} does not reach the "
                f"others; GLOO_SOCKET_IFNAME=eth0, say, names the network between the hosts ({error})."
            ) from error
        assert self.cluster_environment is not None
        address = self.cluster_environment.main_address
        distributed.heart = Heartbeat(_group, self.num_processes, address, *self._pulse)

    def configure_ddp(self) -> None:
        """Leave the module as it is."""

    def on_exception(self, exception: BaseException) -> None:
        if distributed.heart and isinstance(exception, KeyboardInterrupt):
            distributed.heart.state = "failed"  # Lightning kills the children now: not a loss to report
        # A launcher that lost a rank sends SIGTERM to the others.
        if distributed.heart and isinstance(exception, RuntimeError) and distributed.heart.lost.is_set():
            distributed.heart.thread.join()

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        with word_of_the_lost():
            super().barrier(*args, **kwargs)

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        with word_of_the_lost():
            return super().broadcast(obj, src)

    def reduce(self, *args: Any, **kwargs: Any) -> Any:
        with word_of_the_lost():
            return super().reduce(*args, **kwargs)

    def all_gather(self, *args: Any, **kwargs: Any) -> Any:
        with word_of_the_lost():
            return super().all_gather(*args, **kwargs)


class Launcher(_SubprocessScriptLauncher):
    """Lightning's, without its observer, which at the loss of a child kills this process without a word."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            distributed.children[:] = self.procs
            interrupts.when_ended_at_once(distributed.end_children)
            threading.Thread(target=self._watch_until_joined, daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def _watch_until_joined(self) -> None:
        first, size = self.cluster_environment.node_rank() * self.num_processes, self.num_nodes * self.num_processes
        while distributed.heart is None:
            for rank, child in enumerate(distributed.children, first + 1):
                if child.poll() is not None and interrupts.asked is None:
                    distributed.end(f"hillstart: rank {rank} of {size} ended before it was ready.")
            time.sleep(INTERVAL)
