"""Many starts together against an ordinary Lightning run for each seed."""

import itertools
import tempfile
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.runs import Run, noise_options, options
from benchmarks.timing import Spread, seconds
from hillstart.data.batches import one_hot
from hillstart.data.dataset import PictureSet, Split
from hillstart.data.idx import DEBIAN, FILES, HOME
from hillstart.network import Network

SIZES, BATCH, ETA = [784, 30, 10], 32, 0.1
WARM = 64
"""Starts and mini-batches that are trained before anything is timed."""

# An ordinary run spreads its small products over all cores, and waits for the slowest: beside another program it was
# seen 20 times as slow, while ours, a thread to a core, hardly noticed.
BUSY = 1.5


@dataclass(frozen=True)
class Size:
    """The amount of training, for one epoch.

    Attributes:
        starts: of ours, timed `repeats` times.
        seeds: ordinary runs, before, between and after those.
        pictures: to learn from at most, and a fifth of that to validate and to test; None: all.
    """

    starts: int = 1024
    repeats: int = 3
    seeds: int = 4
    pictures: int | None = None


FULL, QUICK = Size(), Size(starts=64, repeats=1, seeds=2, pictures=5000)


class Ordinary(pl.LightningModule):
    """The network as a Lightning user writes it: layers, autograd, an optimiser.

    Args:
        bare: log nothing.
    """

    def __init__(self, sizes: list[int], eta: float, bare: bool = True):
        super().__init__()
        self.bare = bare
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.Sigmoid()]
        self.layers, self.eta = nn.Sequential(*layers[:-1]), eta  # the cost takes the last sigmoid in

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy, summed over the outputs, mean over the pictures."""
        return binary_cross_entropy_with_logits(self.layers(x), y, reduction="sum") / len(x)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        cost = self.cost(*batch)
        if not self.bare:
            self.log("train_cost", cost)
        return cost

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        x, y = batch
        self.log("val_cost", self.cost(x, y))
        self.log("val_accuracy", (self.layers(x).argmax(1) == y.argmax(1)).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.eta)

    def begin_as(self, network: Network) -> None:
        """Take the weights and biases of a network of one start."""
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            for layer, w, b in zip(linear, network.w, network.b, strict=True):
                layer.weight.copy_(w[0].T)
                layer.bias.copy_(b[0])


def fit(module: Ordinary, train: DataLoader[Any], val: DataLoader[Any], device: torch.device, steps: int = -1) -> None:
    """One epoch; a bare module without all that a trainer does beside training, another with what ours does too."""
    bare = module.bare
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.filterwarnings("ignore", ".*does not have many workers")  # what there is to load lies in memory
        warnings.filterwarnings("ignore", ".*smaller than the logging interval")  # in a test
        trainer = pl.Trainer(
            max_epochs=1,
            max_steps=steps,
            accelerator=device.type,
            devices=1,
            logger=False if bare else CSVLogger(folder),
            enable_checkpointing=not bare,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0 if bare else 1.0,
            default_root_dir=folder,
        )
        trainer.fit(module, train, val)


@dataclass(frozen=True)
class Loaded:
    """The pictures as inputs and wanted outputs, made once for all ordinary runs."""

    train: TensorDataset
    val: TensorDataset

    @classmethod
    def of(cls, data: PictureSet) -> "Loaded":
        cpu, classes = torch.device("cpu"), len(data.classes)
        made = (
            TensorDataset(data.preprocessing.normalise(s.x), one_hot(s, classes, cpu)) for s in (data.train, data.val)
        )
        return cls(*made)


def ordinary_seconds(seed: int, data: Loaded, device: torch.device, bare: bool, steps: int = -1) -> float:
    """One ordinary run, from making the network to the end of the fit."""
    n_in, n_out = data.train.tensors[0].shape[1], data.train.tensors[1].shape[1]

    def run() -> None:
        torch.manual_seed(seed)
        train, val = DataLoader(data.train, batch_size=BATCH, shuffle=True), DataLoader(data.val, batch_size=1000)
        fit(Ordinary([n_in, *SIZES[1:-1], n_out], ETA, bare), train, val, device, steps)

    return seconds(run, device)


def chosen_options(size: Size, device: torch.device) -> DictConfig:
    """Fashion-MNIST where its files lie, else noise of the same shape; gradient descent as SGD does it."""
    chosen = (f"starts={size.starts}", "trainer.max_epochs=1", f"descent.batch_size={BATCH}", f"descent.eta={ETA}",
              "descent.momentum=0", "descent.lmbda=0", "descent.schedule=constant")  # fmt: skip
    for root in (HOME, DEBIAN["fashion_mnist"]):
        if any(root.glob(f"FashionMNIST/raw/{FILES[0]}*")) or any(root.glob(f"{FILES[0]}*")):
            return options(device, "data=fashion_mnist", f"data.root='{Path(root).resolve()}'", *chosen)
    return noise_options(device, SIZES, 50_000, 10_000, *chosen)


def measure(size: Size, device: torch.device) -> dict[str, Any]:
    """Seconds of ours, of ordinary and bare runs, of as many of those as we have starts, and the ratios."""
    run = Run(chosen_options(size, device), device)
    data = run.population.data
    if size.pictures is not None:
        learn, judge = size.pictures, size.pictures // 5
        data = replace(
            data, train=_first(data.train, learn), val=_first(data.val, judge), test=_first(data.test, judge)
        )
    everyone, loaded = replace(run.population, data=data), Loaded.of(data)
    run.seconds(replace(everyone, starts=everyone.starts[:WARM]))
    kinds = {"ordinary": False, "bare": True}
    for bare in kinds.values():
        ordinary_seconds(0, loaded, device, bare, WARM)
    ours: list[float] = []
    alone: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(max(size.repeats, size.seeds)):
        for kind, bare in kinds.items():
            if turn < size.seeds:
                alone[kind].append(ordinary_seconds(turn, loaded, device, bare))
        if turn < size.repeats:
            ours.append(run.seconds(everyone))
    together = Spread.of(ours)
    found = {"data": data.source, "pictures": len(data.train.y), "starts": size.starts, "repeats": size.repeats,
             "seconds": asdict(together), "seeds": size.seeds}  # fmt: skip
    for kind, times in alone.items():
        scaled = mean(times) * size.starts
        found[kind] = {"mean_seconds": mean(times), "low": min(times), "high": max(times), "scaled_seconds": scaled,
                       "ratio": scaled / together.median,
                       "ratio_at_worst": min(times) * size.starts / together.high}  # fmt: skip
    return found


def _first(split: Split, n: int) -> Split:
    return split.take(torch.arange(min(n, len(split.y))))


def section(console: Console, device: torch.device, quick: bool) -> dict[str, Any]:
    """Measure and show; what goes under `seeds` in the JSON."""
    found = measure(QUICK if quick else FULL, device)
    starts = found["starts"]
    title = f"one epoch of {found['pictures']} pictures, {found['data']}"
    table = Table("", "seconds", "low", "high", f"x {starts}", "ratio", "at worst", title=title)
    table.add_row(f"ours, {starts} starts", *Spread(**found["seconds"]).shown(), "", "", "")
    for kind, name in (("ordinary", "an ordinary run, one seed"), ("bare", "one that only trains")):
        one = found[kind]
        shown = Spread(one["mean_seconds"], one["low"], one["high"]).shown(2)
        ratios = (f"{one['scaled_seconds']:.0f}", f"{one['ratio']:.0f}", f"{one['ratio_at_worst']:.0f}")
        table.add_row(name, *shown, *ratios)
    if found["data"] == "noise":
        console.print("Fashion-MNIST is not here (Debian: dataset-fashion-mnist), so noise of its shape stands for it.")
    console.print(table, f"of ours the median of {found['repeats']}, of the others the mean of {found['seeds']} seeds;")
    console.print(
        "ours and the ordinary runs validate, log, and write checkpoints. At worst: fastest of theirs against"
    )
    console.print("slowest of ours.")
    if any(found[kind]["high"] > BUSY * found[kind]["low"] for kind in ("ordinary", "bare")):
        console.print("Their runs differ so much that something else was running: the ratios flatter ours.")
    return found
