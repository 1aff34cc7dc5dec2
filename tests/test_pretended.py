"""The pretended device obeys the rules of CUDA that tests rely on."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pretended import NotCapturable, pretended


def test_results_are_those_of_the_cpu_and_stay_on_the_device() -> None:
    x = torch.arange(12.0).view(4, 3)
    with pretended() as cuda:
        on_cuda = x.cuda()
        product = on_cuda @ on_cuda.t()
        assert product.device == torch.empty(0, device="cuda").device == torch.device("cuda", 0)
        assert torch.equal(product.cpu(), x @ x.t())
        assert on_cuda[[1, 2]].sum().item() == x[[1, 2]].sum().item()
        assert cuda.kernels["mm"] == 1 and cuda.waits["_local_scalar_dense"] == 1
    assert not torch.cuda.is_available() or torch.cuda.get_device_name() != "a pretended GPU"


def test_operands_on_two_devices_are_refused() -> None:
    with pretended():
        on_cuda = torch.ones(3, device="cuda")
        assert (on_cuda + torch.tensor(1.0)).tolist() == [2, 2, 2]
        with pytest.raises(RuntimeError, match="cuda:0 and on cpu"):
            on_cuda + torch.ones(3)


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x[0] > 0),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x[[0, 2]],
        lambda x: x.cpu(),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: torch.tensor([1.0, 2.0, 3.0], device="cuda"),
        lambda x: x.normal_(),
        lambda x: torch.rand(3, device="cuda"),
        lambda x: x + torch.tensor(1.0),
        lambda x: torch.cuda.synchronize(),
    ],
)
def test_what_cannot_be_captured_is_refused(step: Callable[[Tensor], object]) -> None:
    with pretended():
        x = torch.ones(3, device="cuda")
        step(x)
        with pytest.raises(NotCapturable), torch.cuda.graph(torch.cuda.CUDAGraph()):
            step(x)


def test_a_captured_kernel_runs_when_it_is_replayed_and_not_before() -> None:
    with pretended() as cuda:
        x, graph = torch.ones(3, device="cuda"), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            doubled = x * 2
            x += 1
        assert x.tolist() == [1, 1, 1] and doubled.isnan().all()
        x.fill_(5)
        graph.replay()
        assert doubled.tolist() == [10, 10, 10] and x.tolist() == [6, 6, 6]
        graph.replay()
        assert doubled.tolist() == [12, 12, 12] and cuda.replays == 2


def test_a_tensor_is_saved_as_one_of_the_cpu(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pretended():
        torch.save({"x": torch.ones(3, device="cuda")}, tmp_path / "x.pt")
    assert torch.load(tmp_path / "x.pt", weights_only=True)["x"].device.type == "cpu"
