"""The sections that open the chosen network: its circles and lines, one node's arithmetic, the gradient of one step.

The page itself computes: it is given the weights, the preprocessing and some pictures, and goes through the network as
`network.py` does.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from hillstart.data.dataset import PictureSet
from hillstart.inference.classifier import Classifier
from hillstart.network import Network
from hillstart.report.page import Section, data_bytes, floats
from hillstart.system.errors import InputError

PICTURES, PICTURE_BYTES = 100, 400_000
"""Test pictures that are shown, at most; and bytes that they may take together."""
IN_THE_PAGE = {"activation": ("sigmoid", "tanh", "relu"), "cost": ("quadratic", "cross_entropy", "log_likelihood")}
"""The activations and costs that page/forward.js computes too."""


def sections(
    model: Classifier, data: PictureSet, eta: float, own: Sequence[tuple[str, UInt8[Tensor, "C H W"]]] = ()
) -> list[Section]:
    """Network, node and gradient, of the best start.

    Args:
        eta: the learning rate of the step that is shown.
        own: pictures of one's own, with their names, shown before those of the test.

    Raises:
        InputError: the page cannot compute the activation or the cost.
    """
    check_shown(model.network.activation, model.network.cost)
    network, chosen = model.network.pick([0]), model.origins[0]
    places = spread(data.test.y, max(1, min(PICTURES, PICTURE_BYTES // data.test.x[0].numel())))
    x = torch.cat([*(pixels.unsqueeze(0) for _, pixels in own), data.test.x[places]])
    labels: list[int | None] = [*(None for _ in own), *data.test.y[places].tolist()]
    names = [*(name for name, _ in own), *(f"Test picture {int(place) + 1}" for place in places)]
    answers = network.forward(model.preprocessing.normalise(x))[-1][0].argmax(-1).tolist()
    wrong = sum(label not in (None, answer) for label, answer in zip(labels, answers, strict=True))
    values = {"network": network, "classes": model.classes, "seed": chosen.seed, "preprocessing": model.preprocessing}
    return [
        Section(
            "network",
            "The network as circles and lines",
            "Choose a picture and see which circles it wakes: each adds up what the lines bring it.",
            values
            | {
                "wrong": wrong,
                "pictures": len(places),
                "kept": model.network.starts,
                "calibrated": model.calibration is not None,
            },
            {
                "network": {
                    "sizes": network.sizes,
                    "activation": network.activation,
                    "cost": network.cost,
                    "w": [floats(w[0]) for w in network.w],
                    "b": [floats(b[0]) for b in network.b],
                },
                "classes": list(model.classes),
                "preprocessing": model.preprocessing.as_dict(),
                "temperature": model.calibration.starts[0] if model.calibration else 1.0,
                "eta": eta,
                "paper": paper(data.test.x[places]),
                "pictures": data_bytes(x),
                "shown_pictures": [
                    {"name": name, "label": label, "answer": answer}
                    for name, label, answer in zip(names, labels, answers, strict=True)
                ],
            },
        ),
        Section(
            "node",
            "The arithmetic of one node",
            "Follow one circle from what comes in to what goes out, with a calculator if you like.",
            values,
        ),
        Section(
            "gradient",
            "The gradient of one step",
            "See how one weight would change the cost, and that backpropagation and a tiny nudge find the same slope.",
            values | {"parameters": _parameters(network), "eta": eta},
        ),
    ]


def check_shown(activation: str, cost: str) -> None:
    """Raise InputError where the page cannot compute the activation or the cost."""
    for (kind, known), name in zip(IN_THE_PAGE.items(), (activation, cost), strict=True):
        if name not in known:
            raise InputError(
                f"network.{kind}={name}: the page can show {', '.join(known)} only; give report=false, or add it to "
                "report/page/forward.js, node.js and gradient.js and to IN_THE_PAGE in report/box.py."
            )


def spread(y: Int64[Tensor, " N"], count: int) -> Int64[Tensor, " M"]:
    """Places of so many pictures, or of all if there are fewer, the classes in turn and each class from end to end."""
    members = [(y == k).nonzero().flatten() for k in y.unique()]
    take = [0] * len(members)
    while sum(take) < min(count, len(y)):  # a class that has no more leaves its turn to the others
        for k, of_class in enumerate(members):
            take[k] += int(take[k] < len(of_class) and sum(take) < count)
    chosen = [of_class[torch.arange(n) * len(of_class) // max(n, 1)] for of_class, n in zip(members, take, strict=True)]
    turns = sorted((turn, k) for k, n in enumerate(take) for turn in range(n))
    return torch.stack([chosen[k][turn] for turn, k in turns])


def paper(x: UInt8[Tensor, "N C H W"]) -> int:
    """The grey level, black or white, that one draws on: what the borders of the pictures mostly are."""
    border = torch.cat([x[..., 0, :], x[..., -1, :], x[..., 0], x[..., -1]], -1)
    return 255 if border.float().median() > 127 else 0


def _parameters(network: Network) -> int:
    return sum(p.numel() for p in network.parameters)
