"""Many starts side by side on one device; on the CPU, each core works on a cache-sized tile of them."""

import importlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hillstart.engine.blocks import Block, Read, block_at, descend, mini_batches
from hillstart.engine.cuda import CudaGraphs, Pixels, why_not_kernel
from hillstart.engine.matmul import HIGHEST, MatmulBackend, matmul_backend, multiplied_in, uncompiled
from hillstart.engine.starts import HYPERPARAMETERS, Hyperparameters
from hillstart.engine.tiling import Tiling, workers
from hillstart.engine.traced import TracedDescent
from hillstart.network import GradientDescent, Momentum, Nesterov, Network, PerStart, apart, together

CAPTURED = 64
"""Mini-batches in a CUDA graph, rounded down to whole blocks."""

MAX_DECAY = 0.1
"""Largest decay eta lmbda/n for which mini-batches share a block, which divides by what the decay leaves of w."""

Optimiser = Callable[..., torch.optim.Optimizer]
T = TypeVar("T")
U = TypeVar("U")


class Way(NamedTuple):
    """The kind of descent of a start; starts that share a tile have the same.

    Attributes:
        step: what moves it.
        block: mini-batches in a block: one unless the step is plain gradient descent.
        decays: it has an L2 term.
    """

    step: type[GradientDescent]
    block: int
    decays: bool


@cache
def _compiled() -> Callable[..., None]:
    return torch.compile(descend)


def _fused(*arguments: Any) -> None:
    """`blocks.descend`, compiled but for the two wide products."""
    _compiled()(*arguments[:-1], uncompiled(arguments[-1]))


def _kernel() -> Any:
    """`engine.kernel`, which alone needs Triton."""
    return importlib.import_module("hillstart.engine.kernel")


