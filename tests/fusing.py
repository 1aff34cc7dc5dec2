"""`python tests/fusing.py`: steps by torch.compile beside the plain ones, where no type checks disturb the compiler.

Prints how far the starts end from each other, for descent in blocks, with momentum and with Nesterov's.
"""

from dataclasses import asdict

import torch

from hillstart.engine import ensemble
from hillstart.engine.matmul import TORCH
from hillstart.engine.starts import Hyperparameters
from hillstart.network import GradientDescent, Momentum, Nesterov, Network

S, SIZES, B, K = 3, [8, 5, 3], 4, 8


class Replayed:
    """In place of a CUDA graph."""

    def __init__(self, steps, x, y, factors, state):  # type: ignore[no-untyped-def]
        self.steps = steps

    def __call__(self, *inputs: torch.Tensor) -> None:
        self.steps(*inputs)


def ends(fuse: bool, step: type[GradientDescent], cost: str) -> list[torch.Tensor]:
    network = Network.start(SIZES, range(S), cost=cost, dtype=torch.float64)
    columns, values = {s: s for s in range(S)}, asdict(Hyperparameters(0.5, 0.9, 0.1))
    made = ensemble.Tile(network, columns, values, 40, step, fuse=fuse)
    x, y = (
        torch.rand(K * B, 8, generator=torch.Generator().manual_seed(0)).double(),
        torch.eye(3)[torch.arange(K * B) % 3],
    )
    made.replay(x, y.double(), [1 - k / 20 for k in range(K)], B, 2 if step is GradientDescent else 1, TORCH)
    return network.parameters


if __name__ == "__main__":
    compiled = []
    compiler = torch.compile
    torch.compile = lambda function: compiled.append(function) or compiler(function)  # type: ignore
    ensemble.CudaGraph, ensemble.REPLAYED = Replayed, 4  # type: ignore
    for step, cost in ((GradientDescent, "quadratic"), (Momentum, "log_likelihood"), (Nesterov, "quadratic")):
        pairs = zip(ends(False, step, cost), ends(True, step, cost), strict=True)
        print(max((p - q).abs().max().item() for p, q in pairs), len(compiled))
