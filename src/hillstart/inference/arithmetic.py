"""The arithmetic of one node as lines of text that anyone can check with a calculator.

Numbers are shown with three decimals and stored as integer thousandths, so that no rounding error is added. Each line
is computed from the numbers that it shows, as a calculator would. The weighted sum is the exact one; its difference
from the products of the shown numbers, by rounding or because not all are shown, is written as another term.
`report/page/arithmetic.js` does the same.
"""

import math
from collections.abc import Sequence

import torch

from hillstart.network import ACTIVATIONS

SHOWN, ALL_SHOWN = 5, 6
"""Products that are written out if there are more than `ALL_SHOWN`."""

LARGEST_EXPONENT = 10_000
"""A bound in thousandths: if the largest z of a softmax is not between 0 and this, it is subtracted from each."""


def thousandths(x: float) -> int:
    """x rounded, halves upwards."""
    return math.floor(x * 1000 + 0.5)


def text(n: int) -> str:
    """Format thousandths without trailing zeros and with a true minus sign."""
    digits = f"{abs(n) // 1000}.{abs(n) % 1000:03d}".rstrip("0").rstrip(".")
    return f"−{digits}" if n < 0 else digits


def activated(activation: str, z: int) -> int:
    """sigma of a shown z; `activation` is a key of `network.ACTIVATIONS`."""
    return thousandths(float(ACTIVATIONS[activation].value(torch.tensor(z / 1000, dtype=torch.float64))))


def softmax(z: Sequence[int]) -> tuple[int, list[int], list[int]]:
    """The number subtracted from each shown z, the exponentials of the differences, and their shares of the sum."""
    away = 0 if 0 <= max(z) <= LARGEST_EXPONENT else max(z)
    powers = [thousandths(math.exp((zk - away) / 1000)) for zk in z]
    return away, powers, [thousandths(power / sum(powers)) for power in powers]


def written(inputs: Sequence[int], weights: Sequence[int]) -> list[int]:
    """Indices of the products that `sum_lines` writes out, in its order: all if they are few, else the largest."""
    order = list(range(len(inputs)))
    if len(order) > ALL_SHOWN:
        order = sorted(order, key=lambda i: (-abs(inputs[i] * weights[i]), i))[:SHOWN]
    return order


def sum_lines(inputs: Sequence[int], weights: Sequence[int], bias: int, z: int) -> list[str]:
    """The products of a node and their sum in one line; the next line adds the bias: `1.28 + 1 = 2.28`.

    Args:
        z: the weighted input, computed from the exact numbers and then rounded.
    """
    order = written(inputs, weights)
    terms = [f"{_factor(inputs[i], first=not k)} × {_factor(weights[i])}" for k, i in enumerate(order)]
    millionths = 1000 * (z - bias) - sum(inputs[i] * weights[i] for i in order)
    rest, hidden = math.floor(millionths / 1000 + 0.5), len(inputs) - len(order)
    if hidden:
        terms.append(f"{hidden} smaller ones, together {text(rest)}")
    elif rest:
        terms.append(f"{_factor(rest)} of rounding")
    return [f"{' + '.join(terms)} = {text(z - bias)}", f"{text(z - bias)}{_added(bias)} = {text(z)}"]


def activation_line(activation: str, z: int) -> str:
    """The activation of z."""
    name = {"sigmoid": "σ(", "relu": "max(0, "}.get(activation, f"{activation}(")
    return f"{name}{text(z)}) = {text(activated(activation, z))}"


def softmax_lines(z: Sequence[int], k: int) -> list[str]:
    """The output k of a softmax: e to the power of its z, divided by the sum of the same over all classes."""
    away, powers, shares = softmax(z)
    lines = []
    if away:
        difference = f"{text(z[k])}{_added(-away)} = {text(z[k] - away)}"
        lines.append(f"{difference}, as the largest z, {text(away)}, is taken away from each: the shares stay the same")
    lines.append(f"e^{text(z[k] - away)} = {text(powers[k])}")
    if len(z) > SHOWN:
        lines.append(f"{text(sum(powers))} is the sum of e^z over all {len(z)} classes")
        return [*lines, f"{text(powers[k])} / {text(sum(powers))} = {text(shares[k])}"]
    return [*lines, f"{text(powers[k])} / ({' + '.join(map(text, powers))}) = {text(shares[k])}"]


def _factor(n: int, first: bool = False) -> str:
    return f"({text(n)})" if n < 0 and not first else text(n)


def _added(n: int) -> str:
    return f" − {text(-n)}" if n < 0 else f" + {text(n)}"