class StartEnsemble:
    """S starts on one device, of which fewer and fewer may remain active.

    On the CPU the bits of a start depend on its seed, its starting point, its hyperparameters and the mini-batches
    alone: not on the other starts, nor on their number, the tiles or the cores.

    Attributes:
        active: indices of the active starts, ascending; all results per start use this order.
        block: mini-batches that are descended together, at most. Chunks of whole blocks give the same bits however long
            they are.
        why_graphs: on CUDA, why the starts descend by graphs and not by the kernel, if it was asked for.

    Args:
        network: the starts at their starting points.
        hyperparameters: those of each start.
        n: pictures in the training set.
        batch_size: pictures in a mini-batch.
        step: how the gradient moves a start.
        optimiser: makes an optimiser of torch.optim that works element by element, from parameters and lr; it replaces
            `step`.
        fuse: on CUDA, let torch.compile make one kernel of what lies between two products.
        precision: of float32 products in descent, `highest`, `high` or `medium`; evaluation always has the highest.
        seeds: those of the starts; None: 0, 1, 2 ...
        kernel: on CUDA, descend and evaluate by the kernel of `engine.kernel` where it can. It multiplies as exactly as
            float32 does, whatever the `precision`.
        pixels: what the kernel needs to know of the inputs; None if they are not of this kind.
    """

    def __init__(
        self,
        network: Network,
        hyperparameters: Sequence[Hyperparameters],
        n: int,
        batch_size: int,
        step: type[GradientDescent] = GradientDescent,
        optimiser: Optimiser | None = None,
        fuse: bool = False,
        precision: str = HIGHEST,
        seeds: Sequence[int] | None = None,
        kernel: bool = False,
        pixels: Pixels | None = None,
    ):
        self.device, self.sizes, self.batch_size = network.w[0].device, network.sizes, batch_size
        self.cores = torch.get_num_threads() if self.device.type == "cpu" else 1
        self._hyperparameters, self._n, self._step, self._optimiser = hyperparameters, n, step, optimiser
        self._traced = TracedDescent()
        on_cuda = _fused if fuse else descend
        self._descend_block = on_cuda if self.device.type == "cuda" else self._traced
        self._precision = precision
        asked = kernel and self.device.type == "cuda"
        self.why_graphs = why_not_kernel(network, step, optimiser is not None, pixels) if asked else None
        self._pixels = pixels if asked and self.why_graphs is None else None
        self.matmul, self._exact = matmul_backend(network.w[0], precision), matmul_backend(network.w[0])
        self._tiling = Tiling(
            self.sizes,
            range(network.starts) if seeds is None else seeds,
            hyperparameters,
            hyperparameters if optimiser else [self._way(point) for point in hyperparameters],
            batch_size,
            self.cores if self.device.type == "cpu" else 0,
            network.w[0].element_size(),
        )
        self._make_tiles(network, range(network.starts))
        self.block = max(tile.block for tile in self.tiles)

    def _way(self, point: Hyperparameters) -> Way:
        """The kind of descent that these hyperparameters ask for, in any company."""
        needs_no_velocity = self._step in (Momentum, Nesterov) and not point.momentum
        step = GradientDescent if needs_no_velocity else self._step
        # In a CUDA graph the factor that shrinks w would be a tensor, and comparing it would wait for the device.
        limit = 0.0 if self.device.type == "cuda" else MAX_DECAY
        plain = step is GradientDescent and self._optimiser is None and point.eta * point.lmbda / self._n <= limit
        return Way(step, mini_batches(self.batch_size) if plain else 1, point.lmbda > 0)

    @property
    def captured(self) -> int:
        """Mini-batches in a CUDA graph where a chunk holds as many, in whole blocks."""
        return max(1, CAPTURED // self.block) * self.block

    # ------------------------------------------------------------ training

    def descend(self, read: Read, schedule: Sequence[float]) -> None:
        """Descend all starts through a chunk of len(schedule) mini-batches; `schedule` multiplies eta."""
        with multiplied_in(self._precision):
            self._descend(read, schedule)

    def _descend(self, read: Read, schedule: Sequence[float]) -> None:
        if self.device.type == "cuda" and self._optimiser is None:
            x, y = read(slice(0, len(schedule) * self.batch_size))
            for tile in self.tiles:
                tile.replay(x, y, schedule, self.batch_size, self.captured, self.matmul)
            return

        def gathered(most: int) -> list[Block]:
            firsts = range(0, len(schedule), most)
            share = -(-len(firsts) // self.cores)
            shares = [firsts[k : k + share] for k in range(0, len(firsts), share)]
            block = lambda first: block_at(first, most, read, self.batch_size, schedule, self.matmul)  # noqa: E731
            return [*itertools.chain(*self._map(lambda some: [*map(block, some)], shares))]

        blocks = {most: gathered(most) for most in {tile.block for tile in self.tiles}}
        # A new kind of block is recorded after the first, so that the rest of the chunk runs the recording.
        for some in (slice(1), slice(1, None)):
            self._map(lambda tile, some=some: tile.descend(blocks[tile.block][some], self.matmul), self.tiles)  # type: ignore[misc]
            self._traced.record()

    @multiplied_in(HIGHEST)
    def evaluate(
        self, batches: Iterable[tuple[Tensor, Tensor]]
    ) -> tuple[Float[Tensor, " active"], Float[Tensor, " active"]]:
        """Mean cost (without the L2 term) and accuracy of each start over the batches, in float64 on the CPU."""
        S = len(self.active)
        cost, right, pictures = torch.zeros(S).double(), torch.zeros(S).double(), 0
        for x, y in batches:
            sums = self._map(lambda tile, x=x, y=y: tile.evaluate(x, y, self._exact), self.tiles)  # type: ignore[misc]
            cost += self._join([tile_cost for tile_cost, _ in sums]).cpu()
            right += self._join([tile_right for _, tile_right in sums]).cpu()
            pictures += len(x)
        return cost / pictures, right / pictures

    def _map(self, work: Callable[[T], U], items: Iterable[T]) -> list[U]:
        """Apply `work` to each item, on one core each: the bits of a product depend on the number of its threads."""
        if self.device.type != "cpu":
            return [work(item) for item in items]
        return list(workers(self.cores).map(work, items))

    @property
    def step_flops(self) -> int:
        """Floating-point operations of one mini-batch for all starts, as if the first layer's inputs had errors too."""
        weights = sum(n_in * n_out for n_in, n_out in itertools.pairwise(self.sizes))
        return 6 * self.batch_size * weights * sum(tile.network.starts for tile in self.tiles)

    # ------------------------------------------------------------ tiles

    def _make_tiles(self, network: Network, indices: Sequence[int]) -> None:
        """Make tiles of the starts `indices`, which `network` holds in that order."""
        position = {index: k for k, index in enumerate(indices)}
        self.tiles = []
        for cut in self._tiling.cut(indices):
            columns = {index: column for column, index in enumerate(cut) if index is not None}
            filled = [next(iter(columns)) if index is None else index for index in cut]
            starts = network.pick([position[index] for index in filled])
            values = {name: self._values(name, filled) for name in HYPERPARAMETERS}
            way = self._way(self._hyperparameters[filled[0]])
            tile = Tile(
                starts,
                columns,
                values,
                self._n,
                way.step,
                self._optimiser,
                self._descend_block,
                way.block,
                self._pixels,
            )
            if tile.step:  # also where a tile's own step needs none: a checkpoint has the same tensors for every start
                tile.step.state = {name: starts.map(torch.zeros_like) for name in self._step.states}
            self.tiles.append(tile)
        self._set_order()

    def _values(self, name: str, indices: Sequence[int]) -> PerStart:
        """A hyperparameter of these starts: a float if they agree, else a tensor (S,) in float64, as a float is."""
        values = [getattr(self._hyperparameters[index], name) for index in indices]
        return torch.tensor(values, dtype=torch.float64, device=self.device) if len(set(values)) > 1 else values[0]

    def _set_order(self) -> None:
        """Set `active` and the permutation that brings results of tiles into its order."""
        indices = [index for tile in self.tiles for index in tile.columns]
        self.active = sorted(indices)
        order = sorted(range(len(indices)), key=indices.__getitem__)
        self._order = None if order == list(range(len(indices))) else order

    def _join(self, results: Sequence[Tensor]) -> Tensor:
        """Results of the tiles, a row for each start, in the order of `active`."""
        joined = torch.cat(list(results))
        return joined if self._order is None else joined[self._order]

    def retain(self, indices: Sequence[int]) -> None:
        """Keep only these starts active; tiles that are not needed any more cost nothing from here on.

        On CUDA rounding changes when the products get narrower.

        Args:
            indices: those of active starts, ascending.
        """
        stay = set(indices)
        kept = [k for k, index in enumerate(self.active) if index in stay]
        if len(kept) == len(self.active):
            return
        repack = self.device.type == "cpu" and len(self._tiling.cut(indices)) < len(self.tiles)
        if self.device.type != "cpu" and 2 * len(kept) <= sum(tile.network.starts for tile in self.tiles):
            repack, self._tiling.width = True, len(kept)
        if repack and kept:
            state = {name: [t[kept] if t.dim() else t for t in tensors] for name, tensors in self.state().items()}
            self._make_tiles(self.network().pick(kept), indices)
            self.load(state)
            return
        for tile in self.tiles:
            tile.columns = {index: column for index, column in tile.columns.items() if index in stay}
        # One tile stays even without active starts, so that a rank whose starts have all ended keeps step with others.
        self.tiles = [tile for tile in self.tiles if tile.columns] or self.tiles[:1]
        self._set_order()

    # ------------------------------------------------------------ starts in and out

    def network(self) -> Network:
        """The active starts as they are now, as one network."""
        joined = Network.join([tile.network.pick([*tile.columns.values()]) for tile in self.tiles])
        return joined if self._order is None else joined.pick(self._order)

    def copy_into(self, network: Network, these: Bool[Tensor, " S"]) -> None:
        """Write the starts marked in `these`, which must be active, over the same starts of `network`."""

        def copy(tile: Tile) -> None:
            indices, columns = torch.tensor([*tile.columns.items()], dtype=torch.long).view(-1, 2).T
            marked = these[indices]
            rows, sources = indices[marked].to(self.device), columns[marked].to(self.device)
            for target, source in zip(network.parameters, tile.network.parameters, strict=True):
                target[rows] = source[sources]

        self._map(copy, self.tiles)

    def state(self) -> dict[str, list[Tensor]]:
        """The tensors of a checkpoint, independent of the tiling; their first axis is the active starts."""
        states = [tile.state() for tile in self.tiles]
        return {
            name: [
                self._join([tile.select(t) for tile, t in zip(self.tiles, parts, strict=True)])
                if parts[0].dim()
                else parts[0]
                for parts in zip(*(state[name] for state in states), strict=True)
            ]
            for name in states[0]
        }

    def load(self, state: dict[str, list[Tensor]]) -> None:
        """Continue from what `state()` returned, on any device and tiling."""
        position = {index: k for k, index in enumerate(self.active)}
        for tile in self.tiles:
            rows = [position[index] for index in tile.columns]
            tile.allocate(state)
            for name, targets in tile.state().items():
                for target, source in zip(targets, state[name], strict=True):
                    if source.dim():
                        target[[*tile.columns.values()]] = source[rows].to(target)
                    else:
                        target.copy_(source)


class Tile:
    """Some starts that share their matrix products, and the step or the optimiser of torch that moves them.

    Attributes:
        columns: the column of `network` in which each active start is, by its index in the ensemble; other columns
            have ended, or only fill the width.

    Args:
        hyperparameters: those of all columns, by name.
        n, step, optimiser: as in `StartEnsemble`.
        descend: `blocks.descend`, or what does the same faster.
        block: mini-batches in a block.
        pixels: the kernel descends and evaluates; None: it does not.
    """

    def __init__(
        self,
        network: Network,
        columns: dict[int, int],
        hyperparameters: Mapping[str, PerStart],
        n: int,
        step: type[GradientDescent],
        optimiser: Optimiser | None = None,
        descend: Callable[..., None] = descend,
        block: int = 1,
        pixels: Pixels | None = None,
    ):
        self._pixels = pixels
        self.network, self.columns, self.n, self.block = network, columns, n, block
        self.eta, self.lmbda = hyperparameters["eta"], hyperparameters["lmbda"]
        self.step = None if optimiser else step(network, **hyperparameters)
        self.optimiser = optimiser(network.parameters, lr=self.eta) if optimiser else None
        self._descend = descend
        is_captured = network.w[0].device.type == "cuda" and optimiser is None
        self._graphs = CudaGraphs(network.w[0].device) if is_captured else None

    def descend(self, blocks: Sequence[Block], matmul: MatmulBackend) -> None:
        """Take one step for each mini-batch."""
        for block in blocks:
            if self.optimiser is None:
                assert self.step is not None
                self._descend(self.network, block, self.eta, self.lmbda, self.n, self.step, matmul)
                continue
            for rows, factor in zip(block.parts, block.factors, strict=True):
                x = block.x[rows]
                z = self.network.weighted_input(0, x)
                gradient = self.network.gradient(x, block.y[rows], self.lmbda, self.n, z)
                for p, nabla in zip(self.network.parameters, itertools.chain(*gradient), strict=True):
                    p.grad = nabla
                self.optimiser.param_groups[0]["lr"] = self.eta * factor
                self.optimiser.step()

    def replay(
        self,
        x: Tensor,
        y: Tensor,
        schedule: Sequence[float],
        batch_size: int,
        captured: int,
        matmul: MatmulBackend,
    ) -> None:
        """Do what `descend` does on CUDA, by the kernel or by graphs.

        Args:
            x, y, schedule: a chunk of mini-batches.
            captured: mini-batches in a graph at most.
        """
        factors = torch.tensor(schedule, dtype=x.dtype).to(x.device)
        if self._pixels is not None:
            decay = self.eta * self.lmbda / self.n
            _kernel().descend(self.network, x, y, batch_size, factors, self._pixels, self.eta, decay, self.step)
            return
        assert self._graphs is not None

        def steps(x: Tensor, y: Tensor, factors: Tensor) -> None:
            read = lambda rows: (x[rows], y[rows])  # noqa: E731
            firsts = range(0, len(factors), self.block)
            self.descend([block_at(first, self.block, read, batch_size, factors, matmul) for first in firsts], matmul)

        first, whole = 0, len(x) // batch_size
        while first < len(schedule):
            # The last mini-batch of an epoch may be smaller, and is then a graph of its own.
            count = min(captured, whole - first) or 1
            rows = slice(first * batch_size, (first + count) * batch_size)
            self._graphs.run(steps, x[rows], y[rows], factors[first : first + count])
            first += count

    def evaluate(self, x: Tensor, y: Tensor, matmul: MatmulBackend) -> tuple[Tensor, Tensor]:
        """Sum over the pictures of each start's costs, and the number it gets right, in float64."""
        network = self.network
        if self._pixels is not None:
            costs, right = _kernel().evaluate(network, x, y, self._pixels)
            return self.select(costs), self.select(right)
        z = matmul.forward(network.b[0].flatten(), x, together(network.w[0]))
        cost, outputs = network.evaluate(x, y, apart(z, network.starts))
        is_right = outputs.argmax(-1) == y.argmax(-1)
        return self.select(cost.double().sum(1)), self.select(is_right.double().sum(1))

    def select(self, t: Tensor) -> Tensor:
        """The rows of the active starts of a tensor that has a row for each column."""
        columns = [*self.columns.values()]
        return t if columns == [*range(len(t))] else t[columns]

    def state(self) -> dict[str, list[Tensor]]:
        """Everything that changes in training: by name, a tensor for each parameter."""
        state = {"weights": self.network.parameters}
        if self.step is not None:
            return state | {name: network.parameters for name, network in self.step.state.items()}
        assert self.optimiser is not None
        kept = self.optimiser.state
        return state | {name: [kept[p][name] for p in state["weights"]] for name in kept[state["weights"][0]]}

    def allocate(self, state: dict[str, list[Tensor]]) -> None:
        """Allocate an optimiser's part of a state, which torch.optim does only at the first step."""
        if self.optimiser is not None:
            for name in [name for name in state if name != "weights"]:  # a set would lose their order
                for p, like in zip(self.network.parameters, state[name], strict=True):
                    self.optimiser.state[p][name] = torch.zeros_like(p) if like.dim() else like.clone()
