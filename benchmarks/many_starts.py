"""Time that a run adds to the engine, and how its time and memory grow with the number of starts, and with the cores.

The line through the times minimises the squares of the relative errors.
"""

import heapq
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.runs import Run, noise_options, options
from benchmarks.timing import Part, Row, device_peak, in_new_process, in_turns, peak_bytes, seconds, spread
from hillstart.engine.ensemble import StartEnsemble
from hillstart.engine.tiling import workers

SIZES = [784, 30, 10]
WARM = 64
"""Starts that are trained before anything is timed."""

QUICK = {
    "starts": 200,
    "epochs": 1,
    "repeats": 2,
    "growing": (16, 64, 256),
    "remembered": (256, 1024),
    "cores": (1, 2, 16),
}


def measure(
    device: torch.device,
    starts: int = 1000,
    epochs: int = 3,
    repeats: int = 3,
    growing: Sequence[int] = (16, 64, 256, 1024, 4096),
    remembered: Sequence[int] = (256, 4096),
    cores: Sequence[int] = (1, 2, 4, 8, 16),
) -> Iterator[Part]:
    """A run and the engine in it; time against starts; memory against starts; time against cores.

    Args:
        starts, epochs: of the run whose engine is timed.
        growing: numbers of starts, for time against starts.
        remembered: numbers of starts, for memory against starts.
        cores: numbers of cores, for time against cores, with `starts` starts; on CUDA they do not matter.
    """
    yield engine_share(device, starts, epochs, repeats)
    yield growth(device, growing, repeats)
    yield memory(device, remembered)
    if device.type == "cpu":
        yield many_cores(starts, cores, repeats)


def engine_share(device: torch.device, starts: int, epochs: int, repeats: int, *chosen: str) -> Part:
    """The parts of a run on the pictures of conf."""
    run = Run(options(device, f"starts={starts}", f"trainer.max_epochs={epochs}", *chosen), device)
    run.seconds(replace(run.spec, starts=run.spec.starts[:WARM]))
    return Part(f"{starts} starts, epochs: {epochs}", parts(run, device, repeats), {"repeats": repeats})


def parts(run: Run, device: torch.device, repeats: int) -> list[Row]:
    """Seconds of a run, of the engine in it, and of the difference repeat by repeat."""
    timed: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        with engine_seconds(device) as engine:
            whole = run.seconds()
        timed["experiment.run"].append(whole)
        for name, taken in engine.items():
            timed[f"to {name}"].append(taken)
        timed["what a run adds"].append(whole - sum(engine.values()))
    return [{"what": name} | spread(values, "seconds") for name, values in timed.items()]


@contextmanager
def engine_seconds(device: torch.device) -> Iterator[dict[str, float]]:
    """The seconds in which a pack descends and in which it is evaluated, its mini-batches included."""
    taken = {"descend": 0.0, "evaluate": 0.0}

    def timed(name: str) -> Callable[..., Any]:
        method = getattr(StartEnsemble, name)

        def call(*arguments: Any) -> Any:
            results: list[Any] = []
            taken[name] += seconds(lambda: results.append(method(*arguments)), device)
            return results[0]

        return call

    with mock.patch.multiple(StartEnsemble, descend=timed("descend"), evaluate=timed("evaluate")):
        yield taken


