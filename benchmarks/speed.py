"""Speed of the descent: ours and every peer on the same data, beside the machine's matrix-product peak."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.peers import PEERS, Contestant, Course
from benchmarks.runs import noise
from benchmarks.timing import Spread, in_turns, seconds
from hillstart.data.batches import MiniBatches
from hillstart.data.dataset import PictureSet
from hillstart.engine.ensemble import StartEnsemble
from hillstart.engine.matmul import TORCH, matmul_backend
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.network import Network
from hillstart.training.module import Training
from hillstart.training.optimizer import SGDConfig

ETA, EPOCHS = 0.1, 3
COST = "cross_entropy"
SIZES = ([784, 30, 10], [784, 100, 10], [3072, 64, 2])
BATCHES = (10, 32, 128, 512)
STARTS = (32, 128)
STEPS, PICTURES = 800, 20_000
"""Mini-batches in an epoch, as long as these are no more pictures than that."""
FEWEST = 30
OURS = ("hillstart", "hillstart-engine")
TOLERANCE = 1e-4
"""Allowed relative difference of a contestant's cost after an epoch from that in float64."""


@dataclass(frozen=True)
class Size:
    """The sizes, batches, starts and repeats that are measured."""

    sizes: Sequence[list[int]]
    batches: Sequence[int]
    starts: Sequence[int]
    repeats: int


FULL = Size(SIZES, BATCHES, STARTS, repeats=5)
QUICK = Size(SIZES[:1], BATCHES[:3], (64,), repeats=3)


@dataclass(frozen=True)
class Row:
    """A contestant's rate at its best number of starts; `low` and `high` are the slowest and the fastest repeat."""

    sizes: list[int]
    batch: int
    contestant: str
    starts: int
    net_samples_per_second: float
    low: float
    high: float
    fraction_of_peak: float


# ---------------------------------------------------------------- ours


def engine(data: PictureSet, course: Course, epochs: int = EPOCHS) -> Contestant:
    """The pack alone: no Lightning, no measuring. Pictures are bytes until they are used, in an order drawn anew."""
    device, starts = course.x.device, course.network.starts
    pack = StartEnsemble(course.network, [Hyperparameters(course.eta)] * starts, len(data.train.y), course.batch)
    batches = MiniBatches(data.train, len(data.classes), data.preprocessing, data.augment, course.batch, 0, device)

    def run() -> None:
        for epoch in range(epochs):
            pack.descend(batches.chunk(epoch, 0, batches.per_epoch), [1.0] * batches.per_epoch)

    return Contestant(run, pack.network)


def full_path(data: PictureSet, course: Course, epochs: int = EPOCHS) -> Contestant:
    """The training of `scripts/train.py` without validation, which no contestant does."""
    starts = [Start(s, Hyperparameters(course.eta)) for s in range(course.network.starts)]
    training = Training(lambda seeds: course.network.pick(seeds), data, SGDConfig(course.eta, course.batch), starts)

    def run() -> None:
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator=course.x.device.type,
            devices=1,
            logger=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(training)

    return Contestant(run, lambda: training.pack.network())


# ---------------------------------------------------------------- measuring


def peak_flops(device: torch.device, repeats: int = 3) -> float:
    """The best rate of a large float32 matrix product on all cores, in floating-point operations per second.

    On the CPU by whichever of torch's two libraries is faster.
    """
    n = 4096 if device.type == "cuda" else 1536
    a, b, zero = (torch.rand(*shape, device=device) for shape in ((n, n), (n, n), (n,)))
    best = 0.0
    for forward in dict.fromkeys((TORCH.forward, matmul_backend(a).forward)):
        forward(zero, a, b)
        best = max(best, 2 * n**3 / min(seconds(partial(forward, zero, a, b), device) for _ in range(repeats)))
    return best


def flops(sizes: Sequence[int]) -> int:
    """Operations of one start for one picture: forward, gradient, and the errors of all layers but the first."""
    products = [n_in * n_out for n_in, n_out in itertools.pairwise(sizes)]
    return 2 * (2 * sum(products) + sum(products[1:]))


