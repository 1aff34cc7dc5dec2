"""Several mini-batches of gradient descent for one pass over the first layer's weights, exactly as one after the other.

A mini-batch sees the first layer only through z = x w + b, and what the mini-batches before it have added to w is known
before w is touched: x_k w_k = x_k w_0 + sum_j (x_k x_j^T) step_j. So the products with w, the largest tensor by far,
are done once for a block of mini-batches, and are as efficient as those of one large batch. The products x x^T of the
pictures are small and shared by all starts. Linear algebra calls this a delayed update.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hillstart.engine.matmul import MatmulBackend
from hillstart.network import (
    Downhill,
    DownhillOfBiases,
    DownhillOfWeights,
    GradientDescent,
    Network,
    PerStart,
    add_scaled,
    apart,
    scale,
    together,
)

Read = Callable[[slice], tuple[Float[Tensor, "P n_in"], Float[Tensor, "P n_out"]]]
"""Returns some pictures of a chunk, by their rows in it, as network inputs, and their wanted outputs."""

ROWS = 96
"""Pictures that a block should have: a wider product is hardly faster for each picture."""
MAX_BATCHES = 32
"""Mini-batches in a block at most: with more, the small products x x^T cost more than the large ones save."""


def mini_batches(batch_size: int) -> int:
    """The number of mini-batches in a block."""
    return max(1, min(MAX_BATCHES, ROWS // batch_size))


@dataclass(frozen=True)
class Block:
    """Some consecutive mini-batches, with what all starts need of them.

    Attributes:
        x, y: inputs and wanted outputs of all the pictures.
        xt: x^T, in the memory layout that the products need.
        gram: x x^T + 1: how far a step on one picture moves z of another; the 1 is the bias, whose input is 1. Empty
            for a single mini-batch.
        parts: the rows of each mini-batch.
        factors: learning-rate multiplier of each mini-batch, as numbers or as a tensor (K,).
    """

    x: Float[Tensor, "R n_in"]
    y: Float[Tensor, "R n_out"]
    xt: Float[Tensor, "n_in R"]
    gram: Float[Tensor, "seen seen"]
    parts: Sequence[slice]
    factors: Sequence[float] | Float[Tensor, " K"]


def block_at(
    first: int,
    most: int,
    read: Read,
    batch_size: int,
    schedule: Sequence[float] | Float[Tensor, " K"],
    matmul: MatmulBackend,
) -> Block:
    """The block of a chunk that begins at mini-batch `first` and has at most `most` mini-batches.

    Args:
        schedule: learning-rate multiplier of each mini-batch of the chunk.
    """
    factors = schedule[first : first + most]
    x, y = read(slice(first * batch_size, (first + len(factors)) * batch_size))
    parts = [slice(k * batch_size, min((k + 1) * batch_size, len(x))) for k in range(len(factors))]
    gram = torch.mm(x, x.t()).add_(1) if len(parts) > 1 else x.new_empty(0, 0)
    return Block(x, y, x.t().contiguous() if matmul.transposed else x.t(), gram, parts, factors)


def descend(
    network: Network, block: Block, eta: PerStart, lmbda: PerStart, n: int, step: GradientDescent, matmul: MatmulBackend
) -> None:
    """Do what `Network.descend` does, for each mini-batch of the block in turn.

    Args:
        eta, lmbda, n, step: as `Network.descend` takes them; either each lmbda is 0, or none. The block must be of one
            mini-batch unless the step is plain gradient descent.
    """
    S, b = network.starts, network.b[0]
    alone = len(block.parts) == 1
    decays = isinstance(lmbda, Tensor) or lmbda != 0
    decay: list[Any] = [eta * factor * lmbda / n if decays else 0.0 for factor in block.factors]
    # The factor by which the decay has shrunk w_0 before each mini-batch, and after the last; numbers, or (S,) each.
    shrunk = list(accumulate(decay, lambda before, now: before * (1 - now), initial=1.0))
    shrinks = decays and not alone
    Z = matmul.forward((torch.zeros_like(b) if shrinks else b).flatten(), block.x, together(network.w[0]))
    steps = Z if alone else torch.empty_like(Z)
    Z_by_start, steps_by_start = apart(Z, S), apart(steps, S)
    for k, (rows, factor) in enumerate(zip(block.parts, block.factors, strict=True)):
        # w_k = shrunk_k (w_0 + sum_(j<k) x_j^T step_j / shrunk_(j+1)), and b does not decay. Where w shrinks, steps are
        # stored with that factor, and b is moved at each mini-batch; otherwise the gram's 1 moves it too.
        z = Z_by_start[:, rows]
        if k:
            moved = block.gram[rows, : rows.start]
            Z[rows].addmm_(moved - 1 if shrinks else moved, steps[: rows.start])
        if shrinks:
            scale(z, shrunk[k]).add_(b.unsqueeze(1))
        a = network.forward(block.x[rows], z)
        for l, delta in network.errors(a, block.y[rows], -eta * factor / (rows.stop - rows.start)):
            if l:
                weights = DownhillOfWeights(network.w[l], a[l], delta, decay[k])
                step.move_layer(l, weights, DownhillOfBiases(delta))
            elif alone:
                steps = together(delta)
            else:
                steps_by_start[:, rows] = delta
                if shrinks:
                    _add_sum(b, steps[rows])
                    scale(steps_by_start[:, rows], 1 / shrunk[k + 1])
    if shrinks:
        scale(steps_by_start, shrunk[-1])
    first_weights = _FirstWeights(network.w[0], block.xt, steps, decay[0], shrunk[-1], matmul)
    step.move_layer(0, first_weights, _Moved() if shrinks else _FirstBiases(steps))


def _add_sum(b: Float[Tensor, "S n_1"], steps: Float[Tensor, "R wide"]) -> Tensor:
    """Add the sum of the rows to b. As a product: in torch's sum the bits of a column depend on its place."""
    b.view(-1).addmv_(steps.t(), steps.new_ones(len(steps)))
    return b


@dataclass(frozen=True)
class _FirstWeights(Downhill):
    """-eta nabla C of the first layer's weights over a block.

    Attributes:
        steps: -eta/B delta^1 of all pictures and starts, times the factor by which later decays of the block shrink it.
        decay: eta lmbda/n, for a step that adds to another tensor than w; its block has one mini-batch.
        shrunk: the factor by which the decays of the block shrink w.
    """

    w: Tensor
    xt: Float[Tensor, "n_in R"]
    steps: Float[Tensor, "R wide"]
    decay: PerStart
    shrunk: PerStart
    matmul: MatmulBackend

    def add_to(self, target: Tensor, keep: PerStart = 1.0) -> Tensor:
        if target is self.w:
            scale(target, self.shrunk + (keep - 1))
        else:
            add_scaled(scale(target, keep), self.w, -self.decay)
        return apart(self.matmul.add(together(target), self.xt, self.steps), len(target))


@dataclass(frozen=True)
class _FirstBiases(Downhill):
    """-eta nabla C of the first layer's biases over a block."""

    steps: Float[Tensor, "R wide"]

    def add_to(self, target: Tensor, keep: PerStart = 1.0) -> Tensor:
        return _add_sum(scale(target, keep), self.steps)


class _Moved(Downhill):
    """Nothing: the biases were moved at each mini-batch."""

    def add_to(self, target: Tensor, keep: PerStart = 1.0) -> Tensor:
        return target
