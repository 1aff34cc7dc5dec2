"""A pack: many starts side by side on one device; on the CPU, each core at work on a cache-sized tile of them."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hillstart.block import blocks, mini_batches
from hillstart.network import Network, PerStart
from hillstart.products import products
from hillstart.tile import Optimiser, Tile

# First-layer weights of a tile, in bytes: wide enough for the matrix product, small enough to stay in cache from one
# mini-batch to the next. Of 0.1 to 6 MB, 3 MB was the fastest at batch 10 and 32 on one core with 0.5 MB of L2 and
# 32 MB of shared L3; at batch 128 it was 1.5 MB.
TILE_BYTES = 3 << 20
# With fewer pictures a step is so short that the threads wait for each other's Python: tiles of twice the width do half
# as many.
SMALL_BATCH = 16

# A step with less work than this is over before handing it to another core has paid.
TILE_FLOPS = 15e6

# Where a start may move without a change of a bit, as measured with MKL 2024.2 on an AMD EPYC, for networks from
# [36,5,3] to [3072,64,2] and batches from 1 to 1,000. In tiles of a steady width, where each layer has a multiple of
# COLUMNS numbers for a picture: what is left over at the end of a tensor is computed in another way. And to a place
# that differs by a multiple of LANES: the products of the upper layers, one for each start, depend on the alignment of
# their numbers to 16 bytes.
COLUMNS = 32
LANES = 4

# How much more work tiles of a steady width may cost than tiles cut evenly.
PADDING = 1.125

# Of w in one step: with more, what is left of it after a block would be too small a number to divide by.
MOST_DECAY = 0.1

T = TypeVar("T")


class Pack:
    """S starts on one device, of which fewer and fewer may be left rolling.

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
    ):
        self.device, self.sizes, self.batch_size = network.w[0].device, network.sizes, batch_size
        self.cores = torch.get_num_threads() if self.device.type == "cpu" else 1
        self._eta, self._mu, self._lmbda, self._n, self._optimiser = eta, mu, lmbda, n, optimiser
        self._width, self._steady = self._tiling(network)
        S = network.starts
        self._mixed = False
        tiles = sum(-(-len(group) // self._width) for group in self._groups(range(S)))
        self._mixed = optimiser is None and tiles > PADDING * -(-S // self._width)
        self._lane = {place: k % LANES for group in self._groups(range(S)) for k, place in enumerate(group)}
        self._lay(network, range(S))
        self.products = products(network.w[0])
        self.block = self._block()
        # A lone tile with much to do, a single large network say, has its products spread over all the cores; others
        # keep to one core each, and go on so when only one of them is left, for that is what their bits depend on.
        self._spread = len(self.tiles) == 1 and self.step_flops >= TILE_FLOPS * self.cores

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

    def _tiling(self, network: Network) -> tuple[int, bool]:
        """Starts in a tile, and whether all tiles keep that width to the end, filled up where starts are lacking.

        Only where they do can starts move together when others have ended without a change of a single bit.
        """
        S, weights = network.starts, network.w[0][0]
        if self.device.type != "cpu" or 6 * S * self._start_flops < TILE_FLOPS * self.cores:
            return S, False
        room = TILE_BYTES * (2 if self.batch_size < SMALL_BATCH else 1)
        widest = max(1, room // (weights.numel() * weights.element_size()))
        unit = max(LANES, *(COLUMNS // math.gcd(COLUMNS, n) for n in self.sizes[1:]))
        wide = range(widest // unit * unit, max(0, widest // 2 - 1), -unit)
        work = {width: -(-S // (width * self.cores)) * width * self.cores for width in wide}
        if work and min(work.values()) <= PADDING * S:
            return min(work, key=work.__getitem__), True
        tiles = min(S, -(-S // (widest * self.cores)) * self.cores)
        return -(-S // tiles), False

    def _groups(self, starts: Sequence[int]) -> list[list[int]]:
        """The starts that may share a tile: all, or those that roll alike.

        A step is fastest with one number for all of a tile, and an optimiser of torch takes a single lr.
        """
        if self._mixed:
            return [list(starts)]
        rolls = [v.tolist() for v in (self._eta, self._lmbda, self._mu) if v is not None]
        return [list(g) for _, g in itertools.groupby(starts, lambda place: [v[place] for v in rolls])]

    def _cut(self, starts: Sequence[int]) -> list[list[int | None]]:
        """The starts of each tile in their columns; None where a column only fills the width."""
        tiles: list[list[int | None]] = []
        for group in self._groups(starts):
            if not self._steady:
                tiles += [[*group[i : i + self._width]] for i in range(0, len(group), self._width)]
                continue
            lanes, rows = [[p for p in group if self._lane[p] == lane] for lane in range(LANES)], self._width // LANES
            for first in range(0, max(map(len, lanes)), rows):
                tile: list[int | None] = [None] * self._width
                for lane, places in enumerate(lanes):
                    for row, place in enumerate(places[first : first + rows]):
                        tile[row * LANES + lane] = place
                tiles.append(tile)
        return tiles

    def _lay(self, network: Network, starts: Sequence[int]) -> None:
        """Tiles for `starts`, which `network` holds in that order."""
        at = {place: k for k, place in enumerate(starts)}
        self.tiles = []
        for tile in self._cut(starts):
            places = [place for place in tile if place is not None]
            columns = [column for column, place in enumerate(tile) if place is not None]
            filled = [places[0] if place is None else place for place in tile]
            chosen = network.pick([at[place] for place in filled])
            eta, mu, lmbda = (self._rolls(v, filled, chosen.w[0]) for v in (self._eta, self._mu, self._lmbda))
            assert eta is not None and lmbda is not None
            self.tiles.append(Tile(chosen, places, columns, eta, mu, lmbda, self._n, self._optimiser))
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
        mixed = self._mixed if self._steady else bool((value != value[0]).any())
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
        moves = len(self._cut(these)) < len(self.tiles) if self._steady else False
        if self.device.type != "cpu" and 2 * len(kept) <= sum(tile.network.starts for tile in self.tiles):
            moves, self._width = True, len(kept)
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
    def _start_flops(self) -> int:
        return self.batch_size * sum(n_in * n_out for n_in, n_out in itertools.pairwise(self.sizes))

    @property
    def step_flops(self) -> int:
        """Floating-point operations of one mini-batch for all starts, as if the first layer's inputs had errors too."""
        return 6 * self._start_flops * sum(tile.network.starts for tile in self.tiles)

    def _on_every_tile(self, work: Callable[[Tile], T]) -> list[T]:
        """Starts are independent, so each core works on a tile of its own, and too little work is left to one core."""
        if self.device.type != "cpu" or self._spread:
            return [work(tile) for tile in self.tiles]
        return list(_workers(self.cores).map(work, self.tiles))

    # ------------------------------------------------------------ at work

    def descend(self, x: Float[Tensor, "P n_in"], y: Float[Tensor, "P n_out"], schedule: Sequence[float]) -> None:
        """Descend all starts through the chunk (x, y) of len(schedule) mini-batches; `schedule` multiplies eta."""
        if self.device.type == "cuda" and self._optimiser is None:
            for tile in self.tiles:
                tile.replay(x, y, schedule, self.batch_size, self.block, self.products)
            return
        chunk = list(blocks(x, y, self.batch_size, schedule, self.block, self.products))
        self._on_every_tile(lambda tile: tile.descend(chunk, self.products))

    def measure(
        self, batches: Iterable[tuple[Tensor, Tensor]]
    ) -> tuple[Float[Tensor, " rolling"], Float[Tensor, " rolling"]]:
        """Mean cost (without the L2 term) and accuracy of each start over the batches, in float64 on the CPU."""
        S = len(self.starts)
        cost, right, pictures = torch.zeros(S).double(), torch.zeros(S).double(), 0
        for x, y in batches:
            results = self._on_every_tile(lambda tile, x=x, y=y: tile.measure(x, y, self.products))  # type: ignore[misc]
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


@cache
def _workers(cores: int) -> ThreadPoolExecutor:
    """One thread a core, each computing alone: a product spread over two threads is slower than two products."""
    return ThreadPoolExecutor(cores, "tile", initializer=lambda: torch.set_num_threads(1))
