"""Weight matching: it changes no output, undoes any shuffling exactly, and never increases the distance."""

import itertools

import pytest
import torch

from hillstart.network import ACTIVATIONS, Network
from hillstart.report.matching import CENTRE, matched, shuffled

SIZES = {1: [6, 7, 3], 2: [6, 7, 5, 3], 3: [3, 6, 7, 5, 2]}
X = torch.rand(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1

every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
every_depth = pytest.mark.parametrize("sizes", SIZES.values(), ids=map(str, SIZES))


def made(sizes: list[int], seed: int, activation: str, dtype: torch.dtype = torch.float64) -> Network:
    return Network.start(sizes, [seed], activation, dtype=dtype)


def distance(network: Network, aim: Network) -> float:
    """Squared distance of two networks, with biases counted from the centre of sigma."""
    c = CENTRE.get(network.activation, 0.0)
    total = 0.0
    for l, (w, w_aim, b, b_aim) in enumerate(zip(network.w, aim.w, network.b, aim.b, strict=True)):
        centred = [bias + c * weights.sum(1) * (l > 0) for bias, weights in ((b, w), (b_aim, w_aim))]
        total += float((w - w_aim).square().sum() + (centred[0] - centred[1]).square().sum())
    return total


def assert_close(found: Network, wanted: Network) -> None:
    torch.testing.assert_close(found.parameters, wanted.parameters, rtol=0, atol=1e-12)


@every_activation
@every_depth
def test_a_shuffled_network_answers_as_before_and_is_put_back_exactly(sizes: list[int], activation: str) -> None:
    x = X[:, : sizes[0]]
    for seed in range(8):
        network = made(sizes, seed, activation)
        mixed = shuffled(network, torch.Generator().manual_seed(seed))
        assert not any(torch.allclose(a, b) for a, b in zip(mixed.w, network.w, strict=True)), "nothing was shuffled"
        torch.testing.assert_close(mixed.outputs(x), network.outputs(x), rtol=0, atol=1e-12)
        assert_close(matched(mixed, network), network)


@every_activation
def test_only_where_sigma_is_symmetric_are_nodes_flipped(activation: str) -> None:
    network = made([6, 30, 3], 0, activation)
    mixed = shuffled(network, torch.Generator().manual_seed(1))
    flipped = sum(any(torch.equal(-node, other) for other in network.w[0][0].T) for node in mixed.w[0][0].T)
    assert 8 < flipped < 22 if activation in CENTRE else flipped == 0


@every_activation
@every_depth
def test_matching_changes_no_output_and_no_swap_of_nodes_would_bring_it_nearer(
    sizes: list[int], activation: str
) -> None:
    aim, x, nearer = made(sizes, 0, activation), X[:, : sizes[0]], 0
    for seed in range(1, 9):
        network = made(sizes, seed, activation)
        found = matched(network, aim)
        torch.testing.assert_close(found.outputs(x), network.outputs(x), rtol=0, atol=1e-12)
        least = distance(found, aim)
        assert least <= distance(network, aim) * (1 + 1e-12)
        nearer += least < 0.95 * distance(network, aim)
        for l in range(len(sizes) - 2):
            for i, j in itertools.combinations(range(sizes[l + 1]), 2):
                order = list(range(sizes[l + 1]))
                order[i], order[j] = j, i
                w, b = list(found.w), list(found.b)
                w[l], b[l], w[l + 1] = w[l][:, :, order], b[l][:, order], w[l + 1][:, order]
                assert distance(Network(w, b, activation), aim) > least * (1 - 1e-12)
    assert nearer > 6


@every_activation
def test_with_one_hidden_layer_no_numbering_is_nearer(activation: str) -> None:
    aim, c = made([2, 4, 3], 0, activation), CENTRE.get(activation)
    for seed in range(1, 4):
        network, distances = made([2, 4, 3], seed, activation), []
        for order in map(list, itertools.permutations(range(4))):
            for signs in itertools.product(*[(1.0, -1.0) if c is not None else (1.0,)] * 4):
                sign = torch.tensor(signs, dtype=torch.float64)
                w = [network.w[0][:, :, order] * sign, network.w[1][:, order, :] * sign.unsqueeze(1)]
                moved = (network.w[1][:, order, :] * (sign < 0).unsqueeze(1)).sum(1) * 2 * (c or 0.0)
                candidate = Network(w, [network.b[0][:, order] * sign, network.b[1] + moved], activation)
                assert torch.allclose(candidate.outputs(X[:, :2]), network.outputs(X[:, :2]))
                distances.append(distance(candidate, aim))
        assert distance(matched(network, aim), aim) == pytest.approx(min(distances))


def test_the_largest_weights_are_matched_too() -> None:
    network = made([4, 5, 5, 2], 1, "tanh", torch.float32)
    for p in network.parameters:
        p *= 3e37
    back = matched(shuffled(network, torch.Generator().manual_seed(3)), network)
    assert all(map(torch.equal, back.parameters, network.parameters))
    zero = Network([torch.zeros_like(w) for w in network.w], [torch.zeros_like(b) for b in network.b], "tanh")
    assert not any(p.any() for p in matched(zero, network).parameters)
    assert_close(matched(made([4, 2], 1, "tanh"), made([4, 2], 0, "tanh")), made([4, 2], 1, "tanh"))
