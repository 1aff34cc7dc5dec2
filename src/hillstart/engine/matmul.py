"""The two wide products of the first layer, by the faster of torch's two libraries, or in bfloat16.

torch multiplies float32 matrices on the CPU by MKL, which on some machines reaches half of the peak. oneDNN, which is
part of torch, reaches more; the operator that torch.compile uses for linear layers calls it. Which library is faster is
measured once, in a fraction of a second, and stored in the user's cache for this processor and this torch, so that a
machine keeps giving the same bits.
"""

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from hillstart.engine.tiling import workers
from hillstart.system.machine import cached_choice
from hillstart.system.private import one_dnn_add, one_dnn_forward

CLEARLY = 1.2
"""oneDNN is used only if it is faster by this factor, because torch's public products work in place."""

ROWS, INPUTS, WIDE, REPEATS = 96, 784, 960, 15
"""Sizes of the products that are measured (a block of pictures, their pixels, 32 starts of 30 nodes), and repeats."""

# glibc returns a large freed block to the system, and the next allocation costs a page fault for every 4 KiB. With a
# new w at each step that would take longer than the product itself.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES, LARGEST_BYTES = 128 << 20, 32 << 20


@dataclass(frozen=True)
class MatmulBackend:
    """The products of a library, over `wide` columns of all starts together.

    Attributes:
        forward: b + x w, from b (wide,), x (R, n_in), w (n_in, wide).
        add: w + x^T d, from w, x^T (n_in, R), d (R, wide); it either changes w and returns it, or returns a new tensor.
        transposed: `add` needs x^T contiguous in memory, not as a view of x.
    """

    name: str
    forward: Callable[[Tensor, Tensor, Tensor], Tensor]
    add: Callable[[Tensor, Tensor, Tensor], Tensor]
    transposed: bool


TORCH = MatmulBackend("torch", torch.addmm, lambda w, xt, d: w.addmm_(xt, d), transposed=False)
ONE_DNN = MatmulBackend("oneDNN", one_dnn_forward, one_dnn_add, transposed=True)


BFLOAT16 = MatmulBackend(
    "bfloat16",
    lambda b, x, w: torch.addmm(b.bfloat16(), x.bfloat16(), w.bfloat16()).float(),
    lambda w, xt, d: w.add_(torch.mm(xt.bfloat16(), d.bfloat16())),
    transposed=True,
)
"""Factors and products in bfloat16 (8 bits), sums within a product and weights in float32, as in torch's autocast."""


@cache
def uncompiled(backend: MatmulBackend) -> MatmulBackend:
    """The same products, kept out of what torch.compile compiles.

    Inductor would compute w + x^T d as a new tensor and copy it into w: 28 bytes for each weight in place of 12.
    """
    hidden = torch.compiler.disable
    return replace(backend, forward=hidden(backend.forward), add=hidden(backend.add))


HIGHEST = "highest"
"""The precision of float32 products in which nothing is rounded to fewer bits, as torch calls it."""


@contextmanager
def multiplied_in(precision: str) -> Iterator[None]:
    """Let torch multiply float32 matrices in this precision, which holds for the whole process."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def matmul_backend(like: Tensor, precision: str = HIGHEST) -> MatmulBackend:
    """The backend for tensors like this one, in this precision of float32 products; `medium` is bfloat16."""
    if precision == "medium" and like.dtype == torch.float32:
        return BFLOAT16
    if like.device.type != "cpu" or like.dtype != torch.float32 or not _is_there() or _fastest() == TORCH.name:
        return TORCH
    _keep_freed_memory()
    return ONE_DNN


@cache
def _is_there() -> bool:
    """True if this torch has oneDNN and its operator gives the right numbers."""
    if not torch.backends.mkldnn.is_available():
        return False
    x, w, b = torch.rand(3, 4), torch.rand(4, 8), torch.rand(8)
    try:
        right = torch.allclose(one_dnn_forward(b, x, w), torch.addmm(b, x, w), atol=1e-5)
        added = one_dnn_add(w, x.t().contiguous(), torch.ones(3, 8))
        return right and torch.allclose(added, w + x.t() @ torch.ones(3, 8))
    except (AttributeError, RuntimeError, TypeError):
        return False


@cache
def _fastest() -> str:
    """The name of the faster library, from the cache of this machine or measured now."""

    def measure() -> str:
        taken = workers(1).submit(_seconds).result()  # on one thread, as a tile computes
        return ONE_DNN.name if CLEARLY * taken[ONE_DNN.name] < taken[TORCH.name] else TORCH.name

    return cached_choice("products", (TORCH.name, ONE_DNN.name), measure)


def _seconds() -> dict[str, float]:
    """Seconds of both products by each library: the best of several repeats, interleaved so that noise hits both."""
    g = torch.Generator().manual_seed(0)
    x, w, b, d = (torch.rand(*shape, generator=g) for shape in ((ROWS, INPUTS), (INPUTS, WIDE), (WIDE,), (ROWS, WIDE)))
    taken: dict[str, list[float]] = {TORCH.name: [], ONE_DNN.name: []}
    for _ in range(REPEATS):
        for backend in (TORCH, ONE_DNN):
            xt = x.t().contiguous() if backend.transposed else x.t()
            began = time.perf_counter()
            backend.forward(b, x, w)
            w = backend.add(w, xt, d)
            taken[backend.name].append(time.perf_counter() - began)
    return {name: min(seconds) for name, seconds in taken.items()}


@cache
def _keep_freed_memory() -> None:
    with suppress(OSError, AttributeError):  # only glibc has mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
