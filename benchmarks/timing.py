"""How things are timed: contestants in turns, and of each the median with its lowest and highest repeat."""

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Spread:
    """What repeats of the same measurement gave."""

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
    """How long `run` takes, with what it has left to a CUDA device to do."""
    began = time.perf_counter()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    del result
    return time.perf_counter() - began


def in_turns(contestants: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each contestant measures of itself, repeat by repeat, so that a busy moment of the machine hits all."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, measure in contestants.items():
            found[name].append(measure())
    return found


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Of a training, no table and no progress bar; of an error, everything."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
