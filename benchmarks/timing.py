"""Timing of contestants in turns, with the median and the lowest and highest repeat of each."""

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Spread:
    """The spread of repeats of one measurement."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def shown(self, digits: int = 1) -> list[str]:
        """Three cells of a table."""
        return [f"{value:.{digits}f}" for value in (self.median, self.low, self.high)]


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of `run`, including its pending work on a CUDA device."""
    began = time.perf_counter()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    del result
    return time.perf_counter() - began


def in_turns(contestants: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measure all contestants once in each repeat, so that a busy moment of the machine affects all of them."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, measure in contestants.items():
            found[name].append(measure())
    return found


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Suppress the output of a training; errors are raised as usual."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
