"""The gradient first: hand-written against autograd, against finite differences; then known answers; then descent."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hillstart.gradient_check import autograd, check
from hillstart.network import ACTIVATIONS, COSTS, INITIALIZERS, GradientDescent, Momentum, Nesterov, Network
from pretended import Device

SHAPES = [[5, 3], [7, 4, 3], [6, 5, 4, 3], [4, 3, 5, 4, 2]]


def network(sizes: list[int], S: int = 3, activation: str = "sigmoid", cost: str = "quadratic") -> Network:
    return Network.start(sizes, range(S), activation, cost, dtype=torch.float64)


def pictures(sizes: list[int], B: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(B, sizes[0], generator=g, dtype=torch.float64)
    y = torch.eye(sizes[-1], dtype=torch.float64)[torch.arange(B) % sizes[-1]]
    return x, y


@pytest.mark.parametrize("S", [1, 3])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_the_gradient_is_autograds(sizes: list[int], activation: str, cost: str, S: int) -> None:
    net, (x, y), n = network(sizes, S, activation, cost), pictures(sizes), 20
    strength = torch.tensor([0.3, 0.0, 5.0][:S], dtype=torch.float64)
    expected = autograd(net, x, y, strength, n)
    by_hand = [nabla for part in net.gradient(x, y, strength, n) for nabla in part]
    names = [f"{kind} of layer {l + 1}" for kind in "wb" for l in range(len(net.w))]
    for name, hand, auto in zip(names, by_hand, expected, strict=True):
        for s in range(S):
            error = ((hand[s] - auto[s]).abs().max() / auto[s].abs().max()).item()
            assert error < 1e-12, (
                f"{name}, start {s}: by hand {hand[s].flatten()[:3]}, autograd {auto[s].flatten()[:3]}"
            )


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_the_gradient_is_the_slope_of_the_hill(activation: str, cost: str) -> None:
    net, (x, y) = network([4, 3, 3], 2, activation, cost), pictures([4, 3, 3])
    checks = check(net, x, y, lmbda=0.7, n=20, samples=1000)
    assert [(c.layer, c.parameter) for c in checks] == [(1, "w"), (1, "b"), (2, "w"), (2, "b")]
    assert max(c.against_differences for c in checks) < 1e-8
    assert max(c.against_autograd for c in checks) < 1e-12


def test_a_wrong_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    net, (x, y) = network([4, 3, 3]), pictures([4, 3, 3])
    monkeypatch.setattr(net, "_sigma", ACTIVATIONS["tanh"])  # by hand it is now another network
    net.activation = "sigmoid"
    assert max(c.against_autograd for c in check(net, x, y)) > 1e-3


def test_a_saturated_network_still_has_its_gradient() -> None:
    """Written in a, the cost has log(0) here, and autograd of it gives nan; a - y is exactly right."""
    net = Network([torch.full((1, 1, 1), 1000.0)], [torch.zeros(1, 1)], cost="cross_entropy")
    x, y = torch.ones(1, 1), torch.zeros(1, 1)
    assert net.evaluate(x, y)[0].item() == 1000
    assert net.gradient(x, y)[0][0].item() == 1


# ---------------------------------------------------------------- known answers


def test_the_known_neuron() -> None:
    """Inputs 0.5, 0.9, 0.1; weights 2, 0.2, 1; bias 1: 1.28, then 2.28, then 0.907."""
    x, w = torch.tensor([[0.5, 0.9, 0.1]]), torch.tensor([2.0, 0.2, 1.0]).view(1, 3, 1)
    assert Network([w], [torch.zeros(1, 1)]).weighted_input(0, x).item() == pytest.approx(1.28)
    neuron = Network([w], [torch.ones(1, 1)])
    assert neuron.weighted_input(0, x).item() == pytest.approx(2.28)
    assert neuron.forward(x)[1].item() == pytest.approx(0.907, abs=5e-4)


def test_a_network_worked_by_hand() -> None:
    """2-2-1, quadratic cost, x = (1, 0), y = 1; every number below follows from the one above it on paper."""
    w1, b1 = torch.tensor([[[math.log(3), 0.0], [5.0, 5.0]]]), torch.tensor([[0.0, -math.log(3)]])
    w2, b2 = torch.tensor([[[2 * math.log(3)], [2 * math.log(3)]]]), torch.tensor([[-2 * math.log(3)]])
    net = Network([w1, w2], [b1, b2])
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0]])
    _, hidden, out = net.forward(x)
    assert hidden.flatten().tolist() == pytest.approx([3 / 4, 1 / 4])  # sigma(ln 3), sigma(-ln 3)
    assert out.item() == pytest.approx(1 / 2)  # z = 2 ln 3 (3/4 + 1/4 - 1) = 0
    nabla_w, nabla_b = net.gradient(x, y)
    assert nabla_b[1].item() == pytest.approx(-1 / 8)  # (1/2 - 1) * 1/2 * 1/2
    assert nabla_w[1].flatten().tolist() == pytest.approx([-3 / 32, -1 / 32])
    step = -1 / 8 * 2 * math.log(3) * 3 / 16  # delta^2 w^2 a (1 - a), the same for both hidden nodes
    assert nabla_b[0].flatten().tolist() == pytest.approx([step, step])
    assert nabla_w[0].flatten().tolist() == pytest.approx([step, step, 0, 0])


def test_xor_is_learned_by_most_starts() -> None:
    x, y = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]), torch.tensor([[0.0], [1], [1], [0]])
    net = Network.start([2, 3, 1], range(16), cost="cross_entropy")
    step = Momentum(net, 0.9)
    for _ in range(300):
        net.descend(x, y, eta=1.0, step=step)
    learned = (net.forward(x)[-1].round() == y).all(dim=(1, 2))
    assert learned.sum() >= 9, f"only {int(learned.sum())} of 16 starts"


@pytest.mark.parametrize("cost", COSTS)
def test_eight_pictures_are_learned_by_heart(cost: str) -> None:
    x = torch.rand(8, 64, generator=torch.Generator().manual_seed(0))
    y = torch.eye(4)[torch.arange(8) % 4]
    net = Network.start([64, 12, 4], range(4), cost=cost, start="scaled_normal")
    step = Momentum(net, 0.9)
    for _ in range(150):
        net.descend(x, y, eta=0.5, step=step)
    assert (net.forward(x)[-1].argmax(-1) == y.argmax(-1)).all()
    assert net.evaluate(x, y)[0].max() < 0.05


# ---------------------------------------------------------------- descent

ALIKE, EACH = (0.3, 0.7, 0.9), ([0.3, 0.1, 0.02], [0.0, 0.3, 5.0], [0.0, 0.5, 0.9])


@pytest.mark.parametrize("step", [GradientDescent, Momentum, Nesterov])
@pytest.mark.parametrize("point", [(0.3, 0.0, 0.0), ALIKE, EACH], ids=["no L2 nor momentum", "alike", "each its own"])
@pytest.mark.parametrize("sizes", SHAPES[:3], ids=str)
def test_a_step_is_that_of_torch(sizes: list[int], point: Any, step: type[GradientDescent]) -> None:
    """Starts with eta, lmbda and momentum, against torch.optim.SGD on each alone with autograd."""
    n, (x, y), net = 20, pictures(sizes), network(sizes)
    eta, lmbda, mu = (torch.tensor(of, dtype=torch.float64) if isinstance(of, list) else of for of in point)
    made = step(net, momentum=mu)
    for _ in range(8):
        net.descend(x, y, eta, lmbda, n, made)
    etas, lmbdas, mus = (of if isinstance(of, list) else [of] * 3 for of in point)
    for s in range(3):
        alone, mu = Network.start(sizes, [s], dtype=torch.float64), 0.0 if step is GradientDescent else mus[s]
        # torch refuses nesterov without momentum, where it is plain descent
        nesterov = step is Nesterov and mu > 0
        optimiser = torch.optim.SGD(alone.parameters, lr=etas[s], momentum=mu, nesterov=nesterov)
        for _ in range(8):
            for p, nabla in zip(alone.parameters, autograd(alone, x, y, lmbdas[s], n), strict=True):
                p.grad = nabla
            optimiser.step()
        torch.testing.assert_close([p[[s]] for p in net.parameters], alone.parameters, rtol=0, atol=1e-12)


def test_a_step_stores_no_gradient() -> None:
    """The largest tensor made in a step is smaller than the first layer's weights: the claim behind the speed."""
    from torch.utils._python_dispatch import TorchDispatchMode

    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and not any(out.data_ptr() == p.data_ptr() for p in known):
                made.append(out.numel())
            return out

    net = Network.start([100, 20, 5], range(4))
    momentum, nesterov = Momentum(net, 0.9), Nesterov(net, 0.9)
    known = [*net.parameters, *momentum.state["velocity"].parameters, *nesterov.state["velocity"].parameters]
    x, y = torch.rand(3, 100), torch.eye(5)[:3]
    with Watch():
        net.descend(x, y, 0.1, lmbda=1.0, n=10)
        net.descend(x, y, 0.1, 1.0, 10, momentum)
        net.descend(x, y, 0.1, 1.0, 10, nesterov)
    assert 0 < max(made) < net.w[0].numel() / 2


