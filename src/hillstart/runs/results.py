"""The results of a job's starts, and the weights of the best starts, which vote."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hillstart.data.batches import Sample
from hillstart.data.dataset import PictureSet, Split
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.ensemble import StartEnsemble
from hillstart.engine.matmul import HIGHEST, multiplied_in
from hillstart.engine.starts import VOTERS, StartResult, ranking_key
from hillstart.inference import model_file
from hillstart.inference.calibration import before_and_after, calibrate
from hillstart.inference.classifier import Classifier
from hillstart.inference.evaluation import counted
from hillstart.inference.voting import Calibration, vote
from hillstart.network import ACTIVATIONS, Network
from hillstart.system.machine import versions
from hillstart.training.packs import FitResult, RunSpec

FLAT = 0.04
"""A node is flat where its slope is below this share of the steepest slope of sigma: by BP2 and BP4 weights into it
then move 25 times slower. For the sigmoid these are activations below 0.01 or above 0.99, for tanh beyond 0.98, for
relu exactly 0."""

PICTURES = 1000
"""Validation pictures on which saturation is checked."""
NOTABLE = 0.05
"""Share of saturated nodes from which a run warns: no network that learned well had as many."""


def saturated(network: Network, inputs: Iterable[Float[Tensor, "_ n_in"]]) -> Float[Tensor, " S"]:
    """The share of the hidden nodes of each start that are flat on every one of these pictures.

    0 without hidden nodes. A node that is flat on most pictures is normal: in networks that learned well three in four
    pairs of a node and a picture are flat, but each node still learns from some pictures.
    """
    if len(network.b) == 1:
        return torch.zeros(network.starts)
    sigma, pictures = ACTIVATIONS[network.activation], 0
    flat = FLAT * float(sigma.derivative(sigma.value(torch.tensor([0.0, 1.0]))).max())
    counts = torch.cat(network.b[:-1], 1).zero_()
    for x in inputs:
        counts += torch.cat([(sigma.derivative(a) < flat).sum(1) for a in network.forward(x)[1:-1]], 1)
        pictures += len(x)
    return (counts == pictures).float().mean(1).cpu()


def remark(share: float, described: Mapping[str, Any]) -> str:
    """The warning about a share of saturated nodes, with advice that the run has not followed yet.

    Args:
        described: as `RunSpec.described`.
    """
    advice = ["a smaller descent.eta"]
    if not any(described["data.normalise"][0]):  # the means
        advice.insert(0, "data.normalise=true")
    if described.get("network.start") not in ("scaled_normal", "glorot"):
        advice.insert(0, "network.start=scaled_normal")
    return (
        f"saturated: {share:.0%} of the hidden nodes of the kept starts have a flat activation on every picture "
        f"checked, and hardly learn; try {' or '.join(advice)}"
    )


OUTPUT_BYTES = 256 << 20
"""Memory budget for the outputs of all starts that are evaluated together."""


class RunResult:
    """The starts of one job that are trained so far, with the weights of the best of them.

    Attributes:
        rows: the result of each start, in the order of training.
        kept: results of the best starts that did not diverge, best first.
        network: the kept starts in their best epochs, on the CPU; None before there are any.
        calibration: of the kept starts; None before `evaluate`.
        seconds: of training; jobs that were trained together share them evenly.
    """

    def __init__(self, keep: int | None = None):
        self.most = keep or VOTERS
        self.rows: list[StartResult] = []
        self.kept: list[StartResult] = []
        self.network: Network | None = None
        self.calibration: Calibration | None = None
        self.seconds = 0.0

    def add(self, trained: FitResult, indices: Sequence[int]) -> None:
        """Add the starts at these indices of a pack."""
        rows = trained.rows
        new = [rows[index] for index in indices]
        self.rows += new
        # A run that was interrupted before it wrote that a pack is done trains that pack again.
        again = {row.start for row in new}
        pool = [(row, k, -1) for k, row in enumerate(self.kept) if row.start not in again]
        pool += [(rows[index], -1, index) for index in indices if not rows[index].diverged]
        chosen = sorted(pool, key=lambda entry: ranking_key(entry[0]))[: self.most]
        stay = [k for _, k, _ in chosen if k >= 0]
        come = sorted(index for _, _, index in chosen if index >= 0)
        if chosen:
            parts = [self.network.pick(stay)] if stay and self.network else []
            parts += [trained.best_of(come)] if come else []
            order = [stay.index(k) if k >= 0 else len(stay) + come.index(index) for _, k, index in chosen]
            self.network = Network.join(parts).pick(order)
        self.kept, self.calibration = [row for row, _, _ in chosen], None
        self.seconds += trained.seconds * len(indices) / len(rows)

    def save(self, path: Path, data: PictureSet) -> None:
        """Write the kept starts as a model file."""
        if self.network is not None:
            model_file.save(path, self.classifier(data))

    def classifier(self, data: PictureSet) -> Classifier:
        """The kept starts as a classifier; there must be some."""
        assert self.network is not None
        origins = tuple(row.start for row in self.kept)
        is_pictures = isinstance(data.preprocessing, Preprocessing)
        trained_on = data.trained_on | ({"brightness": round(data.brightness, 6)} if is_pictures else {})
        accuracies = tuple(row.val_accuracy for row in self.kept)
        about = (data.classes, data.preprocessing, self.calibration, trained_on, versions(), accuracies)
        return Classifier(self.network, origins, *about)

    def load(self, path: Path) -> None:
        """Read the kept starts that `save` wrote; starts that are not among `rows` are dropped.

        Raises:
            InputError: there is no such file, or it is not whole.
        """
        model, rows = model_file.load(path), {row.start: row for row in self.rows}
        known = [s for s, start in enumerate(model.origins) if start in rows]
        self.kept = [rows[model.origins[s]] for s in known]
        self.network = model.network.pick(known) if known else None


def with_test_figures(fits: Iterator[FitResult], spec: RunSpec, device: torch.device) -> Iterator[FitResult]:
    """Fits whose starts have test figures, if `spec.test_all` asks for them.

    The weights of a start exist only while its pack does, so they are evaluated when the pack is trained: each start as
    in its best epoch, which is chosen by then. The ranking of starts does not use these figures.
    """
    if not spec.test_all:
        yield from fits
        return
    data = spec.data
    sample = Sample(data.test, len(data.classes), data.preprocessing, device)
    size = max(1, OUTPUT_BYTES // (4 * 1000 * sum(spec.sizes[1:])))

    def on_test(trained: FitResult, indices: list[int]) -> Float[Tensor, "S 2"]:
        """Cost and accuracy of these starts."""
        starts = [trained.history.starts[index] for index in indices]
        points, seeds = [start.hyperparameters for start in starts], [start.seed for start in starts]
        pack = StartEnsemble(trained.best_of(indices).to(device), points, len(data.train.y), 1, seeds=seeds)
        return torch.stack(pack.evaluate(sample.batches()), 1)

    for trained in fits:
        if trained.whole and trained.rows:
            indices = torch.arange(len(trained.rows)).split(size)
            found = torch.cat([on_test(trained, some.tolist()) for some in indices])
            found[[row.best_epoch == 0 for row in trained.rows]] = torch.nan
            trained.history.test = found
            trained = replace(trained, rows=trained.history.rows())
        yield trained


@multiplied_in(HIGHEST)
def evaluate(outcomes: Sequence[RunResult], data: PictureSet, device: torch.device) -> list[dict[str, Any]]:
    """Fit the temperatures of each result on the validation pictures, and evaluate it once on the test pictures.

    Args:
        outcomes: with a network each, all of the same shape.

    Returns:
        For each: the test accuracy of its best start and of its vote, the answers of the vote to the test pictures as
        `counted` has them, its calibration on validation and test pictures, and the share of saturated nodes of its
        starts.
    """
    found: list[dict[str, Any]] = []
    for some in _within(OUTPUT_BYTES, outcomes, data):
        on_val, on_test = (_outputs(some, split, data, device) for split in (data.val, data.test))
        flat = _saturated(some, data, device)
        for outcome, val, test, share in zip(some, on_val, on_test, flat, strict=True):
            outcome.calibration = calibrate(val, data.val.y)
            T = outcome.calibration.vote
            right = [(of.argmax(-1) == data.test.y).double().mean().item() for of in (test[0], vote(test))]
            calibration = {
                "temperature": T,
                "val": before_and_after(val, data.val.y, T),
                "test": before_and_after(test, data.test.y, T),
            }
            accuracy = {"test_accuracy": right[0], "vote_test_accuracy": right[1]}
            answers = counted(vote(test), data.test.y, data.classes)
            found.append({**accuracy, "vote_test": answers, "calibration": calibration, "saturated": share})
    return found


def _within(limit: int, outcomes: Sequence[RunResult], data: PictureSet) -> Iterator[list[RunResult]]:
    """Split results into groups whose outputs on all pictures need at most so many bytes."""
    some, held = list[RunResult](), 0
    for outcome in outcomes:
        size = 4 * len(outcome.kept) * (len(data.val.y) + len(data.test.y)) * len(data.classes)
        if some and held + size > limit:
            yield some
            some, held = [], 0
        some.append(outcome)
        held += size
    if some:
        yield some


def _saturated(outcomes: Sequence[RunResult], data: PictureSet, device: torch.device) -> list[float]:
    """The share of saturated nodes among the starts of each outcome, on some validation pictures."""
    networks = [outcome.network for outcome in outcomes if outcome.network is not None]
    sample = Sample(data.val, len(data.classes), data.preprocessing, device, limit=PICTURES)
    shares = saturated(Network.join(networks).to(device), (x for x, _ in sample.batches(100)))
    return [share.mean().item() for share in shares.split([network.starts for network in networks])]


def _outputs(outcomes: Sequence[RunResult], split: Split, data: PictureSet, device: torch.device) -> list[Tensor]:
    """a^L of the starts of each outcome on all pictures of a split, on the CPU: (S, N, n_out)."""
    networks = [outcome.network for outcome in outcomes if outcome.network is not None]
    together = Network.join(networks).to(device)
    sample = Sample(split, len(data.classes), data.preprocessing, device)
    outputs = torch.cat([together.forward(x)[-1].cpu() for x, _ in sample.batches()], 1)
    return list(outputs.split([network.starts for network in networks]))
