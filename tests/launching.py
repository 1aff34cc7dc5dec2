"""Commands in this process, and as launchers start them: an environment of their own, torchrun, what runs below one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from forking import ForkedPopen

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
BOUND = 1200
"""Seconds after which a test takes a process for hung, on however busy a machine."""
PATIENT = str(Path(__file__).parent / "patient/train.py")
"""scripts/train.py, without bounds that a busy machine breaks; see there."""


def alone() -> dict[str, str]:
    """This environment without what says that a launcher was at work."""
    ours = ("MASTER_", "SLURM_", "LOCAL_", "NODE_RANK", "RANK", "WORLD_SIZE", "GROUP_RANK")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def waiting_in(function: str, when: str = "True") -> dict[str, str]:
    """An environment in which PATIENT waits for a signal in MODULE:FUNCTION."""
    return alone() | {"WAIT_IN": function, "WAIT_WHEN": when}


def wait_for(process: "subprocess.Popen[str] | ForkedPopen", met: Callable[[], Any]) -> None:
    """Wait until a condition is met that a process brings about."""
    while not met():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    """The processes that one has started and that still run."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Ran(NamedTuple):
    """How a command in this process ended, and what it printed."""

    code: int
    out: str
    err: str


def ran(
    main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: Any
) -> Ran:
    """A command that ends with an exit code, called as its script would be."""
    monkeypatch.setattr(sys, "argv", [main.__module__, *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return Ran(int(end.value.code or 0), *capsys.readouterr())


def train_in(folder: Path, *options: str) -> None:
    """`scripts/train.py` with these options, in this process and in this folder, as a shell tells it."""
    from hillstart.cli.train import train

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PWD", str(folder))
        patch.setattr(sys, "argv", ["train.py", *options])
        train()


def refused(call: Callable[..., Any], *arguments: Any) -> str:
    """The one sentence that a command ends with; Python prints it, and exits with 1."""
    with pytest.raises(SystemExit) as end:
        call(*arguments)
    assert isinstance(end.value.code, str) and end.value.code.startswith("hillstart: ")
    assert "\n" not in end.value.code
    return end.value.code
