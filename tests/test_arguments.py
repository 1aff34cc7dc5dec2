"""Mistakes in calls from Python are told in one sentence that says what is taken.

Types are checked while tests run, so what the annotations refuse is tested at the checks themselves.
"""

import re
from typing import Any

import numpy as np
import pytest
import torch

from hillstart import arguments
from hillstart.network import Network
from stored import whole

W = [torch.zeros(4, 2, 3), torch.zeros(4, 3, 2)]
X, Y = torch.rand(5, 2), torch.eye(2)[[0, 1, 0, 1, 1]]


def refused(takes: Any, *given: Any, **named: Any) -> str:
    with pytest.raises(ValueError) as error:
        takes(*given, **named)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("argument", "name", "said"),
    [("activation", "sigmod", "the nearest is sigmoid"), ("cost", "mse", "quadratic"), ("start", "he", "glorot")],
)
def test_an_unknown_name_is_told_with_the_nearest(argument: str, name: str, said: str) -> None:
    message = refused(Network.start, [2, 1], [0], **{argument: name})
    assert re.match(rf"{argument}: there is no '{name}'", message) and said in message


def test_networks_are_made_of_sizes_and_seeds() -> None:
    for sizes, seeds, dtype, named in (
        (2, [0], torch.float32, "sizes"),
        ([2], [0], torch.float32, "sizes"),
        ([2, 0], [0], torch.float32, "sizes"),
        ([2, 1], 16, torch.float32, "seeds"),
        ([2, 1], [], torch.float32, "seeds"),
        ([2, 1], [0.5], torch.float32, "seeds"),
        ([2, 1], [0], torch.int64, "dtype"),
    ):
        assert refused(arguments.check_start, sizes, seeds, dtype).startswith(f"{named} is ")
    assert "sizes is [2]" in refused(Network.start, [2], [0])
    assert "device: 'gpu'" in refused(Network.start, [2, 1], [0], device="gpu")
    assert "use cpu" in refused(Network.start([2, 1], [0]).to, "meta")


def test_networks_are_made_of_layers_that_fit() -> None:
    w, b = torch.zeros(1, 2, 3), torch.zeros(1, 3)
    Network([w], [b])
    for wrong in (
        ([], []),
        ([w], []),
        ([w[0]], [b[0]]),  # no start axis
        ([w], [torch.zeros(1, 2)]),
        ([w, w], [b, b]),
        ([w, torch.zeros(2, 3, 1)], [b, torch.zeros(2, 1)]),
    ):
        assert "(S, n_in, n_out)" in refused(Network, *wrong)
    assert "the shapes [(2,)" in refused(arguments.check_layers, torch.zeros(2, 2), torch.zeros(2))


def test_rows_are_tensors_of_the_weights_type() -> None:
    arguments.check_rows(W, X, Y)
    arguments.check_rows(W, X, Y.long())
    for x in (X.tolist(), X.numpy(), X[0], X.double(), torch.rand(5, 3), X.to("meta")):
        assert "give a torch.float32 tensor (B, 2)" in refused(arguments.check_rows, W, x)
    numbers = torch.tensor([0, 1, 0, 1, 1])
    for y in (numbers, numbers.view(5, 1), Y.tolist(), Y.double(), Y[:2], torch.rand(5, 3), np.eye(2)):
        message = refused(arguments.check_rows, W, X, y)
        assert "give a torch.float32 tensor (5, 2)" in message and "one_hot" in message


def test_every_method_checks_what_it_is_given() -> None:
    net = Network.start([2, 3, 2], range(4))
    before = [p.clone() for p in net.parameters]
    for call in (net.forward, net.outputs):
        assert refused(call, X.double()).startswith("x is torch.float64")
    for call in (net.evaluate, net.gradient, lambda x, y: net.descend(x, y, 1.0)):
        assert refused(call, X.double(), Y).startswith("x is torch.float64")
        assert refused(call, X, Y.double()).startswith("y is torch.float64")
    assert refused(net.descend, X, Y, 1.0, 0.0, 0).startswith("n is 0")
    assert refused(net.pick, [4]).startswith("starts is [4]")
    assert "sizes" in refused(Network.join, [net, Network.start([2, 2], [0])])
    assert all(map(torch.equal, before, net.parameters))


def test_a_hyperparameter_is_a_number_or_one_of_each_start() -> None:
    arguments.check_step(4, 1, eta=torch.rand(4), lmbda=torch.tensor(0.1), mu=1)
    for eta in ("0.1", None, [0.1, 0.2, 0.3, 0.4], torch.rand(3)):
        assert refused(arguments.check_step, 4, 1, eta=eta).startswith("eta is ")


def test_a_classifier_says_what_it_takes() -> None:
    classifier = whole()
    assert "(B, 1, 6, 6)" in refused(classifier.outputs, torch.zeros(2, 36))
    assert "unsure_below is 75" in refused(classifier.predict, np.zeros((8, 8)), unsure_below=75)
