"""The section in which networks of the run's shape learn in the browser, from some of its own training pictures."""

import inspect
import itertools
from collections.abc import Sequence

from hillstart.data.dataset import Split
from hillstart.engine.starts import Start
from hillstart.report.box import spread
from hillstart.report.page import Section, data_bytes
from hillstart.training.packs import RunSpec

TRAIN, VAL = 400, 200
"""The largest numbers of training and validation pictures in the page."""
BYTES, ROOM = 600_000, 1_500_000
"""The largest size of these pictures, and of them with the weights of the chosen start, which the page holds too."""
FEWEST = 20
"""With fewer training pictures there is no section."""
WEIGHTS = 300_000
"""Networks with more weights begin with fewer hidden nodes, so that one can watch them learn."""
STARTS = 4
"""The number of starts to begin with."""
ETA = 0.1
"""The learning rate to begin with if the run used an optimiser of torch, whose rate fits no plain step."""


def sections(spec: RunSpec, kept: Sequence[Start]) -> list[Section]:
    """The section `live`; none if pictures or network are so large that too few pictures fit into the page.

    Args:
        kept: starts of the run, the best first: the seeds and the hyperparameters to begin with.
    """
    data = spec.data
    room = min(BYTES, ROOM - 4 * weights(spec.sizes)) / data.train.x[0].numel()
    share = max(0.0, min(1.0, room / (TRAIN + VAL)))
    train, val = (_some(of, int(share * most)) for of, most in ((data.train, TRAIN), (data.val, VAL)))
    if len(train.y) < FEWEST or not len(val.y):
        return []
    begin = inspect.signature(spec.begin).parameters  # the defaults of a partial call are its values
    hidden = list(spec.sizes[1:-1])
    while weights([spec.sizes[0], *hidden, spec.sizes[-1]]) > WEIGHTS and max(hidden, default=1) > 1:
        hidden = [max(1, n // 2) for n in hidden]
    descent, first = spec.descent, kept[0].hyperparameters
    eta = ETA if descent.optimiser else first.eta
    batch_size = min(descent.batch_size, len(train.y))
    values = {
        "train": len(train.y),
        "all": len(data.train.y),
        "val": len(val.y),
        "hidden": hidden,
        "fewer": hidden != list(spec.sizes[1:-1]),
        "eta": f"{eta:g}",
        "batch_size": batch_size,
        "plain": not descent.optimiser and not first.momentum and not first.lmbda,
        "same_seeds": spec.start_from is None,
    }
    data_of_script = {
        "sizes": [spec.sizes[0], *hidden, spec.sizes[-1]],
        "most_weights": max(WEIGHTS, weights(spec.sizes)),
        "start": begin["start"].default if "start" in begin else "scaled_normal",
        "seeds": list(dict.fromkeys(start.seed for start in kept))[:STARTS],
        "pictures": [{"x": data_bytes(of.x), "y": of.y.tolist()} for of in (train, val)],
    }
    return [
        Section(
            "live",
            "Let it learn",
            "Press Play: new networks begin with random weights, and roll down the hill while you watch.",
            values,
            data_of_script,
        )
    ]


def weights(sizes: Sequence[int]) -> int:
    """The number of weights of a network."""
    return sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))


def _some(split: Split, most: int) -> Split:
    return split.take(spread(split.y, most)) if most else split.take(split.y[:0])
