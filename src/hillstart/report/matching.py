"""Hidden nodes renumbered, so that a network is compared with another one as it is, not as it happens to be numbered.

A network stays the same when hidden nodes change places, each with all its weights. Where sigma is symmetric about a
point, sigma(-z) = 2c - sigma(z) with c = 0 for tanh and 1/2 for sigmoid, it also stays the same when a node is turned
round: its weights and bias change their signs, so do the weights that leave it, and 2c times what these were is added
to the next biases (Sussmann 1992 for tanh). Written with the centred bias b + c sum_i w_i, turning is a change of signs
alone, so it is in this form that networks are matched. The nodes of relu can only change places here; that they can
also be scaled is left out.

The matching is that of weights in Git Re-Basin (Ainsworth, Hayase and Srinivasa 2022): layer by layer the best
assignment of nodes, given the others, until nothing changes. With one hidden layer that is the best there is.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hillstart.network import Network

# The c of each activation whose nodes can be turned round.
CENTRE = {"sigmoid": 0.5, "tanh": 0.0}

# A gain below this share of the likeness is rounding.
ROUNDING = 1e-9


def matched(network: Network, to: Network) -> Network:
    """The same networks, each renumbered so that its weights and biases lie near those of the first start of `to`.

    The sum of squared differences, of weights and centred biases, is never larger than before.
    """
    nodes, aim = _Nodes(network), _Nodes(to.pick([0]))
    if nodes.hidden > 1:
        # As long as the next layer is in any order, what leaves a node says nothing: first by what enters it alone.
        guess = _Nodes(network)
        for l in range(guess.hidden):
            guess.renumber(l, *guess.best(l, guess.likeness(l, aim, leaving=l == guess.hidden - 1)))
        nodes.take(guess, guess.product(aim) > nodes.product(aim))
    changed = True
    while changed:
        changed = False
        for l in range(nodes.hidden):
            likeness = nodes.likeness(l, aim)
            order, sign = nodes.best(l, likeness)
            found = likeness.gather(2, order.unsqueeze(2)).squeeze(2) * sign
            gain = found.sum(1) - likeness.diagonal(dim1=1, dim2=2).sum(1)
            nodes.renumber(l, order, sign)
            changed |= nodes.hidden > 1 and bool((gain > ROUNDING * found.abs().sum(1)).any())
    return nodes.network()


def shuffled(network: Network, g: torch.Generator) -> Network:
    """The same networks with the hidden nodes of each in an order drawn from g; where sigma allows, half turned."""
    nodes = _Nodes(network)
    for l in range(nodes.hidden):
        shape = nodes.b[l].shape
        order = torch.stack([torch.randperm(shape[1], generator=g) for _ in range(shape[0])])
        sign = torch.randint(2, shape, generator=g).double() * 2 - 1 if nodes.turn else torch.ones(shape).double()
        nodes.renumber(l, order.to(nodes.b[l].device), sign.to(nodes.b[l].device))
    return nodes.network()


class _Nodes:
    """Weights and centred biases in float64, in which no product of two float32 overflows."""

    def __init__(self, network: Network):
        self._like, self.turn, self._c = network, network.activation in CENTRE, CENTRE.get(network.activation, 0.0)
        self.hidden = len(network.w) - 1
        self.w = [w.double() for w in network.w]
        self.b = [b.double() for b in network.b]
        for l in range(1, len(self.w)):
            self.b[l] = self.b[l] + self._c * self.w[l].sum(1)

    def network(self) -> Network:
        dtype, b = self._like.w[0].dtype, list(self.b)
        for l in range(1, len(self.w)):
            b[l] = b[l] - self._c * self.w[l].sum(1)
        w = [w.to(dtype) for w in self.w]
        return Network(w, [bl.to(dtype) for bl in b], self._like.activation, self._like.cost)

    def likeness(self, l: int, aim: "_Nodes", leaving: bool = True) -> Float64[Tensor, "S n n"]:
        """The product of the parameters of each node of `aim` in layer l with those of each node here."""
        found = aim.w[l].transpose(1, 2) @ self.w[l] + aim.b[l].unsqueeze(2) * self.b[l].unsqueeze(1)
        return found + aim.w[l + 1] @ self.w[l + 1].transpose(1, 2) if leaving else found

    def best(self, l: int, likeness: Float64[Tensor, "S n n"]) -> tuple[Int64[Tensor, "S n"], Float64[Tensor, "S n"]]:
        """The node here that matches each node of the aim, and its sign: 1 as it is, -1 turned round."""
        gains = (likeness.abs() if self.turn else likeness).cpu().numpy()
        order = torch.from_numpy(np.stack([linear_sum_assignment(gain, maximize=True)[1] for gain in gains]))
        order = order.to(likeness.device)
        sign = torch.ones_like(self.b[l])
        if self.turn:
            sign[likeness.gather(2, order.unsqueeze(2)).squeeze(2) < 0] = -1.0
        return order, sign

    def renumber(self, l: int, order: Int64[Tensor, "S n"], sign: Float64[Tensor, "S n"]) -> None:
        self.w[l] = self.w[l].take_along_dim(order.unsqueeze(1), 2) * sign.unsqueeze(1)
        self.b[l] = self.b[l].take_along_dim(order, 1) * sign
        self.w[l + 1] = self.w[l + 1].take_along_dim(order.unsqueeze(2), 1) * sign.unsqueeze(2)

    def product(self, aim: "_Nodes") -> Float64[Tensor, " S"]:
        """The inner product with `aim`. It grows as the distance shrinks, because renumbering changes no norm."""
        pairs = zip([*self.w, *self.b], [*aim.w, *aim.b], strict=True)
        return torch.stack([(here * there).flatten(1).sum(1) for here, there in pairs]).sum(0)

    def take(self, other: "_Nodes", these: Bool[Tensor, " S"]) -> None:
        """These starts as they are in `other`."""
        self.w = [torch.where(these.view(-1, 1, 1), new, w) for w, new in zip(self.w, other.w, strict=True)]
        self.b = [torch.where(these.view(-1, 1), new, b) for b, new in zip(self.b, other.b, strict=True)]
