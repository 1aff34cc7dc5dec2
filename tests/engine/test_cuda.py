"""Replayed descent is the descent, and a fault in what is captured is seen without a GPU."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import hillstart.engine.ensemble
from hillstart.engine.blocks import Block, block_at
from hillstart.engine.cuda import CudaGraphs
from hillstart.engine.ensemble import StartEnsemble
from hillstart.engine.matmul import TORCH, MatmulBackend
from hillstart.engine.starts import Hyperparameters
from hillstart.network import GradientDescent, Momentum, Nesterov, Network
from pretended import Device, NotCapturable, pretended

S, SIZES, B = 6, [8, 5, 3], 48
CAPTURED = 4
"""Mini-batches in a graph; plain descent has blocks of two, as 96 // 48."""
BATCHES = 2 * CAPTURED + 3
"""In a chunk: two graphs, two mini-batches that are left, and a smaller one."""
STEPS = [GradientDescent, Momentum, Nesterov]


@pytest.fixture(autouse=True)
def short_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hillstart.engine.ensemble, "CAPTURED", CAPTURED)


def ensemble(device: str, step: type[GradientDescent] = GradientDescent) -> StartEnsemble:
    network = Network.start(SIZES, range(S), cost="cross_entropy", device=device, dtype=torch.float64)
    return StartEnsemble(network, [Hyperparameters(0.5, 0.9)] * S, 200, B, step)


def descend(made: StartEnsemble, times: int = 2) -> list[Tensor]:
    """The parameters, on the CPU, after so many chunks, in each of which eta decreases."""
    pictures, g = (BATCHES - 1) * B + 1, torch.Generator().manual_seed(0)
    x = torch.rand(pictures, SIZES[0], generator=g, dtype=torch.float64).to(made.device)
    y = torch.eye(3, dtype=torch.float64)[torch.arange(pictures) % 3].to(made.device)
    for _ in range(times):
        made.descend(lambda rows: (x[rows], y[rows]), [1 - k / 100 for k in range(BATCHES)])
    return made.network().to("cpu").parameters


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((p - q).abs().max()) for p, q in zip(one, other, strict=True))


@pytest.mark.parametrize("step", STEPS)
def test_replayed_steps_are_the_steps(
    step: type[GradientDescent], monkeypatch: pytest.MonkeyPatch, cuda: Device | None
) -> None:
    made = ensemble("cuda", step)
    descend(made)
    monkeypatch.setattr(made.tiles[0], "descend", None)  # what came twice is not computed from Python
    assert difference(descend(ensemble("cpu", step), 3), descend(made, 1)) < 1e-11


def test_a_shape_is_captured_when_it_comes_again() -> None:
    with pretended() as cuda:
        made = ensemble("cuda")
        descend(made, 1)
        assert (len(cuda.graphs), cuda.replays) == (1, 1)  # of two blocks the second; nothing else came twice
        descend(made, 1)
        assert (len(cuda.graphs), cuda.replays) == (3, 1 + 4)
        descend(made, 1)
        assert (len(cuda.graphs), cuda.replays) == (3, 1 + 4 + 4)


def test_graphs_of_one_ensemble_share_stream_and_memory_with_no_other() -> None:
    with pretended() as cuda:
        one, other = ensemble("cuda"), ensemble("cuda")
        descend(one)
        descend(other)
    of_one, of_other = cuda.graphs[:3], cuda.graphs[3:]
    assert len(of_other) == 3 and len(set(of_one)) == len(set(of_other)) == 1
    (stream, pool), (other_stream, other_pool) = of_one[0], of_other[0]
    assert None not in (stream, pool) and stream != other_stream and pool != other_pool


def test_steps_are_not_stored() -> None:
    """Else a tile and its graphs, whose memory is on the device, would wait for the garbage collector."""

    class Steps:
        def __call__(self, x: Tensor, y: Tensor, factors: Tensor) -> None:
            x.add_(y)

    with pretended() as cuda:
        x = torch.ones(2, 3, device="cuda")
        graphs = CudaGraphs(x.device)
        for _ in range(3):
            graphs.run(steps := Steps(), x, x, x)
        stored = weakref.ref(steps)
        del steps
        assert stored() is None and cuda.replays == 2


# ---------------------------------------------------------------- planted faults


def faulty(**products: Any) -> float:
    """The distance between the ends of descent with these products, or another fault, and without."""
    right = descend(ensemble("cpu"))
    with pretended():
        made = ensemble("cuda")
        made.matmul = MatmulBackend(
            "faulty", **{"forward": TORCH.forward, "add": TORCH.add, "transposed": False} | products
        )
        return difference(right, descend(made))


def test_a_wait_for_the_device_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def numbers(first: int, most: int, read: Any, batch: int, schedule: Tensor, matmul: MatmulBackend) -> Block:
        return block_at(first, most, read, batch, [float(factor) for factor in schedule], matmul)

    monkeypatch.setattr(hillstart.engine.ensemble, "block_at", numbers)
    with pytest.raises(NotCapturable):
        faulty()


def test_a_number_that_is_fixed_in_the_graph_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fixed(first: int, most: int, read: Any, batch: int, schedule: Tensor, matmul: MatmulBackend) -> Block:
        return block_at(first, most, read, batch, [1 - (first + k) / 100 for k in range(len(schedule))], matmul)

    monkeypatch.setattr(hillstart.engine.ensemble, "block_at", fixed)
    assert faulty() > 1e-3


def test_products_that_cannot_be_captured_are_seen() -> None:
    assert not faulty(add=lambda w, xt, d: torch.addmm(w, xt, d)) < 1e-3, "a tensor that is replaced"
    with pytest.raises(RuntimeError, match="cuda:0 and on cpu"):
        faulty(forward=lambda b, x, w: torch.addmm(b, x, w) + torch.zeros(len(x), 1))
    with pytest.raises(NotCapturable, match="number of the host"):
        faulty(forward=lambda b, x, w: torch.addmm(b, x, w) * torch.tensor(1.0))
