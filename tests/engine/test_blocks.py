"""A block of mini-batches gives what its mini-batches give one after the other, with each library and each step."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hillstart.engine.matmul
from hillstart.engine.blocks import MAX_BATCHES, block_at, descend, mini_batches
from hillstart.engine.matmul import BFLOAT16, ONE_DNN, TORCH, MatmulBackend, matmul_backend
from hillstart.network import ACTIVATIONS, COSTS, GradientDescent, Momentum, Nesterov, Network

SCHEDULE = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
N = 53


def pictures(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(N, 36, generator=g).to(dtype), torch.eye(3, dtype=dtype)[torch.arange(N) % 3]


def made(dtype: torch.dtype, activation: str = "sigmoid", cost: str = "cross_entropy") -> Network:
    return Network.start([36, 7, 5, 3], range(4), activation, cost, "scaled_normal", dtype=dtype)


STEPS: dict[str, Callable[[Network], GradientDescent]] = {
    "plain": GradientDescent,
    "momentum": lambda network: Momentum(network, 0.9),
    "nesterov": lambda network: Nesterov(network, 0.9),
}


def one_by_one(network: Network, eta: Any, lmbda: Any, step: str = "plain") -> Network:
    move, (x, y) = STEPS[step](network), pictures(network.w[0].dtype)
    for xb, yb, factor in zip(x.split(10), y.split(10), SCHEDULE, strict=True):
        network.descend(xb, yb, eta * factor, lmbda, N, move)
    return network


def in_blocks(
    network: Network, eta: Any, lmbda: Any, most: int, step: str = "plain", backend: MatmulBackend = TORCH
) -> Network:
    move, (x, y) = STEPS[step](network), pictures(network.w[0].dtype)
    for first in range(0, len(SCHEDULE), most):
        block = block_at(first, most, lambda rows: (x[rows], y[rows]), 10, SCHEDULE, backend)
        descend(network, block, eta, lmbda, N, move, backend)
    return network


def differs(one: Network, other: Network) -> float:
    return max((p - q).abs().max().item() for p, q in zip(one.parameters, other.parameters, strict=True))


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("lmbda", [0.0, 3.0])
def test_a_block_is_its_mini_batches_one_after_the_other(activation: str, cost: str, lmbda: float) -> None:
    one, other = (made(torch.float64, activation, cost) for _ in range(2))
    one_by_one(one, 0.5, lmbda)
    in_blocks(other, 0.5, lmbda, 4)  # the last one has two
    assert differs(one, other) < 1e-12
    assert differs(one, made(torch.float64, activation, cost)) > 0.01


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("lmbda", [0.0, 3.0, torch.tensor([0.0, 1.0, 2.0, 3.0]).double()], ids=["0", "3", "each"])
@pytest.mark.parametrize("eta", [0.5, torch.tensor([0.1, 0.2, 0.3, 0.4]).double()], ids=["one", "each"])
def test_a_block_of_one_takes_every_kind_of_step(step: str, lmbda: Any, eta: Any) -> None:
    one, other = made(torch.float64), made(torch.float64)
    assert differs(one_by_one(one, eta, lmbda, step), in_blocks(other, eta, lmbda, 1, step)) < 1e-12


@pytest.mark.parametrize(("step", "most"), [("plain", 1), ("plain", 4), ("momentum", 1), ("nesterov", 1)])
@pytest.mark.parametrize("backend", [ONE_DNN, BFLOAT16], ids=lambda backend: backend.name)
def test_other_backends_give_nearly_the_same_descent(step: str, most: int, backend: MatmulBackend) -> None:
    if backend is ONE_DNN and not hillstart.engine.matmul._is_there():
        pytest.skip("this torch has no oneDNN")
    begun, exact = made(torch.float64), one_by_one(made(torch.float64), 0.5, 3.0, step)
    found = in_blocks(made(torch.float32), 0.5, 3.0, most, step, backend).map(torch.Tensor.double)
    if backend is ONE_DNN:
        assert differs(exact, found) < 2e-6
    else:  # with eight bits, some percent of what six steps move, and far above the error of float32
        assert 1e-5 < differs(exact, found) < 0.03 * differs(begun, exact)


def test_a_start_that_is_not_a_number_disturbs_no_neighbour_in_its_block() -> None:
    sound, ill = made(torch.float32), made(torch.float32)
    ill.w[0][2, 3, 1] = float("nan")
    for network in (sound, ill):
        in_blocks(network, 0.5, 0.0, 4)
    for p, q in zip(sound.parameters, ill.parameters, strict=True):
        assert torch.equal(p[[0, 1, 3]], q[[0, 1, 3]])
    assert ill.b[2][2].isnan().all()


def test_the_number_of_mini_batches_in_a_block() -> None:
    assert [mini_batches(B) for B in (1, 2, 10, 32, 48, 49, 500)] == [MAX_BATCHES, MAX_BATCHES, 9, 3, 2, 1, 1]


# ---------------------------------------------------------------- which library


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, float]:
    """The seconds that each library pretends to take; with an empty cache."""
    taken = {"torch": 1.0, "oneDNN": 1.0}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(hillstart.engine.matmul, "_is_there", lambda: True)
    monkeypatch.setattr(hillstart.engine.matmul, "_seconds", lambda: taken)
    monkeypatch.setattr(hillstart.engine.matmul, "_fastest", hillstart.engine.matmul._fastest.__wrapped__)
    return taken


def test_the_library_that_is_clearly_faster_is_used_and_cached(measured: dict[str, float], tmp_path: Path) -> None:
    like = torch.zeros(1)
    measured["oneDNN"] = 0.5
    assert matmul_backend(like).name == "oneDNN"
    measured["oneDNN"] = 2.0  # on a busy machine later: the cached choice stays
    assert matmul_backend(like).name == "oneDNN"
    assert list(json.loads((tmp_path / "hillstart" / "machine.json").read_text()).values()) == ["oneDNN"]
    (tmp_path / "hillstart" / "machine.json").write_text("{ damaged")
    assert matmul_backend(like).name == "torch"
    measured["oneDNN"] = 0.5
    assert matmul_backend(like).name == "torch"


def test_torch_is_used_on_a_tie_and_for_types_and_devices_without_one_dnn(measured: dict[str, float]) -> None:
    measured["oneDNN"] = 0.9
    assert matmul_backend(torch.zeros(1)).name == "torch"
    assert matmul_backend(torch.zeros(1, dtype=torch.float64)).name == "torch"
    assert matmul_backend(torch.zeros(1, device="meta")).name == "torch"


def test_medium_precision_is_bfloat16(measured: dict[str, float]) -> None:
    assert matmul_backend(torch.zeros(1), "medium").name == "bfloat16"
    assert matmul_backend(torch.zeros(1, dtype=torch.float64), "medium").name == "torch"
    assert matmul_backend(torch.zeros(1), "high").name == matmul_backend(torch.zeros(1)).name == "torch"


def test_a_cache_that_cannot_be_written_is_ignored(
    measured: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    measured["oneDNN"] = 0.5
    assert matmul_backend(torch.zeros(1)).name == "oneDNN"


def test_both_libraries_are_timed() -> None:
    if not hillstart.engine.matmul._is_there():
        pytest.skip("this torch has no oneDNN")
    taken = hillstart.engine.matmul._seconds()
    assert set(taken) == {"torch", "oneDNN"}
    assert all(0 < seconds < 1 for seconds in taken.values())
