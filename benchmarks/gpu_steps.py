"""The steps of `benchmarks.gpu_day`. Each yields its results as rows, of which `ok` says whether a claim holds.

On the CPU they do the same work, less what only a CUDA device has.
"""

import gc
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from inspect import signature
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import hillstart
from benchmarks import speed
from benchmarks.command import machine
from benchmarks.many_starts import parts
from benchmarks.peers import Maker
from benchmarks.runs import Run, mixtures, noise_options, options
from benchmarks.seeds import fashion_mnist
from benchmarks.timing import Row, device_peak, seconds, spread
from hillstart.engine.cuda import CudaGraphs, Steps
from hillstart.engine.ensemble import StartEnsemble
from hillstart.engine.matmul import HIGHEST, multiplied_in
from hillstart.engine.starts import Hyperparameters
from hillstart.gradient_check import DIFFERENCE_TOLERANCE, TOLERANCE, check
from hillstart.network import ACTIVATIONS, COSTS, Network
from hillstart.runs.significance import difference_of_medians
from hillstart.system.statistics import quantiles
from hillstart.training.optimizer import SGDConfig

SIZES = (784, 30, 10)
PACKAGES = ("torch", "triton", "lightning", "jax", "numpy", "hydra-core", "hillstart")
TESTS = Path(__file__).parents[1] / "tests"

PLAIN = (
    *("descent.momentum=0", "descent.lmbda=0", "descent.schedule=constant"),
    *("logger=none", "report=false", "trainer.enable_progress_bar=false"),
)
"""Options of runs that are timed or compared: plain gradient descent, nothing beside it."""


# ---------------------------------------------------------------- the machine


def environment(device: torch.device, elements: int = 2**29, n: int = 8192, repeats: int = 5) -> Iterator[Row]:
    """Versions, the device, and what it can do at most: copies, products, kernels one by one and in a graph.

    Args:
        elements: of the array that is copied.
        n: rows and columns of the matrices that are multiplied.
    """
    yield {"machine": machine(device), "versions": {name: version(name) for name in PACKAGES if find_spec_of(name)}}
    if device.type == "cuda":
        of = torch.cuda.get_device_properties(device)
        query = "driver_version,clocks.sm,clocks.mem,power.limit,temperature.gpu"
        smi = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv"], capture_output=True, text=True)
        yield {
            "multiprocessors": of.multi_processor_count,
            "memory": of.total_memory,
            query: smi.stdout.split("\n")[1:2],
        }

    def timed(run: Callable[[], object]) -> list[float]:
        run()
        return [seconds(run, device) for _ in range(repeats)]

    pair = torch.rand(2, elements, device=device)
    taken = timed(lambda: pair[1].copy_(pair[0]))
    yield {"copy": "read and written"} | spread([8 * elements / s for s in taken], "bytes_per_second")
    x = torch.rand(n, n, device=device)
    for name, factor, precision in (
        ("float32", x, HIGHEST),
        ("TF32", x, "high"),
        ("bfloat16", x.bfloat16(), HIGHEST),
    ):
        with multiplied_in(precision):
            taken = timed(lambda factor=factor: factor @ factor)  # type: ignore[misc]
        yield {"product": name} | spread([2 * n**3 / s for s in taken], "flops_per_second")
    counter, kernels = torch.zeros(1, device=device), 1000

    def launch() -> None:
        for _ in range(kernels):
            counter.add_(1)

    yield {"kernels": "from Python"} | spread([s / kernels for s in timed(launch)], "seconds")
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch()
        yield {"kernels": "in a graph"} | spread([s / kernels for s in timed(graph.replay)], "seconds")


def find_spec_of(package: str) -> bool:
    """True if a distribution is installed; hydra-core is imported as hydra."""
    return find_spec(package.split("-")[0]) is not None


# ---------------------------------------------------------------- correctness


def gradient(device: torch.device, samples: int = 8, steps: int = 20) -> Iterator[Row]:
    """The gradient against autograd and differences, in float64 on the device; descent beside the CPU's."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(6, 7, generator=g, dtype=torch.float64), torch.eye(3).double()[torch.arange(6) % 3]
    for activation, cost in product(ACTIVATIONS, COSTS):
        on_cpu = Network.start([7, 5, 4, 3], range(3), activation, cost, dtype=torch.float64)
        network = on_cpu.map(torch.clone).to(device)
        checks = check(network, x.to(device), y.to(device), 0.5, 20, samples)
        autograd, differences = (
            max(getattr(c, f"against_{name}") for c in checks) for name in ("autograd", "differences")
        )
        for _ in range(steps):
            on_cpu.descend(x, y, 0.3, 0.7, 20)
            network.descend(x.to(device), y.to(device), 0.3, 0.7, 20)
        apart = distance(network, on_cpu)
        ok = autograd < TOLERANCE and differences < DIFFERENCE_TOLERANCE and apart < 1e-10
        yield {"activation": activation, "cost": cost, "autograd": autograd, "apart_from_cpu": apart, "ok": ok}


def distance(network: Network, other: Network) -> float:
    """The largest difference of two networks' parameters, by the largest parameter of its kind."""
    pairs = zip(network.to("cpu").parameters, other.to("cpu").parameters, strict=True)
    return max(float((p - q).abs().max() / q.abs().max()) for p, q in pairs)


