"""The peers: the same networks, pictures and updates in what people would use instead, each as its users write it.

All take the same starts through the same mini-batches in the same order, by plain gradient descent on the
cross-entropy; none measures, logs or saves anything on the way.
"""

import functools
import importlib.util
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.seeds import Ordinary, fit
from hillstart.network import Network


@dataclass(frozen=True)
class Course:
    """The task of a contestant.

    Attributes:
        network: the starts.
        x, y: inputs and wanted outputs, in the order they are seen in.
        batch: pictures in a mini-batch, which divides their number.
    """

    network: Network
    x: Tensor
    y: Tensor
    batch: int
    eta: float

    @property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.x.split(self.batch), self.y.split(self.batch), strict=True))


class Contestant(NamedTuple):
    """`run` takes all starts once through all pictures; `ends` says where they are."""

    run: Callable[[], None]
    ends: Callable[[], Network]


def _as_network(w: list[Tensor], b: list[Tensor], like: Network) -> Network:
    return Network([t.detach().clone() for t in w], [t.detach().clone() for t in b], like.activation, like.cost)


def lightning(course: Course) -> Contestant:
    """One start, as a LightningModule with autograd."""
    module = Ordinary(course.network.sizes, course.eta)
    module.begin_as(course.network)
    loader = DataLoader(TensorDataset(course.x, course.y), batch_size=course.batch)

    def run() -> None:
        fit(module, loader, loader, course.x.device)

    return Contestant(run, lambda: _of_layers(module, course.network))


def autograd(course: Course) -> Contestant:
    """One start, as a bare loop with torch's layers, autograd and SGD."""
    module = Ordinary(course.network.sizes, course.eta).to(course.x.device)
    module.begin_as(course.network)
    optimiser = torch.optim.SGD(module.parameters(), lr=course.eta)

    def run() -> None:
        for x, y in course.batches:
            optimiser.zero_grad()
            module.cost(x, y).backward()
            optimiser.step()

    return Contestant(run, lambda: _of_layers(module, course.network))


def _of_layers(module: Ordinary, like: Network) -> Network:
    linear = [layer for layer in module.layers if isinstance(layer, torch.nn.Linear)]
    return _as_network([l.weight.T[None].cpu() for l in linear], [l.bias[None].cpu() for l in linear], like)


def scikit_learn(course: Course) -> Contestant:
    """One start, as an MLPClassifier: logistic, SGD without momentum."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    network = course.network
    made = MLPClassifier(
        tuple(network.sizes[1:-1]), activation="logistic", solver="sgd", alpha=0, batch_size=course.batch,
        learning_rate_init=course.eta, momentum=0, max_iter=1, shuffle=False, warm_start=True, n_iter_no_change=10**6,
    )  # fmt: skip
    x, y = course.x.numpy(), course.y.numpy().astype("int8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        made.fit(x[: course.batch], y[: course.batch])  # makes the layers, which then begin where ours do
    made.coefs_ = [w[0].numpy().copy() for w in network.w]
    made.intercepts_ = [b[0].numpy().copy() for b in network.b]

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            made.fit(x, y)

    def ends() -> Network:
        w, b = ([torch.from_numpy(t)[None].float() for t in ts] for ts in (made.coefs_, made.intercepts_))
        return _as_network(w, b, network)

    return Contestant(run, ends)


def torch_vmap(course: Course, compiled: bool = False) -> Contestant:
    """All starts by torch.func: the gradient of one, mapped over stacked parameters."""
    module = Ordinary(course.network.sizes, course.eta)
    names = [name for name, _ in module.named_parameters()]
    layers = [t for w, b in zip(course.network.w, course.network.b, strict=True) for t in (w.transpose(1, 2), b)]
    parameters = {name: t.contiguous().to(course.x.device) for name, t in zip(names, layers, strict=True)}

    def cost(of_one: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        inner = {name.removeprefix("layers."): t for name, t in of_one.items()}
        return binary_cross_entropy_with_logits(functional_call(module.layers, inner, x), y, reduction="sum") / len(x)

    gradient = vmap(grad(cost), in_dims=(0, None, None))

    def step(of_all: dict[str, Tensor], x: Tensor, y: Tensor) -> None:
        for name, slope in gradient(of_all, x, y).items():
            of_all[name].sub_(slope, alpha=course.eta)

    fast = torch.compile(step) if compiled else step

    def run() -> None:
        for x, y in course.batches:
            fast(parameters, x, y)

    def ends() -> Network:
        of = list(parameters.values())
        return _as_network([t.transpose(1, 2).cpu() for t in of[::2]], [t.cpu() for t in of[1::2]], course.network)

    return Contestant(run, ends)


def jax_vmap(course: Course) -> Contestant:
    """All starts by JAX: the step of one, mapped over stacked parameters, scanned over the mini-batches, compiled."""
    import jax
    import jax.numpy as jnp

    layers = list(zip(course.network.w, course.network.b, strict=True))
    state = {"layers": [(jnp.asarray(w.cpu().numpy()), jnp.asarray(b.cpu().numpy())) for w, b in layers]}
    x, y = (jnp.asarray(t.unflatten(0, (-1, course.batch)).cpu().numpy()) for t in (course.x, course.y))

    def cost(of_one: Any, x: Any, y: Any) -> Any:
        a = x
        for w, b in of_one[:-1]:
            a = jax.nn.sigmoid(a @ w + b)
        z = a @ of_one[-1][0] + of_one[-1][1]
        return (jax.nn.softplus(z) - y * z).sum() / len(x)

    def step(of_one: Any, x: Any, y: Any) -> Any:
        return jax.tree.map(lambda p, slope: p - course.eta * slope, of_one, jax.grad(cost)(of_one, x, y))

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(of_all: Any, x: Any, y: Any) -> Any:
        every = jax.vmap(step, in_axes=(0, None, None))
        return jax.lax.scan(lambda p, batch: (every(p, *batch), None), of_all, (x, y))[0]

    def run() -> None:
        state["layers"] = jax.block_until_ready(epoch(state["layers"], x, y))

    def ends() -> Network:
        w, b = zip(*([torch.tensor(jax.device_get(t)) for t in layer] for layer in state["layers"]), strict=True)
        return _as_network(list(w), list(b), course.network)

    return Contestant(run, ends)


@dataclass(frozen=True)
class Peer:
    """A way to make a contestant, and its limits.

    Attributes:
        single: it trains one start at a time.
        cpu_only: it knows no CUDA.
        missing: why it cannot take part here; empty where it can.
    """

    make: Callable[[Course], Contestant]
    single: bool = False
    cpu_only: bool = False
    package: str = ""
    compiler: bool = False

    @property
    def missing(self) -> str:
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"needs {self.package}: pip install 'hillstart[bench]'"
        if self.compiler and not any(map(shutil.which, ("g++", "clang++"))):
            return "needs a C++ compiler"
        return ""


PEERS = {
    "lightning": Peer(lightning, single=True),
    "torch-autograd": Peer(autograd, single=True),
    "scikit-learn": Peer(scikit_learn, single=True, cpu_only=True, package="sklearn"),
    "torch-vmap": Peer(torch_vmap),
    "torch-vmap-compiled": Peer(functools.partial(torch_vmap, compiled=True), compiler=True),
    "jax-vmap": Peer(jax_vmap, package="jax"),
}
