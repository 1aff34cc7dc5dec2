"""Seconds and memory of contestants, measured in turns; the median, the lowest and the highest of the repeats."""

import gc
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from hillstart.system.statistics import quantiles

T = TypeVar("T")
Row = dict[str, Any]


class Part(NamedTuple):
    """A part of a measurement: a table of rows, and figures about all of them."""

    title: str
    rows: list[Row]
    figures: Row


def spread(values: Sequence[float], name: str = "median") -> Row:
    """The median of some repeats, under this name, and the `low`est and `high`est."""
    found = quantiles(values)
    return {name: found["median"], "low": found["min"], "high": found["max"]}


def in_turns(contestants: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measure all contestants once in each repeat, so that a busy moment of the machine affects all of them."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, measure in contestants.items():
            found[name].append(measure())
    return found


def seconds(run: Callable[[], object], device: torch.device | None = None) -> float:
    """Seconds of `run`, including its pending work on a CUDA device."""
    began = time.perf_counter()
    result = run()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize()
    del result
    return time.perf_counter() - began


def in_new_process(function: Callable[..., T], *arguments: object) -> T:
    """Call a function of a module in a new process, which shares neither imports nor memory with this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def quiet() -> Iterator[None]:
    """Run a command without its output.

    Raises:
        RuntimeError: it exits with a code other than 0; with the end of its output.
    """
    with tempfile.TemporaryFile("w+") as printed:
        try:
            with redirect_stdout(printed), redirect_stderr(printed):
                yield
        except SystemExit as end:
            if end.code:
                printed.seek(0)
                raise RuntimeError(f"exit code {end.code}: {printed.read()[-2000:]}") from end


@contextmanager
def device_peak(device: torch.device) -> Iterator[Row]:
    """A row that gets `device_mib` at the end: how much torch's memory on a CUDA device rose; empty on the CPU."""
    found: Row = {}
    if device.type != "cuda":
        yield found
        return
    gc.collect()  # what others have left in cycles
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield found
    torch.cuda.synchronize()
    found["device_mib"] = (torch.cuda.max_memory_allocated() - before) / 2**20


def peak_bytes() -> int:
    """Peak memory of this process so far.

    On Linux a process inherits ru_maxrss from the one that started it, however small it is itself; VmHWM is its own.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)):
        return 1024 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
