"""However a pack is tiled, and whatever moves it, the starts in it go the same way."""

from typing import Any

import pytest
import torch
from torch import Tensor

import hillstart.pack
from hillstart.network import Network
from hillstart.pack import Pack

S, SIZES, B, N = 6, [8, 5, 3], 4, 40


def chunk() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(N, 8, generator=g, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[torch.arange(N) % 3]


def pack(optimiser: Any = None, eta: list[float] | None = None, mu: float = 0.9) -> Pack:
    net = Network.start(SIZES, range(S), dtype=torch.float64)
    etas = torch.tensor(eta or [0.5] * S, dtype=torch.float64)
    return Pack(net, etas, torch.full((S,), mu), torch.full((S,), 0.1), N, B, optimiser)


@pytest.fixture
def four_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hillstart.pack, "TILE_FLOPS", 0)
    monkeypatch.setattr(Pack, "_tiles_for", lambda self, network: 4)


@pytest.mark.parametrize("optimiser", [None, torch.optim.Adam])
def test_tiles_do_not_matter(optimiser: Any, request: pytest.FixtureRequest) -> None:
    whole = pack(optimiser)
    request.getfixturevalue("four_tiles")
    tiled = pack(optimiser)
    assert len(tiled.tiles) == 4
    x, y = chunk()
    for made in (whole, tiled):
        made.descend(x, y, [1.0, 0.5] * 5)
    for p, q in zip(whole.network().parameters, tiled.network().parameters, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
    for p, q in zip(whole.measure([(x, y)]), tiled.measure([(x[:30], y[:30]), (x[30:], y[30:])]), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=0)


def test_each_start_has_its_own_eta(four_tiles: None) -> None:
    etas = [0.1, 0.5, 0.5, 0.7, 0.2, 0.01]
    grid, x, y = pack(eta=etas), *chunk()
    grid.descend(x, y, [1.0] * 10)
    for s, eta in enumerate(etas):
        alone = pack(eta=[eta] * S)
        alone.descend(x, y, [1.0] * 10)
        for p, q in zip(grid.network().parameters, alone.network().parameters, strict=True):
            torch.testing.assert_close(p[s], q[s], rtol=1e-12, atol=1e-13)


def test_an_optimiser_of_torch_has_an_eta_for_each_start(four_tiles: None) -> None:
    etas = [0.1, 0.1, 0.5, 0.5, 0.2, 0.2]
    grid, x, y = pack(torch.optim.Adam, etas), *chunk()
    grid.descend(x, y, [1.0] * 10)
    for s, eta in enumerate(etas):
        alone = pack(torch.optim.Adam, [eta] * S)
        alone.descend(x, y, [1.0] * 10)
        torch.testing.assert_close(grid.network().w[0][s], alone.network().w[0][s], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("optimiser", [None, torch.optim.Adam])
def test_a_pack_goes_on_from_its_state_on_another_tiling(optimiser: Any, request: pytest.FixtureRequest) -> None:
    one, (x, y) = pack(optimiser), chunk()
    one.descend(x, y, [1.0] * 10)
    state = {name: [t.clone() for t in tensors] for name, tensors in one.state().items()}
    request.getfixturevalue("four_tiles")
    other = pack(optimiser)
    other.load(state)
    for made in (one, other):
        made.descend(x, y, [1.0] * 10)
    for p, q in zip(one.network().parameters, other.network().parameters, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


def test_measure_gives_cost_and_accuracy(four_tiles: None) -> None:
    made, (x, y) = pack(), chunk()
    cost, accuracy = made.measure([(x, y)])
    outputs = made.network().forward(x)[-1]
    assert cost.tolist() == pytest.approx((0.5 * (outputs - y) ** 2).sum(-1).mean(1).tolist())
    assert accuracy.tolist() == pytest.approx((outputs.argmax(-1) == y.argmax(-1)).double().mean(1).tolist())


def test_only_the_marked_starts_are_copied(four_tiles: None) -> None:
    made, (x, y) = pack(), chunk()
    into = Network.start(SIZES, range(S), dtype=torch.float64)
    before = into.pick(range(S))
    made.descend(x, y, [1.0] * 10)
    these = torch.tensor([True, False, False, True, False, True])
    made.copy_into(into, these)
    for p, was, now in zip(into.parameters, before.parameters, made.network().parameters, strict=True):
        assert torch.equal(p[these], now[these])
        assert torch.equal(p[~these], was[~these])