# ---------------------------------------------------------------- starts


@pytest.mark.parametrize("start", INITIALIZERS)
def test_a_start_begins_bit_equal_in_any_company(start: str) -> None:
    alone = Network.start([9, 5, 3], [7], start=start)
    company = Network.start([9, 5, 3], [3, 12, 7, 5], start=start).pick([2])
    torch.testing.assert_close(alone.parameters, company.parameters, rtol=0, atol=0)


def test_starting_distributions_have_the_stated_spread() -> None:
    spread = {start: Network.start([400, 50, 2], range(5), start=start).w[0].std().item() for start in INITIALIZERS}
    assert spread["unit_normal"] == pytest.approx(1, rel=0.01)
    assert spread["scaled_normal"] == pytest.approx(1 / 20, rel=0.01)
    assert spread["glorot"] == pytest.approx(math.sqrt(2 / 450), rel=0.01)


def test_alone_and_in_company_stay_together() -> None:
    """Sums of products may be ordered differently in a larger product; after 50 steps the difference is bounded."""
    x, y = torch.rand(10, 30, generator=torch.Generator().manual_seed(0)), torch.eye(5).repeat(2, 1)
    company, alone = Network.start([30, 10, 5], range(64)), Network.start([30, 10, 5], [63])
    for _ in range(50):
        company.descend(x, y, 0.5)
        alone.descend(x, y, 0.5)
    torch.testing.assert_close(company.pick([63]).parameters, alone.parameters, rtol=0, atol=1e-4)


def test_a_network_on_cuda_is_there_already(cuda: Device | None) -> None:
    net = Network.start([7, 4, 3], range(3), device="cuda")
    assert net.to("cuda") is net is net.to("cuda:0")
    assert net.to("cpu") is not net


def test_a_step_on_cuda_is_the_step_on_the_cpu(cuda: Device | None) -> None:
    sizes = [7, 4, 3]
    (x, y), on_cpu = pictures(sizes), network(sizes)
    on_cuda = Network.start(sizes, range(3), device="cuda", dtype=torch.float64)
    for net in (on_cpu, on_cuda):
        step, device = Nesterov(net, 0.9), net.w[0].device
        for _ in range(20):
            net.descend(x.to(device), y.to(device), 0.3, 0.7, 20, step)
    torch.testing.assert_close(on_cuda.to("cpu").parameters, on_cpu.parameters, rtol=1e-10, atol=1e-12)
