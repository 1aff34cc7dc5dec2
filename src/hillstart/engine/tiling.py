"""How the starts of a pack are cut into tiles: which share one, and in which columns of it they stand."""

import itertools
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

from hillstart.engine.blocks import block_at, descend, mini_batches
from hillstart.engine.matmul import matmul_backend
from hillstart.network import Network
from hillstart.system.machine import noted

# First-layer weights of a tile, in MiB: wide enough for the matrix product, small enough to stay in cache from one
# mini-batch to the next. This, or twice as much below `SMALL_BATCH`: within 7 % of the fastest, wherever tried.
TILE_MIB = 3.0
# With fewer pictures a step is so short that the threads wait for each other's Python: tiles of twice the width do half
# as many.
SMALL_BATCH = 16
OTHER = (0.5, 2.0)
"""Times that width: what is tried beside it."""
CLEARLY = 1.05
"""Another width is taken where it is faster by this factor on this machine."""

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


class Tiling:
    """The tiles of a pack of S starts.

    Attributes:
        width: starts in a tile.
        steady: whether all tiles keep that width to the end, filled up where starts are lacking. Only where they do
            can starts move together when others have ended without a change of a single bit.
        mixed: whether starts that roll differently share tiles.
        spread: whether there is a lone tile with much to do, a single large network say, whose products are spread
            over all the cores. Others keep to one core each, and go on so when only one of them is left, for that is
            what their bits depend on.

    Args:
        sizes: nodes of each layer.
        rolls: of each start what it rolls by; a step is fastest where all of a tile have the same.
        mixable: whether a tile may hold starts that differ in it: an optimiser of torch takes a single lr.
        cores: of the CPU; 0 on another device, where all starts share one tile.
        element_bytes: of a weight.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rolls: Sequence[Sequence[float]],
        mixable: bool,
        batch_size: int,
        cores: int,
        element_bytes: int = 4,
    ):
        S, self._sizes, self._rolls, self.mixed = len(rolls), sizes, rolls, False
        flops = 6 * S * batch_size * sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))
        if not cores or flops < TILE_FLOPS * cores:
            self.width, self.steady, self.spread = S, False, False
        else:
            room = tile_bytes(cores, batch_size < SMALL_BATCH)
            self.width, self.steady = self._cache_sized(S, cores, room // (sizes[0] * sizes[1] * element_bytes))
            self.spread = self.width >= S
        fewest = -(-S // self.width)
        self.mixed = mixable and sum(-(-len(g) // self.width) for g in self._groups(range(S))) > PADDING * fewest
        self._lane = {place: k % LANES for group in self._groups(range(S)) for k, place in enumerate(group)}

    def _cache_sized(self, S: int, cores: int, room: int) -> tuple[int, bool]:
        widest = max(1, room)
        unit = max(LANES, *(COLUMNS // math.gcd(COLUMNS, n) for n in self._sizes[1:]))
        wide = range(widest // unit * unit, max(0, widest // 2 - 1), -unit)
        work = {width: -(-S // (width * cores)) * width * cores for width in wide}
        if work and min(work.values()) <= PADDING * S:
            return min(work, key=work.__getitem__), True
        tiles = min(S, -(-S // (widest * cores)) * cores)
        return -(-S // tiles), False

    def _groups(self, starts: Sequence[int]) -> list[list[int]]:
        """The starts that may share a tile: all, or those that roll alike."""
        if self.mixed:
            return [list(starts)]
        return [list(group) for _, group in itertools.groupby(starts, self._rolls.__getitem__)]

    def cut(self, starts: Sequence[int]) -> list[list[int | None]]:
        """The starts of each tile in their columns; None where a column only fills the width."""
        tiles: list[list[int | None]] = []
        for group in self._groups(starts):
            if not self.steady:
                tiles += [[*group[i : i + self.width]] for i in range(0, len(group), self.width)]
                continue
            lanes, rows = [[p for p in group if self._lane[p] == lane] for lane in range(LANES)], self.width // LANES
            for first in range(0, max(map(len, lanes)), rows):
                tile: list[int | None] = [None] * self.width
                for lane, places in enumerate(lanes):
                    for row, place in enumerate(places[first : first + rows]):
                        tile[row * LANES + lane] = place
                tiles.append(tile)
        return tiles


@cache
def workers(cores: int) -> ThreadPoolExecutor:
    """One thread a core, each computing alone: a product spread over two threads is slower than two products."""
    return ThreadPoolExecutor(cores, "tile", initializer=lambda: torch.set_num_threads(1))


# ---------------------------------------------------------------- calibration


@cache
def tile_bytes(cores: int, small: bool) -> int:
    """What is noted for this machine with so many cores at work, or is found in a second and noted now.

    Args:
        small: mini-batches of fewer than `SMALL_BATCH` pictures.
    """
    usual = TILE_MIB * (2 if small else 1)
    widths = {f"{usual * factor:g} MiB": usual * factor for factor in (1.0, *OTHER)}
    what = f"a tile on each of {cores} cores, {'below' if small else 'from'} {SMALL_BATCH} pictures"
    return int(widths[noted(what, widths, lambda: f"{_fastest(usual, cores, 10 if small else 32):g} MiB")] * 2**20)


def _fastest(usual: float, cores: int, batch_size: int) -> float:
    taken = _seconds([usual, *(usual * factor for factor in OTHER)], cores, batch_size)
    best = min(taken, key=taken.__getitem__)
    return best if CLEARLY * taken[best] < taken[usual] else usual


def _seconds(
    widths: Sequence[float],
    cores: int,
    B: int,
    sizes: Sequence[int] = (784, 30, 10),
    blocks: int = 8,
    repeats: int = 7,
) -> dict[float, float]:
    """Of the same steps of the same starts, on all cores, by the width of the tiles: the best of several turns."""
    g, most = torch.Generator().manual_seed(0), mini_batches(B)
    x, y = torch.rand(blocks * most * B, sizes[0], generator=g), torch.rand(blocks * most * B, sizes[-1], generator=g)
    tiles: dict[float, list[Network]] = {}
    for mib in widths:
        S = int(mib * 2**20 / (4 * sizes[0] * sizes[1]))
        shapes = list(itertools.pairwise(sizes))
        tiles[mib] = [
            Network([torch.zeros(S, *shape) for shape in shapes], [torch.zeros(S, n) for n in sizes[1:]])
            for _ in range(cores * round(max(widths) / mib))
        ]
    of = matmul_backend(x)
    chunk = [
        block_at(k * most, most, lambda rows: (x[rows], y[rows]), B, [1.0] * blocks * most, of) for k in range(blocks)
    ]

    def work(tile: Network) -> None:
        for block in chunk:
            descend(tile, block, 0.1, 0.0, 0.0, 1, None, of)

    taken: dict[float, float] = dict.fromkeys(tiles, math.inf)
    for _ in range(repeats):
        for mib, networks in tiles.items():
            began = time.perf_counter()
            list(workers(cores).map(work, networks))
            taken[mib] = min(taken[mib], time.perf_counter() - began)
    return taken
