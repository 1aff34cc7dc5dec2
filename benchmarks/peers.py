"""The peers: the same networks, pictures and updates in what people would use instead, each as its users write it.

All take the same starts through the same mini-batches in the same order, by plain gradient descent on the
cross-entropy; none measures, logs or saves anything on the way. All multiply in float32; on CUDA those that can round
to TF32, as JAX does by default, have rows of their own in which they do.
"""

import functools
import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from hillstart.data.dataset import PictureSet
from hillstart.engine.matmul import HIGHEST, multiplied_in
from hillstart.network import Network


@dataclass(frozen=True)
class Task:
    """The networks and pictures that a contestant trains.

    Attributes:
        network: the starts.
        data: the pictures, for contestants that draw an order of their own.
        x, y: inputs and wanted outputs, in the order in which they are seen.
        batch: pictures in a mini-batch, which divides their number.
        epochs: for contestants that take several at once.
        momentum: 0 is plain gradient descent.
    """

    network: Network
    data: PictureSet
    x: Tensor
    y: Tensor
    batch: int
    eta: float
    epochs: int = 1
    momentum: float = 0.0

    @property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.x.split(self.batch), self.y.split(self.batch), strict=True))


class Contestant(NamedTuple):
    """`run` takes all starts through all pictures `epochs` times; `network` returns them.

    `device_bytes` returns its peak memory on CUDA, if torch does not know it.
    """

    run: Callable[[], object]
    network: Callable[[], Network]
    epochs: int = 1
    device_bytes: Callable[[], int] | None = None


def float64(w: Iterable[Tensor], b: Iterable[Tensor], like: Network) -> Network:
    """A network of these weights and biases on the CPU, to be compared with others."""
    w, b = ([t.detach().cpu().double() for t in of] for of in (w, b))
    return Network(w, b, like.activation, like.cost)


# ---------------------------------------------------------------- Lightning


class Ordinary(pl.LightningModule):
    """The network as a Lightning user writes it: layers, autograd, an optimiser.

    Args:
        bare: log nothing.
    """

    def __init__(self, sizes: list[int], eta: float, bare: bool = True):
        super().__init__()
        self.bare, self.eta = bare, eta
        self.linear = [nn.Linear(n_in, n_out) for n_in, n_out in itertools.pairwise(sizes)]
        layers = itertools.chain.from_iterable((layer, nn.Sigmoid()) for layer in self.linear)
        self.layers = nn.Sequential(*list(layers)[:-1])  # the cost takes the last sigmoid in

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy, summed over the outputs, mean over the pictures."""
        return binary_cross_entropy_with_logits(self.layers(x), y, reduction="sum") / len(x)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        cost = self.cost(*batch)
        if not self.bare:
            self.log("train_cost", cost)
        return cost

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        x, y = batch
        self.log("val_cost", self.cost(x, y))
        self.log("val_accuracy", (self.layers(x).argmax(1) == y.argmax(1)).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.eta)

    def begin_as(self, network: Network) -> None:
        """Take the weights and biases of a network of one start."""
        with torch.no_grad():
            for layer, w, b in zip(self.linear, network.w, network.b, strict=True):
                layer.weight.copy_(w[0].T)
                layer.bias.copy_(b[0])

    def network(self, like: Network) -> Network:
        """Its weights and biases as a network of one start."""
        return float64((l.weight.T[None] for l in self.linear), (l.bias[None] for l in self.linear), like)


def bare_trainer(device: torch.device, epochs: int, **options: Any) -> pl.Trainer:
    """A trainer without all that a trainer does beside training, except what `options` ask for."""
    bare = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
    }
    return pl.Trainer(max_epochs=epochs, accelerator=device.type, devices=1, **(bare | options))


def fit(module: Ordinary, train: DataLoader[Any], val: DataLoader[Any], device: torch.device, steps: int = -1) -> None:
    """One epoch; a module that is not bare also validates, logs and writes checkpoints, as ours do."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.filterwarnings("ignore", ".*does not have many workers")  # the pictures are in memory
        warnings.filterwarnings("ignore", ".*smaller than the logging interval")  # in a test
        more = {"logger": CSVLogger(folder), "enable_checkpointing": True, "limit_val_batches": 1.0}
        options = {"max_steps": steps, "default_root_dir": folder} | ({} if module.bare else more)
        bare_trainer(device, 1, **options).fit(module, train, val)


