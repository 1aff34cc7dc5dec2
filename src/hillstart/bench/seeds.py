"""Many starts together against an ordinary Lightning run for each seed."""

import itertools
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from hillstart.bench.runs import Run, noise_options, options
from hillstart.bench.timing import Spread, seconds
from hillstart.data.idx import DEBIAN, FILES, HOME
from hillstart.data.minibatches import one_hot
from hillstart.data.pictures import PictureSet, Split
from hillstart.network import Network

SIZES, BATCH, ETA = [784, 30, 10], 32, 0.1
WARM = 64
"""Starts and mini-batches that are trained before anything is timed."""

# An ordinary run spreads its small products over all cores, and waits for the slowest: beside another program it was
# seen 20 times as slow, while ours, a thread to a core, hardly noticed.
BUSY = 1.5


@dataclass(frozen=True)
class Size:
    """How much is trained, for one epoch.

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
    """The network as a Lightning user writes it: layers, autograd, an optimiser."""

    def __init__(self, sizes: list[int], eta: float):
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.Sigmoid()]
        self.layers, self.eta = nn.Sequential(*layers[:-1]), eta  # the cost takes the last sigmoid in

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy, summed over the outputs, mean over the pictures."""
        return binary_cross_entropy_with_logits(self.layers(x), y, reduction="sum") / len(x)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return self.cost(*batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.eta)

    def begin_as(self, network: Network) -> None:
        """Take the weights and biases of a network of one start."""
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            for layer, w, b in zip(linear, network.w, network.b, strict=True):
                layer.weight.copy_(w[0].T)
                layer.bias.copy_(b[0])


def fit(module: Ordinary, loader: DataLoader[Any], device: torch.device, steps: int = -1) -> None:
    """One epoch with all that a trainer does beside training left out."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")  # what there is to load lies in memory
        trainer = pl.Trainer(
            max_epochs=1,
            max_steps=steps,
            accelerator=device.type,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)


def tensors(data: PictureSet) -> TensorDataset:
    """The pictures to learn from as inputs and wanted outputs, made once for all ordinary runs."""
    x = data.preprocessing.normalise(data.train.x)
    return TensorDataset(x, one_hot(data.train, len(data.classes), torch.device("cpu")))


def ordinary_seconds(seed: int, dataset: TensorDataset, device: torch.device, steps: int = -1) -> float:
    """One ordinary run, from making the network to the end of the fit."""
    n_in, n_out = dataset.tensors[0].shape[1], dataset.tensors[1].shape[1]

    def run() -> None:
        torch.manual_seed(seed)
        loader = DataLoader(dataset, batch_size=BATCH, shuffle=True)
        fit(Ordinary([n_in, *SIZES[1:-1], n_out], ETA), loader, device, steps)

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
    """Seconds of ours, of an ordinary run, of as many of those as we have starts, and the ratio; at worst, too."""
    run = Run(chosen_options(size, device), device)
    data = run.population.data
    if size.pictures is not None:
        learn, judge = size.pictures, size.pictures // 5
        data = replace(
            data, train=_first(data.train, learn), val=_first(data.val, judge), test=_first(data.test, judge)
        )
    everyone, dataset = replace(run.population, data=data), tensors(data)
    run.seconds(replace(everyone, starts=everyone.starts[:WARM]))
    ordinary_seconds(0, dataset, device, WARM)
    ours: list[float] = []
    ordinary: list[float] = []
    for turn in range(max(size.repeats, size.seeds)):
        if turn < size.seeds:
            ordinary.append(ordinary_seconds(turn, dataset, device))
        if turn < size.repeats:
            ours.append(run.seconds(everyone))
    together, scaled = Spread.of(ours), mean(ordinary) * size.starts
    return {
        "data": data.source,
        "pictures": len(data.train.y),
        "starts": size.starts,
        "repeats": size.repeats,
        "seconds": asdict(together),
        "ordinary": {"seeds": size.seeds, "mean_seconds": mean(ordinary), "low": min(ordinary), "high": max(ordinary),
                     "scaled_seconds": scaled},
        "ratio": scaled / together.median,
        "ratio_at_worst": min(ordinary) * size.starts / together.high,
    }  # fmt: skip


def _first(split: Split, n: int) -> Split:
    return split.take(torch.arange(min(n, len(split.y))))


def section(console: Console, device: torch.device, quick: bool) -> dict[str, Any]:
    """Measure and show; what goes under `seeds` in the JSON."""
    found = measure(QUICK if quick else FULL, device)
    one, starts = found["ordinary"], found["starts"]
    table = Table("", "seconds", "low", "high", title=f"one epoch of {found['pictures']} pictures, {found['data']}")
    table.add_row(f"ours, {starts} starts", *Spread(**found["seconds"]).shown())
    table.add_row("an ordinary run, one seed", *Spread(one["mean_seconds"], one["low"], one["high"]).shown(2))
    table.add_row(f"as many times {starts}", *[f"{starts * one[key]:.0f}" for key in ("mean_seconds", "low", "high")])
    if found["data"] == "noise":
        console.print("Fashion-MNIST is not here (Debian: dataset-fashion-mnist), so noise of its shape stands for it.")
    of_ours = f"of ours the median of {found['repeats']}, with validation, test and files"
    of_ordinary = f"of ordinary runs, which only train, the mean of {one['seeds']} seeds"
    console.print(table, f"ratio {found['ratio']:.0f}; {of_ours}; {of_ordinary}.")
    console.print(f"Fastest ordinary run against slowest of ours: {found['ratio_at_worst']:.0f}.")
    if one["high"] > BUSY * one["low"]:
        console.print(
            "The ordinary runs differ so much that something else was running: the first ratio flatters ours."
        )
    return found
