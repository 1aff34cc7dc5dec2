"""How fast the descent is: each way of training on the same data, beside the machine's own limit, all in one run."""

import itertools
import json
import logging
import math
import platform
import statistics
import time
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.table import Table

from hillstart.data.augment import Augment
from hillstart.data.minibatches import MiniBatches
from hillstart.data.pictures import PictureSet, Split
from hillstart.descent import Descent
from hillstart.images import Preprocessing
from hillstart.network import Network
from hillstart.pack import Pack
from hillstart.training import Training

ETA, EPOCHS = 0.1, 3
SIZES = ([784, 30, 10], [784, 100, 10], [3072, 64, 2])
BATCHES = (10, 32, 128)
STARTS = (16, 64)


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
    f = torch.full((starts,), ETA, device=device)
    network = Network.start(sizes, range(starts), start="scaled_normal", device=device)
    pack = Pack(network, f, 0 * f, 0 * f, len(data.train.y), batch)
    batches = MiniBatches(data.train, len(data.classes), data.preprocessing, data.augment, batch, 0, device)
    chunk = max(1, 20_000 // batch)

    def run() -> None:
        for epoch in range(EPOCHS):
            for first in range(0, batches.per_epoch, chunk):
                count = min(chunk, batches.per_epoch - first)
                pack.descend(*batches.chunk(epoch, first, count), [1.0] * count)

    return Contestant(run, pack.network)


def full_path(data: PictureSet, sizes: Sequence[int], batch: int, starts: int, device: torch.device) -> Contestant:
    """What `scripts/train.py` does, but for measuring on validation, which no contestant does."""
    network = Network.start(sizes, range(starts), start="scaled_normal")
    training = Training(network, data, Descent(ETA, batch), range(starts))

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
    return 2 * n**3 / min(_seconds(lambda: torch.mm(a, b), device) for _ in range(repeats))


def flops(sizes: Sequence[int]) -> int:
    """Of one start for one picture: forward, gradient, and the errors of all layers but the first."""
    products = [n_in * n_out for n_in, n_out in itertools.pairwise(sizes)]
    return 2 * (2 * sum(products) + sum(products[1:]))


def measure(
    sizes: Sequence[int], batch: int, starts: int, device: torch.device, repeats: int, peak: float
) -> list[Row]:
    """The contestants on the same data, their repeats interleaved so that a busy moment of the machine hits all."""
    data = made_up(sizes, pictures=20_000 if batch > 10 else 10_000)
    runs = {name: make(data, sizes, batch, starts, device).run for name, make in CONTESTANTS.items()}
    for run in runs.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            rates[name].append(starts * EPOCHS * len(data.train.y) / _seconds(run, device))
    return [
        Row(
            list(sizes),
            batch,
            name,
            starts,
            statistics.median(r),
            min(r),
            max(r),
            statistics.median(r) * flops(sizes) / peak,
        )
        for name, r in rates.items()
    ]


def made_up(sizes: Sequence[int], pictures: int) -> PictureSet:
    """Noise with labels: the speed of a descent does not depend on what is learned."""
    g = torch.Generator().manual_seed(0)
    channels = 1 if math.isqrt(sizes[0]) ** 2 == sizes[0] else 3
    side = math.isqrt(sizes[0] // channels)
    shape = (pictures, channels, side, side)
    split = Split(torch.randint(0, 256, shape, generator=g, dtype=torch.uint8), torch.arange(pictures) % sizes[-1])
    names = tuple(str(k) for k in range(sizes[-1]))
    return PictureSet(split, split, split, names, Preprocessing(side, channels), Augment(), "noise")


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    del result
    return time.perf_counter() - began


# ---------------------------------------------------------------- the command


def main() -> None:
    """`scripts/bench.py`."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="also write machine, versions, peak and rows to this file")
    parser.add_argument("--quick", action="store_true", help="one network, few repeats: under two minutes")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device here")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated")

    peak = peak_flops(device)
    Console().print(f"matrix-product peak, float32: {peak / 1e9:.0f} GFLOP/s on {_machine(device)}")
    table = Table("network", "batch", "starts", "contestant", "net-samples/s", "low", "high", "of peak", "of engine")
    rows: list[Row] = []
    for sizes in SIZES[:1] if options.quick else SIZES:
        for batch in BATCHES:
            for starts in STARTS[-1:] if options.quick else STARTS:
                found = measure(sizes, batch, starts, device, 3 if options.quick else 9, peak)
                rows += found
                for row in found:
                    rates = [f"{rate:.2e}" for rate in (row.net_samples_per_second, row.low, row.high)]
                    share = row.net_samples_per_second / found[0].net_samples_per_second
                    network = "-".join(map(str, sizes))
                    shares = [f"{row.fraction_of_peak:.0%}", f"{share:.2f}"]
                    table.add_row(network, str(batch), str(starts), row.contestant, *rates, *shares)
    Console(width=110).print(table, "net-samples: starts x pictures; medians of interleaved repeats.")
    if options.json:
        versions = {name: version(name) for name in ("hillstart", "torch", "lightning")}
        found_here = {"machine": _machine(device), "versions": versions, "peak_gflops": peak / 1e9}
        options.json.write_text(json.dumps(found_here | {"rows": [asdict(row) for row in rows]}, indent=2) + "\n")


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.processor()])[0]}, {torch.get_num_threads()} threads"
