"""The width of tiles."""

import pytest

from hillstart.engine.tiling import Tiling


@pytest.mark.parametrize(("batch_size", "cores", "width"), [(32, 2, 32), (10, 2, 64), (32, 3, 32)])
def test_tiles_are_cache_sized_and_twice_as_wide_at_small_batches(batch_size: int, cores: int, width: int) -> None:
    tiling = Tiling([784, 30, 10], [(0.1, 0.0)] * 256, True, batch_size, cores)
    assert tiling.width == width or (cores == 3 and tiling.width <= width)
    assert not tiling.spread


def test_too_little_work_for_two_cores_is_one_tile() -> None:
    tiling = Tiling([8, 5, 3], [(0.1, 0.0)] * 256, True, 10, 2)
    assert (tiling.width, tiling.steady, tiling.spread) == (256, False, False)
