"""What became of a job's starts: a row for each, and the weights of the best, which vote."""

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import torch

from hillstart import model_file
from hillstart.data.minibatches import Sample
from hillstart.data.pictures import PictureSet
from hillstart.network import Network
from hillstart.population import Trained
from hillstart.starts import Row, standing

VOTERS = 16
"""How many of the best starts are kept when `keep` does not say."""


class Outcome:
    """The starts of one job as far as they are trained; of their weights only the best are held.

    Attributes:
        rows: a row for each start, in the order they were trained in.
        kept: rows of the best sound starts, best first.
        network: those starts as in their best epochs, on the CPU; None before there are any, and on all ranks but the
            first.
        seconds: of training, shared out evenly where jobs were trained together.
    """

    def __init__(self, keep: int | None = None):
        self.most = keep or VOTERS
        self.rows: list[Row] = []
        self.kept: list[Row] = []
        self.network: Network | None = None
        self.seconds = 0.0

    def add(self, trained: Trained, places: Sequence[int]) -> None:
        """Take in these starts of a pack; to be called on every rank."""
        rows, training = trained.rows, trained.training
        new = [rows[place] for place in places]
        self.rows += new
        # A start that is here already was left by an interrupted run before it could note that its pack was done.
        again = {row.start for row in new}
        pool = [(row, k, -1) for k, row in enumerate(self.kept) if row.start not in again]
        pool += [(rows[place], -1, place) for place in places if not rows[place].diverged]
        chosen = sorted(pool, key=lambda entry: standing(entry[0]))[: self.most]
        stay, come = [k for _, k, _ in chosen if k >= 0], sorted(place for _, _, place in chosen if place >= 0)
        fresh = training.best_of(come) if come else None
        if training.ranks.is_first and chosen:
            parts = [self.network.pick(stay)] if stay and self.network else []
            parts += [fresh] if fresh else []
            order = [stay.index(k) if k >= 0 else len(stay) + come.index(place) for _, k, place in chosen]
            self.network = Network.join(parts).pick(order)
        self.kept = [row for row, _, _ in chosen]
        self.seconds += trained.seconds * len(places) / len(rows)

    def keep_rows(self) -> None:
        """Of `rows` the best, for a rank that holds no weights."""
        self.kept = sorted((row for row in self.rows if not row.diverged), key=standing)[: self.most]

    def save(self, path: Path, data: PictureSet) -> None:
        """Write the kept starts as a file for inference."""
        if self.network is not None:
            about = {
                "seeds": [row.start.seed for row in self.kept],
                "rolls": [list(astuple(row.start.hyperparameters)) for row in self.kept],
                "classes": list(data.classes),
                "preprocessing": data.preprocessing.as_dict(),
            }
            model_file.save(path, self.network, about)

    def load(self, path: Path) -> None:
        """Take the kept starts back from what `save` wrote, as far as `rows` knows of them.

        Raises:
            InputError: there is no such file.
        """
        network, about = model_file.load(path)
        rows = {(row.start.seed, astuple(row.start.hyperparameters)): row for row in self.rows}
        starts = [(seed, tuple(rolls)) for seed, rolls in zip(about["seeds"], about["rolls"], strict=True)]
        known = [i for i, start in enumerate(starts) if start in rows]
        self.kept = [rows[starts[i]] for i in known]
        self.network = network.pick(known) if known else None


def accuracies_on_test(
    networks: Sequence[Network], data: PictureSet, device: torch.device
) -> list[tuple[float, float]]:
    """The one look at the test pictures: accuracy of the first start of each network, and of the mean of its outputs.

    Args:
        networks: the kept starts of each job.
    """
    if not networks:
        return []
    together, sizes = Network.join(networks).to(device), [network.starts for network in networks]
    right, pictures = torch.zeros(len(networks), 2), 0
    for x, y in Sample(data.test, len(data.classes), data.preprocessing, device).batches():
        outputs = together.forward(x)[-1].split(sizes)
        chosen = torch.stack([opinions[0] for opinions in outputs])
        vote = torch.stack([opinions.mean(0) for opinions in outputs])
        for k, opinion in enumerate((chosen, vote)):
            right[:, k] += (opinion.argmax(-1) == y.argmax(-1)).sum(-1).cpu()
        pictures += len(x)
    return [(chosen / pictures, vote / pictures) for chosen, vote in right.tolist()]
