"""The gradient by hand against two independent ones: that of torch.autograd, and finite differences of the cost."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hillstart.network import ACTIVATIONS, COSTS, Network

STEP = 1e-5
"""Distance that a weight is moved each way; in float64 the central difference is then right to about 1e-10."""

TOLERANCE, DIFFERENCE_TOLERANCE = 1e-12, 1e-6
"""Largest allowed errors against autograd and differences, relative to the largest gradient of the layer."""


@dataclass(frozen=True)
class Check:
    """The largest error over the starts for one layer's weights or biases, relative to the largest gradient there."""

    layer: int
    parameter: str
    largest_gradient: float
    against_autograd: float
    against_differences: float


def check(
    network: Network,
    x: Float[Tensor, "B n_in"],
    y: Float[Tensor, "B n_out"],
    lmbda: float = 0.0,
    n: int = 1,
    samples: int = 20,
) -> list[Check]:
    """Compare all three gradients of C = mean cost + lmbda/(2n) sum w^2, layer by layer; everything in float64.

    Args:
        samples: number of elements of each weight or bias tensor for which differences are taken, at random from a
            fixed seed.
    """
    assert network.w[0].dtype == x.dtype == y.dtype == torch.float64
    by_hand = [nabla for part in network.gradient(x, y, lmbda, n) for nabla in part]
    by_autograd = autograd(network, x, y, lmbda, n)
    layers = len(network.w)
    checks = []
    for i, (p, hand, auto) in enumerate(zip(network.parameters, by_hand, by_autograd, strict=True)):
        largest = auto.abs().max().item()
        g = torch.Generator().manual_seed(0)
        chosen = torch.unravel_index(torch.randperm(p.numel(), generator=g)[:samples], p.shape)
        elements = zip(*(index.tolist() for index in chosen), strict=True)
        differences = [abs(_slope(network, p, at, x, y, lmbda / (2 * n)) - hand[at].item()) for at in elements]
        errors = ((hand - auto).abs().max().item(), max(differences))
        checks.append(Check(i % layers + 1, "wb"[i // layers], largest, *(error / largest for error in errors)))
    return sorted(checks, key=lambda c: c.layer)


def autograd(
    network: Network,
    x: Float[Tensor, "B n_in"],
    y: Float[Tensor, "B n_out"],
    lmbda: float | Float[Tensor, " S"] = 0.0,
    n: int = 1,
) -> list[Tensor]:
    """The gradient of every parameter by torch.autograd, from the network written a second time, start by start.

    For an activation or a cost that is not written here, `network.ACTIVATIONS` or `COSTS` gives the value.
    """
    w, b = ([p.clone().requires_grad_() for p in part] for part in (network.w, network.b))
    again = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
    sigma = again.get(network.activation) or ACTIVATIONS[network.activation].value
    costs = {
        "quadratic": lambda z: F.mse_loss(torch.sigmoid(z), y, reduction="sum") / 2,
        "cross_entropy": lambda z: F.binary_cross_entropy_with_logits(z, y, reduction="sum"),
        "log_likelihood": lambda z: F.cross_entropy(z, y, reduction="sum"),
    }
    cost = costs.get(network.cost) or (lambda z: COSTS[network.cost].value(z, y).sum())
    strength = torch.as_tensor(lmbda, dtype=x.dtype).expand(network.starts)
    total = torch.zeros((), dtype=x.dtype)
    for s in range(network.starts):
        a = x
        for l in range(len(w)):
            z = a @ w[l][s] + b[l][s]
            a = sigma(z)
        squares = torch.stack([wl[s].square().sum() for wl in w]).sum()
        total = total + cost(z) / len(x) + strength[s] / (2 * n) * squares
    return list(torch.autograd.grad(total, [*w, *b]))


def _slope(network: Network, p: Tensor, at: tuple[int, ...], x: Tensor, y: Tensor, l2: float) -> float:
    """(C(w + h) - C(w - h)) / 2h for the element `at` of the parameter p, where C = mean cost + l2 sum w^2."""
    before, s, costs = p[at].item(), at[0], list[float]()
    for value in (before + STEP, before - STEP):
        p[at] = value
        squares = sum(float(w[s].square().sum()) for w in network.w)
        costs.append(float(network.evaluate(x, y)[0][s].mean()) + l2 * squares)
    p[at] = before
    return (costs[0] - costs[1]) / (2 * STEP)
