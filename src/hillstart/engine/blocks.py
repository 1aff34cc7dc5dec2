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
        eta, lmbda, n, step: as `Network.descend` takes them. The block must be of one mini-batch unless the step is
            plain gradient descent with one eta and one lmbda for all starts.
    """
    S = network.starts
    b = network.b[0].flatten()
    alone = len(block.parts) == 1
    decayed = isinstance(lmbda, Tensor) or lmbda != 0
    decays: list[Any] = [eta * factor * lmbda / n if decayed else 0.0 for factor in block.factors]
    # The factor by which the decay has shrunk w_0 before each mini-batch, and after the last; numbers, or (S,) each.
    shrunk = list(accumulate(decays, lambda before, decay: before * (1 - decay), initial=1.0))
    unscale = block.x.new_ones(len(block.x))  # the factor of each picture that undoes the scale of the stored steps
    if not alone and shrunk[-1] != 1:
        sizes = torch.tensor([part.stop - part.start for part in block.parts])
        factors = torch.tensor([f / shrunk[-1] for f in shrunk[1:]], dtype=block.x.dtype)
        unscale = factors.repeat_interleave(sizes).to(block.x)
    Z = matmul.forward(b, block.x, together(network.w[0]))
    steps = Z if alone else torch.empty_like(Z)
    Z_by_start, steps_by_start = apart(Z, S), apart(steps, S)
    for k, (rows, factor) in enumerate(zip(block.parts, block.factors, strict=True)):
        if k:
            # w_k = shrunk_k w_0 + sum_(j<k) shrunk_k / shrunk_(j+1) x_j^T step_j, and b does not decay. Steps are
            # stored times shrunk_K / shrunk_(j+1), as w_K needs them.
            z, moved = Z[rows], block.gram[rows, : rows.start]
            if shrunk[-1] != 1:
                z.mul_(shrunk[k]).add_(b, alpha=1 - shrunk[k])
                moved = (moved - 1) * (shrunk[k] / shrunk[-1]) + unscale[: rows.start]
            z.addmm_(moved, steps[: rows.start])
        a = network.forward(block.x[rows], Z_by_start[:, rows])
        for l, delta in network.errors(a, block.y[rows], -eta * factor / (rows.stop - rows.start)):
            if l:
                weights = DownhillOfWeights(network.w[l], a[l], delta, decays[k])
                step.move_layer(l, weights, DownhillOfBiases(delta))
            elif alone:
                steps = together(delta)
            else:
                torch.mul(delta, shrunk[-1] / shrunk[k + 1], out=steps_by_start[:, rows])
    first_weights = _FirstWeights(network.w[0], block.xt, steps, decays[0], shrunk[-1], matmul)
    step.move_layer(0, first_weights, _FirstBiases(network.b[0], steps, unscale))


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
    """-eta nabla C of the first layer's biases over a block; `unscale` undoes the scale of the steps."""

    b: Tensor
    steps: Float[Tensor, "R wide"]
    unscale: Float[Tensor, " R"]

    def add_to(self, target: Tensor, keep: PerStart = 1.0) -> Tensor:
        wide = scale(target, keep).view(-1)
        if target is self.b:
            wide.addmv_(self.steps.t(), self.unscale)
        else:
            wide.add_(self.steps.sum(0))
        return target
