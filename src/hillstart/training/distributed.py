"""Training on several ranks: each trains a share of the starts, and all of them end when one is lost.

The ranks exchange results, never gradients: a rank needs the others only at the end of an epoch. So that a lost rank is
noticed at any time, and named, each rank other than 0 exchanges signs of life with rank 0 (`Heartbeat`).
"""

import atexit
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from hillstart.system import interrupts
from hillstart.system.errors import InputError
from hillstart.system.private import subprocess_launcher

INTERVAL = 0.5  # seconds between two signs of life
LIMIT = 20.0  # seconds without one after which rank 0 gives up a rank; the others wait for rank 0 twice as long
GRACE = 2.0  # seconds for a rank to end with an error of its own when it hears that another rank did
PATIENCE = timedelta(days=7)  # timeout of a collective: a rank may have far more to do, and lost ranks are noticed
ERROR = "it ended with an error"

children: list["subprocess.Popen[bytes]"] = []
"""The ranks that this process has launched."""
heart: "Heartbeat | None" = None
"""The heartbeat of this process, one for all its trainers; None while the process is alone."""
_group: Any = None  # a gloo group of our own, one for all trainers, beside the backend that Lightning chose
_ending = threading.Lock()


# ---------------------------------------------------------------- the strategy for Lightning


class AcrossRanks(DDPStrategy):
    """Lightning's launchers, environments and collectives without DDP: no gradients travel, so nothing is wrapped.

    Args:
        advice: how the sentence about a lost rank ends.
        interval: seconds between two signs of life.
        limit: seconds without one until a rank counts as lost.

    Raises:
        InputError: from the trainer, when the launcher started other ranks than it asks for; at the first fit or
            `ranks_of`, when the ranks do not reach each other.
    """

    def __init__(self, advice: str, interval: float = INTERVAL, limit: float = LIMIT, **options: Any):
        super().__init__(**options)
        self._heartbeat = interval, limit, advice

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
        first = environment.node_rank() * devices
        self._launcher = subprocess_launcher(
            environment, devices, nodes, lambda launched: _watch(launched, first, devices * nodes)
        )

    def setup_distributed(self) -> None:
        global _group, heart
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
        heart = Heartbeat(_group, self.num_processes, self.cluster_environment.main_address, *self._heartbeat)

    def configure_ddp(self) -> None:
        """Leave the module as it is."""

    def on_exception(self, exception: BaseException) -> None:
        if heart and isinstance(exception, KeyboardInterrupt):
            heart.state = "failed"  # Lightning kills the children now, which is no loss to report
        # A launcher that lost a rank sends SIGTERM to the others.
        if heart and isinstance(exception, RuntimeError) and heart.lost.is_set():
            heart.thread.join()

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        with losses_reported():
            super().barrier(*args, **kwargs)

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        with losses_reported():
            return super().broadcast(obj, src)

    def reduce(self, *args: Any, **kwargs: Any) -> Any:
        with losses_reported():
            return super().reduce(*args, **kwargs)

    def all_gather(self, *args: Any, **kwargs: Any) -> Any:
        with losses_reported():
            return super().all_gather(*args, **kwargs)


def ranks_of(trainer: pl.Trainer) -> "Ranks":
    """The ranks of a trainer; if Lightning is to launch the others, it does so now, once for all trainers."""
    strategy = trainer.strategy
    if not isinstance(strategy, AcrossRanks) or strategy.world_size == 1:
        return Ranks()
    if _group is None:
        assert strategy.launcher is not None
        strategy.launcher.launch(strategy.setup_environment, trainer=trainer)
    return Ranks(strategy.world_size, strategy.global_rank)


def on_first_rank() -> bool:
    """True if this process is rank 0 or alone, before or after any fit."""
    return not getattr(rank_zero_only, "rank", 0)  # set by Lightning from the environment


def leave() -> None:
    """End the work of all ranks. Every rank must call this, and waits for the others; a rank that does not is lost."""
    global _group
    if heart:
        heart.leave()
    if _group:
        dist.destroy_process_group()
        _group = None
    wait_for_children(LIMIT)


# ---------------------------------------------------------------- shares and what travels between ranks