def loader_of(pictures: TensorDataset, device: torch.device, **options: Any) -> DataLoader[Any]:
    """A loader of pictures in the memory of the host, pinned for CUDA: of tensors on CUDA it would copy one by one."""
    return DataLoader(pictures, pin_memory=device.type == "cuda", **options)


def lightning(task: Task) -> Contestant:
    """One start, as a LightningModule with autograd."""
    module = Ordinary(task.network.sizes, task.eta)
    module.begin_as(task.network)
    loader = loader_of(TensorDataset(task.x.cpu(), task.y.cpu()), task.x.device, batch_size=task.batch)
    run = functools.partial(fit, module, loader, loader, task.x.device)
    return Contestant(run, lambda: module.network(task.network))


# ---------------------------------------------------------------- the others


def autograd(task: Task) -> Contestant:
    """One start, as a bare loop with torch's layers, autograd and SGD."""
    module = Ordinary(task.network.sizes, task.eta).to(task.x.device)
    module.begin_as(task.network)
    optimiser = module.configure_optimizers()

    def run() -> None:
        for x, y in task.batches:
            optimiser.zero_grad()
            module.cost(x, y).backward()
            optimiser.step()

    return Contestant(run, lambda: module.network(task.network))


def scikit_learn(task: Task) -> Contestant:
    """One start, as an MLPClassifier: logistic, SGD without momentum."""
    from sklearn.neural_network import MLPClassifier

    network, x, y = task.network, task.x.numpy(), task.y.numpy().astype("int8")
    sgd = {"solver": "sgd", "alpha": 0, "momentum": 0, "learning_rate_init": task.eta, "batch_size": task.batch}
    model = MLPClassifier(tuple(network.sizes[1:-1]), activation="logistic", shuffle=False, **sgd)
    # It makes the layers, which then begin as ours do.
    model.partial_fit(x[: task.batch], y[: task.batch], classes=range(network.sizes[-1]))
    model.coefs_ = [w[0].numpy().copy() for w in network.w]
    model.intercepts_ = [b[0].numpy().copy() for b in network.b]

    def ends() -> Network:
        w, b = ([torch.from_numpy(t)[None] for t in tensors] for tensors in (model.coefs_, model.intercepts_))
        return float64(w, b, network)

    return Contestant(functools.partial(model.partial_fit, x, y), ends)


