"""Time that a run adds to the engine, and growth of its time and memory with the number of starts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import memory
from benchmarks.runs import Run, noise_options, options
from benchmarks.timing import Spread, in_turns, seconds
from hillstart.data.batches import MiniBatches, Sample
from hillstart.engine.ensemble import StartEnsemble
from hillstart.engine.starts import Start
from hillstart.training.optimizer import SCHEDULES
from hillstart.training.packs import RunSpec

CHUNK_PICTURES = 20_000
"""Pictures that the engine is given at once."""

SIZES = [784, 30, 10]
WARM = 64
"""Starts that are trained before anything is timed."""


@dataclass(frozen=True)
class Size:
    """The amount of training.

    Attributes:
        starts, epochs, repeats: of the run beside the engine.
        chosen: more of its options.
        growing, growing_pictures, growing_epochs, growing_repeats: of the time against the number of starts.
        remembered, remembered_pictures: of the memory, fewer starts and more.
    """

    starts: int = 1000
    epochs: int = 3
    repeats: int = 3
    chosen: tuple[str, ...] = ()
    growing: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    growing_pictures: int = 2000
    growing_epochs: int = 5
    growing_repeats: int = 3
    remembered: tuple[int, int] = (256, 4096)
    remembered_pictures: int = 1000


FULL = Size()
QUICK = Size(starts=200, epochs=1, repeats=2, growing=(16, 64, 256), growing_repeats=2, remembered=(256, 1024))


# ---------------------------------------------------------------- a run beside the engine


def engine_alone(population: RunSpec, epochs: int, device: torch.device) -> Tensor:
    """The same packs descend through the same mini-batches, and are measured on the same pictures after each epoch.

    Returns:
        Validation cost of each start after the last epoch.
    """
    data, descent, classes, ends = population.data, population.descent, len(population.data.classes), []
    n, batch = len(data.train.y), descent.batch_size
    batches = MiniBatches(data.train, classes, data.preprocessing, data.augment, batch, descent.seed, device)
    train = Sample(data.train, classes, data.preprocessing, device, limit=len(data.val.y))
    val = Sample(data.val, classes, data.preprocessing, device)
    factor, total, chunk = SCHEDULES[descent.schedule], epochs * batches.per_epoch, max(1, CHUNK_PICTURES // batch)
    first = 0
    for size in population.packs(device):
        pack = _pack(population, population.starts[first : first + size], n, device)
        first += size
        for step in range(0, total, batches.per_epoch):
            for at in range(0, batches.per_epoch, chunk):
                count = min(chunk, batches.per_epoch - at)
                schedule = [factor((step + at + k) / total) for k in range(count)]
                pack.descend(batches.chunk(step // batches.per_epoch, at, count), schedule)
            pack.evaluate(train.batches())
            cost, _ = pack.evaluate(val.batches())
        ends.append(cost)
    return torch.cat(ends)


def _pack(population: RunSpec, starts: Sequence[Start], n: int, device: torch.device) -> StartEnsemble:
    network, descent = population.begin([s.seed for s in starts]).to(device), population.descent
    points = [start.hyperparameters for start in starts]
    return StartEnsemble(network, points, n, descent.batch_size, descent.step(points), descent.optimiser, descent.fuse)


def beside_engine(size: Size, device: torch.device) -> dict[str, Any]:
    """Seconds of the run, of the engine, and of the difference repeat by repeat."""
    chosen = (f"starts={size.starts}", f"trainer.max_epochs={size.epochs}", *size.chosen)
    run = Run(options(device, *chosen), device)
    few = replace(run.population, starts=run.population.starts[:WARM])
    run.seconds(few)
    engine_alone(few, 1, device)
    engine = partial(engine_alone, run.population, size.epochs, device)
    timed = in_turns({"run": run.seconds, "engine": partial(seconds, engine, device)}, size.repeats)
    more = [r - e for r, e in zip(timed["run"], timed["engine"], strict=True)]
    return {
        "starts": size.starts,
        "epochs": size.epochs,
        "repeats": size.repeats,
        "run_seconds": asdict(Spread.of(timed["run"])),
        "engine_seconds": asdict(Spread.of(timed["engine"])),
        "difference_seconds": asdict(Spread.of(more)),
    }


# ---------------------------------------------------------------- growth


def straight_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, list[float]]:
    """a and b of y = a + b x with the least sum of squared relative errors, and each relative error (a + b x - y) / y.

    Relative, as a second more matters for 16 starts and not for 4,096.
    """
    of_x, of_y = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
    columns = torch.stack([1 / of_y, of_x / of_y], 1)
    a, b = torch.linalg.lstsq(columns, torch.ones(len(x), 1, dtype=torch.float64)).solution.flatten().tolist()
    return a, b, ((a + b * of_x - of_y) / of_y).tolist()


def growth(size: Size, device: torch.device) -> dict[str, Any]:
    """Seconds of a run for each number of starts, and how far they are from a straight line."""
    chosen = ("descent.batch_size=128", f"trainer.max_epochs={size.growing_epochs}", f"starts={max(size.growing)}")
    cfg = noise_options(device, SIZES, size.growing_pictures, max(2, size.growing_pictures // 10), *chosen)
    run = Run(cfg, device)
    of = {S: replace(run.population, starts=run.population.starts[:S]) for S in size.growing}
    run.seconds(of[min(size.growing)])
    timed = in_turns({str(S): partial(run.seconds, of[S]) for S in size.growing}, size.growing_repeats)
    spreads = [Spread.of(timed[str(S)]) for S in size.growing]
    a, b, errors = straight_line(list(size.growing), [spread.median for spread in spreads])
    rows = [
        {"starts": S, "seconds": of_S.median, "low": of_S.low, "high": of_S.high,
         "ms_per_start": 1000 * of_S.median / S, "line_off_by": off}
        for S, of_S, off in zip(size.growing, spreads, errors, strict=True)
    ]  # fmt: skip
    return {
        "pictures": size.growing_pictures,
        "epochs": size.growing_epochs,
        "repeats": size.growing_repeats,
        "rows": rows,
        "a_seconds": a,
        "b_seconds_per_start": b,
        "largest_deviation": max(map(abs, errors)),
    }


def peaks(size: Size, device: torch.device) -> dict[str, Any]:
    """Peak memory of a process that trains few starts, of one that trains many, and their ratio."""
    few, many = size.remembered
    found = {S: memory.peak_bytes_of_run(S, size.remembered_pictures, device) for S in (few, many)}
    rows = [{"starts": S, "peak_mib": found[S] / 2**20} for S in (few, many)]
    return {"pictures": size.remembered_pictures, "rows": rows, "ratio": found[many] / found[few]}


# ---------------------------------------------------------------- the section


def section(console: Console, device: torch.device, quick: bool) -> dict[str, Any]:
    """Measure and show; what goes under `starts` in the JSON."""
    size = QUICK if quick else FULL
    beside = beside_engine(size, device)
    table = Table("seconds of", "median", "low", "high", title=f"{size.starts} starts, epochs: {size.epochs}")
    for name, key in (("experiment.run", "run"), ("the engine alone", "engine"), ("what a run adds", "difference")):
        table.add_row(name, *Spread(**beside[f"{key}_seconds"]).shown(2))
    console.print(table, f"{size.repeats} interleaved repeats; what a run adds: the differences, repeat by repeat.")
    grown = growth(size, device)
    table = Table("starts", "seconds", "low", "high", "ms a start", "line is off by", title="time against starts")
    for row in grown["rows"]:
        of = Spread(row["seconds"], row["low"], row["high"])
        table.add_row(str(row["starts"]), *of.shown(2), f"{row['ms_per_start']:.1f}", f"{row['line_off_by']:+.1%}")
    line = f"line: {grown['a_seconds']:.2f} s + {1000 * grown['b_seconds_per_start']:.2f} ms a start"
    off_by = f"off by at most {grown['largest_deviation']:.1%}"
    console.print(
        table, f"{line}, least squares of relative errors, {off_by}; medians, {size.growing_repeats} repeats."
    )
    peak = peaks(size, device)
    table = Table("starts trained by a process", "its peak memory, MiB", title="memory against starts")
    for row in peak["rows"]:
        table.add_row(str(row["starts"]), f"{row['peak_mib']:.0f}")
    console.print(table, f"ratio {peak['ratio']:.2f}.")
    return {"beside_engine": beside, "growth": grown, "memory": peak}
