"""How fast the descent is: the engine and the path through Lightning beside the machine's matrix-product peak."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.table import Table

from hillstart.bench.runs import noise
from hillstart.bench.timing import Spread, in_turns, seconds
from hillstart.data.minibatches import MiniBatches
from hillstart.data.pictures import PictureSet
from hillstart.descent import Descent, Hyperparameters
from hillstart.network import Network
from hillstart.pack import Pack
from hillstart.starts import Start
from hillstart.training import Training

ETA, EPOCHS = 0.1, 3
SIZES = ([784, 30, 10], [784, 100, 10], [3072, 64, 2])
BATCHES = (10, 32, 128)
STARTS = (16, 64)
PICTURES = 20_000

CHUNK_PICTURES = 20_000
"""What the engine is given at once."""


@dataclass(frozen=True)
class Row:
    """A contestant's rate; `low` and `high` are the slowest and the fastest repeat."""

    sizes: list[int]
    batch: int
    contestant: str
    starts: int
    net_samples_per_second: float
    low: float
    high: float
    fraction_of_peak: float


# ---------------------------------------------------------------- contestants
#
# Each is given pictures, sizes, batch and number of starts.


class Contestant(NamedTuple):
    """`run` takes all starts EPOCHS times through all pictures; `ends` says where they are."""

    run: Callable[[], None]
    ends: Callable[[], Network]


def engine(data: PictureSet, sizes: Sequence[int], batch: int, starts: int, device: torch.device) -> Contestant:
    """The pack alone: no Lightning, no measuring."""
    eta, none = torch.full((starts,), ETA, dtype=torch.float64), torch.zeros(starts, dtype=torch.float64)
    network = Network.start(sizes, range(starts), start="scaled_normal", device=device)
    pack = Pack(network, eta, None, none, len(data.train.y), batch)
    batches = MiniBatches(data.train, len(data.classes), data.preprocessing, data.augment, batch, 0, device)
    chunk = max(1, CHUNK_PICTURES // batch)

    def run() -> None:
        for epoch in range(EPOCHS):
            for first in range(0, batches.per_epoch, chunk):
                count = min(chunk, batches.per_epoch - first)
                pack.descend(*batches.chunk(epoch, first, count), [1.0] * count)

    return Contestant(run, pack.network)


def full_path(data: PictureSet, sizes: Sequence[int], batch: int, starts: int, device: torch.device) -> Contestant:
    """What `scripts/train.py` does, but for measuring on validation, which no contestant does."""
    begin = partial(Network.start, sizes, start="scaled_normal")
    training = Training(begin, data, Descent(ETA, batch), [Start(s, Hyperparameters(ETA)) for s in range(starts)])

    def run() -> None:
        trainer = pl.Trainer(
            max_epochs=EPOCHS,
            accelerator=device.type,
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


CONTESTANTS: dict[str, Callable[..., Contestant]] = {"hillstart-engine": engine, "hillstart": full_path}


# ---------------------------------------------------------------- measuring


def peak_flops(device: torch.device, repeats: int = 5) -> float:
    """The best rate of a large float32 matrix product on all cores, in floating-point operations per second."""
    n = 4096 if device.type == "cuda" else 1536
    a, b = torch.rand(n, n, device=device), torch.rand(n, n, device=device)
    torch.mm(a, b)
    return 2 * n**3 / min(seconds(lambda: torch.mm(a, b), device) for _ in range(repeats))


def flops(sizes: Sequence[int]) -> int:
    """Of one start for one picture: forward, gradient, and the errors of all layers but the first."""
    products = [n_in * n_out for n_in, n_out in itertools.pairwise(sizes)]
    return 2 * (2 * sum(products) + sum(products[1:]))


def measure(
    sizes: Sequence[int], batch: int, starts: int, device: torch.device, repeats: int, peak: float
) -> list[Row]:
    """The contestants on the same data."""
    data = noise(sizes, pictures=PICTURES if batch > 10 else PICTURES // 2)
    runs = {name: make(data, sizes, batch, starts, device).run for name, make in CONTESTANTS.items()}
    for run in runs.values():
        run()
    net_samples = starts * EPOCHS * len(data.train.y)
    timed = in_turns({name: partial(seconds, run, device) for name, run in runs.items()}, repeats)
    rows = []
    for name, taken in timed.items():
        rate = Spread.of([net_samples / s for s in taken])
        share = rate.median * flops(sizes) / peak
        rows.append(Row(list(sizes), batch, name, starts, rate.median, rate.low, rate.high, share))
    return rows


def section(console: Console, device: torch.device, quick: bool, peak: float) -> list[dict[str, Any]]:
    """Measure and show; what goes under `rows` in the JSON."""
    table = Table("network", "batch", "starts", "contestant", "net-samples/s", "low", "high", "of peak", "of engine")
    rows: list[Row] = []
    for sizes in SIZES[:1] if quick else SIZES:
        for batch in BATCHES:
            for starts in STARTS[-1:] if quick else STARTS:
                found = measure(sizes, batch, starts, device, 3 if quick else 9, peak)
                rows += found
                for row in found:
                    rates = [f"{rate:.2e}" for rate in (row.net_samples_per_second, row.low, row.high)]
                    share = row.net_samples_per_second / found[0].net_samples_per_second
                    network = "-".join(map(str, sizes))
                    shares = [f"{row.fraction_of_peak:.0%}", f"{share:.2f}"]
                    table.add_row(network, str(batch), str(starts), row.contestant, *rates, *shares)
    console.print(table, "net-samples: starts x pictures; medians of interleaved repeats.")
    return [asdict(row) for row in rows]
