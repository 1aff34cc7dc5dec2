"""Several processes of one run: each trains a share of every pack by itself; the first gathers the results of a pack.

The processes exchange nothing while they train, so a fit knows nothing of the others. torchrun's elastic agent starts
and supervises them: `trainer.devices=N` runs it in this process, for several hosts the user starts it on each. SLURM's
srun works too. When a process is lost, the packs that are done are in the run's folder, and `resume=` does the others.
"""

import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from torch.distributed.rendezvous import rendezvous

from hillstart.system import interrupts
from hillstart.system.errors import InputError

ADVICE = "the packs that are done are kept, and the same command with resume=RUN, the run's folder, goes on from there."
PATIENCE = timedelta(days=7)
"""Timeout of a gathering: one process may have far more to do than another."""
BEAT, LIMIT = 2.0, 20.0
"""Seconds between two signs of life of a process, and without one until it counts as lost."""
_ended = threading.Event()
"""Set when this process no longer needs the others."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, and the number of this one among all, and on its host."""

    size: int = 1
    rank: int = 0
    local: int = 0

    @property
    def is_first(self) -> bool:
        """True for the one that writes the run's folder."""
        return self.rank == 0

    def end(self) -> None:
        """Tell this process that it no longer needs the others."""
        _ended.set()

    def share(self, n: int) -> slice:
        """The slice of n starts that this process trains; maybe none."""
        # The last ranks get the larger shares, because the first one writes the files.
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every rank, on the first; nothing on the others. All must call it, and there must be several.

        Raises:
            InputError: another process is lost.
        """
        values: list[Any] | None = [None] * self.size if self.is_first else None
        with _reaching_all():
            dist.gather_object(value, values, dst=0)
        return values or []

    def from_first(self, value: Any) -> Any:
        """The `value` of the first rank, on every rank. All must call it; raises as `gather`."""
        values = [value]
        if self.size > 1:
            with _reaching_all():
                dist.broadcast_object_list(values, src=0)
        return values[0]


@contextmanager
def _reaching_all() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        interrupts.check_interrupt()  # the other one ended by the same signal
        raise InputError(f"trainer.devices: another process of this training was lost ({error}); {ADVICE}") from error


def _environment() -> ClusterEnvironment | None:
    """The launcher that numbered this process, torchrun or srun; None if neither started it."""
    kinds: tuple[type[Any], ...] = (TorchElasticEnvironment, SLURMEnvironment)
    return next((kind() for kind in kinds if kind.detect()), None)


def on_first_rank() -> bool:
    """True if this process is the first of the run, or alone."""
    environment = _environment()
    return environment is None or environment.global_rank() == 0


def connect(devices: int, nodes: int) -> Ranks:
    """Join the processes of the run, `devices` on each of `nodes` hosts.

    Raises:
        InputError: others were started, or they do not reach each other.
    """
    environment = _environment()
    if environment is None or environment.world_size() == devices * nodes == 1:
        return Ranks()
    ranks = Ranks(environment.world_size(), environment.global_rank(), environment.local_rank())
    if ranks.size != devices * nodes or ranks.local >= devices:
        raise InputError(
            f"trainer.devices={devices} trainer.num_nodes={nodes}: started as rank {ranks.rank} of {ranks.size}, "
            f"number {ranks.local} on its host; give the launcher and the trainer the same numbers."
        )
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // devices))
    if dist.is_initialized():
        return ranks
    if not isinstance(environment, TorchElasticEnvironment):
        address = {"MASTER_ADDR": environment.main_address, "MASTER_PORT": environment.main_port}
        numbers = address | {"RANK": ranks.rank, "WORLD_SIZE": ranks.size}
        os.environ.update({name: str(value) for name, value in numbers.items()})
    try:
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        store.set(str(rank), "")  # `_beat` of the others finds a value, even if this process is slow to begin its own
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except RuntimeError as error:
        raise InputError(
            f"trainer.num_nodes={nodes}: rank {ranks.rank} of {ranks.size} does not reach the others; "
            f"GLOO_SOCKET_IFNAME=eth0, say, names the network between the hosts ({error})."
        ) from error
    store.set_timeout(timedelta(seconds=LIMIT))
    threading.Thread(target=_beat, args=(store, ranks), daemon=True).start()
    return ranks


def _beat(store: dist.Store, ranks: Ranks) -> None:
    """Show that this process runs, and end it with a sentence when another is lost.

    The first process watches all others; each of the others watches the first.
    Silence is counted in beats of this process, so that a run that is suspended as a whole may be continued.
    """
    seen = dict.fromkeys(range(1, ranks.size) if ranks.is_first else (0,), (b"", 0))
    for beat in itertools.count():
        try:
            store.set(str(ranks.rank), str(beat))
            for rank, (last, _) in seen.items():
                if (now := store.get(str(rank))) != last:
                    seen[rank] = (now, beat)
            lost = next((rank for rank, (_, at) in seen.items() if (beat - at) * BEAT > LIMIT), None)
        except RuntimeError:
            lost = 0  # which has the store, or the agent that has it
        if _ended.wait(BEAT):
            return
        if lost is not None:
            os.write(2, f"\nhillstart: rank {lost} of {ranks.size} was lost (no sign of it); {ADVICE}\n".encode())
            os._exit(os.EX_TEMPFAIL)


def launch(devices: int, nodes: int) -> None:
    """Run this command in `devices` processes, if the run needs several and nobody started them; then end.

    Raises:
        InputError: the run needs several hosts, or a process was lost.
        SystemExit: the processes have ended.
    """
    if devices * nodes == 1 or _environment() is not None:
        return
    if nodes > 1:
        raise InputError(
            f"trainer.num_nodes={nodes}: start it by torchrun or srun on every host, as docs/scale.md shows."
        )
    # Imported here: most runs have one process, and begin sooner without.
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // devices)))
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):  # this module says what they warn of
            logging.getLogger(name).setLevel(logging.CRITICAL)
    interrupts.hand_over()
    agent = LaunchConfig(
        1, 1, devices, run_id=interrupts.OWN_LAUNCH, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0
    )
    try:
        elastic_launch(agent, sys.orig_argv[0])(*sys.orig_argv[1:])
    except SignalException as asked:
        sys.exit(128 + asked.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:  # it has said why
            sys.exit(failure.exitcode)
        how = signal.Signals(-failure.exitcode).name
        raise InputError(f"rank {rank} of {devices} was lost (ended by {how}); {ADVICE}") from None
    sys.exit(0)
