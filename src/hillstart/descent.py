"""How starts roll downhill: learning rate and its schedule, momentum, L2 strength, mini-batches; and grids of them."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hillstart.errors import InputError

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
"""The factor on eta when a share `done`, from 0 to 1, of all mini-batches lies behind."""


@dataclass(frozen=True, order=True)
class Hyperparameters:
    """What may differ from start to start besides the seed: learning rate, momentum and L2 strength."""

    eta: float
    momentum: float = 0.0
    lmbda: float = 0.0


@dataclass(frozen=True)
class Descent:
    """How starts roll downhill.

    Of eta, momentum and lmbda, a list stands for a grid: each start is made once for every combination.

    Args:
        eta: learning rate, above 0.
        batch_size: pictures in a mini-batch.
        schedule: how eta changes over the whole training, a key of `SCHEDULES`.
        momentum: mu, from 0 (none) to below 1.
        lmbda: strength of the L2 term lmbda/(2n) sum w^2, 0 or more.
        seed: of the order of the pictures and of augmentation; the same for all starts.
        optimiser: makes an optimiser of torch.optim from parameters and lr, to step in place of gradient descent.
        fuse: on CUDA, let torch.compile make one kernel of what lies between two products.

    Raises:
        InputError: a value outside its range, an empty list, or one with a number twice.
    """

    eta: float | Sequence[float]
    batch_size: int
    schedule: str = "constant"
    momentum: float | Sequence[float] = 0.0
    lmbda: float | Sequence[float] = 0.0
    seed: int = 0
    optimiser: Callable[..., torch.optim.Optimizer] | None = None
    fuse: bool = False

    def __post_init__(self) -> None:
        self.grid()
        for key, value, least in (("batch_size", self.batch_size, 1), ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
                raise InputError(f"descent.{key} is {value!r}; it must be a whole number, {least} or more.")
        if self.schedule not in SCHEDULES:
            raise InputError(f"descent.schedule is {self.schedule!r}; it must be one of {', '.join(SCHEDULES)}.")

    @property
    def optimiser_name(self) -> str:
        """Of the class that steps, in a partial call too."""
        made_by = getattr(self.optimiser, "func", self.optimiser)
        return "gradient descent" if made_by is None else str(getattr(made_by, "__name__", made_by))

    def grid(self) -> list[Hyperparameters]:
        """Every combination of eta, momentum and lmbda."""
        return self.grid_of(self.eta, self.momentum, self.lmbda)

    @staticmethod
    def grid_of(eta: Any, momentum: Any, lmbda: Any) -> list[Hyperparameters]:
        """Every combination of the numbers, each one or a list.

        Raises:
            InputError: a value outside its range, an empty list, or one with a number twice.
        """
        for key, value, right, good in [
            ("eta", eta, "a number above 0", lambda v: 0 < v < math.inf),
            ("momentum", momentum, "a number from 0 to below 1", lambda v: 0 <= v < 1),
            ("lmbda", lmbda, "0 or a number above it", lambda v: 0 <= v < math.inf),
        ]:
            values = _listed(value)
            if not values or any(isinstance(v, bool) or not isinstance(v, int | float) or not good(v) for v in values):
                raise InputError(f"descent.{key} is {value!r}; it must be {right}, or a list of such numbers.")
            if len(set(values)) < len(values):
                raise InputError(f"descent.{key} is {value!r}; each number must be listed once.")
        points = itertools.product(*map(_listed, (eta, momentum, lmbda)))
        return [Hyperparameters(*map(float, point)) for point in points]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
