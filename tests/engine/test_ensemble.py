"""Tiling, company and the end of other starts do not change the descent of a start, whatever the step."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hillstart.engine.blocks
import hillstart.engine.ensemble
import hillstart.engine.tiling
from hillstart.engine.blocks import Read
from hillstart.engine.ensemble import StartEnsemble
from hillstart.engine.starts import Hyperparameters
from hillstart.engine.tiling import Tiling
from hillstart.network import GradientDescent, Momentum, Nesterov, Network
from launching import BOUND

S, SIZES, B, N = 6, [8, 5, 3], 4, 40


def reader(x: Tensor, y: Tensor) -> Read:
    return lambda rows: (x[rows], y[rows])


def chunk() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(N, 8, generator=g, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[torch.arange(N) % 3]


def pack(
    optimiser: Any = None, eta: list[float] | None = None, mu: Any = 0.9, step: type[GradientDescent] = Momentum
) -> StartEnsemble:
    net = Network.start(SIZES, range(S), dtype=torch.float64)
    etas, mus = eta or [0.5] * S, mu if isinstance(mu, list) else [mu] * S
    points = [Hyperparameters(*point, 0.1) for point in zip(etas, mus, strict=True)]
    return StartEnsemble(net, points, N, B, step, optimiser)


def assert_close(one: StartEnsemble, other: StartEnsemble) -> None:
    torch.testing.assert_close(one.network().parameters, other.network().parameters, rtol=1e-12, atol=1e-13)


def assert_equal(one: StartEnsemble, other: StartEnsemble) -> None:
    torch.testing.assert_close(one.network().parameters, other.network().parameters, rtol=0, atol=0)


def copied(made: StartEnsemble) -> dict[str, list[Tensor]]:
    return {name: [t.clone() for t in tensors] for name, tensors in made.state().items()}


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of four starts."""
    monkeypatch.setattr(hillstart.engine.tiling, "TILE_FLOPS", 0)
    monkeypatch.setattr(Tiling, "_cache_sized", lambda self, S, cores, room: 4)


@pytest.mark.parametrize(("optimiser", "step"), [(None, Momentum), (None, Nesterov), (torch.optim.Adam, Momentum)])
def test_tiles_do_not_matter(optimiser: Any, step: type[GradientDescent], request: pytest.FixtureRequest) -> None:
    whole = pack(optimiser, step=step)
    request.getfixturevalue("small_tiles")
    tiled = pack(optimiser, step=step)
    assert len(tiled.tiles) == 2
    x, y = chunk()
    for made in (whole, tiled):
        made.descend(reader(x, y), [1.0, 0.5] * 5)
    assert_close(whole, tiled)
    for p, q in zip(whole.evaluate([(x, y)]), tiled.evaluate([(x[:30], y[:30]), (x[30:], y[30:])]), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("optimiser", "step", "mus"),
    [
        (None, Momentum, [0.9, 0.9, 0.0, 0.0, 0.5, 0.5]),
        (None, Nesterov, [0.9, 0.9, 0.0, 0.0, 0.5, 0.5]),
        (torch.optim.Adam, Momentum, [0.9] * S),
    ],
)
def test_each_start_has_its_own_eta_and_momentum(
    small_tiles: None, optimiser: Any, step: type[GradientDescent], mus: list[float]
) -> None:
    etas = [0.1, 0.5, 0.5, 0.7, 0.2, 0.01]
    grid, (x, y) = pack(optimiser, etas, mus, step), chunk()
    grid.descend(reader(x, y), [1.0] * 10)
    for s, (eta, mu) in enumerate(zip(etas, mus, strict=True)):
        alone = pack(optimiser, [eta] * S, mu, step)
        alone.descend(reader(x, y), [1.0] * 10)
        of_grid, of_alone = ([p[s] for p in made.network().parameters] for made in (grid, alone))
        torch.testing.assert_close(of_grid, of_alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("optimiser", "mu"), [(None, 0.9), (torch.optim.Adam, 0.9), (None, [0.0, 0.0, 0.9, 0.9, 0.9, 0.0])]
)
def test_a_state_is_resumed_on_another_tiling(optimiser: Any, mu: Any, request: pytest.FixtureRequest) -> None:
    one, (x, y) = pack(optimiser, mu=mu), chunk()
    one.descend(reader(x, y), [1.0] * 10)
    state = copied(one)
    request.getfixturevalue("small_tiles")
    other = pack(optimiser, mu=mu)
    other.load(state)
    for made in (one, other):
        made.descend(reader(x, y), [1.0] * 10)
    assert_close(one, other)


