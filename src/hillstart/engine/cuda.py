"""On CUDA, many mini-batches captured once as a graph and replayed: a step of small networks is shorter than the launch
of its kernels by Python, one by one.

What a graph does is fixed when it is captured, so all that changes from one replay to the next lies in tensors of its
own: pictures, wanted outputs, and the factors on eta.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Steps = Callable[[Tensor, Tensor, Tensor], None]
"""Descends through pictures x with wanted outputs y, with a factor on eta for each mini-batch."""

WARM_UP = 3
"""Runs before a capture, in which libraries set up what must not be set up within one; torch's manual asks for some."""


class CudaGraph:
    """`steps` for inputs of one shape, captured.

    Args:
        steps: nothing in it may depend on the values of tensors, or wait for the device.
        x, y, factors: inputs of that shape, on the device.
        state: all that `steps` changes, in place; it is left as it was.
    """

    def __init__(self, steps: Steps, x: Tensor, y: Tensor, factors: Tensor, state: Sequence[Tensor]):
        self._inputs = [t.clone() for t in (x, y, factors)]
        before = [t.clone() for t in state]
        aside = torch.cuda.Stream(x.device)
        aside.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                steps(*self._inputs)
        torch.cuda.current_stream(x.device).wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            steps(*self._inputs)
        for t, was in zip(state, before, strict=True):
            t.copy_(was)

    def __call__(self, x: Tensor, y: Tensor, factors: Tensor) -> None:
        """The captured steps, for these inputs."""
        for mine, given in zip(self._inputs, (x, y, factors), strict=True):
            mine.copy_(given)
        self._graph.replay()
