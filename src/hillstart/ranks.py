"""The starts shared out over ranks: the shares, what travels between them, a Lightning strategy that wraps nothing."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from hillstart import heartbeat, signals
from hillstart.errors import InputError
from hillstart.heartbeat import INTERVAL, LIMIT, Heartbeat, word_of_the_lost

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
    if heartbeat.heart:
        heartbeat.heart.leave()
    if _group:
        dist.destroy_process_group()
        _group = None
    heartbeat.see_children_off(LIMIT)


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
        heartbeat.heart = Heartbeat(_group, self.num_processes, address, *self._pulse)

    def configure_ddp(self) -> None:
        """Leave the module as it is."""

    def on_exception(self, exception: BaseException) -> None:
        if heartbeat.heart and isinstance(exception, KeyboardInterrupt):
            heartbeat.heart.state = "failed"  # Lightning kills the children now: not a loss to report
        # A launcher that lost a rank sends SIGTERM to the others.
        if heartbeat.heart and isinstance(exception, RuntimeError) and heartbeat.heart.lost.is_set():
            heartbeat.heart.thread.join()

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
            heartbeat.children[:] = self.procs
            signals.when_ended_at_once(heartbeat.end_children)
            threading.Thread(target=self._watch_until_joined, daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def _watch_until_joined(self) -> None:
        first, size = self.cluster_environment.node_rank() * self.num_processes, self.num_nodes * self.num_processes
        while heartbeat.heart is None:
            for rank, child in enumerate(heartbeat.children, first + 1):
                if child.poll() is not None and signals.asked is None:
                    heartbeat.end(f"hillstart: rank {rank} of {size} ended before it was ready.")
            time.sleep(INTERVAL)
