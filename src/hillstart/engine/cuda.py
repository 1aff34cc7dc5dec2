"""CUDA graphs: many mini-batches are captured once and replayed, because launching the kernels of a small step one by
one from Python takes longer than the step.

A graph is fixed when it is captured. Everything that differs between replays (pictures, wanted outputs, learning-rate
multipliers) is in input tensors of the graph.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Steps = Callable[[Tensor, Tensor, Tensor], None]
"""Descends through pictures x with wanted outputs y and a learning-rate multiplier for each mini-batch."""

WARM_UP = 3
"""Runs before a capture, so that libraries initialise outside of it, as torch's manual asks for."""


class CudaGraph:
    """`steps` captured for inputs of one shape.

    Args:
        steps: must not depend on the values of tensors, nor wait for the device.
        x, y, factors: inputs of that shape, on the device.
        state: the tensors that `steps` changes in place; their values are restored after the capture.
    """

    def __init__(self, steps: Steps, x: Tensor, y: Tensor, factors: Tensor, state: Sequence[Tensor]):
        self._inputs = [t.clone() for t in (x, y, factors)]
        before = [t.clone() for t in state]
        warm_up = torch.cuda.Stream(x.device)
        warm_up.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(warm_up):
            for _ in range(WARM_UP):
                steps(*self._inputs)
        torch.cuda.current_stream(x.device).wait_stream(warm_up)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            steps(*self._inputs)
        for t, was in zip(state, before, strict=True):
            t.copy_(was)

    def __call__(self, x: Tensor, y: Tensor, factors: Tensor) -> None:
        """Replay the captured steps on these inputs."""
        for target, source in zip(self._inputs, (x, y, factors), strict=True):
            target.copy_(source)
        self._graph.replay()
