"""Speed of the descent: ours and every peer on the same data, beside the machine's matrix-product peak.

Net-samples are starts x pictures. Everyone's costs after 20 mini-batches are checked against float64.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import PEERS, Contestant, Maker, Task, bare_trainer, float64
from benchmarks.runs import noise
from benchmarks.timing import Part, Row, device_peak, in_turns, seconds, spread
from hillstart.data.batches import MiniBatches
from hillstart.data.dataset import PictureSet
from hillstart.engine.ensemble import StartEnsemble
from hillstart.engine.matmul import HIGHEST, TORCH, matmul_backend
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.network import Momentum, Network
from hillstart.training.module import Training
from hillstart.training.optimizer import SGDConfig

ETA, EPOCHS = 0.1, 3
SIZES = ([784, 30, 10], [784, 100, 10], [3072, 64, 2])
STEPS, PICTURES, FEWEST = 800, 20_000, 30
"""Mini-batches in an epoch: `STEPS`, unless they hold more than `PICTURES`; fewer for larger networks."""
CHECKED = 20
"""Mini-batches after which the costs of all contestants are compared with those in float64."""
STARTS = {"cpu": (32, 128), "cuda": (1024, 4096, 10_000)}
"""Numbers of starts that are tried, by the type of device."""

QUICK = {"networks": SIZES[:1], "batches": (10, 32, 128), "starts": {"cpu": (64,), "cuda": (4096,)}, "repeats": 3}


def measure(
    device: torch.device,
    networks: Sequence[list[int]] = SIZES,
    batches: Sequence[int] = (10, 32, 128, 512),
    starts: Mapping[str, Sequence[int]] = STARTS,
    repeats: int = 5,
) -> Iterator[Part]:
    """All contestants, each with the number of `starts` for this type of device at which it is fastest."""
    missing = {name: why for name, maker in MAKERS.items() if (why := maker.missing(device))}
    for sizes, batch in itertools.product(networks, batches):
        rows, peak = Match(sizes, batch, device).rows(starts[device.type], repeats)
        yield Part(f"{sizes}, batch {batch}", rows, {"repeats": repeats, "peak_gflops": peak / 1e9} | missing)


# ---------------------------------------------------------------- ours


def engine(task: Task, precision: str = HIGHEST) -> Contestant:
    """The pack alone: no Lightning, no measuring. Pictures are bytes until they are used, in an order drawn anew."""
    points = [Hyperparameters(task.eta)] * task.network.starts
    pack = StartEnsemble(task.network, points, len(task.data.train.y), task.batch, precision=precision)
    batches = mini_batches(task.data, task.batch, task.x.device)

    def run() -> None:
        for epoch in range(task.epochs):
            pack.descend(batches.chunk(epoch, 0, batches.per_epoch), [1.0] * batches.per_epoch)

    return Contestant(run, pack.network, task.epochs)


def full_path(task: Task, precision: str = HIGHEST, **options: Any) -> Contestant:
    """The training of `scripts/train.py` without validation, which no contestant does; `options`: of its descent."""
    descent = SGDConfig(task.eta, task.batch, momentum=task.momentum, **options)
    starts = [Start(s, point) for point in descent.grid() for s in range(task.network.starts)]
    training = Training(task.network.pick, task.data, descent, starts, matmul_precision=precision)
    run = lambda: bare_trainer(task.x.device, task.epochs).fit(training)  # noqa: E731
    return Contestant(run, lambda: training.pack.network(), task.epochs)


OURS, ENGINE = Maker(full_path), Maker(engine)
MAKERS = {
    "hillstart": OURS,
    "hillstart-tf32": OURS.in_tf32(),
    "hillstart-momentum": Maker(full_path, momentum=0.9),
    "hillstart-engine": ENGINE,
    "hillstart-engine-tf32": ENGINE.in_tf32(),
    **PEERS,
}


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


def mini_batches(data: PictureSet, batch: int, device: torch.device) -> MiniBatches:
    return MiniBatches(data.train, len(data.classes), data.preprocessing, data.augment, batch, 0, device)


class Match:
    """All contestants that can take part, at one size and batch.

    Attributes:
        makers: ours first.
    """

    def __init__(self, sizes: list[int], batch: int, device: torch.device):
        self.sizes, self.batch, self.device = sizes, batch, device
        self.makers = {name: maker for name, maker in MAKERS.items() if not maker.missing(device)}
        steps, larger = min(STEPS, PICTURES // batch), max(1.0, flops(sizes) / flops(SIZES[0]))
        self.data = noise(sizes, min(steps, max(FEWEST, int(steps / larger))) * batch)

    def make(self, name: str, starts: int, pictures: int | None = None, epochs: int = EPOCHS) -> Contestant:
        """A contestant with so many starts, or one; `pictures` of the data, in the order of epoch 0 of ours."""
        maker = self.makers[name]
        data, x, y = self._pictures(pictures)
        network = self._network(1 if maker.single else starts).to(self.device)
        return maker.make(Task(network, data, x, y, self.batch, ETA, epochs, maker.momentum))

    def _pictures(self, pictures: int | None) -> tuple[PictureSet, Tensor, Tensor]:
        data = self.data
        if pictures is not None:
            data = replace(data, train=data.train.take(torch.arange(pictures)))
        batches = mini_batches(data, self.batch, self.device)
        return data, *batches.chunk(0, 0, batches.per_epoch)(slice(None))

    def _network(self, starts: int, dtype: torch.dtype = torch.float32) -> Network:
        return Network.start(self.sizes, range(starts), cost="cross_entropy", start="scaled_normal", dtype=dtype)

    def error(self, name: str, starts: int = 3) -> float:
        """Relative difference of a contestant's costs from those in float64 after `CHECKED` mini-batches."""
        pictures = CHECKED * self.batch
        contestant = self.make(name, starts, pictures, epochs=1)
        contestant.run()
        network = contestant.network()
        found = float64(network.w, network.b, network)
        exact, (_, x, y) = self._network(found.starts, torch.float64), self._pictures(pictures)
        x, y = x.cpu().double(), y.cpu().double()
        step = Momentum(exact, self.makers[name].momentum)
        for xb, yb in zip(x.split(self.batch), y.split(self.batch), strict=True):
            exact.descend(xb, yb, ETA, step=step)
        expected, cost = (network.evaluate(x, y)[0].mean(1) for network in (exact, found))
        return float(((cost - expected).abs() / expected).max())

    def best(self, name: str, candidates: Sequence[int]) -> tuple[int, Contestant, Row]:
        """The number of starts at which a contestant is fastest, it with so many, warmed up, and its memory on CUDA."""
        if self.makers[name].single:
            candidates = (1,)
        rates: dict[float, int] = {}
        for starts in candidates if len(candidates) > 1 else ():
            trial = self.make(name, starts, len(self.data.train.y) // 4 // self.batch * self.batch, epochs=1)
            trial.run()
            rates[starts / seconds(trial.run, self.device)] = starts
            del trial
        starts = rates[max(rates)] if rates else candidates[0]
        with device_peak(self.device) as peak:
            contestant = self.make(name, starts)
            contestant.run()
        if contestant.device_bytes and peak:
            peak["device_mib"] = contestant.device_bytes() / 2**20
        return starts, contestant, peak

    def _row(self, name: str, starts: int, contestant: Contestant, taken: Sequence[float]) -> Row:
        """The rates of a contestant whose runs took so many seconds."""
        samples = starts * len(self.data.train.y) * contestant.epochs
        row = {"contestant": name, "sizes": self.sizes, "batch": self.batch, "starts": starts}
        return row | spread([samples / s for s in taken], "net_samples_per_second")

    def alone(self, name: str, candidates: Sequence[int], repeats: int) -> Row:
        """The row of one contestant, with the error of its costs; nobody else is measured beside it."""
        error = self.error(name)
        starts, contestant, memory = self.best(name, candidates)
        taken = [seconds(contestant.run, self.device) for _ in range(repeats)]
        row = self._row(name, starts, contestant, taken) | memory
        return row | {"error_of_costs": error, "ok": error < self.makers[name].tolerance}

    def rows(self, candidates: Sequence[int], repeats: int) -> tuple[list[Row], float]:
        """Everyone at their best, in turns with the machine's peak, which comes second.

        Raises:
            AssertionError: a contestant does not do the same.
        """
        for name in self.makers:
            error = self.error(name)
            assert error < self.makers[name].tolerance, (
                f"{name} ends with costs that are off by {error:.1e}: it does something else"
            )
        best = {name: self.best(name, candidates) for name in self.makers}
        runs = {name: partial(seconds, contestant.run, self.device) for name, (_, contestant, _) in best.items()}
        timed = in_turns({"peak": partial(peak_flops, self.device), **runs}, repeats)
        peak = max(timed.pop("peak"))
        rows: list[Row] = []
        for name, taken in timed.items():
            starts, contestant, memory = best[name]
            row = self._row(name, starts, contestant, taken)
            share = {"fraction_of_peak": row["net_samples_per_second"] * flops(self.sizes) / peak}
            rows.append(row | share | memory)
        for row in rows:
            row["speedup_of_hillstart"] = rows[0]["net_samples_per_second"] / row["net_samples_per_second"]
        return rows, peak
