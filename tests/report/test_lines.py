"""The cost along straight lines, and verdicts on valleys whose answer is known."""

import math
from dataclasses import replace

import pytest
import torch

from hillstart.data.batches import Sample
from hillstart.data.dataset import Split
from hillstart.network import ACTIVATIONS, COSTS, Momentum, Network
from hillstart.report import lines as measuring
from hillstart.report.lines import ANOTHER, RENUMBERED, SAME, Lines, barriers, cost_of_guessing, line_costs, lines
from hillstart.report.matching import shuffled
from made import blobs

DATA = blobs()
CPU = torch.device("cpu")
SIZES = {1: [36, 3], 2: [36, 6, 3], 3: [36, 6, 5, 3]}


def sample() -> Sample:
    return Sample(DATA.train, 3, DATA.preprocessing, CPU)


# ---------------------------------------------------------------- the cost along a line


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("layers", SIZES)
def test_the_cost_along_a_line_is_that_of_the_networks_on_it(
    layers: int, cost: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Network.start(SIZES[layers], [1, 2, 3, 4, 5], activation, cost, "scaled_normal", dtype=torch.float64)
    here = Network.start(SIZES[layers], [0, 9], activation, cost, "scaled_normal", dtype=torch.float64)
    (x, y), *_ = sample().batches()
    x, y = x.double(), y.double()
    monkeypatch.setattr(measuring, "NUMBERS", 2 * 6 * 40 * 6)  # two starts at a time
    found = line_costs(here, there, [(x[:40], y[:40]), (x[40:], y[40:])], 6)
    for s in range(5):
        for k, t in enumerate(torch.linspace(0, 1, 6).double()):
            w = [(1 - t) * a[:1] + t * b[s : s + 1] for a, b in zip(here.w, there.w, strict=True)]
            b = [(1 - t) * a[:1] + t * b[s : s + 1] for a, b in zip(here.b, there.b, strict=True)]
            wanted = Network(w, b, activation, cost).evaluate(x, y)[0].mean()
            torch.testing.assert_close(found[s, k], wanted, rtol=1e-6, atol=0)


def test_a_barrier_is_the_rise_above_the_straight_way_between_the_ends() -> None:
    inf, nan = math.inf, math.nan
    costs = torch.tensor(
        [[1, 2, 3.0], [1, 3.5, 3], [2, 1, 0.5], [0, 5, 2], [1, inf, 1], [1, nan, 1], [1, 1, inf], [inf, inf, inf]]
    ).double()
    assert barriers(costs).tolist() == [0, 1.5, 0, 4, inf, inf, inf, inf]


@pytest.mark.parametrize("cost", COSTS)
def test_no_other_constant_answer_costs_less_than_guessing(cost: str) -> None:
    y = torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 0, 1, 1, 2]), 3).float()
    z = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([z], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        descent.zero_grad()
        value = COSTS[cost].value(z.expand(7, -1), y.double()).mean()
        value.backward()
        return value

    descent.step(closure)
    assert cost_of_guessing(y, cost) == pytest.approx(closure().item(), rel=1e-6)
    assert 0 <= cost_of_guessing(y[:4], cost) < 1e-6, "of one class there is nothing to guess"


# ---------------------------------------------------------------- verdicts whose answer is known


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layers", [2, 3])
def test_a_start_a_few_steps_on_and_one_shuffled_are_in_the_same_valley(layers: int, activation: str) -> None:
    network = Network.start(SIZES[layers], [0], activation, "cross_entropy", "scaled_normal")
    (x, y), *_ = sample().batches()
    step = Momentum(network, 0.9)
    for _ in range(600):
        network.descend(x, y, 0.1, step=step)
    later = network.pick([0])
    for _ in range(5):
        later.descend(x[:50], y[:50], 0.1)
    mixed = shuffled(network, torch.Generator().manual_seed(0))
    found = lines(network, [later, Network.join([mixed, later])], sample(), 21)
    assert found.own < 0.5 * found.guess
    assert found.verdicts() == [SAME, RENUMBERED, SAME]
    before, after = found.barriers
    assert before[1] > found.limit and after[1] == 0


def test_two_ways_to_see_xor_are_two_valleys() -> None:
    """Either but not both; or one without the other, twice. On the way a node sees one input alone, and none can."""
    g = torch.Generator().manual_seed(0)
    x = torch.zeros(200, 1, 6, 6, dtype=torch.uint8)
    x[:, 0, 0, :2] = 255 * torch.randint(2, (200, 2), generator=g, dtype=torch.uint8)
    xor = replace(DATA, train=Split(x, (x[:, 0, 0, 0] == x[:, 0, 0, 1]).long()), classes=("one", "both or none"))

    def seeing(nodes: list[list[float]], leaving: list[float]) -> Network:
        w = [torch.zeros(1, 36, 2), torch.tensor([leaving]).float().T * torch.tensor([[1.0, -1.0]])]
        w[0][0, :2] = torch.tensor(nodes).float()[:, :2].T
        b = [torch.tensor(nodes).float()[:, 2].unsqueeze(0), torch.tensor([[-5.0, 5.0]])]
        return Network([w[0], w[1].unsqueeze(0)], b, "sigmoid", "cross_entropy")

    either_not_both = seeing([[10, 10, -5], [10, 10, -15]], [10, -10])
    one_without_the_other = seeing([[10, -10, -5], [-10, 10, -5]], [10, 10])
    pictures = Sample(xor.train, 2, xor.preprocessing, CPU)
    swapped = seeing([[-10, 10, -5], [10, -10, -5]], [10, 10])
    found = lines(one_without_the_other, [either_not_both, swapped], pictures, 21)
    assert found.own < 0.05 and found.as_is[0, -1] < 0.05
    assert found.verdicts() == [ANOTHER, RENUMBERED]
    assert found.barriers[1][0] > 0.5 * found.guess


def test_the_limit_is_a_share_of_the_way_up_to_guessing() -> None:
    costs = torch.tensor([[0.0, 0.4, 0.0]]).double()
    found = Lines(costs, costs / 2, guess=4.0)
    assert [found.verdicts(times) for times in (0.5, 1.5, 2.5)] == [[ANOTHER], [RENUMBERED], [SAME]]
    assert Lines(costs + 5, costs + 5, guess=4.0).limit == 0, "worse than guessing there is no valley"
    assert Lines(costs * math.nan, costs, guess=4.0).limit == 0
