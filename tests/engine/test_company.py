"""A start has the same bits in any company: other starts, tiles, cores, places; also when neighbours have ended."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import hillstart.engine.ensemble
import hillstart.engine.tiling
from hillstart.engine.ensemble import StartEnsemble
from hillstart.engine.matmul import ONE_DNN, TORCH, MatmulBackend
from hillstart.engine.starts import Hyperparameters
from hillstart.network import ACTIVATIONS, COSTS, GradientDescent, Momentum, Nesterov, Network

MINE = 3  # the seed that is looked at
STEPS = {"plain": GradientDescent, "momentum": Momentum, "nesterov": Nesterov}
BACKENDS = [TORCH] + [ONE_DNN] * hillstart.engine.matmul._is_there()


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name, autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MatmulBackend:
    monkeypatch.setattr(hillstart.engine.ensemble, "matmul_backend", lambda *_, **__: request.param)
    return request.param


class Setting:
    """A network, its pictures (one mini-batch is smaller than the others), and how it descends."""

    def __init__(
        self,
        sizes: Sequence[int] = (36, 30, 10),
        batch: int = 10,
        step: str = "momentum",
        lmbda: float = 1.0,
        activation: str = "sigmoid",
        cost: str = "cross_entropy",
        optimiser: Any = None,
    ):
        self.sizes, self.batch, self.step, self.optimiser = sizes, batch, STEPS[step], optimiser
        self.point = Hyperparameters(0.001 if optimiser else 0.1, 0.0 if step == "plain" else 0.9, lmbda)
        self.named = {"activation": activation, "cost": cost, "start": "scaled_normal"}
        g = torch.Generator().manual_seed(0)
        pictures = 11 * batch + max(1, batch // 3)
        self.x = torch.rand(pictures, sizes[0], generator=g)
        self.y = torch.eye(sizes[-1])[torch.arange(pictures) % sizes[-1]]

    def pack(self, seeds: Sequence[int], others: Sequence[Hyperparameters] = ()) -> StartEnsemble:
        """These starts; `others` are the hyperparameters of all but the last ones, in turn."""
        points = [others[k % len(others)] if others and seed != MINE else self.point for k, seed in enumerate(seeds)]
        net = Network.start([*self.sizes], seeds, **self.named)
        return StartEnsemble(net, points, 1000, self.batch, self.step, self.optimiser, seeds=seeds)

    def descend(self, pack: StartEnsemble) -> None:
        pack.descend(lambda rows: (self.x[rows], self.y[rows]), [1 - k / 20 for k in range(12)])

    def found(self, pack: StartEnsemble) -> list[bytes]:
        """The bytes of everything about the start with the seed `MINE`: its weights and its measurements."""
        k = pack.active.index([*pack._tiling._seeds].index(MINE))
        state = [t[k] for tensors in pack.state().values() for t in tensors if t.dim()]
        measured = pack.evaluate([(self.x[:100], self.y[:100]), (self.x[100:], self.y[100:])])
        return [t.contiguous().numpy().tobytes() for t in (*state, *(figures[k] for figures in measured))]

    def trained(self, seeds: Sequence[int], others: Sequence[Hyperparameters] = ()) -> list[bytes]:
        pack = self.pack(seeds, others)
        self.descend(pack)
        return self.found(pack)


def check(setting: Setting, monkeypatch: pytest.MonkeyPatch, companies: Sequence[Sequence[int]]) -> None:
    """One start with others, on one core and two, in one tile and in several: as alone."""
    alone = setting.trained([MINE])
    assert alone == setting.trained([MINE]), "the same twice"
    for seeds in companies:
        for cores, flops in ((1, 1e12), (1, 0), (2, 0)):
            with monkeypatch.context() as patch:
                patch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
                patch.setattr(hillstart.engine.tiling, "TILE_FLOPS", flops)
                patch.setattr(hillstart.engine.tiling, "TILE_BYTES", 8 * 4 * setting.sizes[0] * setting.sizes[1])
                assert setting.trained(seeds) == alone, f"{len(seeds)} starts, {cores} cores, tiles from {flops}"


COMPANIES = [range(2, 42), [5, 9, MINE, 100, 7]]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "sizes",
    [(36, 7, 5, 3), *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in ((36, 30, 10), (5, 2, 1)))],
    ids=str,
)
def test_a_start_has_the_same_bits_in_any_company(
    sizes: tuple[int, ...], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(Setting(sizes, step=step), monkeypatch, COMPANIES)


@pytest.mark.parametrize(("activation", "cost"), list(zip(ACTIVATIONS, COSTS, strict=True)))
def test_with_every_activation_and_cost(activation: str, cost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(Setting(activation=activation, cost=cost), monkeypatch, [range(16)])


def test_with_an_optimiser_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    check(Setting((36, 7, 5, 3), optimiser=torch.optim.Adam, step="plain"), monkeypatch, COMPANIES)


WIDTHS = [(784, 30, 2), (784, 64, 16, 10), (2, 3, 1), (13, 1), (64, 17, 9, 5, 7)]
BATCHES = [1, 3, 10, 32, 128]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "batch"),  # each of both with two of the other
    [(sizes, BATCHES[(k + way) % 5]) for k, sizes in enumerate(WIDTHS) for way in (2, 4)],
    ids=str,
)
def test_in_all_sizes(sizes: tuple[int, ...], batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for step, lmbda, cost in zip(STEPS, (2000.0, 1.0, 0.0), COSTS, strict=True):
        check(Setting(sizes, batch, step, lmbda, cost=cost), monkeypatch, COMPANIES)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("lmbda", [0.0, 1.0])
def test_beside_starts_with_other_hyperparameters(step: str, lmbda: float) -> None:
    setting = Setting(step=step, lmbda=lmbda)
    mu = setting.point.momentum
    several = [Hyperparameters(eta, mu, decay) for eta in (0.1, 0.3) for decay in (0.0, 1.0, 5.0, 2000.0)]
    if step != "plain":
        several += [Hyperparameters(0.1, mu, lmbda) for mu in (0.0, 0.5)]
    alone = setting.trained([MINE])
    assert setting.trained(range(40), several) == alone
    assert setting.trained(range(16), [Hyperparameters(0.2, mu, lmbda)]) == alone
    assert setting.trained(range(16), [Hyperparameters(0.1, mu, 2000.0)]) == alone


def test_a_plain_start_beside_starts_with_momentum() -> None:
    setting = Setting(step="plain")
    alone = setting.trained([MINE])
    setting.step = Momentum
    assert setting.trained(range(16), [Hyperparameters(0.1, 0.9, 1.0)])[: len(alone) - 2] == alone[:-2]


@pytest.mark.parametrize(("step", "optimiser"), [*((step, None) for step in STEPS), ("plain", torch.optim.Adam)])
def test_after_neighbours_have_ended_and_when_resumed(
    step: str, optimiser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hillstart.engine.tiling, "TILE_FLOPS", 0)
    monkeypatch.setattr(hillstart.engine.tiling, "TILE_BYTES", 8 * 4 * 36 * 30)
    setting = Setting(step=step, optimiser=optimiser)
    two_etas = [setting.point, replace(setting.point, eta=2 * setting.point.eta)]
    alone = setting.pack([MINE])
    for _ in range(3):
        setting.descend(alone)
    expected = setting.found(alone)
    for staying, others in (([MINE], ()), ([1, MINE, 17, 38], two_etas), (range(40), two_etas)):
        pack = setting.pack(range(40), others)
        setting.descend(pack)
        pack.retain(staying)
        setting.descend(pack)
        resumed = setting.pack(range(40), others)
        resumed.retain(staying)
        resumed.load({name: [t.clone() for t in tensors] for name, tensors in pack.state().items()})
        for made in (pack, resumed):
            setting.descend(made)
            assert setting.found(made) == expected
