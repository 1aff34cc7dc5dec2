"""The two wide products of the first layer, by whichever of torch's two libraries is the faster one on this machine, or
in bfloat16 where that is asked for.

torch multiplies float32 matrices on the CPU by MKL, which on some machines leaves half of what their vector units can
do. oneDNN, which torch brings along, does not; it is reached by the operator that torch.compile uses for linear layers.
Which one is faster is measured once, in a fraction of a second, and noted in the user's cache for this processor and
this torch, so that the same machine goes on giving the same bits.
"""

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from hillstart.system.machine import noted

CLEARLY = 1.2
"""oneDNN is taken where it is faster by this factor; torch's own products change w in place, and are torch's own."""

ROWS, INPUTS, WIDE, REPEATS = 96, 784, 960, 15
"""Of the products that are measured: a block of pictures, their pixels, 32 starts of 30 nodes."""

# glibc gives a large block back to the system when it is freed, and taking another one then costs a page fault for
# every 4 KiB of it: for a new w at each step that would be more than the product itself.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES, LARGEST_BYTES = 128 << 20, 32 << 20


@dataclass(frozen=True)
class MatmulBackend:
    """The products of a library, for `wide` numbers of all starts together.

    Attributes:
        forward: b + x w, from b (wide,), x (R, n_in), w (n_in, wide).
        add: w + x^T d, from w, x^T (n_in, R), d (R, wide); it may change w and return it, or return a new one.
        transposed: x^T is wanted in memory as such, not as a view of x.
    """

    name: str
    forward: Callable[[Tensor, Tensor, Tensor], Tensor]
    add: Callable[[Tensor, Tensor, Tensor], Tensor]
    transposed: bool


def _forward(b: Tensor, x: Tensor, w: Tensor) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, w.t(), b, "none", [], "")
    return found


def _add(w: Tensor, xt: Tensor, d: Tensor) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(xt, w, d.t(), None, "add")
    return found


TORCH = MatmulBackend("torch", torch.addmm, lambda w, xt, d: w.addmm_(xt, d), transposed=False)
ONE_DNN = MatmulBackend("oneDNN", _forward, _add, transposed=True)


def _rounded_forward(b: Tensor, x: Tensor, w: Tensor) -> Tensor:
    return torch.addmm(b.bfloat16(), x.bfloat16(), w.bfloat16()).float()


def _add_rounded(w: Tensor, xt: Tensor, d: Tensor) -> Tensor:
    return w.add_(torch.mm(xt.bfloat16(), d.bfloat16()))


BFLOAT16 = MatmulBackend("bfloat16", _rounded_forward, _add_rounded, transposed=True)
"""Factors and products rounded to 8 bits, sums within a product and weights in float32, as torch's autocast does it."""


def matmul_backend(like: Tensor, rounded: bool = True) -> MatmulBackend:
    """Those for such tensors.

    Args:
        rounded: bfloat16 will do where torch's precision of float32 products is `medium`; else it never does.
    """
    if rounded and like.dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium":
        return BFLOAT16
    if like.device.type != "cpu" or like.dtype != torch.float32 or not _is_there():
        return TORCH
    if _fastest() == TORCH.name:
        return TORCH
    _keep_freed_memory()
    return ONE_DNN


@cache
def _is_there() -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    x, w, b = torch.rand(3, 4), torch.rand(4, 8), torch.rand(8)
    try:
        right = torch.allclose(_forward(b, x, w), torch.addmm(b, x, w), atol=1e-5)
        return right and torch.allclose(_add(w, x.t().contiguous(), torch.ones(3, 8)), w + x.t() @ torch.ones(3, 8))
    except (AttributeError, RuntimeError, TypeError):  # an operator of torch's own, which another version may change
        return False


@cache
def _fastest() -> str:
    """The name that is noted for this machine, or is found and noted now."""
    return noted("products", (TORCH.name, ONE_DNN.name), _measured)


def _measured() -> str:
    with ThreadPoolExecutor(1, initializer=lambda: torch.set_num_threads(1)) as pool:  # as a tile computes
        taken = pool.submit(_seconds).result()
    return ONE_DNN.name if CLEARLY * taken[ONE_DNN.name] < taken[TORCH.name] else TORCH.name


def _seconds() -> dict[str, float]:
    """Of both products by each library: the best of several turns, in which a busy moment hits both."""
    g = torch.Generator().manual_seed(0)
    x, w, b, d = (torch.rand(*shape, generator=g) for shape in ((ROWS, INPUTS), (INPUTS, WIDE), (WIDE,), (ROWS, WIDE)))
    taken: dict[str, list[float]] = {TORCH.name: [], ONE_DNN.name: []}
    for _ in range(REPEATS):
        for made in (TORCH, ONE_DNN):
            xt = x.t().contiguous() if made.transposed else x.t()
            began = time.perf_counter()
            made.forward(b, x, w)
            w = made.add(w, xt, d)
            taken[made.name].append(time.perf_counter() - began)
    return {name: min(each) for name, each in taken.items()}


@cache
def _keep_freed_memory() -> None:
    with suppress(OSError, AttributeError):  # of glibc alone
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
