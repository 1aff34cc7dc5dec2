"""The whole theory: S networks as explicit tensors, their gradient by hand, and gradient descent.

The symbols are those of Nielsen, *Neural Networks and Deep Learning*, chapters 2 and 3.

=======================  ===================================================  ============================
symbol                   meaning                                              shape
=======================  ===================================================  ============================
S, B                     starts; pictures in a mini-batch
n_in, n_out              nodes in the layer before; in this layer
x = a^0                  pictures, shared by all starts                       (B, n_in)
y                        wanted outputs, 1 for the right class, else 0        (B, n_out)
w^l, b^l                 weights, biases of layer l                           (S, n_in, n_out), (S, n_out)
z^l = a^(l-1) w^l + b^l  weighted input                                       (S, B, n_out)
a^l = sigma(z^l)         activation                                           (S, B, n_out)
C                        cost, mean over the pictures                         (S,)
delta^l = dC/dz^l        error of layer l                                     (S, B, n_out)
eta, mu, lmbda           learning rate, momentum, L2 strength                 a number, or (S,)
n                        pictures in the training set, which divides lmbda    a number
=======================  ===================================================  ============================

Departures from the book: a picture is a row, not a column, so that w is (n_in, n_out) and z = a w + b; the lists `w`
and `b` hold layer 1 at index 0; every tensor carries the start axis S, and one network is S = 1.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hillstart.arguments import (
    check_alike,
    check_indices,
    check_layers,
    check_rows,
    check_start,
    check_step,
    known_device,
    named,
)

aten = torch.ops.aten

X = Float[Tensor, "B n_in"]
Y = Float[Tensor, "B n_out"]
Before = Float[Tensor, "S B n_in"]
Here = Float[Tensor, "S B n_out"]
First = Float[Tensor, "S B n_1"]
Weights = Float[Tensor, "S n_in n_out"]
Biases = Float[Tensor, "S n_out"]
PerStart = float | Float[Tensor, " S"] | Float[Tensor, ""]


VECTORS = 32
"""Numbers that torch computes at once on the CPU: 4 vectors of AVX2 or 2 of AVX-512."""


def in_whole_vectors(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make an element-wise function give a number the same bits wherever it is in the tensor.

    On the CPU torch rounds the numbers after the last whole vector in another way. The tensor is filled up to whole
    vectors, so that a start has the same bits in any company.
    """

    def filled_up(z: Tensor) -> Tensor:
        # is_compiling comes first: in an exported program the number of pictures, and so of elements, is not known.
        if torch.compiler.is_compiling() or z.device.type != "cpu" or not (rest := -z.numel() % VECTORS):
            return function(z)
        strides = torch.empty_like(z).stride()  # those of z, unless it has gaps
        flat = z.new_zeros(z.numel() + rest)
        flat.as_strided(z.shape, strides).copy_(z)
        return function(flat).as_strided(z.shape, strides)

    return filled_up


sigmoid, softplus = in_whole_vectors(torch.sigmoid), in_whole_vectors(torch.nn.functional.softplus)


@dataclass(frozen=True)
class Activation:
    """sigma and its derivative, which is a function of the stored activation: derivative(sigma(z)) = sigma'(z).

    `back` computes back(e, a) = e * derivative(a), as BP2 needs it, in one pass over memory.
    """

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    back: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS = {
    "sigmoid": Activation(sigmoid, lambda a: a * (1 - a), aten.sigmoid_backward),  # Nielsen ch. 1, eq. 3
    "tanh": Activation(torch.tanh, lambda a: 1 - a * a, aten.tanh_backward),  # ch. 3, eq. 109
    "relu": Activation(  # ch. 3, eq. 112
        torch.relu, lambda a: (a > 0).to(a.dtype), lambda e, a: aten.threshold_backward(e, a, 0)
    ),
}


@dataclass(frozen=True)
class Cost:
    """The cost of each picture, (S, B), and delta^L = dC/dz^L, for one activation of the last layer (`output`).

    `value` takes z, not a, so that it is finite where a has rounded to 0 or 1.
    """

    output: Callable[[Tensor], Tensor]
    value: Callable[[Tensor, Tensor], Tensor]
    delta: Callable[[Tensor, Tensor], Tensor]

    @property
    def is_softmax(self) -> bool:
        """True if the outputs add up to 1; False if they are independent sigmoids."""
        return self.output is softmax


def softmax(z: Tensor) -> Tensor:
    """e^z divided by its sum over all outputs: ch. 3, eq. 78."""
    return torch.softmax(z, -1)


