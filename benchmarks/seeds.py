"""Many starts together against an ordinary Lightning run for each seed.

Ours and the ordinary runs validate, log, and write checkpoints. Ours are shown by their median, the others by their
mean, also scaled to as many starts. At worst: the fastest of theirs against the slowest of ours. On Fashion-MNIST, or
on noise of its shape where it is not installed (Debian: dataset-fashion-mnist).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from statistics import mean

import torch
from omegaconf import DictConfig
from torch.utils.data import TensorDataset

from benchmarks.peers import Ordinary, fit, loader_of
from benchmarks.runs import Run, noise_options, options
from benchmarks.timing import Part, Row, seconds, spread
from hillstart.data.batches import one_hot
from hillstart.data.dataset import Split
from hillstart.data.idx import found

SIZES, BATCH, ETA = [784, 30, 10], 32, 0.1
WARM = 64
"""Starts and mini-batches that are trained before anything is timed."""

# An ordinary run spreads its small products over all cores, and waits for the slowest: beside another program it was
# seen 20 times as slow, while ours, a thread to a core, hardly noticed.
BUSY = 1.5

QUICK = {"starts": 64, "repeats": 1, "seeds": 2, "pictures": 5000}


def measure(
    device: torch.device, starts: int = 1024, repeats: int = 3, seeds: int = 4, pictures: int | None = None
) -> Iterator[Part]:
    """One epoch of ours, of ordinary runs, and of bare ones that only train; these scaled to as many starts as ours.

    Args:
        starts: of ours, timed `repeats` times.
        seeds: runs of one seed, before, between and after those of ours.
        pictures: to learn from at most, and a fifth of that to validate and to test; None: all.
    """
    run = Run(chosen_options(starts, device), device)
    data = run.spec.data
    if pictures is not None:
        few = pictures // 5
        data = replace(data, train=_first(data.train, pictures), val=_first(data.val, few), test=_first(data.test, few))
    cpu = torch.device("cpu")
    train, val = (
        TensorDataset(data.preprocessing.normalise(split.x), one_hot(split, len(data.classes), cpu))
        for split in (data.train, data.val)
    )
    all_starts = replace(run.spec, data=data)
    run.seconds(replace(all_starts, starts=all_starts.starts[:WARM]))
    kinds = {"an ordinary run": False, "a bare run": True}
    for bare in kinds.values():
        ordinary_seconds(0, train, val, device, bare, WARM)
    taken: dict[str, list[float]] = defaultdict(list)
    for turn in range(max(repeats, seeds)):
        for kind, bare in kinds.items() if turn < seeds else ():
            taken[kind].append(ordinary_seconds(turn, train, val, device, bare))
        if turn < repeats:
            taken["ours"].append(run.seconds(all_starts))
    ours: Row = {"contestant": "ours", "starts": starts, "n": repeats} | spread(taken["ours"], "seconds")
    rows = [ours]
    figures: Row = {"data": data.source, "pictures": len(data.train.y)}
    for kind in kinds:
        one: Row = (
            {"contestant": kind, "starts": 1, "n": seeds}
            | spread(taken[kind], "seconds")
            | {"seconds": mean(taken[kind])}
        )
        scaled = starts * one["seconds"]
        ratios = {"ratio": scaled / ours["seconds"], "ratio_at_worst": starts * one["low"] / ours["high"]}
        rows.append(one | {"scaled_seconds": scaled} | ratios)
        if one["high"] > BUSY * one["low"]:
            figures["caution"] = "their runs differ so much that something else was running: the ratios flatter ours"
    yield Part("one epoch", rows, figures)


def chosen_options(starts: int, device: torch.device) -> DictConfig:
    """One epoch of Fashion-MNIST by plain gradient descent, or of noise where it is not found."""
    chosen = (
        f"starts={starts}",
        "trainer.max_epochs=1",
        f"descent.batch_size={BATCH}",
        f"descent.eta={ETA}",
        "descent.momentum=0",
        "descent.lmbda=0",
        "descent.schedule=constant",
    )
    if there := fashion_mnist():
        return options(device, *there, *chosen)
    return noise_options(device, SIZES, 50_000, 10_000, *chosen)


def fashion_mnist() -> list[str]:
    """The options that choose Fashion-MNIST; none where it is not found."""
    folder = found("fashion_mnist")
    return ["data=fashion_mnist", f"data.root='{folder.resolve()}'"] if folder else []


def ordinary_seconds(
    seed: int, train: TensorDataset, val: TensorDataset, device: torch.device, bare: bool, steps: int = -1
) -> float:
    """One ordinary run, from making the network to the end of the fit."""
    n_in, n_out = (tensor.shape[1] for tensor in train.tensors)

    def run() -> None:
        torch.manual_seed(seed)
        loaders = loader_of(train, device, batch_size=BATCH, shuffle=True), loader_of(val, device, batch_size=1000)
        fit(Ordinary([n_in, *SIZES[1:-1], n_out], ETA, bare), *loaders, device, steps)

    return seconds(run, device)


def _first(split: Split, n: int) -> Split:
    return split.take(torch.arange(min(n, len(split.y))))
