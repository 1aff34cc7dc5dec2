"""What Lightning sees of the descent: an optimiser whose step is a chunk of mini-batches, and chunk sizes as data."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


class GradientDescent(torch.optim.Optimizer):
    """What Lightning sees of the descent: its step rolls the whole pack through a chunk of mini-batches.

    Lightning needs a stepped optimiser to count steps, to write checkpoints and to monitor the learning rate:
    `param_groups[0]["lr"]` is eta after the schedule, of a grid the largest. Weights and velocities are saved by
    `Training`, start by start, so that a checkpoint does not depend on how a pack is tiled; here there is nothing left
    to save but eta.
    """

    def __init__(self, parameters: list[Tensor], eta: float):
        super().__init__(parameters, {"lr": eta})

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Run `closure`, which descends the chunk."""
        if closure is not None:
            closure()

    def state_dict(self) -> dict[str, Any]:
        return {"lr": self.param_groups[0]["lr"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.param_groups[0]["lr"] = state_dict["lr"]


class Chunks:
    """The rest of the epoch as sizes of chunks: all that Lightning passes on, for the pictures do not move.

    Args:
        rest: tells how many mini-batches are left in the epoch, and how many make a chunk.
    """

    def __init__(self, rest: Callable[[], tuple[int, int]]):
        self._rest = rest

    def __iter__(self) -> Iterator[int]:
        left, size = self._rest()
        while left:
            yield min(size, left)
            left -= min(size, left)
