"""The machine: cores, memory, device, versions, commit, and choices that are measured once and cached for the user."""

import errno
import json
import os
import platform
import subprocess
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch

from hillstart.system.files import read_text, replacing

T = TypeVar("T")
R = TypeVar("R")

CHOICES = "machine.json"
"""The file of measured choices, in the user's cache."""


def parallel_map(function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Apply a function to each item, in a thread for each core.

    Results come in the order of the items; at most `ahead` tasks are started in advance. Tasks that have not begun when
    the caller stops asking, for instance because of Ctrl-C, are cancelled.
    """
    items, pool = iter(items), ThreadPoolExecutor(os.cpu_count())
    try:
        tasks = deque(pool.submit(function, item) for item in islice(items, ahead))
        while tasks:
            result = tasks.popleft().result()
            tasks.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def cached_choice(what: str, choices: Collection[str], measure: Callable[[], str]) -> str:
    """The choice stored for this processor and this version of torch; if there is none, measure and store it.

    An unreadable file is written anew. If the file cannot be written, each process measures again.
    """
    key = f"{processor()}; torch {torch.__version__}; {what}"
    stored = _stored_choices()
    if stored.get(key) not in choices:
        measured = measure()
        stored = _stored_choices()
        if stored.get(key) not in choices:  # otherwise another process was faster
            stored[key] = measured
            # There may be no home, or one that cannot be written to.
            with suppress(OSError, RuntimeError), replacing(made_cache() / CHOICES, sync=False) as new:
                new.write_text(json.dumps(stored, indent=2) + "\n")
    return stored[key]


def _stored_choices() -> dict[str, str]:
    with suppress(OSError, RuntimeError, ValueError):
        found = json.loads(read_text(own_cache() / CHOICES))
        return found if isinstance(found, dict) else {}
    return {}


def own_cache() -> Path:
    """The cache folder of the user: `hillstart` in $XDG_CACHE_HOME, or else in ~/.cache.

    Raises:
        RuntimeError: the user has no home.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))  # by its standard a relative path is ignored
    return (base if base.is_absolute() else Path.home() / ".cache") / "hillstart"


def made_cache(name: str = "") -> Path:
    """A folder in `own_cache`, or `own_cache` itself; it is made if missing.

    Raises:
        OSError: it cannot be made, or it is a link, which could lead elsewhere.
        RuntimeError: the user has no home.
    """
    for folder in (own_cache(), own_cache() / name):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink():
            raise OSError(errno.ELOOP, "is a link, and nothing is written through links", str(folder))
    return folder


@cache
def processor() -> str:
    """Name, family and model of the processor; several models can have the same name."""
    first: dict[str, str] = {}  # the entries of the first core
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = (part.strip() for part in line.partition(":"))
            first.setdefault(name, value)
    names = [first[name] for name in ("model name", "cpu family", "model") if first.get(name)]
    return " ".join(names) or platform.processor() or platform.machine()


def memory_bytes() -> int:
    """The memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def device_name(device: torch.device) -> str:
    """The name of a GPU; for a CPU its architecture and the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads > 1)} ({platform.machine()})"


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    packages = {name: version(name) for name in ("hillstart", "torch", "lightning", "hydra-core")}
    return packages | {"python": platform.python_version()}


@cache
def commit() -> str | None:
    """The commit of the checkout that holds this file, with a + if files were changed since; None outside one."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
