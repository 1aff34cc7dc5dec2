"""Many starts side by side on one device; on the CPU, each core works on a cache-sized tile of them."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hillstart.engine.blocks import Block, Read, block_at, descend, mini_batches
from hillstart.engine.cuda import CudaGraph
from hillstart.engine.matmul import MatmulBackend, matmul_backend
from hillstart.engine.tiling import SMALL_BATCH, Tiling, workers
from hillstart.network import Network, PerStart, apart, together

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
        self._replay: CudaGraph | None = None

    def descend(self, chunk: Sequence[Block], matmul: MatmulBackend) -> None:
        """One step for each mini-batch."""
        for block in chunk:
            if self.optimiser is None:
                self._descend(self.network, block, self.eta, self.mu, self.lmbda, self.n, self.velocity, matmul)
                continue
            for rows, factor in zip(block.parts, block.factors, strict=True):
                self.network.put_gradient(block.x[rows], block.y[rows], self.lmbda, self.n)
                self.optimiser.param_groups[0]["lr"] = self.eta * factor
                self.optimiser.step()

    def replay(
        self, x: Tensor, y: Tensor, schedule: Sequence[float], batch_size: int, most: int, of: MatmulBackend
    ) -> None:
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
                self._replay = CudaGraph(steps, *inputs, [t for tensors in self.state().values() for t in tensors])
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

    def evaluate(self, x: Tensor, y: Tensor, matmul: MatmulBackend) -> tuple[Tensor, Tensor]:
        """Of each start, the sum over the pictures of its costs, and how many it gets right, in float64."""
        network = self.network
        z = matmul.forward(network.b[0].flatten(), x, together(network.w[0]))
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


# Of w in one step: with more, what is left of it after a block would be too small a number to divide by.
MOST_DECAY = 0.1

T = TypeVar("T")
U = TypeVar("U")


class StartEnsemble:
    """S starts on one device, of which fewer and fewer may be left active.

    Attributes:
        starts: places of those that still roll, ascending; in this order stands all that is said of them.
        block: mini-batches that are descended together; chunks that begin and end with a block go the same way, bit
            for bit, however long they are.

    Args:
        network: the starts at their starting points.
        eta, mu, lmbda: learning rate, momentum and L2 strength of each start; no momentum at all where mu is None.
        n: pictures in the training set.
        batch_size: pictures in a mini-batch.
        optimiser: makes an optimiser of torch.optim that works element by element, from parameters and lr; without
            one the pack descends by the fused step.
        fuse: on CUDA, let torch.compile make one kernel of what lies between two products.
    """

    def __init__(
        self,
        network: Network,
        eta: Float[Tensor, " S"],
        mu: Float[Tensor, " S"] | None,
        lmbda: Float[Tensor, " S"],
        n: int,
        batch_size: int,
        optimiser: Optimiser | None = None,
        fuse: bool = False,
    ):
        self.device, self.sizes, self.batch_size = network.w[0].device, network.sizes, batch_size
        self.cores = torch.get_num_threads() if self.device.type == "cpu" else 1
        self._eta, self._mu, self._lmbda, self._n, self._optimiser = eta, mu, lmbda, n, optimiser
        self._fuse = fuse and self.device.type == "cuda"
        rolls = list(zip(*(v.tolist() for v in (eta, lmbda, mu) if v is not None), strict=True))
        cores = self.cores if self.device.type == "cpu" else 0
        element_bytes = network.w[0].element_size()
        self._tiling = Tiling(self.sizes, rolls, optimiser is None, batch_size, cores, element_bytes)
        self._lay(network, range(network.starts))
        self.matmul, self._exact = matmul_backend(network.w[0]), matmul_backend(network.w[0], rounded=False)
        self.block = self._block()

    def _block(self) -> int:
        """Mini-batches in a block: one where momentum or an optimiser moves, or starts of a tile roll differently."""
        each = [of for tile in self.tiles for of in (tile.eta, tile.lmbda) if isinstance(of, Tensor)]
        if self._mu is not None or self._optimiser is not None or each:
            return 1
        decays = self._eta.to(self._lmbda) * self._lmbda / self._n
        # In a graph what is left of w would be a tensor, and a comparison of it would wait for the device.
        most_decay = 0.0 if self.device.type == "cuda" else MOST_DECAY
        return mini_batches(self.batch_size) if float(decays.max()) <= most_decay else 1

    # ------------------------------------------------------------ tiles

    def _lay(self, network: Network, starts: Sequence[int]) -> None:
        """Tiles for `starts`, which `network` holds in that order."""
        at = {place: k for k, place in enumerate(starts)}
        self.tiles = []
        for tile in self._tiling.cut(starts):
            places = [place for place in tile if place is not None]
            columns = [column for column, place in enumerate(tile) if place is not None]
            filled = [places[0] if place is None else place for place in tile]
            chosen = network.pick([at[place] for place in filled])
            eta, mu, lmbda = (self._rolls(v, filled, chosen.w[0]) for v in (self._eta, self._mu, self._lmbda))
            assert eta is not None and lmbda is not None
            self.tiles.append(Tile(chosen, places, columns, eta, mu, lmbda, self._n, self._optimiser, self._fuse))
        self._sort()

    def _sort(self) -> None:
        """Note in which order the starts stand in the tiles."""
        places = [place for tile in self.tiles for place in tile.places]
        self.starts = sorted(places)
        order = sorted(range(len(places)), key=places.__getitem__)
        self._order = None if order == list(range(len(places))) else order

    def _in_order(self, of_tiles: Sequence[Tensor]) -> Tensor:
        """What each tile says of its starts, joined in the order of the starts."""
        joined = torch.cat(list(of_tiles))
        return joined if self._order is None else joined[self._order]

    def _rolls(self, value: Tensor | None, starts: list[int], like: Tensor) -> PerStart | None:
        """A number where all starts have the same, unless a tile of starts that move may be mixed at one time only."""
        if value is None:
            return None
        value = value[starts]
        mixed = self._tiling.mixed if self._tiling.steady else bool((value != value[0]).any())
        return value.to(like) if mixed else value[0].item()

    def retain(self, these: Sequence[int]) -> None:
        """Go on with these starts alone; tiles that are not needed any more cost nothing from here.

        On the CPU no bit of the others changes by it; on CUDA the rounding does when the products become narrower.

        Args:
            these: places in the pack, ascending.
        """
        left = set(these)
        kept = [k for k, place in enumerate(self.starts) if place in left]
        if len(kept) == len(self.starts):
            return
        moves = len(self._tiling.cut(these)) < len(self.tiles) if self._tiling.steady else False
        if self.device.type != "cpu" and 2 * len(kept) <= sum(tile.network.starts for tile in self.tiles):
            moves, self._tiling.width = True, len(kept)
        if moves and kept:
            state = {name: [_rows(t, kept) for t in tensors] for name, tensors in self.state().items()}
            self._lay(self.network().pick(kept), these)
            self.load(state)
            return
        for tile in self.tiles:
            both = [(p, c) for p, c in zip(tile.places, tile.columns, strict=True) if p in left]
            tile.places, tile.columns = [p for p, _ in both], [c for _, c in both]
        # One stays even when nothing in it rolls, so that a rank whose starts have all ended keeps step with the rest.
        self.tiles = [tile for tile in self.tiles if tile.places] or self.tiles[:1]
        self._sort()

    @property
    def step_flops(self) -> int:
        """Floating-point operations of one mini-batch for all starts, as if the first layer's inputs had errors too."""
        weights = sum(n_in * n_out for n_in, n_out in itertools.pairwise(self.sizes))
        return 6 * self.batch_size * weights * sum(tile.network.starts for tile in self.tiles)

    def _on_every_core(self, work: Callable[[T], U], items: Iterable[T]) -> list[U]:
        """Starts are independent, so each core works on a tile of its own, and too little work is left to one core."""
        if self.device.type != "cpu" or self._tiling.spread:
            return [work(item) for item in items]
        return list(workers(self.cores).map(work, items))

    # ------------------------------------------------------------ at work

    def descend(self, read: Read, schedule: Sequence[float]) -> None:
        """Descend all starts through a chunk of len(schedule) mini-batches; `schedule` multiplies eta."""
        if self.device.type == "cuda" and self._optimiser is None:
            x, y = read(slice(0, len(schedule) * self.batch_size))
            for tile in self.tiles:
                tile.replay(x, y, schedule, self.batch_size, self.block, self.matmul)
            return
        made = lambda first: block_at(first, self.block, read, self.batch_size, schedule, self.matmul)  # noqa: E731
        firsts = range(0, len(schedule), self.block)
        # Blocks of small batches are many short steps of Python, for which threads would wait in turn.
        chunk = [made(k) for k in firsts] if self.batch_size < SMALL_BATCH else self._on_every_core(made, firsts)
        self._on_every_core(lambda tile: tile.descend(chunk, self.matmul), self.tiles)

    def evaluate(
        self, batches: Iterable[tuple[Tensor, Tensor]]
    ) -> tuple[Float[Tensor, " active"], Float[Tensor, " active"]]:
        """Mean cost (without the L2 term) and accuracy of each start over the batches, in float64 on the CPU."""
        S = len(self.starts)
        cost, right, pictures = torch.zeros(S).double(), torch.zeros(S).double(), 0
        for x, y in batches:
            results = self._on_every_core(lambda tile, x=x, y=y: tile.evaluate(x, y, self._exact), self.tiles)  # type: ignore[misc]
            cost += self._in_order([c for c, _ in results]).cpu()
            right += self._in_order([r for _, r in results]).cpu()
            pictures += len(x)
        return cost / pictures, right / pictures

    # ------------------------------------------------------------ starts in and out

    def network(self) -> Network:
        """The starts that roll as they are now, as one network."""
        joined = Network.join([tile.network.pick(tile.columns) for tile in self.tiles])
        return joined if self._order is None else joined.pick(self._order)

    def copy_into(self, network: Network, these: Bool[Tensor, " S"]) -> None:
        """Write the starts marked in `these`, which must roll, over the same starts of `network`."""
        for tile in self.tiles:
            pairs = [(p, c) for p, c in zip(tile.places, tile.columns, strict=True) if these[p]]
            if pairs:
                places, columns = map(list, zip(*pairs, strict=True))
                for target, source in zip(network.parameters, tile.network.parameters, strict=True):
                    target[places] = source[columns]

    def state(self) -> dict[str, list[Tensor]]:
        """What a checkpoint needs, independent of how the pack is tiled: tensors whose first axis are the starts."""
        states = [tile.state() for tile in self.tiles]
        return {
            name: [
                self._in_order([tile.of_starts(t) for tile, t in zip(self.tiles, each, strict=True)])
                if each[0].dim()
                else each[0]
                for each in zip(*(s[name] for s in states), strict=True)
            ]
            for name in states[0]
        }

    def load(self, state: dict[str, list[Tensor]]) -> None:
        """Go on from what `state()` returned, on any device and tiling."""
        at = {place: k for k, place in enumerate(self.starts)}
        for tile in self.tiles:
            mine = [at[place] for place in tile.places]
            tile.make_room(state)
            for name, targets in tile.state().items():
                for target, source in zip(targets, state[name], strict=True):
                    if source.dim():
                        target[tile.columns] = source[mine].to(target)
                    else:
                        target.copy_(source)


def _rows(t: Tensor, chosen: list[int]) -> Tensor:
    return t[chosen] if t.dim() else t
