"""A pack: many starts side by side on one device; on the CPU, each core at work on a cache-sized tile of them."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hillstart.network import Network, PerStart

# First-layer weights of a tile, in bytes: wide enough for the matrix product, small enough to stay in cache from one
# mini-batch to the next. Of 0.1 to 6 MB, 3 MB was the fastest at batch 10 and 32 on one core with 0.5 MB of L2 and
# 32 MB of shared L3; at batch 128 it was 1.5 MB.
TILE_BYTES = 3 << 20

# A step with less work than this is over before handing it to another core has paid.
TILE_FLOPS = 15e6

Optimiser = Callable[..., torch.optim.Optimizer]
T = TypeVar("T")


class Tile:
    """Some starts that share their matrix products, with what moves them: velocities, or an optimiser of torch."""

    def __init__(self, network: Network, eta: Tensor, mu: Tensor, lmbda: Tensor, n: int, optimiser: Optimiser | None):
        self.network, self.n = network, n
        self.eta, self.mu, self.lmbda = (_same(v, network.w[0]) for v in (eta, mu, lmbda))
        self.optimiser = None if optimiser is None else optimiser(network.parameters, lr=self.eta)
        self.velocity = network.at_rest() if optimiser is None and bool(mu.any()) else None

    def descend(self, batches: Sequence[tuple[Tensor, Tensor, float]]) -> None:
        """One step for each mini-batch: x, y, and the factor on eta."""
        for x, y, factor in batches:
            eta = self.eta * factor
            if self.optimiser is None:
                self.network.descend(x, y, eta, self.mu, self.lmbda, self.n, self.velocity)
            else:
                self.network.put_gradient(x, y, self.lmbda, self.n)
                self.optimiser.param_groups[0]["lr"] = eta
                self.optimiser.step()

    def state(self) -> dict[str, list[Tensor]]:
        """Everything that changes while it trains: for each name, a tensor for each parameter."""
        state = {"weights": self.network.parameters}
        if self.velocity is not None:
            state["velocity"] = self.velocity.parameters
        if self.optimiser is not None:
            for name in self.optimiser.state[self.network.parameters[0]]:
                state[name] = [self.optimiser.state[p][name] for p in self.network.parameters]
        return state


class Pack:
    """S starts on one device.

    Args:
        network: the starts at their starting points.
        eta, mu, lmbda: learning rate, momentum and L2 strength of each start.
        n: pictures in the training set.
        batch_size: pictures in a mini-batch.
        optimiser: makes an optimiser of torch.optim that works element by element, from parameters and lr; without
            one the pack descends by the fused step.
    """

    def __init__(
        self,
        network: Network,
        eta: Float[Tensor, " S"],
        mu: Float[Tensor, " S"],
        lmbda: Float[Tensor, " S"],
        n: int,
        batch_size: int,
        optimiser: Optimiser | None = None,
    ):
        self.device, self.starts = network.w[0].device, network.starts
        self.cores = torch.get_num_threads() if self.device.type == "cpu" else 1
        self.batch_size, self.sizes = batch_size, network.sizes
        self._parts = [part.tolist() for part in torch.arange(self.starts).tensor_split(self._tiles_for(network))]
        if optimiser is not None:  # one of torch.optim takes a single lr, so a tile must have a single eta
            self._parts = [
                list(same) for part in self._parts for _, same in itertools.groupby(part, eta.tolist().__getitem__)
            ]
        self.tiles = [
            Tile(network.pick(part), eta[part], mu[part], lmbda[part], n, optimiser)  # the order of `part` is kept
            for part in self._parts
        ]

    def _tiles_for(self, network: Network) -> int:
        if self.device.type != "cpu":
            return 1
        if self.step_flops < TILE_FLOPS * self.cores:
            return 1
        widest = max(1, TILE_BYTES // (network.w[0][0].numel() * network.w[0].element_size()))
        return min(self.starts, -(-self.starts // (widest * self.cores)) * self.cores)

    @property
    def step_flops(self) -> int:
        """Floating-point operations of one mini-batch for all starts, as if the first layer's inputs had errors too."""
        return 6 * self.starts * self.batch_size * sum(n_in * n_out for n_in, n_out in itertools.pairwise(self.sizes))

    def _on_every_tile(self, work: Callable[[Tile], T]) -> list[T]:
        """Starts are independent, so each core works on a tile of its own, and too little work is left to one core.

        Only a lone tile with much to do, a single large network say, has its products spread over all the cores.
        """
        if self.device.type != "cpu" or (len(self.tiles) == 1 and self.step_flops >= TILE_FLOPS * self.cores):
            return [work(tile) for tile in self.tiles]
        return list(_workers(self.cores).map(work, self.tiles))

    def descend(self, x: Float[Tensor, "P n_in"], y: Float[Tensor, "P n_out"], schedule: Sequence[float]) -> None:
        """Descend all starts through the chunk (x, y) of len(schedule) mini-batches; `schedule` multiplies eta."""
        batches = list(zip(x.split(self.batch_size), y.split(self.batch_size), schedule, strict=True))
        self._on_every_tile(lambda tile: tile.descend(batches))

    def measure(self, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
        """Mean cost (without the L2 term) and accuracy of each start over the batches, in float64 on the CPU."""
        cost, right, pictures = torch.zeros(self.starts).double(), torch.zeros(self.starts).double(), 0
        for x, y in batches:
            results = self._on_every_tile(lambda tile, x=x, y=y: _measure(tile.network, x, y))  # type: ignore[misc]
            cost += torch.cat([c for c, _ in results]).cpu()
            right += torch.cat([r for _, r in results]).cpu()
            pictures += len(x)
        return cost / pictures, right / pictures

    def network(self) -> Network:
        """All starts as they are now, as one network."""
        return Network.join([tile.network for tile in self.tiles])

    def copy_into(self, network: Network, these: Bool[Tensor, " S"]) -> None:
        """Write the starts marked in `these` over the same starts of `network`."""
        for part, tile in zip(self._parts, self.tiles, strict=True):
            mine = these[part].nonzero().flatten().tolist()
            into = [part[i] for i in mine]
            if mine:
                for target, source in zip(network.parameters, tile.network.parameters, strict=True):
                    target[into] = source[mine]

    def state(self) -> dict[str, list[Tensor]]:
        """What a checkpoint needs, independent of how the pack is tiled: tensors whose first axis is S."""
        states = [tile.state() for tile in self.tiles]
        return {
            name: [
                torch.cat(each) if each[0].dim() else each[0] for each in zip(*(s[name] for s in states), strict=True)
            ]
            for name in states[0]
        }

    def load(self, state: dict[str, list[Tensor]]) -> None:
        """Go on from what `state()` returned, on any device and tiling."""
        for part, tile in zip(self._parts, self.tiles, strict=True):
            if tile.optimiser is not None:
                _fill_state(tile, set(state) - {"weights"}, state, part)
            for name, targets in tile.state().items():
                for target, source in zip(targets, state[name], strict=True):
                    target.copy_(source[part] if source.dim() else source)


def _fill_state(tile: Tile, names: set[str], state: dict[str, list[Tensor]], part: list[int]) -> None:
    """Room for an optimiser's state, which torch.optim makes only at the first step."""
    assert tile.optimiser is not None
    for i, p in enumerate(tile.network.parameters):
        for name in names:
            source = state[name][i]
            like = torch.empty_like(p) if source.dim() else source.clone()
            tile.optimiser.state[p][name] = like


def _measure(network: Network, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    cost, outputs = network.evaluate(x, y)
    right = outputs.argmax(-1) == y.argmax(-1)
    return cost.double().sum(1), right.double().sum(1)


def _same(value: Float[Tensor, " S"], like: Tensor) -> PerStart:
    """A plain number where all starts have the same, for the fused step is fastest with one."""
    return value[0].item() if bool((value == value[0]).all()) else value.to(like)


@cache
def _workers(cores: int) -> ThreadPoolExecutor:
    """One thread a core, each computing alone: a product spread over two threads is slower than two products."""
    return ThreadPoolExecutor(cores, "tile", initializer=lambda: torch.set_num_threads(1))
