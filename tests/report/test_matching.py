"""Renumbering: it changes no output, undoes any shuffling exactly, and never leads away from its aim."""

import itertools

import pytest
import torch

from hillstart.network import ACTIVATIONS, Network
from hillstart.report.matching import CENTRE, matched, shuffled

SIZES = {1: [6, 7, 3], 2: [6, 7, 5, 3], 3: [3, 6, 7, 5, 2]}
X = torch.rand(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def made(sizes: list[int], seeds: range, activation: str, dtype: torch.dtype = torch.float64) -> Network:
    return Network.start(sizes, list(seeds), activation, dtype=dtype)


def apart(network: Network, aim: Network) -> torch.Tensor:
    """Squared distance of each start from the first of `aim`, with biases counted from the centre of sigma."""
    c = CENTRE.get(network.activation, 0.0)
    total = torch.zeros(network.starts, dtype=torch.float64)
    for l, (w, w_aim, b, b_aim) in enumerate(zip(network.w, aim.w, network.b, aim.b, strict=True)):
        total += (w - w_aim[:1]).square().sum((1, 2))
        centred = [bias + c * weights.sum(1) * (l > 0) for bias, weights in ((b, w), (b_aim[:1], w_aim[:1]))]
        total += (centred[0] - centred[1]).square().sum(1)
    return total


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", SIZES)
def test_a_shuffled_network_answers_as_before_and_is_put_back_exactly(hidden: int, activation: str) -> None:
    network = made(SIZES[hidden], range(5), activation)
    x = X[:, : SIZES[hidden][0]]
    for seed in range(8):
        mixed = shuffled(network, torch.Generator().manual_seed(seed))
        for l in range(hidden):
            assert not torch.allclose(mixed.w[l], network.w[l]), "nothing was shuffled"
        torch.testing.assert_close(mixed.outputs(x), network.outputs(x), rtol=0, atol=1e-12)
        for s in range(5):
            back = matched(mixed.pick([s]), network.pick([s]))
            for found, wanted in zip(back.parameters, network.pick([s]).parameters, strict=True):
                torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_only_where_sigma_is_symmetric_are_nodes_turned_round(activation: str) -> None:
    network = made([6, 30, 3], range(1), activation)
    mixed = shuffled(network, torch.Generator().manual_seed(1))
    kept = sum(any(torch.equal(node, other) for other in network.w[0][0].T) for node in mixed.w[0][0].T)
    turned = sum(any(torch.equal(-node, other) for other in network.w[0][0].T) for node in mixed.w[0][0].T)
    assert kept + turned == 30
    assert 8 < turned < 22 if activation in CENTRE else turned == 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", SIZES)
def test_matching_changes_no_output_and_never_leads_away(hidden: int, activation: str) -> None:
    network, x = made(SIZES[hidden], range(1, 60), activation), X[:, : SIZES[hidden][0]]
    aim = made(SIZES[hidden], range(1), activation)
    found = matched(network, aim)
    torch.testing.assert_close(found.outputs(x), network.outputs(x), rtol=0, atol=1e-12)
    before, after = apart(network, aim), apart(found, aim)
    assert (after <= before * (1 + 1e-12)).all()
    assert (after < 0.95 * before).float().mean() > 0.9
    again = apart(matched(found, aim), aim)
    assert (again <= after * (1 + 1e-12)).all()
    alone = matched(network.pick([7]), aim)
    for together, by_itself in zip(found.pick([7]).parameters, alone.parameters, strict=True):
        assert torch.equal(together, by_itself)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", SIZES)
def test_no_two_nodes_that_change_places_would_bring_it_nearer(hidden: int, activation: str) -> None:
    aim = made(SIZES[hidden], range(1), activation)
    found = matched(made(SIZES[hidden], range(1, 60), activation), aim)
    least = apart(found, aim)
    for l in range(hidden):
        for i, j in itertools.combinations(range(SIZES[hidden][l + 1]), 2):
            order = list(range(SIZES[hidden][l + 1]))
            order[i], order[j] = j, i
            w, b = list(found.w), list(found.b)
            w[l], b[l], w[l + 1] = w[l][:, :, order], b[l][:, order], w[l + 1][:, order]
            assert (apart(Network(w, b, activation), aim) > least * (1 - 1e-12)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_with_one_hidden_layer_no_numbering_is_nearer(activation: str) -> None:
    network, aim = made([2, 4, 3], range(1, 9), activation), made([2, 4, 3], range(1), activation)
    c = CENTRE.get(activation)
    least = torch.full((8,), torch.inf, dtype=torch.float64)
    for order in itertools.permutations(range(4)):
        for signs in itertools.product(*[(1.0, -1.0) if c is not None else (1.0,)] * 4):
            sign, i = torch.tensor(signs, dtype=torch.float64), list(order)
            w = [network.w[0][:, :, i] * sign, network.w[1][:, i, :] * sign.unsqueeze(1)]
            moved = (network.w[1][:, i, :] * (sign < 0).unsqueeze(1)).sum(1) * 2 * (c or 0.0)
            candidate = Network(w, [network.b[0][:, i] * sign, network.b[1] + moved], activation)
            assert torch.allclose(candidate.outputs(X[:, :2]), network.outputs(X[:, :2]))
            least = torch.minimum(least, apart(candidate, aim))
    torch.testing.assert_close(apart(matched(network, aim), aim), least)


def test_starts_from_a_hostile_place_are_matched_too() -> None:
    network = made([4, 5, 5, 2], range(3), "tanh", torch.float32)
    for p in network.parameters:
        p *= 3e37
    mixed = shuffled(network, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(matched(mixed.pick([1]), network.pick([1])).parameters,
                                                 network.pick([1]).parameters, strict=True))  # fmt: skip
    flat = Network([torch.zeros_like(w) for w in network.w], [torch.zeros_like(b) for b in network.b], "tanh")
    assert all(not p.any() for p in matched(flat, network).parameters)
    assert matched(made([4, 2], range(3), "tanh"), made([4, 2], range(1), "tanh")).starts == 3
