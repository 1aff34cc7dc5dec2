"""Descent through a block as one call that does not need Python: recorded once, then run by TorchScript.

On the CPU every core descends its own tiles in a thread. From Python the threads wait for each other between two
operators, because only one of them can hold Python's lock; a recorded program runs from its first operator to its last
without it. Its operators are those of `blocks.descend`, in the same order and so with the same bits.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from hillstart.engine.blocks import Block, descend
from hillstart.engine.matmul import MatmulBackend
from hillstart.network import GradientDescent, Network, PerStart
from hillstart.system.private import recorded

Program = Callable[..., Iterable[Tensor]]
"""Takes the tensors of a block and of a step, and returns the parameters and states after the block."""


class TracedDescent:
    """`blocks.descend` for the tiles of an ensemble, which share a program if only the values of tensors differ.

    A step that is not of `network.py` always runs from Python, because it may count or branch there, which a recording
    would freeze.
    """

    def __init__(self) -> None:
        self._programs: dict[Hashable, Program | None] = {}
        self._seen: dict[Hashable, tuple[Program, list[Tensor]]] = {}

    def record(self) -> None:
        """Record the kinds of blocks that have come since the last call.

        Between two chunks, when no thread descends: warnings are hidden meanwhile, which Python does for all threads.
        """
        for kind, (function, inputs) in self._seen.items():
            # Recording computes the function and changes its inputs, so they are zeros and not the starts.
            self._programs[kind] = recorded(function, [torch.zeros_like(t) for t in inputs])
        self._seen.clear()

    def __call__(
        self,
        network: Network,
        block: Block,
        eta: PerStart,
        lmbda: PerStart,
        n: int,
        step: GradientDescent,
        matmul: MatmulBackend,
    ) -> None:
        """Do what `blocks.descend` does; the arguments are the same."""
        if type(step).__module__ != Network.__module__:
            descend(network, block, eta, lmbda, n, step, matmul)
            return
        own = {name: value for name, value in vars(step).items() if name not in ("network", "state")}
        numbers = {"eta": eta, "lmbda": lmbda, **own}
        per_start = {name: value for name, value in numbers.items() if isinstance(value, Tensor)}
        alike = numbers | dict.fromkeys(per_start)
        kind = network.starts, len(block.x), len(block.factors), type(step), *alike.items()
        factors = torch.tensor(block.factors, dtype=torch.float64)
        inputs = [block.x, block.y, block.xt, block.gram, factors, *per_start.values(), *_changing(step)]
        if program := self._programs.get(kind):
            after = iter(program(*inputs))
            for part in (network, *step.state.values()):
                for layers in (part.w, part.b):
                    layers[:] = [next(after) for _ in layers]
            return

        def from_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
            rest = iter(tensors)
            x, y, xt, gram, factors = (next(rest) for _ in range(5))
            values = numbers | {name: next(rest) for name in per_start}
            again = copy(step)
            vars(again).update({name: values[name] for name in own})
            again.network = network.map(lambda _: next(rest))
            again.state = {name: of.map(lambda _: next(rest)) for name, of in step.state.items()}
            same = replace(block, x=x, y=y, xt=xt, gram=gram, factors=factors)
            descend(again.network, same, values["eta"], values["lmbda"], n, again, matmul)
            return tuple(_changing(again))

        if kind not in self._programs:
            self._seen[kind] = from_tensors, inputs
        descend(network, block, eta, lmbda, n, step, matmul)


def _changing(step: GradientDescent) -> Iterator[Tensor]:
    """The tensors that a step changes: the parameters of its network, and what it remembers for each."""
    for network in (step.network, *step.state.values()):
        yield from network.parameters