def tests(device: torch.device, marked: str = "gpu and not slow", only: Sequence[str] = ("",)) -> Iterator[Row]:
    """The project's own tests of CUDA, which train on a device that is pretended where there is none."""
    missing = [name for name in only if not (TESTS / name).exists()]
    if missing:
        yield {"tests": missing, "skipped": "they are not here"}
        return
    words = ["-m", marked, "-q", "-p", "no:cacheprovider", "--tb=short", *(str(TESTS / name) for name in only)]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=TESTS.parent, capture_output=True, text=True)
    print(done.stdout, done.stderr)  # to the log
    failed = re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE)
    yield {"tests": marked, "said": done.stdout.strip().split("\n")[-1], "failed": failed, "ok": done.returncode == 0}


GRAPHS = (
    {"sizes": SIZES, "starts": 10_000, "batch": 128},
    {"sizes": SIZES, "starts": 1024, "batch": 10},
    {"sizes": SIZES, "starts": 1024, "batch": 32, "momentum": 0.9},
    {"sizes": (3072, 64, 2), "starts": 64, "batch": 10},
)


def graphs(device: torch.device, cases: Sequence[Mapping[str, Any]] = GRAPHS) -> Iterator[Row]:
    """Trainings of 3 epochs by graphs and without: the same bits, and which share was replayed.

    Then an engine goes on with its graphs after a training has ended beside it, which frees memory of the device.
    """
    for case in cases:
        match = speed.Match([*case["sizes"]], case["batch"], device)
        match.makers["case"] = Maker(speed.full_path, momentum=case.get("momentum", 0.0))
        ends: list[Network] = []
        for replay in (True, False):
            contestant = match.make("case", case["starts"])
            with counted_steps(replay) as launched:
                contestant.run()
            ends.append(contestant.network())
            if replay:
                steps = contestant.epochs * -(-len(match.data.train.y) // case["batch"])
                share = 1 - sum(launched) / steps if device.type == "cuda" else 0.0
        same = all(map(torch.equal, *(end.parameters for end in ends)))
        yield {**case, "replayed": share, "same_bits": same, "apart": distance(*ends), "ok": distance(*ends) < 1e-3}
        del ends
        one, alone = (match.make("hillstart-engine", case["starts"]) for _ in range(2))
        one.run()
        match.make("hillstart", case["starts"], epochs=1).run()
        junk = [torch.full((1 << 24,), torch.nan, device=device) for _ in range(8)] if device.type == "cuda" else []
        one.run()
        del junk
        for _ in range(2):
            alone.run()
        apart = distance(one.network(), alone.network())
        yield {**case, "apart_after_another_training": apart, "ok": apart < 1e-3}


@contextmanager
def counted_steps(replay: bool) -> Iterator[list[int]]:
    """The list gets the number of mini-batches of each call that runs from Python.

    Args:
        replay: by graphs; else every mini-batch runs from Python.
    """
    launched: list[int] = []
    run = CudaGraphs.run

    def counted(self: CudaGraphs, steps: Steps, x: Tensor, y: Tensor, factors: Tensor) -> None:
        def watched(x: Tensor, y: Tensor, factors: Tensor) -> None:
            if not torch.cuda.is_current_stream_capturing():
                launched.append(len(factors))
            steps(x, y, factors)

        if replay:
            run(self, watched, x, y, factors)
        else:
            watched(x.clone(), y.clone(), factors.clone())

    with mock.patch.object(CudaGraphs, "run", counted):
        yield launched


# ---------------------------------------------------------------- speed


def contest(
    device: torch.device,
    names: Sequence[str] = ("hillstart-engine", "hillstart-engine-tf32"),
    sizes: Sequence[Sequence[int]] = (SIZES,),
    starts: Sequence[int] = (10_000, 1024, 4096, 256),
    batches: Sequence[int] = (128, 10, 32),
    repeats: int = 3,
    makers: Mapping[str, Maker] = MappingProxyType({}),
) -> Iterator[Row]:
    """Contestants of `benchmarks.speed` for each number of starts, one after the other.

    Args:
        makers: of contestants that the bench does not have.
    """
    for S, batch, layers in product(starts, batches, sizes):
        match = speed.Match([*layers], batch, device)
        match.makers.update(makers)
        for name in names:
            about: Row = {"contestant": name, "sizes": layers, "batch": batch, "starts": S}
            if name not in match.makers:
                yield about | {"skipped": speed.MAKERS[name].missing(device)}
                continue
            try:
                yield match.alone(name, (S,), repeats)
            except Exception as error:  # of one contestant, which must not cost the others
                yield about | {"failed": f"{type(error).__name__}: {error}"[:500], "ok": False}


def kernel(device: torch.device, only: Sequence[str] = ("engine/test_kernel.py",), **size: Any) -> Iterator[Row]:
    """The tests of the kernel, and the training by it beside the one by graphs."""
    yield from tests(device, "gpu", only)
    if "kernel" in signature(SGDConfig).parameters:
        by_kernel = Maker(partial(speed.full_path, kernel="auto"))
        yield from contest(device, ("hillstart", "by kernel"), **size, makers={"by kernel": by_kernel})
    else:
        yield {"contestant": "by kernel", "skipped": "descent.kernel is not an option here"}


def whole_run(
    device: torch.device,
    starts: int = 10_000,
    pictures: int = 50_000,
    others: int = 10_000,
    batches: Sequence[int] = (128,),
    epochs: Sequence[int] = (1, 4),
    sizes: Sequence[int] = SIZES,
) -> Iterator[Row]:
    """Seconds of runs: descent, evaluation, and what a run adds, which grows by the host's work with each epoch."""
    for batch, of in product(batches, epochs):
        size = (f"starts={starts}", f"descent.batch_size={batch}", f"trainer.max_epochs={of}")
        run = Run(noise_options(device, sizes, pictures, others, *size, *PLAIN), device)
        taken = {row["what"]: row["seconds"] for row in parts(run, device, 1)}
        yield {"starts": starts, "batch": batch, "epochs": of, "seconds": taken}


def profile(device: torch.device, cases: Sequence[tuple[int, int]] = ((10_000, 128), (1024, 10))) -> Iterator[Row]:
    """The kernels that take most of the time, in microseconds a mini-batch; `cases`: starts and pictures in a batch."""
    activity = torch.profiler.ProfilerActivity
    used, key = (activity.CUDA, "device_time_total") if device.type == "cuda" else (activity.CPU, "cpu_time_total")
    for starts, batch in cases:
        match = speed.Match([*SIZES], batch, device)
        contestant = match.make("hillstart-engine", starts, epochs=1)
        for _ in range(2):
            contestant.run()
        with torch.profiler.profile(activities=[used]) as seen:
            seconds(contestant.run, device)
        rows = sorted(seen.key_averages(), key=lambda of: -getattr(of, key))[:16]
        steps = len(match.data.train.y) // batch
        yield {"starts": starts, "batch": batch, "us": {of.key[:90]: getattr(of, key) / steps for of in rows}}


# ---------------------------------------------------------------- what is learned


def accuracy(
    device: torch.device,
    starts: int = 256,
    epochs: int = 5,
    pictures: int = 50_000,
    others: int = 10_000,
    sizes: Sequence[int] = SIZES,
) -> Iterator[Row]:
    """Validation accuracies of the same seeds on the CPU and on the device, in each precision.

    On Fashion-MNIST where it is found, else on pictures that are made up; on CUDA, rounding leads each seed elsewhere,
    but the distribution must stay.
    """
    size = (f"starts={starts}", f"trainer.max_epochs={epochs}", "descent.batch_size=32", *PLAIN)
    data, found = fashion_mnist() if tuple(sizes) == SIZES else [], list[np.ndarray]()
    for where, precision in ((torch.device("cpu"), HIGHEST), (device, HIGHEST), (device, "high"), (device, "medium")):
        chosen = (*size, f"trainer.matmul_precision={precision}")
        made = partial(noise_options, where, sizes, pictures, others, made=mixtures)
        run = Run(options(where, *data, *chosen) if data else made(*chosen), where)
        began = time.perf_counter()
        results = run.results()
        took = time.perf_counter() - began
        found.append(np.array([of.val_accuracy for of in results]))
        row: Row = {"data": run.spec.data.source, "device": where.type, "precision": precision, "seconds": took}
        row |= {"diverged": sum(of.diverged for of in results), "val_accuracy": quantiles(found[-1].tolist())}
        if len(found) > 1:
            off = difference_of_medians(found[0], found[-1], paired=True)
            row |= {
                "median_difference": [off.value, off.low, off.high],
                "largest": float(abs(found[-1] - found[0]).max()),
            }
            row["ok"] = abs(off.value) < 0.002 or not off.shown()
        yield row


def drift(
    device: torch.device,
    starts: int = 16,
    epochs: int = 5,
    pictures: int = 20_000,
    batches: Sequence[int] = (10, 128),
    sizes: Sequence[int] = SIZES,
) -> Iterator[Row]:
    """Distance of the first layer from descent in float64 after each epoch, as a share of the way that it has moved."""
    data = mixtures(sizes, pictures)
    for batch in batches:
        began = Network.start(sizes, range(starts), cost="cross_entropy", start="scaled_normal")
        points = [Hyperparameters(0.1)] * starts
        packs: dict[str, StartEnsemble] = {}
        for name, where, dtype, precision in (
            ("float64", device, torch.float64, HIGHEST),
            ("float32 on the CPU", torch.device("cpu"), torch.float32, HIGHEST),
            ("float32", device, torch.float32, HIGHEST),
            ("TF32", device, torch.float32, "high"),
            ("bfloat16", device, torch.float32, "medium"),
        ):
            network = began.map(lambda p, dtype=dtype: p.to(dtype, copy=True)).to(where)  # type: ignore[misc]
            packs[name] = StartEnsemble(network, points, pictures, batch, precision=precision)
        read = {name: speed.mini_batches(data, batch, pack.device) for name, pack in packs.items()}
        for epoch in range(epochs):
            for name, pack in packs.items():
                chunk, dtype = read[name].chunk(epoch, 0, read[name].per_epoch), pack.network().w[0].dtype
                cast = lambda rows, chunk=chunk, dtype=dtype: tuple(t.to(dtype) for t in chunk(rows))  # noqa: E731
                pack.descend(cast, [1.0] * read[name].per_epoch)
            ends = {name: pack.network().w[0].cpu().double() for name, pack in packs.items()}
            exact = ends.pop("float64")
            moved = (exact - began.w[0]).norm()
            off = {name: float((end - exact).norm() / moved) for name, end in ends.items()}
            yield {
                "batch": batch,
                "epoch": epoch + 1,
                "off": off,
                "ok": off["float32"] < 20 * off["float32 on the CPU"],
            }


# ---------------------------------------------------------------- runs that are cut short


def out_of_memory(
    device: torch.device, starts: int = 8192, share: float = 0.7, sizes: Sequence[int] = SIZES
) -> Iterator[Row]:
    """A pack that needs more memory than is left beside a ballast is halved, and ends as it does with all memory.

    Args:
        share: of the memory that the pack needs, which the ballast leaves.
    """
    size = (f"starts={starts}", "trainer.max_epochs=2", "descent.batch_size=128")
    run = Run(noise_options(device, sizes, 6400, 1000, *size, *PLAIN), device)
    with device_peak(device) as peak:
        whole = run.results([starts])
    ballast = torch.empty(0)
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        left = int(share * peak["device_mib"] * 2**20)
        ballast = torch.empty(max(0, torch.cuda.mem_get_info()[0] - left), dtype=torch.uint8, device=device)
    packs = [starts]
    cut = run.results(packs)
    costs = [np.array([row.val_cost for row in rows]) for rows in (whole, cut)]
    apart = float(abs(costs[1] / costs[0] - 1).max())
    halved = len(packs) > 1 or device.type == "cpu"
    yield {"packs": packs, "needed": peak, "ballast": len(ballast), "apart": apart, "ok": halved and apart < 1e-3}


def resume(
    device: torch.device, starts: int = 256, chosen: Sequence[str] = ("data.train=2000", "data.test=500")
) -> Iterator[Row]:
    """Runs of 4 epochs, and of 2 that are resumed: the same bits; `chosen`: their other options."""
    for momentum, race in ((0.0, "null"), (0.9, "null"), (0.9, "1")):
        with tempfile.TemporaryDirectory() as folder:
            words = [f"descent.momentum={momentum}", f"stop.race={race}", "descent.schedule=constant", "report=false"]
            train = partial(hillstart.train, *words, *chosen, starts=starts, accelerator=device.type)
            whole = train(f"hydra.run.dir={folder}/whole", max_epochs=4)
            half = train(f"hydra.run.dir={folder}/half", max_epochs=2)
            again = hillstart.train(f"resume={half.folder}", max_epochs=4)
            networks = [run.classifier.network for run in (whole, again)]
        same = all(map(torch.equal, *(network.parameters for network in networks)))
        yield {"momentum": momentum, "race": race, "same_bits": same, "ok": same}
