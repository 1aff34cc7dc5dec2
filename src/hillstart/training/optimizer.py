"""The options of descent (eta and its schedule, momentum, L2, grids), and the optimiser that Lightning steps."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le, Lt, MinLen, Predicate
from torch import Tensor

from hillstart.engine.starts import HYPERPARAMETERS, Hyperparameters
from hillstart.network import GradientDescent, Momentum, Nesterov
from hillstart.system.errors import InputError
from hillstart.system.schema import Flag, Says, Seed, Share, check, one_of, whole
from hillstart.system.untrusted import briefly

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
"""Learning-rate multiplier after the share `done`, from 0 to 1, of a cycle (`SGDConfig.multiplier`)."""

COURSE = ("schedule", "warmup", "cycles", "cycle_growth", "milestones", "gamma")
"""The options of `SGDConfig` that say how eta changes during a training."""

KERNEL = ("off", "auto")
"""When the kernel of `engine.kernel` is used on CUDA."""

_LARGEST = 1e30  # within float32, and what a model file may hold
_DIFFERENT = Predicate(lambda values: len(set(values)) == len(values))
_Eta = Annotated[float, Gt(0), Le(_LARGEST)]
_Momentum = Annotated[float, Ge(0), Lt(1)]
_Lmbda = Annotated[float, Ge(0), Le(_LARGEST)]
_OF_MANY = ", or a list of such numbers, each once"


@dataclass(frozen=True)
class SGDConfig:
    """The options of gradient descent.

    A list of values for a hyperparameter of `engine.starts.Hyperparameters` is a grid: each start is made once for
    every combination. A class of your own below this one may override `step`, to move the starts in another way.

    Args:
        eta: learning rate, above 0.
        batch_size: pictures in a mini-batch.
        schedule: how eta changes over a cycle, which is the whole training unless `cycles` is more; a key of
            `SCHEDULES`. `multiplier` has the formulas of this and the next five.
        warmup: share of the mini-batches in which eta rises to its value, from 0 (none) to below 1; the schedule runs
            over the others.
        cycles: how often the schedule begins anew, in cycles that are each `cycle_growth` times as long as the last.
        milestones: shares of the schedule, between 0 and 1, at each of which eta is multiplied by `gamma`.
        momentum: mu, from 0 (none) to below 1.
        lmbda: strength of the L2 term lmbda/(2n) sum w^2, 0 or more.
        nesterov: move by Nesterov's momentum in place of the classical one.
        seed: of the order of the pictures and of augmentation; the same for all starts.
        optimiser: makes an optimiser of torch.optim from parameters and lr, to step in place of gradient descent.
        fuse: on CUDA, let torch.compile make one kernel of what lies between two products.
        kernel: `auto`: on CUDA, descend by the kernel of `engine.kernel` where it can; `off`: never.

    Raises:
        InputError: a value outside its range; an optimiser that cannot step many starts at once, each as if alone; a
            momentum, `nesterov`, `fuse` or `kernel` beside an optimiser, which would not use them; `nesterov` without
            momentum.
    """

    eta: Annotated[
        _Eta | Annotated[Sequence[_Eta], MinLen(1), _DIFFERENT], Says(f"a number above 0 and up to 1e30{_OF_MANY}")
    ]
    batch_size: Annotated[int, *whole(1)]
    schedule: Annotated[str, *one_of(SCHEDULES)] = "constant"
    momentum: Annotated[
        _Momentum | Annotated[Sequence[_Momentum], MinLen(1), _DIFFERENT],
        Says(f"a number from 0 to below 1{_OF_MANY}"),
    ] = 0.0
    lmbda: Annotated[
        _Lmbda | Annotated[Sequence[_Lmbda], MinLen(1), _DIFFERENT], Says(f"a number from 0 to 1e30{_OF_MANY}")
    ] = 0.0
    nesterov: Flag = False
    seed: Seed = 0
    optimiser: Callable[..., torch.optim.Optimizer] | None = None
    fuse: Flag = False
    kernel: Annotated[str, *one_of(KERNEL)] = "off"
    warmup: Annotated[float, Ge(0), Lt(1), Says("a number from 0 to below 1, the share of the mini-batches")] = 0.0
    cycles: Annotated[int, *whole(1, 100)] = 1
    cycle_growth: Annotated[int, *whole(1, 10)] = 1
    milestones: Annotated[Sequence[Share], Says("a list of shares between 0 and 1, such as [0.5,0.75], or []")] = ()
    gamma: Annotated[float, Gt(0), Le(1), Says("a number above 0 and up to 1")] = 0.1

    def __post_init__(self) -> None:
        check("descent", type(self), vars(self))
        if self.optimiser is not None:
            self._check_optimiser(self.optimiser)
        elif self.nesterov and not any(_listed(self.momentum)):
            raise InputError("descent.nesterov is True, but descent.momentum is 0; give a momentum, such as 0.9.")

    @property
    def optimiser_name(self) -> str:
        """The name of what moves the starts, such as "gradient descent" or "Adam"."""
        if self.optimiser is None:
            return "gradient descent with Nesterov's momentum" if self.nesterov else "gradient descent"
        made_by = getattr(self.optimiser, "func", self.optimiser)
        return str(getattr(made_by, "__name__", made_by))

    def multiplier(self, step: int, total: int) -> float:
        """Learning-rate multiplier of mini-batch `step`, from 0, of `total`.

        - Warm-up, n = warmup total: (step + 1) / n while step < n; torch's `LinearLR` with start_factor 1/n and
          total_iters n - 1. Goyal et al., arXiv:1706.02677, section 2.2.
        - Then t = step - n of T = total - n. Cycle i has the length T_i = T_0 g^i, all together T, with g =
          cycle_growth, and multiplies by f(t_i / T_i), f = SCHEDULES[schedule]. With the cosine, f(x) =
          (1 + cos(pi x)) / 2, this is SGDR (Loshchilov and Hutter, ICLR 2017, equation 5), torch's
          `CosineAnnealingWarmRestarts` with T_mult = g; the last cycle ends with the training.
        - gamma^k after k milestones m, which are at the mini-batches t = m T; torch's `MultiStepLR`.
        """
        warm = min(round(self.warmup * total), total - 1)
        if step < warm:
            return (step + 1) / warm
        t, T = min(step, total) - warm, total - warm
        drops = sum(t >= round(m * T) for m in self.milestones)
        # Both times sum(g^i), which makes T_0 = T: all numbers are whole, and a cycle begins exactly where it should.
        position, length = t * sum(self.cycle_growth**i for i in range(self.cycles)), T
        for _ in range(self.cycles - 1):
            if position < length:
                break
            position, length = position - length, length * self.cycle_growth
        return SCHEDULES[self.schedule](position / length) * self.gamma**drops

    @property
    def course(self) -> str:
        """Name the course of eta in the words of conf: "constant", or "linear, warmup=0.1"."""
        others = {key: _listed(getattr(self, key)) for key in COURSE[1:]}
        given = [key for key, values in others.items() if values != _listed(getattr(SGDConfig, key))]
        return ", ".join([self.schedule, *(f"{key}={getattr(self, key)}" for key in given)])

    def step(self, points: Iterable[Hyperparameters]) -> type[GradientDescent]:
        """The class of step for starts with these hyperparameters, all of which must be trained by the same class."""
        if not any(point.momentum for point in points):
            return GradientDescent
        return Nesterov if self.nesterov else Momentum

    def grid(self) -> list[Hyperparameters]:
        """Every combination of the values of the hyperparameters."""
        points = itertools.product(*(_listed(getattr(self, name)) for name in HYPERPARAMETERS))
        return [Hyperparameters(*map(float, point)) for point in points]

    def _check_optimiser(self, optimiser: Callable[..., torch.optim.Optimizer]) -> None:
        name = self.optimiser_name
        if "lr" in getattr(optimiser, "keywords", {}):
            raise InputError(f"descent.optimiser.lr: the learning rate of {name} is descent.eta; leave this one out.")
        unused = {"momentum": any(_listed(self.momentum)), "nesterov": self.nesterov, "fuse": self.fuse}
        unused["kernel"] = self.kernel != "off"
        for key in [key for key, is_given in unused.items() if is_given]:
            own = "" if key in ("fuse", "kernel") else f"; its own, if it has one, is descent.optimiser.{key}"
            raise InputError(
                f"descent.{key} is {getattr(self, key)!r}, which {name} does not use; leave it out by "
                f"~descent.{key}{own}."
            )
        try:
            together = _stepped(optimiser, [slice(0, 3)])
            alone = _stepped(optimiser, [slice(k, k + 1) for k in range(3)])
        except Exception as error:  # whatever an optimiser raises
            raise InputError(
                f"descent.optimiser: {name} cannot be used here ({briefly(error)}); correct its options, or choose an "
                "optimiser of torch.optim that works element by element."
            ) from error
        if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(together, alone, strict=True)):
            raise InputError(
                f"descent.optimiser: {name} mixes the numbers of different starts, which are to be independent; choose "
                "an optimiser of torch.optim that works element by element."
            )


def _stepped(optimiser: Callable[..., torch.optim.Optimizer], parts: Iterable[slice]) -> list[Tensor]:
    """Parameters of three small starts after a few steps of optimisers that are given these parts of them."""
    w = torch.linspace(-2, 3, 3 * 4 * 2).reshape(3, 4, 2) * torch.tensor([0.1, 1.0, 10.0]).reshape(3, 1, 1)
    results: list[list[Tensor]] = []
    for part in parts:
        parameters = [w[part].clone(), w[part, 0].clone()]
        made = optimiser(parameters, lr=0.01)
        for _ in range(3):
            for p in parameters:
                p.grad = p.sin()
            made.step()
        results.append(parameters)
    return [torch.cat(tensors) for tensors in zip(*results, strict=True)]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


class ChunkOptimizer(torch.optim.Optimizer):
    """The optimiser that Lightning sees: its step takes the whole pack through a chunk of mini-batches.

    Lightning needs a stepped optimiser to count steps, to write checkpoints and to monitor the learning rate:
    `param_groups[0]["lr"]` is the largest eta of the pack after the schedule. Weights and what moves them are saved by
    `Training`, start by start, so that a checkpoint does not depend on the tiling; here only eta is left to save.
    """

    def __init__(self, eta: float):
        # torch asks for a tensor. One of the pack's would live as long as the trainer, which outlives the pack.
        super().__init__([torch.zeros(1)], {"lr": eta})

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Run `closure`, which descends the chunk."""
        if closure is not None:
            closure()

    def state_dict(self) -> dict[str, Any]:
        return {"lr": self.param_groups[0]["lr"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.param_groups[0]["lr"] = state_dict["lr"]


class Chunks:
    """The rest of an epoch as the sizes of its chunks: Lightning's loader, though the pictures are on the device.

    Args:
        rest: returns the mini-batches that are left in the epoch and those in a chunk.
    """

    def __init__(self, rest: Callable[[], tuple[int, int]]):
        self._rest = rest

    def __iter__(self) -> Iterator[int]:
        left, size = self._rest()
        while left:
            yield min(size, left)
            left -= min(size, left)
