"""CUDA graphs: many mini-batches are captured once and replayed, because launching the kernels of a small step one by
one from Python takes longer than the step.

A graph is fixed when it is captured. Everything that differs between replays (pictures, wanted outputs, learning-rate
multipliers) is in input tensors of the graph.
"""

from collections.abc import Callable

import torch
from torch import Tensor

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
