"""Weight matching: the hidden nodes of a network renumbered so that its weights are near those of another network.

A network stays the same when hidden nodes change places, each with all its weights. If sigma is symmetric about a
point, sigma(-z) = 2c - sigma(z) with c = 0 for tanh and 1/2 for sigmoid, it also stays the same when a node is flipped:
its weights and bias change sign, so do its outgoing weights, and 2c times their old values is added to the next biases
(Sussmann 1992 for tanh). With the centred bias b + c sum_i w_i a flip is a change of signs alone, so networks are
matched in this form. Nodes of relu could also be scaled; that symmetry is not used.

The algorithm is the weight matching of Git Re-Basin (Ainsworth, Hayase and Srinivasa 2022): for one layer after the
other the best assignment of its nodes, given the other layers, until nothing changes. With one hidden layer the result
is the optimum.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from hillstart.network import Network

CENTRE = {"sigmoid": 0.5, "tanh": 0.0}
"""The value c of each activation whose nodes can be flipped."""

ROUNDING = 1e-9
"""A gain below this share of the similarity is rounding."""


def matched(network: Network, to: Network) -> Network:
    """The first start of `network`, renumbered so that its weights and biases are near those of the first of `to`.

    The sum of squared differences, of weights and centred biases, is never larger than before.
    """
    nodes, aim = _Nodes(network), _Nodes(to)
    if nodes.hidden > 1:
        # While the next layer is in arbitrary order, outgoing weights say nothing: first match by incoming ones alone.
        guess = _Nodes(network)
        for l in range(guess.hidden):
            guess.renumber(l, *guess.best(guess.similarity(l, aim, outgoing=l == guess.hidden - 1)))
        if guess.product(aim) > nodes.product(aim):
            nodes = guess
    changed = True
    while changed:
        changed = False
        for l in range(nodes.hidden):
            similarity = nodes.similarity(l, aim)
            order, sign = nodes.best(similarity)
            found = similarity[np.arange(len(order)), order] * sign
            gain = found.sum() - np.trace(similarity)
            nodes.renumber(l, order, sign)
            changed |= nodes.hidden > 1 and gain > ROUNDING * np.abs(found).sum()
    return nodes.network(network)


def shuffled(network: Network, g: torch.Generator) -> Network:
    """The first start with its hidden nodes in an order drawn from g; if sigma is symmetric, half of them flipped."""
    nodes = _Nodes(network)
    for l in range(nodes.hidden):
        n = len(nodes.b[l])
        order = torch.randperm(n, generator=g).numpy()
        sign = torch.randint(2, (1, n), generator=g)[0].double().numpy() * 2 - 1 if nodes.symmetric else np.ones(n)
        nodes.renumber(l, order, sign)
    return nodes.network(network)


class _Nodes:
    """Weights and centred biases of one start in float64, in which no product of two float32 overflows."""

    def __init__(self, network: Network):
        self.symmetric, self._c = network.activation in CENTRE, CENTRE.get(network.activation, 0.0)
        self.hidden = len(network.w) - 1
        self.w = [w[0].double().numpy() for w in network.w]
        self.b = [b[0].double().numpy() for b in network.b]
        self.b[1:] = [b + self._c * w.sum(0) for w, b in zip(self.w[1:], self.b[1:], strict=True)]

    def network(self, like: Network) -> Network:
        """These nodes as a network with the activation, the cost and the dtype of `like`."""
        b = [self.b[0], *(b - self._c * w.sum(0) for w, b in zip(self.w[1:], self.b[1:], strict=True))]
        w, b = ([torch.from_numpy(t)[None].to(like.w[0].dtype) for t in part] for part in (self.w, b))
        return Network(w, b, like.activation, like.cost)

    def similarity(self, l: int, aim: "_Nodes", outgoing: bool = True) -> np.ndarray:
        """The inner product of the parameters of each node of `aim` in layer l with those of each node here."""
        found = aim.w[l].T @ self.w[l] + np.outer(aim.b[l], self.b[l])
        return found + aim.w[l + 1] @ self.w[l + 1].T if outgoing else found

    def best(self, similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The node here that matches each node of the aim, and its sign: -1 if it is to be flipped."""
        gains = np.abs(similarity) if self.symmetric else similarity
        order = linear_sum_assignment(gains, maximize=True)[1]
        flipped = self.symmetric & (similarity[np.arange(len(order)), order] < 0)
        return order, np.where(flipped, -1.0, 1.0)

    def renumber(self, l: int, order: np.ndarray, sign: np.ndarray) -> None:
        self.w[l] = self.w[l][:, order] * sign
        self.b[l] = self.b[l][order] * sign
        self.w[l + 1] = self.w[l + 1][order] * sign[:, None]

    def product(self, aim: "_Nodes") -> float:
        """The inner product with `aim`. It grows as the distance shrinks, because renumbering changes no norm."""
        return float(
            sum((here * there).sum() for here, there in zip([*self.w, *self.b], [*aim.w, *aim.b], strict=True))
        )
