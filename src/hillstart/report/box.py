"""The sections that open the chosen network: its circles and lines, one node's arithmetic, the gradient of one step.

The page itself computes: it has the weights, the preprocessing and some pictures, and runs the network as `network.py`
does.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from hillstart.data.dataset import PictureSet
from hillstart.inference.classifier import Classifier
from hillstart.report.page import Section, data_bytes, floats
from hillstart.system.errors import InputError

PICTURES, PICTURE_BYTES = 100, 400_000
"""Limits of the number of test pictures that are shown, and of their size together."""
IN_THE_PAGE = {"activation": ("sigmoid", "tanh", "relu"), "cost": ("quadratic", "cross_entropy", "log_likelihood")}
"""The activations and costs that page/forward.js computes too."""


def sections(
    classifier: Classifier, data: PictureSet, own: Sequence[tuple[str, UInt8[Tensor, "C H W"]]] = ()
) -> list[Section]:
    """The sections `network`, `node` and `gradient` of the best start.

    Args:
        own: pictures of one's own, with their names, shown before those of the test.

    Raises:
        InputError: the page cannot compute the activation or the cost.
    """
    check_shown(classifier.network.activation, classifier.network.cost)
    network, preprocessing = classifier.network.pick([0]), classifier.preprocessing
    indices = spread(data.test.y, max(1, min(PICTURES, PICTURE_BYTES // data.test.x[0].numel())))
    x = torch.cat([*(pixels.unsqueeze(0) for _, pixels in own), data.test.x[indices]])
    labels: list[int | None] = [*(None for _ in own), *data.test.y[indices].tolist()]
    names = [*(name for name, _ in own), *(f"Test picture {index + 1}" for index in indices.tolist())]
    answers = network.forward(preprocessing.normalise(x))[-1][0].argmax(-1).tolist()
    pictures = [
        {"name": name, "label": label, "answer": answer}
        for name, label, answer in zip(names, labels, answers, strict=True)
    ]
    eta = classifier.origins[0].hyperparameters.eta
    values = {
        "network": network,
        "classes": classifier.classes,
        "wrong": sum(picture["label"] not in (None, picture["answer"]) for picture in pictures),
        "pictures": len(indices),
        "kept": classifier.network.starts,
        "calibrated": classifier.calibration is not None,
        "temperature": classifier.temperatures.starts[0],
        "eta": eta,
    }
    data_of_script = {
        "network": {
            "sizes": network.sizes,
            "activation": network.activation,
            "cost": network.cost,
            "w": [floats(w[0]) for w in network.w],
            "b": [floats(b[0]) for b in network.b],
        },
        "classes": list(classifier.classes),
        "preprocessing": preprocessing.as_dict(),
        "temperature": classifier.calibration.starts[0] if classifier.calibration else 1.0,
        "eta": eta,
        "paper": paper(data.test.x[indices]),
        "pictures": data_bytes(x),
        "shown_pictures": pictures,
    }
    return [
        Section(
            "network",
            "The network as circles and lines",
            "Choose a picture and see which circles it wakes: each adds up what the lines bring it.",
            values,
            data_of_script,
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
            values,
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
    """Indices of so many pictures, or of all if there are fewer, the classes in turn, each evenly spread."""
    members = [(y == k).nonzero().flatten() for k in y.unique()]
    turns = sorted((turn, k) for k, of_class in enumerate(members) for turn in range(len(of_class)))[:count]
    take = [sum(of == k for _, of in turns) for k in range(len(members))]
    return torch.stack([members[k][turn * len(members[k]) // take[k]] for turn, k in turns])


def paper(x: UInt8[Tensor, "N C H W"]) -> int:
    """The grey level, black or white, that one draws on: what the borders of the pictures mostly are."""
    border = torch.cat([x[..., 0, :], x[..., -1, :], x[..., 0], x[..., -1]], -1)
    return 255 if border.float().median() > 127 else 0