def test_evaluate_gives_cost_and_accuracy(small_tiles: None) -> None:
    made, (x, y) = pack(), chunk()
    cost, accuracy = made.evaluate([(x, y)])
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


# ---------------------------------------------------------------- starts that end


WIDE = [784, 30, 10]  # a tile of 16 or 32 of these meets tiling.COLUMNS


def wide_pack(
    starts: int,
    optimiser: Any = None,
    eta: list[float] | None = None,
    mu: float = 0.9,
    step: type[GradientDescent] = Momentum,
) -> StartEnsemble:
    points = [Hyperparameters(each, mu, 0.1) for each in eta or [0.5] * starts]
    net = Network.start(WIDE, range(starts), cost="cross_entropy", start="scaled_normal")
    return StartEnsemble(net, points, N, 10, step if mu else GradientDescent, optimiser)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def wide_chunk() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(N, 784, generator=g), torch.eye(10)[torch.arange(N) % 10]


@pytest.mark.parametrize(
    "options",
    [
        {"mu": 0.0},
        {"mu": 0.9},
        {"step": Nesterov},
        {"optimiser": torch.optim.Adam, "eta": [0.001] * 128},
        {"eta": [0.1] * 60 + [0.2] * 68},
        {"eta": [0.1 + 0.001 * s for s in range(128)]},
    ],
    ids=["plain", "momentum", "nesterov", "adam", "two etas", "an eta each"],
)
def test_other_starts_may_end_without_a_change_of_bits(two_cores: None, options: dict[str, Any]) -> None:
    everyone, fewer, (x, y) = wide_pack(128, **options), wide_pack(128, **options), wide_chunk()
    tiles = len(fewer.tiles)
    staying = [s for s in range(128) if s % 3 == 0 or s > 120]
    for made in (everyone, fewer):
        made.descend(reader(x, y), [1.0, 0.5, 0.5, 0.5])
    fewer.retain(staying)
    assert fewer.active == staying
    assert len(fewer.tiles) < tiles
    for made in (everyone, fewer):
        made.descend(reader(x, y), [0.5, 0.4, 0.3, 0.2])
    before, after = ((*made.network().parameters, *made.evaluate([(x, y)])) for made in (everyone, fewer))
    for p, q in zip(before, after, strict=True):
        assert torch.equal(p[staying], q)


def test_a_start_that_is_not_a_number_disturbs_no_neighbour(two_cores: None) -> None:
    sound, ill, (x, y) = wide_pack(64), wide_pack(64), wide_chunk()
    ill.tiles[0].network.w[0][3] = float("nan")
    ill.tiles[1].network.b[1][5] = float("inf")
    for made in (sound, ill):
        made.descend(reader(x, y), [1.0] * 4)
    bad = [3, len(ill.tiles[0].columns) + 5]
    good = [s for s in range(64) if s not in bad]
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
    made.descend(reader(x, y), [1.0] * 10)
    alone = pack()
    alone.descend(reader(x, y), [1.0] * 10)
    for p, q in zip(made.network().parameters, alone.network().parameters, strict=True):
        assert torch.equal(p, q[[2, 4, 5]])
    made.retain([])
    assert made.active == []
    made.descend(reader(x, y), [1.0] * 10)
    assert [len(figures) for figures in made.evaluate([(x, y)])] == [0, 0]


def test_the_remaining_starts_resume_from_their_state(two_cores: None) -> None:
    one, (x, y) = wide_pack(128), wide_chunk()
    one.descend(reader(x, y), [1.0] * 4)
    one.retain(range(0, 128, 2))
    state = copied(one)
    assert {len(t) for tensors in state.values() for t in tensors} == {64}
    other = wide_pack(128)
    other.retain(range(0, 128, 2))
    other.load(state)
    for made in (one, other):
        made.descend(reader(x, y), [0.5] * 4)
    assert_equal(one, other)


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
