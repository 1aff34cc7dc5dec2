"""Where numbers come from: the device, the versions, the commit."""

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch


def device_name(device: torch.device) -> str:
    """Of a GPU its name; of a CPU its kind, and the threads that are used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads > 1)} ({platform.machine()})"


@cache
def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    packages = {name: version(name) for name in ("hillstart", "torch", "lightning", "hydra-core")}
    return packages | {"python": platform.python_version()}


@cache
def commit() -> str | None:
    """The commit of the checkout this file lies in, with a + where files were changed since; None outside one."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
