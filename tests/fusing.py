"""`python tests/fusing.py DEVICE`: compiled steps beside plain ones, where no type checks disturb the compiler.

Prints for descent in blocks, with momentum and with Nesterov's: how far the starts end from each other, how many pieces
were compiled, and how many of these change the first layer's weights by a product. On CUDA, for which `fuse` is, by
Inductor, and the steps are captured and replayed too. On the CPU by AOTAutograd alone: what Inductor makes of a piece
for CUDA, its C++ for the CPU would not show, and takes minutes to compile.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch._dynamo.backends.debugging import aot_eager
from torch._inductor.compile_fx import compile_fx

from hillstart.engine.blocks import block_at, descend
from hillstart.engine.ensemble import Tile, _fused
from hillstart.engine.matmul import TORCH
from hillstart.engine.starts import Hyperparameters
from hillstart.network import GradientDescent, Momentum, Nesterov, Network

S, SIZES, B, K = 3, [8, 5, 3], 4, 8


def ends(device: str, fuse: bool, step: type[GradientDescent], cost: str) -> list[torch.Tensor]:
    network = Network.start(SIZES, range(S), cost=cost, device=device, dtype=torch.float64)
    columns, values = {s: s for s in range(S)}, asdict(Hyperparameters(0.5, 0.9, 0.1))
    block = 2 if step is GradientDescent else 1
    tile = Tile(network, columns, values, 40, step, descend=_fused if fuse else descend, block=block)
    x = torch.rand(K * B, 8, generator=torch.Generator().manual_seed(0)).double().to(device)
    y = torch.eye(3)[torch.arange(K * B) % 3].double().to(device)
    schedule = [1 - k / 20 for k in range(K)]
    for _ in range(2):
        if device == "cuda":
            tile.replay(x, y, schedule, B, 4, TORCH)
            continue
        read, factors = lambda rows: (x[rows], y[rows]), torch.tensor(schedule).double()
        tile.descend([block_at(first, block, read, B, factors, TORCH) for first in range(0, K, block)], TORCH)
    return network.parameters


if __name__ == "__main__":
    pieces: list[set[str]] = []

    def compiler(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        like_w = [n for n in graph.graph.nodes if getattr(n.meta.get("example_value"), "shape", ())[:1] == (SIZES[0],)]
        pieces.append({str(getattr(node.target, "__name__", node.target)) for node in like_w})
        return (compile_fx if sys.argv[1] == "cuda" else aot_eager)(graph, inputs)

    compile_with = torch.compile
    torch.compile = lambda function: compile_with(function, backend=compiler)  # type: ignore
    for step, cost in ((GradientDescent, "quadratic"), (Momentum, "log_likelihood"), (Nesterov, "quadratic")):
        pieces.clear()
        pairs = zip(ends(sys.argv[1], False, step, cost), ends(sys.argv[1], True, step, cost), strict=True)
        difference = max((p - q).abs().max().item() for p, q in pairs)
        print(difference, len(pieces), sum(bool(names & {"addmm", "addmm_", "mm"}) for names in pieces))
