"""Hidden nodes that hardly learn any more, because sigma is flat where their weighted inputs lie on every picture."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from hillstart.network import ACTIVATIONS, Network

FLAT = 0.04
"""Of the steepest slope of sigma; by BP2 and BP4 a weight into a node that lies flatter moves 25 times slower. For the
sigmoid that is an activation below 0.01 or above 0.99, for tanh one beyond 0.98, for relu exactly 0."""

PICTURES = 1000
NOTABLE = 0.05
"""Share of saturated nodes from which a run says so: none of the networks that learned well had as many."""


def saturated(network: Network, inputs: Iterable[Float[Tensor, "_ n_in"]]) -> Float[Tensor, " S"]:
    """The share of its hidden nodes that are flat on every one of these pictures, for each start.

    0 without hidden nodes. A node that is flat on most pictures is no fault: in networks that learned well three in
    four pairs of a node and a picture are flat, and yet each node moves on some.
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


def remark(share: float) -> str:
    """What a share of saturated nodes means, and what to do."""
    return (
        f"saturated: {share:.0%} of the hidden nodes of the kept starts stand where the activation is flat, on every "
        "picture looked at, and hardly learn; network.start=scaled_normal, data.normalise=true or a smaller "
        "descent.eta keeps them moving"
    )
