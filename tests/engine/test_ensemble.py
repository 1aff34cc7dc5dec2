"""The figures of an ensemble, its state on another tiling, starts that end; `test_company.py` has a start's bits."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hillstart.engine.tiling
from hillstart.engine.blocks import Read
from hillstart.engine.ensemble import StartEnsemble
from hillstart.engine.starts import Hyperparameters
from hillstart.engine.tiling import Tiling
from hillstart.network import Momentum, Network
from launching import BOUND

S, SIZES, B, N = 6, [8, 5, 3], 4, 40


def reader(x: Tensor, y: Tensor) -> Read:
    return lambda rows: (x[rows], y[rows])


def chunk() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(N, 8, generator=g, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[torch.arange(N) % 3]


def pack(optimiser: Any = None, mus: list[float] | None = None, cost: str = "quadratic") -> StartEnsemble:
    net = Network.start(SIZES, range(S), cost=cost, dtype=torch.float64)
    points = [Hyperparameters(0.5, mu, 0.1) for mu in mus or [0.9] * S]
    return StartEnsemble(net, points, N, B, Momentum, optimiser)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of four starts."""
    monkeypatch.setattr(hillstart.engine.tiling, "TILE_FLOPS", 0)
    monkeypatch.setattr(Tiling, "_cache_sized", lambda self, S, cores, room: 4)


@pytest.mark.parametrize(
    ("optimiser", "mus"), [(None, None), (torch.optim.Adam, None), (None, [0.0, 0.0, 0.9, 0.9, 0.9, 0.0])]
)
def test_a_state_is_resumed_on_another_tiling(optimiser: Any, mus: Any, request: pytest.FixtureRequest) -> None:
    one, (x, y) = pack(optimiser, mus), chunk()
    one.descend(reader(x, y), [1.0] * 10)
    state = {name: [t.clone() for t in tensors] for name, tensors in one.state().items()}
    request.getfixturevalue("small_tiles")
    other = pack(optimiser, mus)
    other.load(state)
    for made in (one, other):
        made.descend(reader(x, y), [1.0] * 10)
    torch.testing.assert_close(one.network().parameters, other.network().parameters, rtol=1e-12, atol=1e-13)


def test_evaluate_gives_cost_and_accuracy(small_tiles: None) -> None:
    made, (x, y) = pack(), chunk()
    cost, accuracy = made.evaluate([(x[:30], y[:30]), (x[30:], y[30:])])
    outputs = made.network().forward(x)[-1]
    assert cost.tolist() == pytest.approx((0.5 * (outputs - y) ** 2).sum(-1).mean(1).tolist())
    assert accuracy.tolist() == pytest.approx((outputs.argmax(-1) == y.argmax(-1)).double().mean(1).tolist())


def test_only_the_marked_starts_are_copied(small_tiles: None) -> None:
    made, (x, y) = pack(), chunk()
    into = Network.start(SIZES, range(S), dtype=torch.float64)
    before = into.pick(range(S))
    made.descend(reader(x, y), [1.0] * 10)
    these = torch.tensor([True, False, False, True, False, True])
    made.copy_into(into, these)
    for p, was, now in zip(into.parameters, before.parameters, made.network().parameters, strict=True):
        assert torch.equal(p[these], now[these])
        assert torch.equal(p[~these], was[~these])


def test_a_start_that_is_not_a_number_disturbs_no_neighbour(small_tiles: None) -> None:
    sound, ill, (x, y) = pack(cost="cross_entropy"), pack(cost="cross_entropy"), chunk()
    ill.tiles[0].network.w[0][3] = float("nan")
    ill.tiles[1].network.b[1][1] = float("inf")
    for made in (sound, ill):
        made.descend(reader(x, y), [1.0] * 4)
    bad, good = [3, 5], [0, 1, 2, 4]
    for p, q in zip(sound.network().parameters, ill.network().parameters, strict=True):
        assert torch.equal(p[good], q[good])
    cost = ill.evaluate([(x, y)])[0]
    assert not cost[bad].isfinite().any()
    assert cost[good].isfinite().all()


def test_starts_are_repacked_into_fewer_tiles_until_none_is_active(small_tiles: None) -> None:
    made, (x, y) = pack(), chunk()
    made.retain([2, 3, 4, 5])
    assert [{*tile.columns} for tile in made.tiles] == [{2, 3, 4, 5}]
    made.retain([2, 4, 5])
    assert made.active == [2, 4, 5]
    made.descend(reader(x, y), [1.0] * 10)
    alone = pack()
    alone.descend(reader(x, y), [1.0] * 10)
    for p, q in zip(made.network().parameters, alone.network().parameters, strict=True):
        assert torch.equal(p, q[[2, 4, 5]])
    made.retain([])
    assert made.active == []
    made.descend(reader(x, y), [1.0] * 10)
    assert [len(figures) for figures in made.evaluate([(x, y)])] == [0, 0]


# ---------------------------------------------------------------- compiled


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_fused_steps_are_the_steps(device: str) -> None:
    """The compiled function that CUDA captures with `fuse`; on the CPU without the code that Inductor generates."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine, and none can be pretended to the compiler")
    command = [sys.executable, str(Path(__file__).parents[1] / "fusing.py"), device]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=BOUND)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == 3
    for difference, pieces, products in rows:
        assert float(difference) < 1e-12
        assert int(pieces) > 0 and int(products) == 0, "Inductor would copy the first layer's weights at each step"
