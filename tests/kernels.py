"""`python tests/kernels.py descend|evaluate|compile`: the kernel beside network.py, where no type checks wrap it.

`descend` and `evaluate` print how far the kernel ends from float64, for each case: on a CUDA device, or with
TRITON_INTERPRET=1 on the CPU by Triton's interpreter. `compile` prints the registers of a thread, the bytes that it
spills and those of shared memory, compiled for sm_90, which needs no device.
"""

import itertools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import interpreter

from hillstart.engine import kernel
from hillstart.engine.cuda import Pixels
from hillstart.network import ACTIVATIONS, COSTS, GradientDescent, Momentum, Nesterov, Network

IS_INTERPRETED = "TRITON_INTERPRET" in os.environ
ON = "cpu" if IS_INTERPRETED else "cuda"
S, N_PICTURES = 3, 200
PIXELS = Pixels(mean=72.8417, std=89.9318)
SIZES = {"odd": ([50, 7, 3], 10), "tiles": ([100, 30, 2], 40), "wide": ([784, 30, 10], 10)}
"""Sizes of the network and the mini-batch, of which the last is smaller."""


def multiply_bfloat16(self: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
    """tl.dot of the interpreter, which in Triton 3.6 to 3.8 takes the bits of bfloat16 for whole numbers."""
    a, b = (
        interpreter._convert_float(t.data, tl.bfloat16, tl.float32, None).view(np.float32)
        if t.dtype.scalar == tl.bfloat16
        else t.data
        for t in (a, b)
    )
    return interpreter.TensorHandle(np.matmul(a, b, dtype=d.data.dtype) + d.data, d.dtype.scalar)


def made(sizes: list[int], B: int, activation: str, cost: str) -> tuple[Network, torch.Tensor, torch.Tensor]:
    """Starts, and normalised pictures of four mini-batches, the last of them smaller, with their wanted outputs."""
    g = torch.Generator().manual_seed(0)
    rows = 4 * B - 3
    x = (torch.randint(0, 256, (rows, sizes[0]), generator=g).float() - PIXELS.mean) / PIXELS.std
    y = torch.eye(sizes[-1])[torch.randint(0, sizes[-1], (rows,), generator=g)]
    network = Network.start(sizes, range(S), activation, cost, "scaled_normal", device=ON)
    return network, x.to(ON), y.to(ON)


def descend(
    sizes: list[int], B: int, activation: str, cost: str, step: type[GradientDescent], lmbda: float
) -> list[float]:
    """Distance of each parameter from where float64 ends, as a share of the way moved."""
    network, x, y = made(sizes, B, activation, cost)
    exact = network.map(lambda p: p.double())
    eta, mu = torch.tensor([0.5, 0.1, 1.0]).double().to(ON), torch.tensor([0.9, 0.5, 0.0]).double().to(ON)
    factors = torch.tensor([1.0, 0.75, 0.5, 0.25], device=ON)
    before, of_exact, of_network = exact.map(torch.clone), step(exact, momentum=mu), step(network, momentum=mu)
    for part, target, factor in zip(x.double().split(B), y.double().split(B), factors, strict=True):
        exact.descend(part, target, eta * factor.double(), lmbda, N_PICTURES, of_exact)
    for rows in (slice(0, 2 * B), slice(2 * B, None)):  # the velocity goes from one call to the next
        kernel.descend(
            network, x[rows], y[rows], B, factors[rows.start // B :][: -(-len(x[rows]) // B)], PIXELS, eta,
            eta * lmbda / N_PICTURES, of_network,
        )  # fmt: skip
    of_all = zip(network.parameters, exact.parameters, before.parameters, strict=True)
    return [float((p.double() - q).norm() / (q - was).norm()) for p, q, was in of_all]


def evaluate(sizes: list[int], B: int, activation: str, cost: str) -> list[float]:
    """Relative error of the summed cost, and the difference in pictures that are right."""
    network, x, y = made(sizes, B, activation, cost)
    found, right = kernel.evaluate(network, x, y, PIXELS)
    costs, outputs = network.map(lambda p: p.double()).evaluate(x.double(), y.double())
    wanted = (outputs.argmax(-1) == y.argmax(-1)).sum(1)
    return [float((found / costs.sum(1) - 1).abs().max()), float((right - wanted).abs().max())]


def compiled(name: str, sizes: list[int], B: int, step: int) -> tuple[int, ...]:
    """Registers of a thread, bytes that it spills, bytes of shared memory."""
    network = Network.start(sizes, [0])
    function, shape = getattr(kernel, name), kernel._shape(network)
    constants = shape | {"STEP": step, "DECAYS": step > 0, "IN_ONE": B <= kernel.PICTURES}
    constants = {key: value for key, value in constants.items() if key in function.arg_names}
    types = {"x_ptr": "*bf16", "cost_ptr": "*fp64", "right_ptr": "*fp64", "scale": "fp32", "shift": "fp32"}
    types |= dict.fromkeys("SBK", "i32")
    signature = {key: types.get(key, "*fp32") for key in function.arg_names} | dict.fromkeys(constants, "constexpr")
    aligned = {(k,): [["tt.divisibility", 16]] for k, key in enumerate(function.arg_names) if key.endswith("_ptr")}
    target, options = GPUTarget("cuda", 90, 32), {"num_warps": shape["W"], "num_stages": kernel.STAGES}
    made = triton.compile(ASTSource(function, signature, constants, aligned), target=target, options=options)
    with tempfile.TemporaryDirectory() as folder:
        (ptx := Path(folder, "kernel.ptx")).write_text(made.asm["ptx"])
        ptxas = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
        command = [str(ptxas), "-v", "-arch=sm_90a", str(ptx), "-o", f"{folder}/kernel.cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    used = (int(re.findall(pattern, said)[0]) for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores"))
    return *used, made.metadata.shared


if __name__ == "__main__":
    if IS_INTERPRETED:
        interpreter.InterpreterBuilder.create_dot = multiply_bfloat16
    if sys.argv[1] == "descend":
        for activation, cost in itertools.product(ACTIVATIONS, COSTS):
            print("odd", activation, cost, *descend(*SIZES["odd"], activation, cost, GradientDescent, 0.0))
        for name, step in itertools.product(("odd", "tiles"), (GradientDescent, Momentum, Nesterov)):
            print(name, step.__name__, "decay", *descend(*SIZES[name], "tanh", "log_likelihood", step, 5.0))
        print("wide", "sigmoid", "quadratic", *descend(*SIZES["wide"], "sigmoid", "quadratic", Momentum, 0.0))
    elif sys.argv[1] == "evaluate":
        for activation, cost in itertools.product(ACTIVATIONS, COSTS):
            print("tiles", activation, cost, *evaluate(*SIZES["tiles"], activation, cost))
    else:
        for B, step in itertools.product((10, 128), (kernel.PLAIN, kernel.MOMENTUM)):
            print("descend", B, step, *compiled("_descend", [784, 30, 10], B, step), flush=True)
        print("evaluate", 1000, 0, *compiled("_evaluate", [784, 30, 10], 1000, 0), flush=True)