def torch_vmap(task: Task, compiled: bool = False, precision: str = HIGHEST) -> Contestant:
    """All starts by torch.func: the gradient of one, mapped over stacked parameters."""
    layers = Ordinary(task.network.sizes, task.eta).layers
    tensors = [t for w, b in zip(task.network.w, task.network.b, strict=True) for t in (w.transpose(1, 2), b)]
    names = [name for name, _ in layers.named_parameters()]
    parameters = {name: t.contiguous().to(task.x.device) for name, t in zip(names, tensors, strict=True)}

    def cost(of_one: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(functional_call(layers, of_one, x), y, reduction="sum") / len(x)

    gradient = vmap(grad(cost), in_dims=(0, None, None))

    def step(of_all: dict[str, Tensor], x: Tensor, y: Tensor) -> None:
        for name, slope in gradient(of_all, x, y).items():
            of_all[name].sub_(slope, alpha=task.eta)

    fast = torch.compile(step) if compiled else step

    @multiplied_in(precision)
    def run() -> None:
        for x, y in task.batches:
            fast(parameters, x, y)

    def ends() -> Network:
        of = list(parameters.values())
        return float64([t.transpose(1, 2) for t in of[::2]], of[1::2], task.network)

    return Contestant(run, ends)


def jax_vmap(task: Task, precision: str = HIGHEST) -> Contestant:
    """All starts by JAX: the step of one, mapped over stacked parameters, scanned over the mini-batches, compiled."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else three quarters of a GPU's memory are its own
    import jax
    import jax.numpy as jnp

    layers = list(zip(task.network.w, task.network.b, strict=True))
    state = {"layers": [(jnp.asarray(w.cpu().numpy()), jnp.asarray(b.cpu().numpy())) for w, b in layers]}
    x, y = (jnp.asarray(t.unflatten(0, (-1, task.batch)).cpu().numpy()) for t in (task.x, task.y))

    def cost(of_one: Any, x: Any, y: Any) -> Any:
        a = x
        for w, b in of_one[:-1]:
            a = jax.nn.sigmoid(a @ w + b)
        z = a @ of_one[-1][0] + of_one[-1][1]
        return (jax.nn.softplus(z) - y * z).sum() / len(x)

    def step(of_one: Any, x: Any, y: Any) -> Any:
        return jax.tree.map(lambda p, slope: p - task.eta * slope, of_one, jax.grad(cost)(of_one, x, y))

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(of_all: Any, x: Any, y: Any) -> Any:
        every = jax.vmap(step, in_axes=(0, None, None))
        return jax.lax.scan(lambda p, batch: (every(p, *batch), None), of_all, (x, y))[0]

    def run() -> None:
        with jax.default_matmul_precision(precision):
            state["layers"] = jax.block_until_ready(epoch(state["layers"], x, y))

    def ends() -> Network:
        w, b = zip(*([torch.tensor(jax.device_get(t)) for t in layer] for layer in state["layers"]), strict=True)
        return float64(w, b, task.network)

    peak = lambda: (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)  # noqa: E731
    return Contestant(run, ends, device_bytes=peak)


@dataclass(frozen=True)
class Maker:
    """Makes a contestant, within its limits.

    Attributes:
        single: it trains one start at a time.
        only: the type of device without which it cannot take part; empty for none.
        package, compiler: what it needs beside torch and Lightning.
        tolerance: allowed relative difference of its costs from those in float64.
        momentum: with which it descends; the others descend plainly.
    """

    make: Callable[..., Contestant]
    single: bool = False
    only: str = ""
    package: str = ""
    compiler: bool = False
    tolerance: float = 1e-4
    momentum: float = 0.0

    def in_tf32(self, precision: str = "high") -> "Maker":
        """The same, with products in TF32, which is `precision` to its library and rounds factors to 11 bits."""
        make = functools.partial(self.make, precision=precision)
        return replace(self, make=make, only="cuda", tolerance=2e-3)

    def missing(self, device: torch.device) -> str:
        """The reason for which it cannot take part here; empty if it can."""
        if self.package and find_spec(self.package) is None:
            return f"needs {self.package}: pip install 'hillstart[bench]'"
        if self.compiler and not any(map(shutil.which, ("g++", "clang++"))):
            return "needs a C++ compiler"
        return f"only on {self.only}" if self.only not in ("", device.type) else ""


VMAP, JAX = Maker(torch_vmap), Maker(jax_vmap, package="jax")
COMPILED = Maker(functools.partial(torch_vmap, compiled=True), compiler=True)
PEERS = {
    "lightning": Maker(lightning, single=True),
    "torch-autograd": Maker(autograd, single=True),
    "scikit-learn": Maker(scikit_learn, single=True, only="cpu", package="sklearn"),
    "torch-vmap": VMAP,
    "torch-vmap-tf32": VMAP.in_tf32(),
    "torch-vmap-compiled": COMPILED,
    "torch-vmap-compiled-tf32": COMPILED.in_tf32(),
    "jax-vmap": JAX,
    "jax-vmap-tf32": JAX.in_tf32("tensorfloat32"),
}
