"""A recorded descent: the same bits as from Python, for every step, activation and cost."""

import itertools
from collections.abc import Iterator

import pytest
import torch

import hillstart.engine.traced
from hillstart.engine.ensemble import StartEnsemble
from hillstart.engine.starts import Hyperparameters
from hillstart.network import ACTIVATIONS, COSTS, GradientDescent, Momentum, Nesterov, Network

B, SIZES, PICTURES = 10, [36, 7, 5, 3], 115
STEPS = [GradientDescent, Momentum, Nesterov]


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Nothing can be recorded."""
    with monkeypatch.context() as patch:
        patch.setattr(hillstart.engine.traced, "recorded", lambda *_: None)
        yield patch


def descended(step: type[GradientDescent], lmbda: float, mixed: bool, **named: str) -> StartEnsemble:
    """Starts after three epochs with a falling learning rate, whose last mini-batch is smaller."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(PICTURES, SIZES[0], generator=g), torch.eye(3)[torch.arange(PICTURES) % 3]
    points = [Hyperparameters(0.1 + mixed * k / 100, 0.9 * (step is not GradientDescent), lmbda) for k in range(8)]
    pack = StartEnsemble(Network.start(SIZES, range(8), **named), points, 1000, B, step)
    for epoch in range(3):
        pack.descend(lambda rows: (x[rows], y[rows]), [1 - (12 * epoch + k) / 40 for k in range(12)])
    return pack


def bits(pack: StartEnsemble) -> list[bytes]:
    return [t.contiguous().numpy().tobytes() for tensors in pack.state().values() for t in tensors]


CASES = [
    *((*case, "sigmoid", "quadratic") for case in itertools.product(STEPS, (0.0, 1.0), (False, True))),
    *((GradientDescent, 0.0, False, *named) for named in itertools.product(ACTIVATIONS, COSTS)),
]


@pytest.mark.parametrize(("step", "lmbda", "mixed", "activation", "cost"), CASES)
def test_a_recorded_descent_has_the_bits_of_python(
    step: type[GradientDescent], lmbda: float, mixed: bool, activation: str, cost: str, python: pytest.MonkeyPatch
) -> None:
    given = (step, lmbda, mixed)
    expected = bits(descended(*given, activation=activation, cost=cost))
    python.undo()
    pack = descended(*given, activation=activation, cost=cost)
    assert len(pack._traced._programs) == 2, "whole blocks and the smaller mini-batch"
    assert all(pack._traced._programs.values()), "each is recorded"
    assert bits(pack) == expected


def test_a_step_of_ones_own_may_count_in_python() -> None:
    class Counting(GradientDescent):
        counted = 0

        def move(self, p: torch.Tensor, *others: object) -> torch.Tensor:
            type(self).counted += 1
            return super().move(p, *others)  # type: ignore[arg-type]

    descended(Counting, 0.0, False)
    assert Counting.counted == 3 * 12 * 2 * (len(SIZES) - 1)
