"""How wide tiles are: by what was measured on this machine, once."""

import json
from pathlib import Path

import pytest

import hillstart.tiling
from hillstart.tiling import OTHER_MIB, TILE_MIB, Tiling, tile_bytes


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[float, float]:
    """Seconds that widths are said to take; a cache of its own."""
    taken = dict.fromkeys((TILE_MIB, *OTHER_MIB), 1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(hillstart.tiling, "_seconds", lambda cores: taken)
    monkeypatch.setattr(hillstart.tiling, "tile_bytes", tile_bytes.__wrapped__)
    return taken


def test_a_width_that_is_clearly_faster_is_taken_and_noted(measured: dict[float, float], tmp_path: Path) -> None:
    of = hillstart.tiling.tile_bytes
    measured[6.0] = 0.9
    assert of(2) == 6 << 20
    measured[1.5] = 0.5  # a busy moment later: what was noted stays, but for another number of cores
    assert (of(2), of(3)) == (6 << 20, 3 << 19)
    assert sorted(json.loads((tmp_path / "hillstart" / "machine.json").read_text()).values()) == ["1.5 MiB", "6 MiB"]


def test_a_little_faster_is_noise(measured: dict[float, float]) -> None:
    measured |= {1.5: 0.96, 6.0: 0.97}
    assert hillstart.tiling.tile_bytes(2) == 3 << 20


def test_tiles_are_as_wide_as_was_found(measured: dict[float, float]) -> None:
    rolls = [(0.1, 0.0)] * 256
    narrow = Tiling([784, 30, 10], rolls, True, 32, 2)
    measured[6.0] = 0.5
    hillstart.tiling.tile_bytes(5)
    wide = Tiling([784, 30, 10], rolls, True, 32, 5)
    assert (narrow.width, narrow.steady) == (32, True)
    assert narrow.width < wide.width <= 64


def test_every_width_is_timed() -> None:
    taken = hillstart.tiling._seconds(2, sizes=(784, 30, 10), B=4, blocks=1, repeats=1)
    assert set(taken) == {1.5, 3.0, 6.0}
    assert all(0 < seconds < 60 for seconds in taken.values())
