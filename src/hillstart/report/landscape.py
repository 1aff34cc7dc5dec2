"""The loss landscape: the cost as a function of all weights and biases at once, and planes that cut through it.

A point is a network as one flat vector of its P parameters. The costs of N points are those of one Network with S = N.
For mixtures of a few points the wide product with the pictures is needed for these few alone, because z^1 is linear in
w^1 and b^1.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hillstart.engine.tiling import workers
from hillstart.network import ACTIVATIONS, COSTS, Network

CHUNK_BYTES = 2 << 20
"""Memory for the activations of the points that one thread evaluates at a time."""

HIGHEST = 1e30
"""Replaces every cost above it, and every nan."""

Point = Float[Tensor, " P"]
Points = Float[Tensor, "N P"]
Costs = Float[Tensor, " N"]


def flat(network: Network) -> Float[Tensor, "S P"]:
    """Each start as one vector: all weights, layer 1 first, then all biases."""
    return torch.cat([p.flatten(1) for p in network.parameters], 1)


def locate(sizes: Sequence[int], index: int) -> tuple[int, int | None, int]:
    """Layer l (0 first), source node i (None for a bias) and node j of the parameter at `index` in a flat vector."""
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


class Landscape:
    """The mean cost over some pictures, without the L2 term.

    Args:
        like: a network with the sizes, the activation and the cost of all points.
    """

    def __init__(self, like: Network, x: Float[Tensor, "B n_in"], y: Float[Tensor, "B n_out"]):
        self.sizes, self.activation, self.cost = like.sizes, like.activation, like.cost
        self.x, self.y = x, y
        self._sigma = ACTIVATIONS[like.activation].value

    def network(self, points: Points) -> Network:
        """The points as the starts of one network."""
        layers = list(itertools.pairwise(self.sizes))
        parts = points.split([n_in * n_out for n_in, n_out in layers] + [n_out for _, n_out in layers], 1)
        w = [part.unflatten(1, shape) for part, shape in zip(parts, layers, strict=False)]
        return Network(w, list(parts[len(layers) :]), self.activation, self.cost)

    def costs(self, points: Points) -> Costs:
        """The cost at each point."""
        return torch.cat(
            _on_every_core(lambda some: self._mean(self.network(some).outputs(self.x)), self._split(points))
        )

    def mixtures(self, points: Float[Tensor, "K P"], mix: Float[Tensor, "N K"]) -> Costs:
        """The cost at each row of mix @ points; much faster than `costs` if there are few points."""
        net = self.network(points)
        (first,) = _on_every_core(lambda _: net.weighted_input(0, self.x), [points])

        def costs(some: Tensor) -> Tensor:
            z = torch.tensordot(some, first, 1)
            for w, b in zip(net.w[1:], net.b[1:], strict=True):
                z = torch.baddbmm(torch.tensordot(some, b, 1).unsqueeze(1), self._sigma(z), torch.tensordot(some, w, 1))
            return self._mean(z)

        return torch.cat(_on_every_core(costs, self._split(mix)))

    def along(self, points: Points, indices: Sequence[int], values: Float[Tensor, "K M"]) -> Float[Tensor, "N K M"]:
        """The cost where the parameter at indices[k] of a point has each of values[k] in place of its own.

        A parameter of layer l changes one node's z^l, so that only what follows from it is computed again.
        """
        return torch.stack(_on_every_core(lambda point: self._along(point, indices, values), points))

    def _along(self, point: Tensor, indices: Sequence[int], values: Tensor) -> Tensor:
        net = self.network(point[None])
        z, a = [], [self.x]
        for l in range(len(net.w)):
            z.append(net.weighted_input(l, a[l] if l == 0 else a[l][None])[0])
            a.append(self._sigma(z[l]))
        costs = []
        for index, new in zip(indices, values, strict=True):
            l, i, j = locate(self.sizes, index)
            z_j = z[l][:, j] + (new - point[index]).unsqueeze(1) * (1.0 if i is None else a[l][:, i])
            if l == len(z) - 1:
                changed = z[l].repeat(len(new), 1, 1)
                changed[:, :, j] = z_j
            else:
                changed = z[l + 1] + (self._sigma(z_j) - a[l + 1][:, j]).unsqueeze(2) * net.w[l + 1][0, j]
                for m in range(l + 2, len(z)):
                    changed = self._sigma(changed) @ net.w[m][0] + net.b[m][0]
            costs.append(self._mean(changed))
        return torch.stack(costs)

    def fisher_diagonal(self, point: Point) -> Point:
        """The mean over the pictures of the squared derivative of each one's cost: how sensitive it is to a parameter.

        This is the diagonal of the empirical Fisher information.
        """
        net = self.network(point[None])
        a = net.forward(self.x)
        w, b = list[Tensor](), list[Tensor]()
        for l, delta in net.errors(a, self.y, 1.0):
            squared = delta[0].square()
            w.insert(0, (a[l] if l == 0 else a[l][0]).square().T @ squared / len(self.x))
            b.insert(0, squared.mean(0))
        return torch.cat([t.flatten() for t in (*w, *b)])

    def _split(self, rows: Tensor) -> Sequence[Tensor]:
        return rows.split(max(1, CHUNK_BYTES // (4 * len(self.x) * max(self.sizes[1:]))))

    def _mean(self, z: Float[Tensor, "N B n_out"]) -> Costs:
        costs = COSTS[self.cost].value(z, self.y).mean(1)
        return costs.nan_to_num(nan=HIGHEST, posinf=HIGHEST).clamp(max=HIGHEST)


def _on_every_core(work: Callable[[Tensor], Tensor], parts: Iterable[Tensor]) -> list[Tensor]:
    """Apply `work` to each part, on one core each: threads that share a product wait for each other on busy cores."""
    return list(workers(torch.get_num_threads()).map(work, parts))


@dataclass(frozen=True)
class Plane:
    """All points origin + coordinates @ axes; the two axes are orthonormal."""

    origin: Point
    axes: Float[Tensor, "2 P"]

    def coordinates(self, points: Points) -> Float[Tensor, "N 2"]:
        """Coordinates of the point of the plane that is nearest to each point."""
        return ((points - self.origin).double() @ self.axes.double().T).float()

    def distance(self, points: Points) -> Float[Tensor, " N"]:
        """Distance of each point from the plane."""
        return (points - self.origin - self.coordinates(points) @ self.axes).norm(dim=1)

    def costs(self, landscape: Landscape, coordinates: Float[Tensor, "N 2"]) -> Costs:
        """The cost at each of these coordinates."""
        mix = torch.cat([torch.ones(len(coordinates), 1), coordinates], 1)
        return landscape.mixtures(torch.cat([self.origin[None], self.axes]), mix)


def square(low: Sequence[float], side: float, n: int) -> Float[Tensor, "N 2"]:
    """The coordinates of n x n grid points on a square, the lowest row first."""
    x, y = (torch.linspace(start, start + side, n) for start in low)
    return torch.stack([x.repeat(n), y.repeat_interleave(n)], 1)


def plane_through(a: Point, b: Point, c: Point) -> Plane | None:
    """The plane through three points, the first axis from a to b (Gram-Schmidt, as in Garipov et al. 2018, app. A.1).

    None if they are on one line.
    """
    u, v = (b - a).double(), (c - a).double()
    if u.norm() == 0:
        return None
    u = u / u.norm()
    rest = v - (v @ u) * u
    if not rest.norm() > 1e-6 * v.norm():
        return None
    return Plane(a, torch.stack([u, rest / rest.norm()]).float())


def plane_of_path(path: Points, end: Point) -> tuple[Plane, float] | None:
    """The plane at `end` nearest to a path that leads there: the first two principal components of path - end.

    (Li et al. 2018, sec. 7.2.) None if the path spans no plane.

    Returns:
        The plane, and the share of the squared distances to `end` that it holds.
    """
    offsets = (path - end).double()
    # The axes follow from the Gram matrix of the points, which is small because there are few points.
    squares, mixes = torch.linalg.eigh(offsets @ offsets.T)
    if not squares[-2:].min() > 1e-10 * squares.sum() or not math.isfinite(squares.sum()):
        return None
    axes = (mixes[:, -2:].flip(1).T @ offsets) / squares[-2:].flip(0).sqrt().unsqueeze(1)
    axes = axes * -torch.sign(axes @ offsets[0]).unsqueeze(1)  # the path goes right and up
    return Plane(end, axes.float()), (squares[-2:].sum() / squares.sum()).item()
