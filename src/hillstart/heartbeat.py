"""Signs of life between ranks, and how all of them end with one sentence where one is lost."""

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
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

from hillstart import signals

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
            see_children_off(self.interval if signals.asked else 2 * GRACE)

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
                            if signals.asked is None:
                                signals.pass_on(int(number))
                        case ["gone" | "failed"] if signals.asked is not None:
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
        if signals.asked is not None:
            self._tell(f"signal {signals.asked}")
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
        signals.honour()
        if heart and heart.lost.wait(heart.limit):
            heart.thread.join()
        signals.honour()  # another rank heard of it first, and went
        raise
