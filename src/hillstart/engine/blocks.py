"""Several mini-batches of gradient descent for one pass over the first layer's weights, exactly as one after the other.

What a mini-batch sees of the first layer is z = x w + b, and what the mini-batches before it have added to w is known
before w is touched: x_k w_k = x_k w_0 + sum_j (x_k x_j^T) step_j. So the products with w, the largest tensor by far,
wait until a block of mini-batches is through, and are then as wide and as rare as those of a batch of that size. The
pictures' own products, x x^T, are small and shared by all starts. Linear algebra calls this a delayed update.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hillstart.engine.matmul import MatmulBackend
from hillstart.network import Network, PerStart, add_scaled, apart, is_zero, per_start, together

Read = Callable[[slice], tuple[Float[Tensor, "P n_in"], Float[Tensor, "P n_out"]]]
"""Some pictures of a chunk, by their rows in it, as network inputs, and their wanted outputs."""


ROWS = 96
"""Pictures that a block should have: from about here on a product is as fast as it gets."""
MOST = 32
"""Mini-batches in a block at most: more than these wait longer for their small products than the large ones save."""


def mini_batches(batch_size: int) -> int:
    """How many mini-batches a block has."""
    return max(1, min(MOST, ROWS // batch_size))


@dataclass(frozen=True)
class Block:
    """Some mini-batches in turn, with what all starts need of them.

    Attributes:
        x, y: their pictures, one behind the other, and wanted outputs.
        xt: x^T, in memory as the products want it.
        gram: x x^T + 1: how far a step on one picture moves z of another one; the 1 is the bias, whose input is 1;
            empty where there is no other.
        parts: of each mini-batch its rows.
        factors: of each mini-batch that on eta; numbers, or a tensor (K,).
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
    """The block of a chunk that begins at its mini-batch `first` and has at most `most`.

    Args:
        schedule: the factor on eta of each mini-batch of the chunk.
    """
    factors = schedule[first : first + most]
    x, y = read(slice(first * batch_size, (first + len(factors)) * batch_size))
    parts = [slice(k * batch_size, min((k + 1) * batch_size, len(x))) for k in range(len(factors))]
    gram = torch.mm(x, x.t()).add_(1) if len(parts) > 1 else x.new_empty(0, 0)
    return Block(x, y, x.t().contiguous() if matmul.transposed else x.t(), gram, parts, factors)


def descend(
    network: Network,
    block: Block,
    eta: PerStart,
    mu: PerStart,
    lmbda: PerStart,
    n: int,
    velocity: Network | None,
    matmul: MatmulBackend,
) -> None:
    """What `Network.descend` does, for each mini-batch of the block in turn.

    Args:
        eta, mu, lmbda, n, velocity: as `Network.descend` takes them; with a velocity, or with an eta or a lmbda for
            each start, the block must be of one mini-batch.
    """
    S, b, alone = network.starts, network.b[0].flatten(), len(block.parts) == 1
    Z = matmul.forward(b, block.x, together(network.w[0]))
    decays = [0.0 if is_zero(lmbda) else eta * factor * lmbda / n for factor in block.factors]
    left = _left(decays)
    steps = Z if alone else torch.empty_like(Z)
    of_starts, steps_of_starts = apart(Z, S), apart(steps, S)
    for k, (rows, factor) in enumerate(zip(block.parts, block.factors, strict=True)):
        if k:
            z = Z[rows]
            if left[-1] != 1:
                z.mul_(left[k]).add_(b, alpha=1 - left[k])
            z.addmm_(_moved(block, k, left), steps[: rows.start])
        a = [block.x, *network.onward(of_starts[:, rows])]
        for l, step in network.errors(a, block.y[rows], -eta * factor / (rows.stop - rows.start)):
            if l:
                network.move(l, a[l], step, mu, decays[k], velocity)
            elif alone:
                steps = together(step)
            else:
                torch.mul(step, left[-1] / left[k + 1], out=steps_of_starts[:, rows])
    if velocity is None:
        if not is_zero(decays[0]):
            network.w[0] *= per_start(left[-1], 3)
        network.w[0] = apart(matmul.add(together(network.w[0]), block.xt, steps), S)
        b.addmv_(steps.t(), _of_bias(block, left))
    else:
        velocity.w[0] *= per_start(mu, 3)
        add_scaled(velocity.w[0], network.w[0], -decays[0])
        velocity.w[0] = apart(matmul.add(together(velocity.w[0]), block.xt, steps), S)
        network.w[0] += velocity.w[0]
        velocity.b[0].mul_(per_start(mu, 2)).view(-1).add_(steps.sum(0))
        network.b[0] += velocity.b[0]


def _left(decays: Sequence[PerStart]) -> list[Any]:
    """How much the decay leaves of w_0 before each mini-batch, and after the last one: numbers, or (S,) each."""
    left: list[Any] = [1.0]
    for decay in decays:
        left.append(left[-1] * (1 - decay))
    return left


def _moved(block: Block, k: int, left: Sequence[Any]) -> Float[Tensor, "B before"]:
    """How far the steps before mini-batch k, as they are scaled, have moved its z.

    w_k = left_k w_0 + sum_(j<k) left_k / left_(j+1) x_j^T step_j, and b does not decay; steps are stored times
    left_K / left_(j+1), as w_K needs them.
    """
    rows = block.parts[k]
    if left[-1] == 1:
        return block.gram[rows, : rows.start]
    return (block.gram[rows, : rows.start] - 1) * (left[k] / left[-1]) + _of_bias(block, left)[: rows.start]


def _of_bias(block: Block, left: Sequence[Any]) -> Float[Tensor, " R"]:
    """What undoes the scale of the stored steps."""
    if len(block.parts) == 1 or left[-1] == 1:
        return block.x.new_ones(len(block.x))
    sizes = torch.tensor([part.stop - part.start for part in block.parts])
    return torch.tensor([l / left[-1] for l in left[1:]], dtype=block.x.dtype).repeat_interleave(sizes).to(block.x)
