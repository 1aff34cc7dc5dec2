"""Several mini-batches of gradient descent for one pass over the first layer's weights, exactly as one after the other.

A mini-batch sees the first layer only through z = x w + b, and what the mini-batches before it have added to w is known
before w is touched: x_k w_k = x_k w_0 + sum_j (x_k x_j^T) step_j. So the products with w, the largest tensor by far,
are done once for a block of mini-batches, and are as efficient as those of one large batch. The products x x^T of the
pictures are small and shared by all starts. Linear algebra calls this a delayed update.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    is_zero,
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
    S, b, alone = network.starts, network.b[0].flatten(), len(block.parts) == 1
    Z = matmul.forward(b, block.x, together(network.w[0]))
    decays = [0.0 if is_zero(lmbda) else eta * factor * lmbda / n for factor in block.factors]
    left = _left(decays)
    steps = Z if alone else torch.empty_like(Z)
    Z_by_start, steps_by_start = apart(Z, S), apart(steps, S)
    for k, (rows, factor) in enumerate(zip(block.parts, block.factors, strict=True)):
        if k:
            z = Z[rows]
            if left[-1] != 1:
                z.mul_(left[k]).add_(b, alpha=1 - left[k])
            z.addmm_(_moved(block, k, left), steps[: rows.start])
        a = [block.x, *network.onward(Z_by_start[:, rows])]
        for l, delta in network.errors(a, block.y[rows], -eta * factor / (rows.stop - rows.start)):
            if l:
                weights = DownhillOfWeights(network.w[l], a[l], delta, decays[k])
                step.move_layer(l, weights, DownhillOfBiases(delta))
            elif alone:
                steps = together(delta)
            else:
                torch.mul(delta, left[-1] / left[k + 1], out=steps_by_start[:, rows])
    step.move_layer(
        0,
        _FirstWeights(network.w[0], block, steps, decays[0], left[-1], matmul),
        _FirstBiases(network.b[0], block, steps, left),
    )


@dataclass(frozen=True)
class _FirstWeights(Downhill):
    """-eta nabla C of the first layer's weights over a block.

    Attributes:
        steps: -eta/B delta^1 of all pictures and starts, (R, wide), times what the later decays of the block leave.
        decay: eta lmbda/n, for a step that adds to another tensor than w; its block has one mini-batch.
        left: the factor that the decays of the block leave of w.
    """

    w: Tensor
    block: Block
    steps: Tensor
    decay: PerStart
    left: Any
    matmul: MatmulBackend

    def add_to(self, target: Tensor, keep: PerStart = 1.0) -> Tensor:
        if target is self.w:
            scale(target, self.left + (keep - 1))
        else:
            add_scaled(scale(target, keep), self.w, -self.decay)
        return apart(self.matmul.add(together(target), self.block.xt, self.steps), len(target))


@dataclass(frozen=True)
class _FirstBiases(Downhill):
    """-eta nabla C of the first layer's biases over a block."""

    b: Tensor
    block: Block
    steps: Tensor
    left: Sequence[Any]

    def add_to(self, target: Tensor, keep: PerStart = 1.0) -> Tensor:
        wide = scale(target, keep).view(-1)
        if target is self.b:
            wide.addmv_(self.steps.t(), _unscale(self.block, self.left))
        else:
            wide.add_(self.steps.sum(0))
        return target


def _left(decays: Sequence[PerStart]) -> list[Any]:
    """The factor that the decay leaves of w_0 before each mini-batch, and after the last; numbers, or (S,) each."""
    left: list[Any] = [1.0]
    for decay in decays:
        left.append(left[-1] * (1 - decay))
    return left


def _moved(block: Block, k: int, left: Sequence[Any]) -> Float[Tensor, "B before"]:
    """The factors by which the scaled steps before mini-batch k move its z.

    w_k = left_k w_0 + sum_(j<k) left_k / left_(j+1) x_j^T step_j, and b does not decay. Steps are stored times
    left_K / left_(j+1), as w_K needs them.
    """
    rows = block.parts[k]
    if left[-1] == 1:
        return block.gram[rows, : rows.start]
    return (block.gram[rows, : rows.start] - 1) * (left[k] / left[-1]) + _unscale(block, left)[: rows.start]


def _unscale(block: Block, left: Sequence[Any]) -> Float[Tensor, " R"]:
    """The factor of each picture that undoes the scale of the stored steps."""
    if len(block.parts) == 1 or left[-1] == 1:
        return block.x.new_ones(len(block.x))
    sizes = torch.tensor([part.stop - part.start for part in block.parts])
    return torch.tensor([l / left[-1] for l in left[1:]], dtype=block.x.dtype).repeat_interleave(sizes).to(block.x)