def growth(device: torch.device, growing: Sequence[int], repeats: int, pictures: int = 2000, epochs: int = 5) -> Part:
    """Seconds of a run for each number of starts, and how far they are from a straight line."""
    chosen = ("descent.batch_size=128", f"trainer.max_epochs={epochs}", f"starts={max(growing)}")
    run = Run(noise_options(device, SIZES, pictures, max(2, pictures // 10), *chosen), device)
    specs = {S: replace(run.spec, starts=run.spec.starts[:S]) for S in growing}
    run.seconds(specs[min(growing)])
    timed = in_turns({str(S): partial(run.seconds, specs[S]) for S in growing}, repeats)
    rows: list[Row] = [{"starts": S} | spread(timed[str(S)], "seconds") for S in growing]
    a, b, errors = straight_line(growing, [row["seconds"] for row in rows])
    for row, error in zip(rows, errors, strict=True):
        row |= {"ms_per_start": 1000 * row["seconds"] / row["starts"], "line_off_by": error}
    figures = {
        "pictures": pictures,
        "epochs": epochs,
        "repeats": repeats,
        "line_seconds": a,
        "line_seconds_per_start": b,
        "largest_deviation": max(map(abs, errors)),
    }
    return Part("time against starts", rows, figures)


def straight_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, list[float]]:
    """a and b of y = a + b x with the least sum of squared relative errors, and each relative error (a + b x - y) / y.

    Relative, as a second more matters for 16 starts and not for 4,096.
    """
    b, a = np.polyfit(x, y, 1, w=1 / np.array(y))
    return float(a), float(b), [float((a + b * of_x - of_y) / of_y) for of_x, of_y in zip(x, y, strict=True)]


def memory(device: torch.device, remembered: Sequence[int], pictures: int = 1000) -> Part:
    """Peak memory of processes that train so many starts, and on CUDA of the device; `ratio`: last to first."""
    peaks = [in_new_process(peaks_of_run, starts, pictures, device) for starts in remembered]
    rows = [{"starts": starts} | peak for starts, peak in zip(remembered, peaks, strict=True)]
    ratio = peaks[-1]["peak_mib"] / peaks[0]["peak_mib"]
    return Part("memory against starts", rows, {"pictures": pictures, "ratio": ratio})


def peaks_of_run(starts: int, pictures: int, device: torch.device) -> Row:
    """Peak memory of this process, and of its CUDA device, after training `starts` starts for one epoch."""
    chosen = (f"starts={starts}", "trainer.max_epochs=1", "descent.batch_size=32")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with device_peak(device) as of_device:
        Run(noise_options(device, SIZES, pictures, max(2, pictures // 10), *chosen), device).seconds()
    return {"peak_mib": peak_bytes() / 2**20} | of_device


def many_cores(starts: int, cores: Sequence[int], repeats: int, pictures: int = 4000) -> Part:
    """Seconds of a run on so many cores: simulated, and measured where this machine has them.

    Simulated: the pack is cut for the cores, its tasks are timed one by one on a single core, and each of its steps
    takes as long as cores that take its tasks in turn; whatever is not a task stays serial. Cores that share their
    memory's bandwidth are slower than that.
    """
    chosen = ("descent.batch_size=32", "trainer.max_epochs=2", f"starts={starts}")
    device = torch.device("cpu")
    run = Run(noise_options(device, SIZES, pictures, max(2, pictures // 10), *chosen), device)
    run.seconds(replace(run.spec, starts=run.spec.starts[:WARM]))

    def simulated(count: int) -> float:
        with mock.patch.object(torch, "get_num_threads", lambda: count), one_by_one(count) as saved:
            return run.seconds() - sum(saved)

    def measured(count: int) -> float:
        with mock.patch.object(torch, "get_num_threads", lambda: count):
            return run.seconds()

    here = [count for count in cores if count <= len(os.sched_getaffinity(0))]
    contestants = {f"{count}, simulated": partial(simulated, count) for count in cores}
    timed = in_turns(contestants | {f"{count}, measured": partial(measured, count) for count in here}, repeats)
    rows: list[Row] = [{"cores": name} | spread(taken, "seconds") for name, taken in timed.items()]
    for row in rows:
        row["speedup"] = rows[0]["seconds"] / row["seconds"]
    return Part(f"{starts} starts on more cores", rows, {"pictures": pictures, "epochs": 2, "repeats": repeats})


@contextmanager
def one_by_one(cores: int) -> Iterator[list[float]]:
    """Packs compute their tasks one after the other; yields the seconds that so many cores would save in each step."""
    saved: list[float] = []

    def in_turn(pack: StartEnsemble, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        found: list[Any] = []
        step = lambda item: found.append(work(item))  # noqa: E731
        taken = [workers(1).submit(seconds, partial(step, item)).result() for item in items]
        busy = [0.0] * cores
        for task in taken:
            heapq.heappush(busy, heapq.heappop(busy) + task)
        saved.append(sum(taken) - max(busy))
        return found

    with mock.patch.object(StartEnsemble, "_map", in_turn):
        yield saved
