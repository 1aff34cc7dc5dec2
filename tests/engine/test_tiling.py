"""The width of tiles."""

from collections.abc import Sequence

import pytest

from hillstart.engine.tiling import Tiling


def tiling(sizes: list[int], seeds: Sequence[int], batch_size: int, cores: int, ways: Sequence[str] = "") -> Tiling:
    starts = len(seeds)
    return Tiling(sizes, seeds, [(0.1, 0.0)] * starts, ways or ["plain"] * starts, batch_size, cores)


@pytest.mark.parametrize(("batch_size", "cores"), [(32, 2), (10, 2), (32, 3)])
def test_tiles_are_cache_sized(batch_size: int, cores: int) -> None:
    made = tiling([784, 30, 10], range(256), batch_size, cores)
    assert made.width == 32 or (cores == 3 and made.width <= 32)
    assert {len(tile) for tile in made.cut(range(256))} == {made.width}


def test_too_little_work_for_two_cores_is_one_tile() -> None:
    assert tiling([8, 5, 3], range(256), 10, 2).cut(range(256)) == [[*range(256)]]


def test_a_start_keeps_its_column_modulo_the_period() -> None:
    """30 nodes are aligned to 16 bytes at every second start; 3 nodes at every fourth, and 16 columns are 6 starts."""
    assert tiling([784, 32, 8], [5, 7], 32, 2).cut([0, 1]) == [[0, 1]]
    assert tiling([784, 30, 10], [5], 32, 2).cut([0]) == [[None, 0]]
    assert tiling([784, 30, 10], [5, 7, 8], 32, 2).cut([0, 1, 2]) == [[2, 0, None, 1]]
    assert tiling([4, 3, 2], [5, 7], 32, 2).cut([0, 1]) == [[None, 0, None, 1, None, None, None, None]]
    assert tiling([784, 30, 10], [5], 32, 0).cut([0]) == [[0]], "on CUDA no column is better than another"


def test_starts_that_descend_in_different_ways_share_no_tile() -> None:
    made = tiling([784, 32, 8], range(6), 32, 2, ["plain", "blocks"] * 3)
    assert made.cut(range(6)) == [[0, 2, 4], [1, 3, 5]]