class Match:
    """All contestants at one size and batch.

    Attributes:
        missing: contestants that cannot take part, and why.
    """

    def __init__(self, sizes: list[int], batch: int, device: torch.device):
        self.sizes, self.batch, self.device = sizes, batch, device
        steps = min(STEPS, PICTURES // batch)
        larger = max(
            1.0, flops(sizes) / flops(SIZES[0])
        )  # than the first: as many fewer steps, so that none takes long
        self.data = noise(sizes, min(steps, max(FEWEST, int(steps / larger))) * batch)
        self.missing = {name: peer.missing for name, peer in PEERS.items() if peer.missing}
        self.missing |= {
            name: "knows no CUDA" for name, peer in PEERS.items() if peer.cpu_only and device.type != "cpu"
        }

    def contestants(self) -> list[str]:
        """Ours first."""
        return [*OURS, *(name for name in PEERS if name not in self.missing)]

    def make(self, name: str, starts: int, pictures: int | None = None, epochs: int = EPOCHS) -> Contestant:
        """A contestant with so many starts; `pictures` of the data, in the order that ours see them in epoch 0."""
        data = self.data if pictures is None else _first(self.data, pictures)
        batches = MiniBatches(
            data.train, len(data.classes), data.preprocessing, data.augment, self.batch, 0, self.device
        )
        x, y = batches.chunk(0, 0, batches.per_epoch)(slice(None))
        network = Network.start(self.sizes, range(starts), cost=COST, start="scaled_normal").to(self.device)
        course = Course(network, x, y, self.batch, ETA)
        if name in OURS:
            return (full_path if name == "hillstart" else engine)(data, course, epochs)
        return PEERS[name].make(course)

    def error(self, name: str, steps: int = 20, starts: int = 3) -> float:
        """Relative difference of a contestant's costs from those in float64 after `steps` steps."""
        starts = 1 if name in PEERS and PEERS[name].single else starts
        contestant = self.make(name, starts, steps * self.batch, epochs=1)
        contestant.run()
        exact = Network.start(self.sizes, range(starts), cost=COST, start="scaled_normal", dtype=torch.float64)
        data = _first(self.data, steps * self.batch)
        cpu = torch.device("cpu")
        batches = MiniBatches(data.train, len(data.classes), data.preprocessing, data.augment, self.batch, 0, cpu)
        x, y = (t.double() for t in batches.chunk(0, 0, steps)(slice(None)))
        for xb, yb in zip(x.split(self.batch), y.split(self.batch), strict=True):
            exact.descend(xb, yb, ETA)
        found = contestant.ends()
        found = Network([w.double() for w in found.w], [b.double() for b in found.b], found.activation, found.cost)
        (should, _), (has, _) = exact.evaluate(x, y), found.to(cpu).evaluate(x, y)
        return float(((has.mean(1) - should.mean(1)).abs() / should.mean(1)).max())

    def best(self, name: str, candidates: Sequence[int]) -> tuple[int, Contestant]:
        """The number of starts at which a contestant is fastest, and itself with so many, warm."""
        if name in PEERS and PEERS[name].single:
            candidates = (1,)
        rates: dict[float, int] = {}
        for starts in candidates if len(candidates) > 1 else ():
            trial = self.make(name, starts, len(self.data.train.y) // 4 // self.batch * self.batch, epochs=1)
            trial.run()
            rates[starts / seconds(trial.run, self.device)] = starts
        starts = rates[max(rates)] if rates else candidates[0]
        contestant = self.make(name, starts)
        contestant.run()
        return starts, contestant

    def rows(self, candidates: Sequence[int], repeats: int) -> tuple[list[Row], float]:
        """Everyone at their best, in turns with the machine's peak, which comes second.

        Raises:
            AssertionError: a contestant does not do the same.
        """
        for name in self.contestants():
            error = self.error(name)
            assert error < TOLERANCE, f"{name} ends with costs that are off by {error:.1e}: it does something else"
        best = {name: self.best(name, candidates) for name in self.contestants()}
        runs = {name: partial(seconds, contestant.run, self.device) for name, (_, contestant) in best.items()}
        timed = in_turns({"peak": partial(peak_flops, self.device), **runs}, repeats)
        peak = max(timed.pop("peak"))
        rows = []
        for name, taken in timed.items():
            starts, pictures = best[name][0], len(self.data.train.y) * (EPOCHS if name in OURS else 1)
            rate = Spread.of([starts * pictures / s for s in taken])
            share = rate.median * flops(self.sizes) / peak
            rows.append(Row(self.sizes, self.batch, name, starts, rate.median, rate.low, rate.high, share))
        return rows, peak


def _first(data: PictureSet, n: int) -> PictureSet:
    return replace(data, train=data.train.take(torch.arange(n)))


def section(console: Console, device: torch.device, quick: bool, peak: float) -> tuple[list[dict[str, Any]], float]:
    """Measure and show; what goes under `rows` in the JSON, and the highest peak that was seen.

    Args:
        peak: as measured before; a busy moment may have hidden a higher one.
    """
    size, rows, missing = QUICK if quick else FULL, list[Row](), dict[str, str]()
    for sizes, batch in itertools.product(size.sizes, size.batches):
        match = Match(sizes, batch, device)
        missing |= match.missing
        with console.status(f"{sizes}, batch {batch}: {', '.join(match.contestants())}"):
            found, seen = match.rows(size.starts, size.repeats)
        peak = max(peak, seen)
        rows += found
        _show(console, found)
    counts = ", ".join(map(str, size.starts))
    console.print(f"net-samples: starts x pictures; medians of {size.repeats} interleaved repeats, each at its best of")
    console.print(f"{counts} starts, or at one. Everyone's costs after 20 steps were checked against float64.")
    for name, why in missing.items():
        console.print(f"{name} is not here: {why}")
    return [
        asdict(replace(row, fraction_of_peak=row.net_samples_per_second * flops(row.sizes) / peak)) for row in rows
    ], peak


def _show(console: Console, rows: Sequence[Row]) -> None:
    ours = rows[0].net_samples_per_second
    title = f"{rows[0].sizes}, batch {rows[0].batch}"
    table = Table("contestant", "starts", "net-samples/s", "low", "high", "of peak", "hillstart is", title=title)
    for row in rows:
        rates = [f"{rate:.2e}" for rate in (row.net_samples_per_second, row.low, row.high)]
        ratio = f"{ours / row.net_samples_per_second:.2f} x as fast"
        table.add_row(row.contestant, str(row.starts), *rates, f"{row.fraction_of_peak:.1%}", ratio)
    console.print(table)
