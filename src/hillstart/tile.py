"""A tile: starts that share their matrix products, and what moves them."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from hillstart.block import Block, block_at, descend
from hillstart.network import Network, PerStart, apart, together
from hillstart.products import Products
from hillstart.replay import Replay

REPLAYED = 64
"""Mini-batches in a CUDA graph, or as many whole blocks as come near."""

Optimiser = Callable[..., torch.optim.Optimizer]


@cache
def _fused() -> Callable[..., None]:
    """A block's descent with a kernel for all that lies between two products: sigmoid, errors, steps of the biases."""
    made: Callable[..., None] = torch.compile(descend)
    return made


class Tile:
    """Some starts that share their matrix products, with what moves them: velocities, or an optimiser of torch.

    Attributes:
        places: which starts of the pack they are.
        columns: where those stand in `network`; what stands elsewhere in it has ended, or only fills the width.
    """

    def __init__(
        self,
        network: Network,
        places: list[int],
        columns: list[int],
        eta: PerStart,
        mu: PerStart | None,
        lmbda: PerStart,
        n: int,
        optimiser: Optimiser | None,
        fuse: bool = False,
    ):
        self.network, self.places, self.columns, self.n = network, places, columns, n
        self.eta, self.mu, self.lmbda = eta, 0.0 if mu is None else mu, lmbda
        self.optimiser = None if optimiser is None else optimiser(network.parameters, lr=self.eta)
        self.velocity = None if mu is None or optimiser is not None else network.at_rest()
        self._descend = _fused() if fuse else descend
        self._replay: Replay | None = None

    def descend(self, chunk: Sequence[Block], products: Products) -> None:
        """One step for each mini-batch."""
        for block in chunk:
            if self.optimiser is None:
                self._descend(self.network, block, self.eta, self.mu, self.lmbda, self.n, self.velocity, products)
                continue
            for rows, factor in zip(block.parts, block.factors, strict=True):
                self.network.put_gradient(block.x[rows], block.y[rows], self.lmbda, self.n)
                self.optimiser.param_groups[0]["lr"] = self.eta * factor
                self.optimiser.step()

    def replay(self, x: Tensor, y: Tensor, schedule: Sequence[float], batch_size: int, most: int, of: Products) -> None:
        """What `descend` does on CUDA: as many mini-batches as a graph holds are replayed at a time, the rest is not.

        Args:
            x, y, schedule: a chunk of mini-batches.
            most: mini-batches in a block.
        """
        factors, held = torch.tensor(schedule, dtype=x.dtype).to(x.device), max(1, REPLAYED // most) * most

        def steps(x: Tensor, y: Tensor, factors: Tensor) -> None:
            read = lambda rows: (x[rows], y[rows])  # noqa: E731
            starts = range(0, len(factors), most)
            self.descend([block_at(first, most, read, batch_size, factors, of) for first in starts], of)

        first = 0
        while first + held <= len(schedule):
            rows = slice(first * batch_size, (first + held) * batch_size)
            if rows.stop > len(x):  # the last mini-batch of an epoch is smaller
                break
            inputs = (x[rows], y[rows], factors[first : first + held])
            if self._replay is None:
                self._replay = Replay(steps, *inputs, [t for tensors in self.state().values() for t in tensors])
            self._replay(*inputs)
            first += held
        if first < len(schedule):
            steps(x[first * batch_size :], y[first * batch_size :], factors[first:])

    def of_starts(self, t: Tensor) -> Tensor:
        """A tensor of the tile without what belongs to no start any more."""
        return t if self.columns == list(range(len(t))) else t[self.columns]

    def state(self) -> dict[str, list[Tensor]]:
        """Everything that changes while it trains: for each name, a tensor for each parameter."""
        state = {"weights": self.network.parameters}
        if self.velocity is not None:
            state["velocity"] = self.velocity.parameters
        if self.optimiser is not None:
            for name in self.optimiser.state[self.network.parameters[0]]:
                state[name] = [self.optimiser.state[p][name] for p in self.network.parameters]
        return state

    def measure(self, x: Tensor, y: Tensor, products: Products) -> tuple[Tensor, Tensor]:
        """Of each start, the sum over the pictures of its costs, and how many it gets right, in float64."""
        network = self.network
        z = products.forward(network.b[0].flatten(), x, together(network.w[0]))
        cost, outputs = network.evaluate_onward(apart(z, network.starts), y)
        right = outputs.argmax(-1) == y.argmax(-1)
        return self.of_starts(cost.double().sum(1)), self.of_starts(right.double().sum(1))

    def make_room(self, state: dict[str, list[Tensor]]) -> None:
        """Room for an optimiser's part of a state, which torch.optim makes only at the first step."""
        if self.optimiser is None:
            return
        for name in set(state) - {"weights"}:
            for p, like in zip(self.network.parameters, state[name], strict=True):
                self.optimiser.state[p][name] = torch.zeros_like(p) if like.dim() else like.clone()
