"""Cutting the starts of a pack into tiles: which starts share one, and in which columns of it they are."""

import itertools
import math
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

from hillstart.network import VECTORS

TILE_BYTES = 3 << 20
"""First-layer weights of a tile: wide enough for the product, small enough to stay in cache between mini-batches."""

TILE_FLOPS = 15e6
"""Floating-point operations of a step for each core; with fewer, one core is faster than several."""

# Where a start may be in a tile without a change of its bits, measured with MKL 2024.2 and oneDNN on AMD EPYCs, for
# networks from [2,3,1] to [3072,64,2] and batches from 1 to 1,000, on one thread. MKL's products of the upper layers,
# one for each start, depend on alignment to 16 bytes, so a start keeps its column modulo `Tiling.period`. Its wide
# product is computed in another way for fewer than NARROWEST columns, or for a number that LANES does not divide.
LANES = 4
NARROWEST = 16

PADDING = 1.125
"""Largest ratio of the work with tiles of a faster kind (whole vectors, or starts that agree) to the least work."""


class Tiling:
    """The tiles of a pack of S starts. On the CPU a start's bits depend neither on its tile nor on its neighbours.

    Attributes:
        width: starts in a tile, at most.
        period: a start is in a column that equals its seed modulo this number, so that it is aligned alike in any tile.

    Args:
        sizes: nodes of each layer.
        seeds: those of the starts.
        hyperparameters: those of each start; a step is fastest where all starts of a tile agree.
        mixable: a key for each start; a tile may hold starts that differ in their hyperparameters, but not in this key.
        cores: of the CPU; 0 on another device, where all starts share one tile.
        element_bytes: bytes of a weight.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        seeds: Sequence[int],
        hyperparameters: Sequence[Hashable],
        mixable: Sequence[Hashable],
        batch_size: int,
        cores: int,
        element_bytes: int = 4,
    ):
        S = len(seeds)
        self._sizes, self._seeds = sizes, seeds
        self.period = max(LANES // math.gcd(LANES, n) for n in sizes[1:]) if cores else 1
        self._narrowest = self._whole(-(-NARROWEST // sizes[1])) if cores else 1
        flops = 6 * S * batch_size * sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))
        if not cores or flops < TILE_FLOPS * cores:
            self.width = max(S, self._whole(S) if cores else 1)
        else:
            self.width = self._cache_sized(S, cores, TILE_BYTES // (sizes[0] * sizes[1] * element_bytes))
        self._keys: Sequence[Hashable] = mixable
        fewest = sum(-(-len(group) // self.width) for group in self._groups(range(S)))
        self._keys = [*zip(mixable, hyperparameters, strict=True)]
        if sum(-(-len(group) // self.width) for group in self._groups(range(S))) > PADDING * fewest:
            self._keys = mixable

    def _whole(self, starts: int) -> int:
        """So many starts, rounded up to whole periods."""
        return -(-starts // self.period) * self.period

    def _cache_sized(self, S: int, cores: int, room: int) -> int:
        """The width of tiles of about `room` starts at most.

        Tiles are fastest where each layer has whole vectors of numbers for a picture (`network.in_whole_vectors`).
        """
        widest = max(1, room)
        unit = max(self.period, *(VECTORS // math.gcd(VECTORS, n) for n in self._sizes[1:]))
        widths = range(widest // unit * unit, max(0, widest // 2 - 1), -unit)
        work = {width: -(-S // (width * cores)) * width * cores for width in widths}
        if work and min(work.values()) <= PADDING * S:
            return min(work, key=work.__getitem__)
        tiles = min(S, -(-S // (widest * cores)) * cores)
        return self._whole(-(-S // tiles))

    def _groups(self, indices: Sequence[int]) -> list[list[int]]:
        """The starts that may share a tile."""
        groups: dict[Hashable, list[int]] = {}
        for index in indices:
            groups.setdefault(self._keys[index], []).append(index)
        return [*groups.values()]

    def cut(self, indices: Sequence[int]) -> list[list[int | None]]:
        """The start in each column of each tile; None where a column only fills the width."""
        tiles: list[list[int | None]] = []
        rows = max(1, self.width // self.period)
        for group in self._groups(indices):
            lanes = [[i for i in group if self._seeds[i] % self.period == lane] for lane in range(self.period)]
            for first in range(0, max(map(len, lanes)), rows):
                members = [lane[first : first + rows] for lane in lanes]
                width = max(self._narrowest, self.period * max(map(len, members)))
                tile: list[int | None] = [None] * width
                for lane, some in enumerate(members):
                    tile[lane : lane + self.period * len(some) : self.period] = some
                tiles.append(tile)
        return tiles


@cache
def workers(cores: int) -> ThreadPoolExecutor:
    """One thread for each core, each computing alone: a product on two threads is slower than two products."""
    return ThreadPoolExecutor(cores, "tile", initializer=lambda: torch.set_num_threads(1))
