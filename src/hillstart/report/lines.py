"""The cost along straight lines between networks, and how high a hill stands on each line."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hillstart.data.batches import Sample
from hillstart.network import ACTIVATIONS, COSTS, Network
from hillstart.report.matching import matched

SAME, RENUMBERED, ANOTHER = range(3)
VERDICTS = ("same valley", "same valley, renumbered", "another valley")

SHARE = 0.05
"""A rise below this share of the way from the chosen start's cost up to that of guessing is no hill."""
# A rise below this share of the cost of guessing is rounding.
ROUNDING = 1e-5

# Numbers in the largest tensor at work at once: few enough for a processor's cache to help.
NUMBERS = 1 << 21
# Pictures that are shown to the networks at once.
BATCH = 250


@dataclass(frozen=True)
class Lines:
    """Costs on the straight ways from the chosen start to others, as they are and renumbered.

    Attributes:
        guess: the cost of guessing.
    """

    as_is: Float64[Tensor, "S points"]
    renumbered: Float64[Tensor, "S points"]
    guess: float

    @property
    def own(self) -> float:
        """The cost of the chosen start."""
        return float(self.as_is[0, 0])

    @property
    def limit(self) -> float:
        """The highest rise that is still no hill."""
        return max(0.0, SHARE * (self.guess - self.own))  # in this order: a cost that is no number is not larger

    @property
    def barriers(self) -> tuple[list[float], list[float]]:
        """Those on the ways as they are, and renumbered; 0 for what is rounding."""
        tiny = ROUNDING * self.guess
        both = [barriers(costs).tolist() for costs in (self.as_is, self.renumbered)]
        before, after = ([rise if rise > tiny else 0.0 for rise in rises] for rises in both)
        return before, after

    def verdicts(self, times: float = 1.0) -> list[int]:
        """`SAME`, `RENUMBERED` or `ANOTHER` for each start, with a limit so many times as high."""
        limit, pairs = times * self.limit, zip(*self.barriers, strict=True)
        return [SAME if before <= limit else RENUMBERED if after <= limit else ANOTHER for before, after in pairs]


def lines(chosen: Network, others: Iterable[Network], sample: Sample, points: int) -> Lines:
    """The ways from the chosen start, the first of its network, to all others, over all pictures of the sample.

    Args:
        others: some of them at a time, so that the renumbered ones take little memory.
    """
    batches, as_is, renumbered = list(sample.batches(BATCH)), [], []
    for some in others:
        as_is.append(line_costs(chosen, some, batches, points))
        renumbered.append(line_costs(chosen, matched(some, chosen), batches, points))
    guess = cost_of_guessing(torch.cat([y for _, y in batches]), chosen.cost)
    return Lines(torch.cat(as_is), torch.cat(renumbered), guess)


def line_costs(
    here: Network, there: Network, batches: Sequence[tuple[Tensor, Tensor]], points: int
) -> Float64[Tensor, "S points"]:
    """The mean cost, without L2, on the way from the first start of `here` to each start of `there`.

    All points of many lines are computed together, as so many starts. For the first layer, whose weights are most of
    all, there is a short cut: z^1 = x w^1 + b^1 on the line is the mixture of z^1 at its two ends.

    Args:
        batches: the pictures x and wanted outputs y.
        points: of each line, evenly apart, both ends among them.
    """
    here = here.pick([0])
    t = torch.linspace(0, 1, points, dtype=here.w[0].dtype, device=here.w[0].device)
    pictures = sum(len(x) for x, _ in batches)
    most = max(1, NUMBERS // (points * max(len(x) for x, _ in batches) * max(here.sizes[1:])))
    costs = []
    for first in range(0, there.starts, most):
        ends = there.pick(range(first, min(first + most, there.starts)))
        upper = list(zip(_between(here.w[1:], ends.w[1:], t), _between(here.b[1:], ends.b[1:], t), strict=True))
        total = torch.zeros(ends.starts * points, dtype=torch.float64, device=t.device)
        for x, y in batches:
            (z,) = _between([here.weighted_input(0, x)], [ends.weighted_input(0, x)], t)
            for w, b in upper:
                z = torch.baddbmm(b.unsqueeze(1), ACTIVATIONS[here.activation].value(z), w)
            total += COSTS[here.cost].value(z, y).double().sum(1)
        costs.append(total.view(-1, points) / pictures)
    return torch.cat(costs)


def barriers(costs: Float64[Tensor, "S points"]) -> Float64[Tensor, " S"]:
    """The most by which the cost on each line lies above the straight interpolation of its ends, 0 or more.

    As Entezari, Sedghi, Saukh and Neyshabur 2022 measure it; infinite where the cost is no number.
    """
    t = torch.linspace(0, 1, costs.shape[1], dtype=torch.float64, device=costs.device)
    rise = costs - torch.lerp(costs[:, :1], costs[:, -1:], t)
    return rise.nan_to_num(nan=torch.inf, posinf=torch.inf).amax(1)


def cost_of_guessing(y: Float[Tensor, "B n_out"], cost: str) -> float:
    """The lowest cost of an answer that is the same for all pictures, whichever the cost: the share of each class."""
    shares = y.double().mean(0).clamp(1e-9, 1 - 1e-9)
    z = shares.log() if COSTS[cost].is_softmax else shares.logit()
    return float(COSTS[cost].value(z.expand(len(y), -1), y.double()).mean())


def _between(here: Sequence[Tensor], there: Sequence[Tensor], t: Float[Tensor, " points"]) -> list[Tensor]:
    """Points on the way from tensors of one start to those of S starts, as tensors of S x points starts."""
    return [
        torch.lerp(a.unsqueeze(1), b.unsqueeze(1), t.view(1, -1, *[1] * (a.dim() - 1))).flatten(0, 1)
        for a, b in zip(here, there, strict=True)
    ]
