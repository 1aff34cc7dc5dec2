"""Cutting the starts of a pack into tiles: which starts share one, and in which columns of it they are."""

import itertools
import math
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

TILE_BYTES = 3 << 20
"""First-layer weights of a tile: wide enough for the product, small enough to stay in cache between mini-batches."""
SMALL_BATCH = 16
"""Below this many pictures in a mini-batch tiles are twice as wide: steps are so short that threads wait for each
other's Python, and wider tiles take half as many steps."""

TILE_FLOPS = 15e6
"""A step with less work than this is over before handing it to another core has paid."""

# Places to which a start may move without a change of bits, measured with MKL 2024.2 on an AMD EPYC for networks from
# [36,5,3] to [3072,64,2] and batches from 1 to 1,000: between tiles of one width, if each layer has a multiple of
# COLUMNS numbers for a picture, because the rest at the end of a tensor is computed in another way; and by a multiple
# of LANES columns, because the products of the upper layers, one for each start, depend on alignment to 16 bytes.
COLUMNS = 32
LANES = 4

PADDING = 1.125
"""Largest ratio of the work of tiles of a steady width to that of tiles cut evenly."""


class Tiling:
    """The tiles of a pack of S starts.

    Attributes:
        width: starts in a tile.
        steady: all tiles keep that width to the end, filled up where starts are missing. Only then can survivors be
            repacked with bit-identical results.
        mixed: starts with different hyperparameters share tiles.
        spread: there is a lone tile with much to do, a single large network for instance, whose products use all cores.
            Other tiles use one core each, even when only one is left, because their bits depend on that.

    Args:
        sizes: nodes of each layer.
        hyperparameters: those of each start; a step is fastest where all starts of a tile agree.
        mixable: a tile may hold starts that differ in them; an optimiser of torch takes a single lr.
        cores: of the CPU; 0 on another device, where all starts share one tile.
        element_bytes: bytes of a weight.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        hyperparameters: Sequence[Hashable],
        mixable: bool,
        batch_size: int,
        cores: int,
        element_bytes: int = 4,
    ):
        S = len(hyperparameters)
        self._sizes, self._hyperparameters, self.mixed = sizes, hyperparameters, False
        flops = 6 * S * batch_size * sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))
        if not cores or flops < TILE_FLOPS * cores:
            self.width, self.steady, self.spread = S, False, False
        else:
            tile_bytes = TILE_BYTES * (2 if batch_size < SMALL_BATCH else 1)
            self.width, self.steady = self._cache_sized(S, cores, tile_bytes // (sizes[0] * sizes[1] * element_bytes))
            self.spread = self.width >= S
        fewest = -(-S // self.width)
        self.mixed = mixable and sum(-(-len(g) // self.width) for g in self._groups(range(S))) > PADDING * fewest
        self._lane = {index: k % LANES for group in self._groups(range(S)) for k, index in enumerate(group)}

    def _cache_sized(self, S: int, cores: int, room: int) -> tuple[int, bool]:
        """(width, steady) for tiles of at most `room` starts."""
        widest = max(1, room)
        unit = max(LANES, *(COLUMNS // math.gcd(COLUMNS, n) for n in self._sizes[1:]))
        widths = range(widest // unit * unit, max(0, widest // 2 - 1), -unit)
        work = {width: -(-S // (width * cores)) * width * cores for width in widths}
        if work and min(work.values()) <= PADDING * S:
            return min(work, key=work.__getitem__), True
        tiles = min(S, -(-S // (widest * cores)) * cores)
        return -(-S // tiles), False

    def _groups(self, indices: Sequence[int]) -> list[list[int]]:
        """The starts that may share a tile: all, or those with the same hyperparameters."""
        if self.mixed:
            return [list(indices)]
        return [list(group) for _, group in itertools.groupby(indices, self._hyperparameters.__getitem__)]

    def cut(self, indices: Sequence[int]) -> list[list[int | None]]:
        """The start in each column of each tile; None where a column only fills the width."""
        tiles: list[list[int | None]] = []
        for group in self._groups(indices):
            if not self.steady:
                tiles += [[*group[i : i + self.width]] for i in range(0, len(group), self.width)]
                continue
            lanes = [[index for index in group if self._lane[index] == lane] for lane in range(LANES)]
            rows = self.width // LANES
            for first in range(0, max(map(len, lanes)), rows):
                tile: list[int | None] = [None] * self.width
                for lane, members in enumerate(lanes):
                    for row, index in enumerate(members[first : first + rows]):
                        tile[row * LANES + lane] = index
                tiles.append(tile)
        return tiles


@cache
def workers(cores: int) -> ThreadPoolExecutor:
    """One thread for each core, each computing alone: a product on two threads is slower than two products."""
    return ThreadPoolExecutor(cores, "tile", initializer=lambda: torch.set_num_threads(1))
