"""A tile: starts that share their matrix products, and what moves them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hillstart.block import Block, descend
from hillstart.network import Network, PerStart, apart, together
from hillstart.products import Products

Optimiser = Callable[..., torch.optim.Optimizer]


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
    ):
        self.network, self.places, self.columns, self.n = network, places, columns, n
        self.eta, self.mu, self.lmbda = eta, 0.0 if mu is None else mu, lmbda
        self.optimiser = None if optimiser is None else optimiser(network.parameters, lr=self.eta)
        self.velocity = None if mu is None or optimiser is not None else network.at_rest()

    def descend(self, blocks: Sequence[Block], products: Products) -> None:
        """One step for each mini-batch."""
        for block in blocks:
            if self.optimiser is None:
                descend(self.network, block, self.eta, self.mu, self.lmbda, self.n, self.velocity, products)
                continue
            for rows, factor in zip(block.parts, block.factors, strict=True):
                self.network.put_gradient(block.x[rows], block.y[rows], self.lmbda, self.n)
                self.optimiser.param_groups[0]["lr"] = self.eta * factor
                self.optimiser.step()

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
