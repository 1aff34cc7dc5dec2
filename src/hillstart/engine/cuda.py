"""CUDA graphs: many mini-batches are captured once and replayed, because launching the kernels of a small step one by
one from Python takes longer than the step. Also the check whether starts can descend by `kernel.py` instead of graphs.

A graph is fixed when it is captured. Everything that differs between replays (pictures, wanted outputs, learning-rate
multipliers) is in input tensors of the graph.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor

from hillstart.network import GradientDescent, Momentum, Nesterov, Network

Steps = Callable[[Tensor, Tensor, Tensor], None]
"""Descends through pictures x with wanted outputs y and a learning-rate multiplier for each mini-batch."""


class CudaGraphs:
    """The same steps for inputs of several shapes, each captured when it comes for the second time.

    The first time, the steps run from Python. This initialises libraries outside of a capture, as torch's manual asks
    for, and a shape that comes only once is not captured at all.

    The graphs have a stream of their own. cuBLAS has a workspace for each stream, which torch allocates in the pool of
    the first graph that is captured on it, and frees when Lightning clears the memory of the device. On torch's default
    stream for captures, the end of one ensemble would free the workspace of another one's graphs. They share a pool of
    memory, because they run one after the other and leave no result in it.
    """

    def __init__(self, device: torch.device):
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        self._inputs: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}

    def run(self, steps: Steps, x: Tensor, y: Tensor, factors: Tensor) -> None:
        """Run the steps for these inputs, on the device.

        Args:
            steps: the same at each call, and not stored here, so that whoever owns both is freed without a garbage
                collection. They must change only tensors that stay where they are, in place; they must not depend on
                the values of tensors, nor wait for the device.
        """
        shape = len(x), len(factors)
        if shape not in self._inputs:
            # Copies, as for a replay: a kernel may depend on the alignment of its inputs, and bits on the kernel.
            self._inputs[shape] = x.clone(), y.clone(), factors.clone()
            steps(*self._inputs[shape])
            return
        for target, source in zip(self._inputs[shape], (x, y, factors), strict=True):
            target.copy_(source)
        if shape not in self._graphs:
            self._graphs[shape] = graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, self._pool, self._stream):
                steps(*self._inputs[shape])
        self._graphs[shape].replay()


# ---------------------------------------------------------------- what the kernel can do

FILLED = 16
"""Nodes of a layer are filled up to a power of two of at least this, as tensor cores multiply them."""
MOST_NODES = 32
"""Nodes of a layer after the inputs, at most."""
WARPS = (1, 2, 4, 8)
"""Warps that may share a start."""
INPUTS = 16
"""Inputs of a warp are filled up to a multiple of this."""
KERNEL_ACTIVATIONS = ("sigmoid", "tanh", "relu")
KERNEL_COSTS = ("quadratic", "cross_entropy", "log_likelihood")
WEIGHTS = 112 * 32
"""Weights of the first layer that a warp can hold: 112 of the 255 registers of each of its threads."""

SHARED_MEMORY = 228 << 10
"""Bytes of a multiprocessor; evaluation needs most of them for [784, 30, 10]."""


@dataclass(frozen=True)
class Pixels:
    """Inputs that were whole numbers from 0 to 255: an input is (level - mean) / std, mean and std in such levels."""

    mean: float
    std: float

    @property
    def shift(self) -> float:
        """The part of the mean that is not a whole level, as an input."""
        return (self.mean - round(self.mean)) / self.std

    def levels(self, x: Float[Tensor, "R n_in"]) -> BFloat16[Tensor, "R n_in"]:
        """The levels of these inputs less the whole number nearest to the mean: whole numbers, exact in bfloat16."""
        return (x * self.std + (self.mean - round(self.mean))).round().to(torch.bfloat16)


def filled(n: int) -> int:
    """The number of nodes that a layer of n nodes is filled up to."""
    return max(FILLED, 1 << (n - 1).bit_length())


def slices(n_in: int, n_1: int) -> int:
    """Warps that hold the first layer of a start, each a slice of the inputs; 0 if it does not fit the registers."""
    fits = (W for W in WARPS if -(-n_in // (INPUTS * W)) * INPUTS * filled(n_1) <= WEIGHTS)
    return next(fits, 0)


def why_not_kernel(network: Network, step: type[GradientDescent], optimises: bool, pixels: Pixels | None) -> str | None:
    """The reason why these starts must descend by graphs; None if the kernel can do it.

    Args:
        step, optimises: what moves the starts; an optimiser of torch.optim replaces the step.
        pixels: None if the inputs are not whole numbers of one mean and one standard deviation.
    """
    w, sizes = network.w[0], network.sizes
    if len(sizes) != 3 or max(sizes[1:]) > MOST_NODES:
        return f"it takes one hidden layer of at most {MOST_NODES} nodes and as many classes, not {sizes}"
    if not slices(sizes[0], sizes[1]):
        return f"the first layer of {sizes} does not fit the registers of a multiprocessor"
    if pixels is None:
        return "the inputs are not whole grey levels"
    if optimises or step not in (GradientDescent, Momentum, Nesterov):
        return "it moves starts by gradient descent, with or without momentum, alone"
    if network.activation not in KERNEL_ACTIVATIONS or network.cost not in KERNEL_COSTS:
        return f"it does not know {network.activation} with {network.cost}"
    if w.dtype != torch.float32:
        return "it computes in float32 alone"
    if torch.cuda.get_device_properties(w.device).shared_memory_per_multiprocessor < SHARED_MEMORY:
        return "a multiprocessor of this device has less shared memory than an H100's"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    return None
