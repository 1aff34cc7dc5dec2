"""Commands as launchers start them: an environment of their own, torchrun, and the processes below one."""

import os
import sys
from pathlib import Path

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
BOUND = 60
"""Seconds within which a process must end that has lost another one."""


def alone() -> dict[str, str]:
    """This environment without what says that a launcher was at work."""
    ours = ("MASTER_", "SLURM_", "LOCAL_", "NODE_RANK", "RANK", "WORLD_SIZE", "GROUP_RANK")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def children(pid: int) -> list[int]:
    """The processes that one has started and that still run."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
