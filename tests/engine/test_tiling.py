"""How wide tiles are: by what was measured on this machine, once."""

import json
from pathlib import Path

import pytest

import hillstart.engine.tiling
from hillstart.engine.tiling import Tiling, tile_bytes


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[float, float]:
    """Seconds that widths in MiB are said to take, 1 where nothing is said; a cache of its own."""
    taken: dict[float, float] = {}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        hillstart.engine.tiling, "_seconds", lambda widths, cores, B: {w: taken.get(w, 1.0) for w in widths}
    )
    monkeypatch.setattr(hillstart.engine.tiling, "tile_bytes", tile_bytes.__wrapped__)
    return taken


def test_a_width_that_is_clearly_faster_is_taken_and_noted(measured: dict[float, float], tmp_path: Path) -> None:
    of = hillstart.engine.tiling.tile_bytes
    measured[6.0] = 0.9
    assert of(2, False) == 6 << 20
    measured[1.5] = 0.5  # a busy moment later: what was noted stays, but for another number of cores or small batches
    assert [of(2, False), of(3, False), of(2, True)] == [6 << 20, 3 << 19, 6 << 20]
    noted = json.loads((tmp_path / "hillstart" / "machine.json").read_text())
    assert sorted(noted.values()) == ["1.5 MiB", "6 MiB", "6 MiB"]


def test_without_a_home_each_process_measures(measured: dict[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    measured[6.0] = 0.5
    assert hillstart.engine.tiling.tile_bytes(2, False) == 6 << 20


def test_a_little_faster_is_noise(measured: dict[float, float]) -> None:
    measured |= {1.5: 0.96, 6.0: 0.97, 12.0: 0.96}
    assert [hillstart.engine.tiling.tile_bytes(2, small) for small in (False, True)] == [3 << 20, 6 << 20]


def test_tiles_are_as_wide_as_was_found(measured: dict[float, float]) -> None:
    rolls = [(0.1, 0.0)] * 256
    narrow, small = (Tiling([784, 30, 10], rolls, True, batch_size, 2) for batch_size in (32, 10))
    measured |= {6.0: 0.5, 12.0: 0.4}
    wide = Tiling([784, 30, 10], rolls, True, 32, 3)
    assert (narrow.width, narrow.steady, small.width) == (32, True, 64)
    assert narrow.width < wide.width <= 64


def test_every_width_is_timed() -> None:
    taken = hillstart.engine.tiling._seconds((1.5, 3.0), 2, 4, blocks=1, repeats=1)
    assert set(taken) == {1.5, 3.0}
    assert all(0 < seconds < 60 for seconds in taken.values())