COSTS = {
    "quadratic": Cost(  # 1/2 |a - y|^2: Nielsen ch. 1, eq. 6; ch. 2, eq. 30
        output=sigmoid,
        value=lambda z, y: 0.5 * (sigmoid(z) - y).square().sum(-1),
        delta=lambda a, y: (a - y) * a * (1 - a),
    ),
    "cross_entropy": Cost(  # -sum(y ln a + (1 - y) ln(1 - a)): ch. 3, eq. 63 and 66
        output=sigmoid,
        value=lambda z, y: (softplus(z) - y * z).sum(-1),
        delta=lambda a, y: a - y,
    ),
    "log_likelihood": Cost(  # -ln a_y on softmax outputs: ch. 3, eq. 78, 80 and 84
        output=softmax,
        value=lambda z, y: torch.logsumexp(z, -1) - (y * z).sum(-1),
        delta=lambda a, y: a - y,
    ),
}


# ---------------------------------------------------------------- initial weights


def unit_normal(n_in: int, n_out: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights and biases of mean 0 and standard deviation 1. Nielsen ch. 1."""
    return torch.randn(n_in, n_out, generator=g), torch.randn(n_out, generator=g)


def scaled_normal(n_in: int, n_out: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights of standard deviation 1/sqrt(n_in), so that no node starts saturated. Nielsen ch. 3."""
    return torch.randn(n_in, n_out, generator=g) / math.sqrt(n_in), torch.randn(n_out, generator=g)


def glorot(n_in: int, n_out: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights uniform within sqrt(6 / (n_in + n_out)), biases 0. Glorot and Bengio 2010, eq. 16."""
    limit = math.sqrt(6 / (n_in + n_out))
    return (torch.rand(n_in, n_out, generator=g) * 2 - 1) * limit, torch.zeros(n_out)


INITIALIZERS = {"unit_normal": unit_normal, "scaled_normal": scaled_normal, "glorot": glorot}


# ---------------------------------------------------------------- the networks


class Network:
    """S networks of the same shape, each with its own weights and biases.

    The memory layout of w[0] is (n_in, S, n_out): all starts see the same x, so the first layer of all of them is one
    wide product (B, n_in) @ (n_in, S n_out).

    Args:
        w, b: the weights and biases, layer 1 first.
        activation: activation of the hidden layers, a key of `ACTIVATIONS`.
        cost: a key of `COSTS`; it decides the activation of the last layer.

    Raises:
        ValueError: there is no such activation or cost, or a shape does not fit.

    Example:
        >>> net = Network.start([2, 3, 1], seeds=range(16), cost="cross_entropy")
        >>> x, y = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]), torch.tensor([[0.0], [1], [1], [0]])
        >>> for _ in range(2000):
        ...     net.descend(x, y, eta=2.0)
        >>> net.forward(x)[-1].shape  # (S, B, n_out)
        torch.Size([16, 4, 1])
    """

    def __init__(self, w: Sequence[Tensor], b: Sequence[Tensor], activation: str = "sigmoid", cost: str = "quadratic"):
        """The arguments are those of the class; the tensors are copied only where their memory layout is another."""
        check_layers(w, b)
        self.w = [w[0].transpose(0, 1).contiguous().transpose(0, 1), *(wl.contiguous() for wl in w[1:])]
        self.b = [bl.contiguous() for bl in b]
        self.activation, self.cost = activation, cost
        self._sigma, self._cost = named("activation", activation, ACTIVATIONS), named("cost", cost, COSTS)

    def __repr__(self) -> str:
        starts = f"{self.starts} start{'s' * (self.starts != 1)}"
        return f"Network({starts} of {self.sizes}, {self.activation}, {self.cost})"

    def __reduce__(self) -> tuple[type["Network"], tuple[object, ...]]:
        """Pickle and copy by the names of activation and cost, whose functions cannot be pickled."""
        return Network, (self.w, self.b, self.activation, self.cost)

    @classmethod
    def start(
        cls,
        sizes: Sequence[int],
        seeds: Sequence[int],
        activation: str = "sigmoid",
        cost: str = "quadratic",
        start: str = "unit_normal",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "Network":
        """One start for each seed, drawn on the CPU by its own generator: the same bits on any device, in any company.

        Args:
            sizes: nodes of each layer, from the inputs to the classes.
            seeds: a whole number for each start.
            start: the distribution of the initial weights, a key of `INITIALIZERS`.

        Raises:
            ValueError: there is no such activation, cost or distribution, or sizes or seeds cannot be used.
        """
        check_start(sizes, seeds, dtype)
        draw = named("start", start, INITIALIZERS)
        layers = list(itertools.pairwise(sizes))
        # In the memory layout of the first layer, so that many starts are never held twice.
        w = [torch.empty(n_in, len(seeds), n_out, dtype=dtype).transpose(0, 1) for n_in, n_out in layers]
        b = [torch.empty(len(seeds), n_out, dtype=dtype) for _, n_out in layers]
        for s, seed in enumerate(seeds):
            g = torch.Generator().manual_seed(seed)
            for l, (n_in, n_out) in enumerate(layers):
                w[l][s], b[l][s] = draw(n_in, n_out, g)
        return cls(w, b, activation, cost).to(device)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Network":
        """The same networks with a function applied to each of their weights and biases."""
        return Network(list(map(function, self.w)), list(map(function, self.b)), self.activation, self.cost)

    def to(self, device: torch.device | str) -> "Network":
        """The same starts on another device; this network itself if it is there already. Raises as `known_device`."""
        device = known_device(device)
        return self if self.w[0].device == device else self.map(lambda p: p.to(device))

    @property
    def sizes(self) -> list[int]:
        """Nodes of each layer, the inputs first."""
        return [self.w[0].shape[1], *(wl.shape[2] for wl in self.w)]

    @property
    def starts(self) -> int:
        """S, the number of starts."""
        return self.w[0].shape[0]

    @property
    def parameters(self) -> list[Tensor]:
        """All weights, then all biases."""
        return [*self.w, *self.b]

    # -------------------------------------------------------- forward

    def weighted_input(self, l: int, a: X | Before) -> Here:
        """z^l = a^(l-1) w^l + b^l, equation 25; a^0 = x has no start axis, because all starts share it."""
        w, b = self.w[l], self.b[l]
        if a.dim() == 3:
            return torch.baddbmm(b.unsqueeze(1), a, w)
        return apart(torch.addmm(b.flatten(), a, together(w)), self.starts)

    def forward(self, x: X, z: First | None = None) -> list[Tensor]:
        """[a^0, a^1, ..., a^L]: every activation from the pictures x to the outputs; all but x are (S, B, n_out).

        Args:
            z: z^1, if it has been computed already; x is then not checked.

        Raises:
            ValueError: x does not fit the first layer.
        """
        if z is None:
            check_rows(self.w, x)
        a = [x]
        for l in range(len(self.w)):
            z = self.weighted_input(l, a[l]) if l or z is None else z
            a.append(self._cost.output(z) if l == len(self.w) - 1 else self._sigma.value(z))
        return a

    def outputs(self, x: X, z: First | None = None) -> Here:
        """z^L, the weighted input of the last layer, from which a cost is computed; z and errors as in `forward`."""
        if z is None:
            check_rows(self.w, x)
            z = self.weighted_input(0, x)
        for l in range(1, len(self.w)):
            z = self.weighted_input(l, self._sigma.value(z))
        return z

    def evaluate(self, x: X, y: Y, z: First | None = None) -> tuple[Float[Tensor, "S B"], Here]:
        """The cost of each picture, without the L2 term, and the outputs a^L; z and errors as in `forward`."""
        if z is None:
            check_rows(self.w, x, y)
        z = self.outputs(x, z)
        return self._cost.value(z, y), self._cost.output(z)

    # -------------------------------------------------------- backward

    def errors(self, a: Sequence[Tensor], y: Y, scale: PerStart) -> Iterator[tuple[int, Here]]:
        """(l, scale * delta^l), the last layer first: backpropagation, BP1 and BP2.

        BP2 is linear in delta, so a factor on delta^L reaches every layer below. w[l] may be changed as soon as
        (l, delta) has been yielded, because BP2 has used it by then.

        Args:
            a: the activations, as `forward` returns them.
            scale: 1/B for the gradient of the mean cost, eta/B for a step of descent.
        """
        delta = self._cost.delta(a[-1], y)  # BP1
        delta = delta.mul_(per_start(scale, delta))
        for l in reversed(range(len(self.w))):
            back = torch.bmm(delta, self.w[l].transpose(1, 2)) if l else None
            yield l, delta
            if back is not None:
                delta = self._sigma.back(back, a[l])  # BP2

    def gradient(
        self, x: X, y: Y, lmbda: PerStart = 0.0, n: int = 1, z: First | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """nabla_w and nabla_b of C = mean cost + lmbda/(2n) sum w^2, shaped like `w`, `b`: BP3, BP4, ch. 3 eq. 88.

        z and errors as in `forward`; y is checked too.
        """
        if z is None:
            check_rows(self.w, x, y)
            check_step(self.starts, n, lmbda=lmbda)
        nabla_w, nabla_b = [torch.zeros_like(w) for w in self.w], [torch.zeros_like(b) for b in self.b]
        a = self.forward(x, z)
        for l, delta in self.errors(a, y, 1 / len(x)):
            _add_product(nabla_w[l], a[l], delta, keep=1.0)  # BP4
            add_scaled(nabla_w[l], self.w[l], lmbda / n)
            nabla_b[l] += delta.sum(1)  # BP3
        return nabla_w, nabla_b

    # -------------------------------------------------------- descent

    def descend(
        self, x: X, y: Y, eta: PerStart, lmbda: PerStart = 0.0, n: int = 1, step: "GradientDescent | None" = None
    ) -> None:
        """One step of descent on a mini-batch, in place; the step is part of the matrix product.

        Args:
            step: how the gradient moves the parameters of this network; None: plain gradient descent.

        Raises:
            ValueError: x does not fit the first layer, or y the last, or a hyperparameter is not a number.
        """
        check_rows(self.w, x, y)
        check_step(self.starts, n, eta=eta, lmbda=lmbda)
        step = step or GradientDescent(self)
        a = self.forward(x)
        for l, delta in self.errors(a, y, -eta / len(x)):
            step.move_layer(l, DownhillOfWeights(self.w[l], a[l], delta, eta * lmbda / n), DownhillOfBiases(delta))

    # -------------------------------------------------------- starts in and out

    def pick(self, starts: Sequence[int]) -> "Network":
        """A copy of some of the starts, by their indices, in this order; raises ValueError if one does not exist."""
        check_indices(starts, self.starts)
        i = torch.as_tensor(starts, dtype=torch.long, device=self.w[0].device)
        first = self.w[0].transpose(0, 1).index_select(1, i).transpose(0, 1)  # in memory order: many times faster
        w = [first, *(wl.index_select(0, i) for wl in self.w[1:])]
        return Network(w, [bl.index_select(0, i) for bl in self.b], self.activation, self.cost)

    @classmethod
    def join(cls, networks: Sequence["Network"]) -> "Network":
        """The starts of several networks as one network; raises ValueError unless all have the same sizes."""
        check_alike([network.sizes for network in networks])
        first = networks[0]
        w = [torch.cat([network.w[0].transpose(0, 1) for network in networks], 1).transpose(0, 1)]
        w += [torch.cat(layer) for layer in zip(*(network.w[1:] for network in networks), strict=True)]
        b = [torch.cat(layer) for layer in zip(*(network.b for network in networks), strict=True)]
        return cls(w, b, first.activation, first.cost)


# ---------------------------------------------------------------- one step of descent


class Downhill(ABC):
    """-eta nabla C of one parameter, L2 term included. It is never stored as a tensor, only added to one."""

    @abstractmethod
    def add_to(self, target: Tensor, keep: PerStart = 1.0) -> Tensor:
        """keep target - eta nabla C, which may be written over `target`.

        Args:
            target: the parameter itself, or another tensor of its shape; the latter only while the parameter is
                unchanged, because the L2 term is computed from it.
        """


@dataclass(frozen=True)
class DownhillOfWeights(Downhill):
    """-eta nabla_w C = a^T step - decay w, where step = -eta/B delta^l and decay = eta lmbda/n: BP4, ch. 3 eq. 93."""

    w: Weights
    a: X | Before
    step: Here
    decay: PerStart

    def add_to(self, target: Weights, keep: PerStart = 1.0) -> Weights:
        if target is self.w:  # keep w - decay w is one factor of the product
            return _add_product(target, self.a, self.step, keep - self.decay)
        return add_scaled(_add_product(target, self.a, self.step, keep), self.w, -self.decay)


@dataclass(frozen=True)
class DownhillOfBiases(Downhill):
    """-eta nabla_b C, the sum of step = -eta/B delta^l over the pictures: BP3. Biases do not decay, ch. 3 eq. 94."""

    step: Here

    def add_to(self, target: Biases, keep: PerStart = 1.0) -> Biases:
        return scale(target, keep).add_(self.step.sum(1))


class GradientDescent:
    """p <- p - eta nabla C for each parameter p: ch. 3 eq. 93 and 94.

    Another kind of step is a subclass that overrides `move`, and `states`, the names of the tensors that it remembers
    for each parameter; `state` holds these tensors, 0 before the first step, shaped like the network.

    Args:
        network: the starts that move, in place.
        hyperparameters: those of the starts, by name (`engine.starts.Hyperparameters`); a step takes what it needs.
    """

    states: ClassVar[tuple[str, ...]] = ()

    def __init__(self, network: Network, **hyperparameters: PerStart):
        self.network = network
        self.state = {name: network.map(torch.zeros_like) for name in self.states}

    def move(self, p: Tensor, downhill: Downhill, state: dict[str, Tensor]) -> Tensor:
        """Return the parameter p after the step, and replace the tensors that are remembered for p in `state`."""
        return downhill.add_to(p)

    def move_layer(self, l: int, weights: Downhill, biases: Downhill) -> None:
        """Move the weights and biases of layer l."""
        for kind, downhill in (("w", weights), ("b", biases)):
            kept = {name: getattr(network, kind) for name, network in self.state.items()}
            state = {name: layers[l] for name, layers in kept.items()}
            parameters = getattr(self.network, kind)
            parameters[l] = self.move(parameters[l], downhill, state)
            for name, layers in kept.items():
                layers[l] = state[name]


class Momentum(GradientDescent):
    """v <- mu v - eta nabla C, then p <- p + v: ch. 3 eq. 107 and 108."""

    states = ("velocity",)

    def __init__(self, network: Network, momentum: PerStart, **others: PerStart):
        super().__init__(network)
        self.mu = momentum

    def move(self, p: Tensor, downhill: Downhill, state: dict[str, Tensor]) -> Tensor:
        v = state["velocity"] = downhill.add_to(state["velocity"], self.mu)
        return p.add_(v)


class Nesterov(Momentum):
    """v <- mu v - eta nabla C, then p <- p + mu v - eta nabla C: Nesterov's momentum.

    p is the point ahead, where the gradient is taken: Sutskever et al. 2013, in the variables of Bengio et al. 2013,
    eq. 7, and of torch.optim.SGD. The gradient is added twice, so that it need not be stored.
    """

    def move(self, p: Tensor, downhill: Downhill, state: dict[str, Tensor]) -> Tensor:
        v = state["velocity"] = downhill.add_to(state["velocity"], self.mu)
        return add_scaled(downhill.add_to(p), v, self.mu)


# ---------------------------------------------------------------- products over all starts


def together(t: Float[Tensor, "S k n_out"]) -> Float[Tensor, "k wide"]:
    """All starts as one wide matrix: a view of a tensor with the memory layout of w[0], else a copy."""
    return t.transpose(0, 1).flatten(1)


def apart(wide: Float[Tensor, "k wide"], S: int) -> Float[Tensor, "S k n_out"]:
    """The inverse of `together`."""
    return wide.unflatten(1, (S, -1)).transpose(0, 1)


def _add_product(target: Weights, a: X | Before, step: Here, keep: PerStart) -> Weights:
    """keep target + a^T step, in place and without a temporary of the target's size."""
    if isinstance(keep, Tensor):  # the factor beta of the product is one number for all starts
        target *= per_start(keep, target)
        keep = 1.0
    if a.dim() == 3:
        return target.baddbmm_(a.transpose(1, 2), step, beta=keep)
    wide = target.transpose(0, 1).view(target.shape[1], -1)  # view, not reshape: a copy would be lost
    wide.addmm_(a.t(), together(step), beta=keep)
    return target


def add_scaled(target: Tensor, other: Tensor, factor: PerStart) -> Tensor:
    """target + factor other, in place."""
    factor = per_start(factor, other)
    if isinstance(factor, Tensor):
        return target.addcmul_(other, factor)
    return target.add_(other, alpha=factor) if factor else target


def scale(target: Tensor, factor: PerStart) -> Tensor:
    """factor target, in place."""
    return target if not isinstance(factor, Tensor) and factor == 1 else target.mul_(per_start(factor, target))


def per_start(value: PerStart, like: Tensor) -> PerStart | Tensor:
    """A value for each start, shaped and rounded to be multiplied with a tensor whose first axis is S."""
    return value.to(like.dtype).view(-1, *[1] * (like.dim() - 1)) if isinstance(value, Tensor) else value
