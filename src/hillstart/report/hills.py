"""The cost as the height of a hill over all weights and biases at once: cuts through it, and planes to look at it on.

A point is a network as one flat vector of its P parameters. The costs of N points are those of one Network with S = N;
on a line or in a plane, where each point is a mixture of a few, so are their first weighted inputs, for z^1 is linear
in w^1 and b^1: the wide product with the pictures is needed for these few alone.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from hillstart.network import ACTIVATIONS, COSTS, Network

# Of the activations of the points that are measured at once.
CHUNK_BYTES = 2 << 20

HIGHEST = 1e30
"""Replaces every cost above it, and every nan."""

Point = Float[Tensor, " P"]
Points = Float[Tensor, "N P"]
Costs = Float[Tensor, " N"]


def flat(network: Network) -> Float[Tensor, "S P"]:
    """Each start as one vector: all weights, layer 1 first, then all biases."""
    return torch.cat([p.flatten(1) for p in network.parameters], 1)


def place(sizes: Sequence[int], index: int) -> tuple[int, int | None, int]:
    """Layer l (0 first), node i before it (None for a bias) and node j of `index` in a flat vector."""
    layers = list(itertools.pairwise(sizes))
    for l, (n_in, n_out) in enumerate(layers):
        if index < n_in * n_out:
            return l, index // n_out, index % n_out
        index -= n_in * n_out
    for l, (_, n_out) in enumerate(layers):
        if index < n_out:
            return l, None, index
        index -= n_out
    raise IndexError(index)


class Hill:
    """The mean cost over some pictures, without the L2 term.

    Args:
        like: a network whose sizes, activation and cost all points share.
    """

    def __init__(self, like: Network, x: Float[Tensor, "B n_in"], y: Float[Tensor, "B n_out"]):
        self.sizes, self.activation, self.cost, self.x, self.y = like.sizes, like.activation, like.cost, x, y
        self._sigma, self._value = ACTIVATIONS[like.activation].value, COSTS[like.cost].value

    def network(self, points: Points) -> Network:
        """The points as the starts of one network."""
        w, b = self._layers(points)
        return Network(w, b, self.activation, self.cost)

    def at(self, points: Points) -> Costs:
        """The cost at each point."""
        return torch.cat(self._each(lambda some: self._mean(self.network(some).outputs(self.x)), self._split(points)))

    def cut(self, origin: Point, directions: Float[Tensor, "D P"], coordinates: Float[Tensor, "N D"]) -> Costs:
        """The cost at each origin + coordinates @ directions."""
        few = torch.cat([origin[None], directions])
        z_few = self.network(few).weighted_input(0, self.x)
        w, b = self._layers(few)

        def costs(some: Tensor) -> Tensor:
            mix = torch.cat([torch.ones(len(some), 1), some], 1)
            z = torch.tensordot(mix, z_few, 1)
            for l in range(1, len(w)):
                wl, bl = torch.tensordot(mix, w[l], 1), torch.tensordot(mix, b[l], 1)
                z = torch.baddbmm(bl.unsqueeze(1), self._sigma(z), wl)  # equation 25
            return self._mean(z)

        return torch.cat(self._each(costs, self._split(coordinates)))

    def along(self, points: Points, indices: Sequence[int], values: Float[Tensor, "K M"]) -> Float[Tensor, "N K M"]:
        """The cost where one parameter of a point, that at indices[k], has each of values[k] in place of its own.

        One parameter of layer l changes one node's z^l, from where only what changes is computed.
        """
        return torch.stack(self._each(lambda point: self._along(point, indices, values), points))

    def _along(self, point: Tensor, indices: Sequence[int], values: Tensor) -> Tensor:
        net = self.network(point[None])
        z, a = [], [self.x]
        for l in range(len(net.w)):
            z.append(net.weighted_input(l, a[l] if l == 0 else a[l][None])[0])
            a.append(self._sigma(z[l]))
        found = []
        for index, new in zip(indices, values, strict=True):
            l, i, j = place(self.sizes, index)
            z_j = z[l][:, j] + (new - point[index]).unsqueeze(1) * (1.0 if i is None else a[l][:, i])
            if l == len(z) - 1:
                changed = z[l].repeat(len(new), 1, 1)
                changed[:, :, j] = z_j
            else:
                changed = z[l + 1] + (self._sigma(z_j) - a[l + 1][:, j]).unsqueeze(2) * net.w[l + 1][0, j]
                for m in range(l + 2, len(z)):
                    changed = self._sigma(changed) @ net.w[m][0] + net.b[m][0]
            found.append(self._mean(changed))
        return torch.stack(found)

    def feeling(self, point: Point) -> Point:
        """The mean over the pictures of the squared slope of each one's cost: how much it feels each parameter."""
        net = self.network(point[None])
        a = net.forward(self.x)
        w, b = list[Tensor](), list[Tensor]()
        for l, delta in net.errors(a, self.y, 1.0):
            squared = delta[0].square()
            w.insert(0, (a[l] if l == 0 else a[l][0]).square().T @ squared / len(self.x))
            b.insert(0, squared.mean(0))
        return torch.cat([t.flatten() for t in (*w, *b)])

    def _split(self, points: Tensor) -> Sequence[Tensor]:
        return points.split(max(1, CHUNK_BYTES // (4 * len(self.x) * max(self.sizes[1:]))))

    @staticmethod
    def _each(work: Callable[[Tensor], Tensor], parts: Iterable[Tensor]) -> list[Tensor]:
        return list(_workers(torch.get_num_threads()).map(work, parts))

    def _layers(self, points: Points) -> tuple[list[Tensor], list[Tensor]]:
        layers = list(itertools.pairwise(self.sizes))
        parts = points.split([n_in * n_out for n_in, n_out in layers] + [n_out for _, n_out in layers], 1)
        w = [part.unflatten(1, shape) for part, shape in zip(parts, layers, strict=False)]
        return w, list(parts[len(layers) :])

    def _mean(self, z: Float[Tensor, "N B n_out"]) -> Costs:
        costs = self._value(z, self.y).mean(1)
        return costs.nan_to_num(nan=HIGHEST, posinf=HIGHEST).clamp(max=HIGHEST)


@cache
def _workers(cores: int) -> ThreadPoolExecutor:
    """One thread a core, each computing alone: threads that share a product wait for each other on busy cores."""
    return ThreadPoolExecutor(cores, "hill", initializer=lambda: torch.set_num_threads(1))


# ---------------------------------------------------------------- planes


@dataclass(frozen=True)
class Plane:
    """All points origin + coordinates @ axes; the two axes have length 1 and stand at a right angle."""

    origin: Point
    axes: Float[Tensor, "2 P"]

    def coordinates(self, points: Points) -> Float[Tensor, "N 2"]:
        """Coordinates of the point of the plane that is nearest to each point."""
        return ((points - self.origin).double() @ self.axes.double().T).float()

    def beside(self, points: Points) -> Float[Tensor, " N"]:
        """Distance of each point from the plane."""
        return (points - self.origin - self.coordinates(points) @ self.axes).norm(dim=1)

    def grid(self, low: tuple[float, float], side: float, n: int) -> Float[Tensor, "N 2"]:
        """The n x n places of a square, the lowest row first."""
        x, y = (torch.linspace(start, start + side, n) for start in low)
        return torch.stack([x.repeat(n), y.repeat_interleave(n)], 1)


def through(a: Point, b: Point, c: Point) -> Plane | None:
    """The plane through three points, the first axis from a to b (Gram-Schmidt, as in Garipov et al. 2018, app. A.1).

    None where they lie on one line.
    """
    u, v = (b - a).double(), (c - a).double()
    if u.norm() == 0:
        return None
    u = u / u.norm()
    rest = v - (v @ u) * u
    if not rest.norm() > 1e-6 * v.norm():
        return None
    return Plane(a, torch.stack([u, rest / rest.norm()]).float())


def along_path(path: Points, end: Point) -> tuple[Plane, float] | None:
    """The plane at `end` in which most of a path to it lies: the first two principal components of the way left to go.

    (Li et al. 2018, sec. 7.2.) None where the path spans no plane.

    Returns:
        The plane, and which share of the squares of that way it holds.
    """
    way = (path - end).double()
    # The axes by the small matrix of products between the points, for there are few of them.
    squares, mixes = torch.linalg.eigh(way @ way.T)
    if not squares[-2:].min() > 1e-10 * squares.sum() or not math.isfinite(squares.sum()):
        return None
    axes = (mixes[:, -2:].flip(1).T @ way) / squares[-2:].flip(0).sqrt().unsqueeze(1)
    axes = axes * -torch.sign(axes @ way[0]).unsqueeze(1)  # downhill to the right, and upwards
    return Plane(end, axes.float()), (squares[-2:].sum() / squares.sum()).item()