@dataclass(frozen=True)
class Ranks:
    """The ranks that share the starts. Collectives must be called on every rank, in the same order."""

    size: int = 1
    rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, n: int, unit: int = 1, rank: int | None = None) -> slice:
        """The slice of n starts that belongs to this (or another) rank: whole units, evenly shared, maybe none."""
        rank, units = self.rank if rank is None else rank, -(-n // unit)
        # The last ranks get the larger shares, because the first one writes the files.
        return slice(*(min(n, units * r // self.size * unit) for r in (rank, rank + 1)))

    def gather(self, t: Tensor) -> Tensor:
        """The (n_rank, ...) of all ranks joined to (n, ...) in the order of ranks, bit for bit, on every rank."""
        if self.size == 1:
            return t
        joined, shares = self._allocate(t)
        with losses_reported():
            for rank, share in enumerate(shares):
                dist.broadcast(share, src=rank, group=_group)
        return joined.to(t.device)

    def gather_first(self, t: Tensor) -> Tensor | None:
        """The same as `gather` on rank 0; None on the other ranks, where it takes no memory."""
        if self.size == 1:
            return t
        if not self.is_first:
            self._lengths(t)
            with losses_reported():
                dist.send(_as_bytes(t.cpu().contiguous()), dst=0, group=_group)
            return None
        joined, shares = self._allocate(t)
        with losses_reported():
            for rank in range(1, self.size):
                dist.recv(shares[rank], src=rank, group=_group)
        return joined.to(t.device)

    def from_first(self, value: Any) -> Any:
        """The `value` of rank 0, small and plain, on every rank."""
        return value if self.size == 1 else broadcast(value, _group)

    def _lengths(self, t: Tensor) -> list[int]:
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with losses_reported():
            dist.all_gather(lengths, torch.tensor([len(t)]), group=_group)
        return [int(length) for length in lengths]

    def _allocate(self, t: Tensor) -> tuple[Tensor, list[Tensor]]:
        """A tensor for all shares, this rank's filled in, and each share of it as bytes."""
        lengths = self._lengths(t)
        joined = torch.empty(sum(lengths), *t.shape[1:], dtype=t.dtype)
        shares = joined.split(lengths)
        shares[self.rank].copy_(t)
        return joined, [_as_bytes(share) for share in shares]


def broadcast(value: Any, group: Any) -> Any:
    """The `value` of rank 0 on every rank of a gloo group."""
    values = [value]
    with losses_reported():
        dist.broadcast_object_list(values, src=0, group=group, device=torch.device("cpu"))
    return values[0]


def _as_bytes(t: Tensor) -> Tensor:
    return t.view(-1).view(torch.uint8)


@contextmanager
def losses_reported() -> Iterator[None]:
    """Let the heartbeat report a lost rank: a collective fails then too, but cannot tell which rank it is."""
    try:
        yield
    except RuntimeError:
        interrupts.check_interrupt()
        if heart and heart.lost.wait(heart.limit):
            heart.thread.join()
        interrupts.check_interrupt()  # another rank heard of the signal first, and ended
        raise


# ---------------------------------------------------------------- launched processes


def _watch(launched: list["subprocess.Popen[bytes]"], first: int, size: int) -> None:
    """Take over the ranks that were launched, `first` + 1 and on; until they are ready, end if one of them ends."""

    def until_ready() -> None:
        while heart is None:
            for rank, child in enumerate(children, first + 1):
                if child.poll() is not None and interrupts.asked is None:
                    end(f"hillstart: rank {rank} of {size} ended before it was ready.")
            time.sleep(INTERVAL)

    children[:] = launched
    interrupts.when_ended_at_once(kill_children)
    threading.Thread(target=until_ready, daemon=True).start()


def end(sentence: str) -> None:
    """End this process, whatever its main thread does, and the processes it launched."""
    _ending.acquire()
    if sentence:
        below_a_bar = "\n\x1b[?25h" if sys.stderr.isatty() else ""  # show the cursor, which a progress bar hides
        os.write(2, f"{below_a_bar}{sentence}\n".encode())
    wait_for_children(GRACE)
    os._exit(os.EX_TEMPFAIL)


def wait_for_children(seconds: float) -> None:
    """Wait so long for each process that this one launched, and kill those that have not ended."""
    for child in children:
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def kill_children() -> None:
    """Kill the processes that this one launched."""
    for child in children:
        child.kill()


# ---------------------------------------------------------------- signs of life


class Heartbeat:
    """Signs of life between rank 0 and each other rank; when one is lost, all end with a sentence that names it.

    Silence is counted in beats of this process, so that a job that is stopped as a whole may be continued later.

    Args:
        group: a gloo group of all ranks.
        per_host: ranks on each host.
        address: that of the host of rank 0.
        interval, limit: seconds between two signs, and without one until a rank counts as lost.
        advice: how the sentence about a lost rank ends.
    """

    def __init__(self, group: Any, per_host: int, address: str, interval: float, limit: float, advice: str):
        self.group, self.per_host, self.advice = group, per_host, advice
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.interval, self.limit = interval, 2 * limit if self.rank else limit
        self.state, self.lost = "here", threading.Event()
        self.hosts: list[Any] = [None] * self.size
        dist.all_gather_object(self.hosts, socket.gethostname(), group=group)
        self.peers = self._connect(address) if self.rank else self._accept()
        self.thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.thread.start()
        atexit.register(self._fail)

    def leave(self) -> None:
        """Wait until every rank wants to leave."""
        self.state = "done"
        self.thread.join()

    def _fail(self) -> None:
        """Tell the other ranks that this process ends without `leave`."""
        if self.state != "done":
            self.state = "failed"
            self._send_state()  # now: on a busy machine the thread may get no turn before this process has ended
            self.thread.join(2 * self.interval)
            # After a signal the children have nothing to write, and one in a collective hears of the signal too late.
            wait_for_children(self.interval if interrupts.asked else 2 * GRACE)

    def _accept(self) -> dict[Connection, int]:
        """Connections from the other ranks, with their numbers; called on rank 0."""
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(("", 0), family=family, dualstack_ipv6=dual, backlog=self.size) as server:
            _, token = broadcast((server.getsockname()[1], secrets.token_hex()), self.group)
            peers: dict[Connection, int] = {}
            unknown: list[Any] = [server]
            while len(peers) < self.size - 1:
                for ready in wait(unknown):
                    if not isinstance(ready, Connection):
                        unknown.append(Connection(server.accept()[0].detach()))
                        continue
                    unknown.remove(ready)
                    assert isinstance(ready, Connection)
                    # Any process may connect to the port; only the ranks know the token.
                    name, _, rank = _receive(ready).partition(" ")
                    if secrets.compare_digest(name.encode(), token.encode()):
                        peers[ready] = int(rank)
        return peers

    def _connect(self, address: str) -> dict[Connection, int]:
        """A connection to rank 0; called on the other ranks."""
        port, token = broadcast(None, self.group)
        connection = Connection(socket.create_connection((address, port)).detach())
        connection.send_bytes(f"{token} {self.rank}".encode())
        return {connection: 0}

    def _beat(self) -> None:
        silence, states, due = dict.fromkeys(self.peers, 0), dict.fromkeys(self.peers, "here"), time.monotonic()
        while True:
            if time.monotonic() >= due:
                due = time.monotonic() + self.interval
                if self._send_state() == "failed":
                    return
                for peer, rank in self.peers.items():
                    silence[peer] += 1
                    if silence[peer] * self.interval > self.limit:
                        self._lose(rank, f"no sign of it for {self.limit:g} s")
            ready = wait(self.peers, max(0.0, due - time.monotonic()))
            for peer, rank in self.peers.items():
                if peer in ready:
                    silence[peer], states[peer] = 0, _receive(peer)
                    match states[peer].split(" ", 2):
                        case ["signal", number]:
                            if interrupts.asked is None:
                                interrupts.pass_on(int(number))
                        case ["gone" | "failed"] if interrupts.asked is not None:
                            return  # it ended by the signal before this rank did
                        case ["gone"]:
                            self._lose(rank, "its process ended")
                        case ["failed"]:
                            self._lose(rank, ERROR)
                        case ["lost", which, why]:
                            self._lose(int(which), why)
            # Rank 0 is the last to leave: when all others are done, its "end" is what they wait for.
            if self.rank == 0 and self.state == "done" and set(states.values()) == {"done"}:
                self._send("end")
                return
            if "end" in states.values():
                return

    def _send_state(self) -> str:
        state = self.state
        if interrupts.asked is not None:
            self._send(f"signal {interrupts.asked}")
        self._send(state)
        return state

    def _send(self, message: str) -> None:
        for peer in self.peers:
            with suppress(OSError):  # a closed connection is noticed by `_receive`, after the last message
                peer.send_bytes(message.encode())

    def _lose(self, lost: int, why: str) -> None:
        """End because of a lost rank; on each host one rank prints the sentence."""
        self.lost.set()
        if self.rank == 0:
            self._send(f"lost {lost} {why}")
        if why == ERROR:
            time.sleep(GRACE)
        if self.state == "failed":
            return
        here = self.rank // self.per_host * self.per_host
        prints = self.rank == min(rank for rank in range(here, here + self.per_host) if rank != lost)
        which = f"rank {lost} of {self.size}, on {self.hosts[lost]},"
        end(f"hillstart: {which} was lost ({why}); {self.advice}" if prints else "")


def _receive(peer: Connection) -> str:
    """The next message, or "gone" if the connection is closed."""
    try:
        return peer.recv_bytes(256).decode(errors="replace")
    except (EOFError, OSError):
        return "gone"
