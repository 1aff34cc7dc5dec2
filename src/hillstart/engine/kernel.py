"""A Triton kernel that descends a start through many mini-batches while its first layer stays in registers.

One program is one start with one hidden layer. Its w^1 lies in the registers of W warps, cut along the inputs, in the
layout in which tensor cores return their sums and take their left factor. So a forward product needs other warps only
for its sum, and an update needs none.

Pixels are whole numbers from 0 to 255. A pixel less a whole mean is exact in bfloat16, so the tensor cores multiply
pictures in bfloat16, and only w is split, into three bfloat16 numbers, which hold what float32 holds; errors delta are
split into two. With X the pixels less the whole number nearest to their mean, the network's inputs are
x = scale X - shift, where |shift| is at most half a pixel level. Hence

    z^1 = scale (X w) - shift c + b,   c = the sum of w over the inputs,   w <- w + X^T (scale d) - shift (sum of d),

with d = -eta/B delta^1. The sums c move as parameters do: x^T d summed over the inputs is their gradient.

The symbols and the equations are those of `network.py`. In the kernels, n_1 and n_out are filled up to N and M nodes
without weights; `i`, `n`, `m` count inputs, hidden nodes and outputs, `t` the T pictures that are multiplied at a time.
This module alone needs Triton.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from hillstart.engine import cuda
from hillstart.engine.cuda import KERNEL_ACTIVATIONS, KERNEL_COSTS, Pixels, filled, slices
from hillstart.network import GradientDescent, Momentum, Nesterov, Network, PerStart

SIGMOID, TANH, RELU = map(tl.constexpr, range(3))  # indices in KERNEL_ACTIVATIONS
QUADRATIC, CROSS_ENTROPY, LOG_LIKELIHOOD = map(tl.constexpr, range(3))  # in KERNEL_COSTS
PLAIN, MOMENTUM, NESTEROV = 0, 1, 2
PICTURES = 16
"""Pictures that are multiplied at a time (T), the fewest that tensor cores take."""
STAGES = 2
"""Loads of pictures in flight; three need more shared memory than an H100 has."""
INPUTS = tl.constexpr(cuda.INPUTS)
"""Inputs of a warp that are multiplied at a time."""


# ---------------------------------------------------------------- parts of the kernels


@triton.jit
def _sigma(z, ACTIVATION: tl.constexpr):
    """The activation of the hidden layer."""
    if ACTIVATION == SIGMOID:
        a = 1 / (1 + tl.exp(-z))
    elif ACTIVATION == TANH:
        e = tl.exp(-2 * tl.abs(z))
        a = tl.where(z < 0, e - 1, 1 - e) / (1 + e)
    else:
        a = tl.where(z <= 0, 0.0, z)  # not the maximum, which would hide a start that has become nan
    return a


@triton.jit
def _slope(a, ACTIVATION: tl.constexpr):
    """sigma'(z), from a = sigma(z)."""
    if ACTIVATION == SIGMOID:
        slope = a * (1 - a)
    elif ACTIVATION == TANH:
        slope = 1 - a * a
    else:
        slope = tl.where(a > 0, 1.0, 0.0)
    return slope


@triton.jit
def _output(z, m, n_out: tl.constexpr, COST: tl.constexpr):
    """The activations of the last layer, (M, T)."""
    if COST == LOG_LIKELIHOOD:
        z = tl.where((m < n_out)[:, None], z, -float("inf"))
        e = tl.exp(z - tl.max(z, 0)[None, :])
        a = e / tl.sum(e, 0)[None, :]
    else:
        a = 1 / (1 + tl.exp(-z))
    return a


@triton.jit
def _times(w, x, z):
    """z + w x for w (W, N, 16) in float32 and x (W, 16, T) in bfloat16, as exact as a product in float32."""
    high = w.to(tl.bfloat16)
    rest = w - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    z = tl.dot((rest - middle.to(tl.float32)).to(tl.bfloat16), x, acc=z)
    return tl.dot(high, x, acc=tl.dot(middle, x, acc=z))


@triton.jit
def _weights_at(s, S, n_in: tl.constexpr, n_1: tl.constexpr, W: tl.constexpr, N: tl.constexpr, P: tl.constexpr, p):
    """Offsets of piece p of w^1, (W, N, 16), in the memory layout of w[0], and which of them exist."""
    i = (tl.arange(0, W)[:, None, None] * P + p) * INPUTS + tl.arange(0, INPUTS)[None, None, :]
    n = tl.arange(0, N)[None, :, None]
    return (i.to(tl.int64) * S + s) * n_1 + n, (i < n_in) & (n < n_1)


@triton.jit
def _columns(x, W: tl.constexpr, T: tl.constexpr, P: tl.constexpr, p):
    """Piece p of T pictures as columns: (W, 16, T)."""
    i = (tl.arange(0, W)[:, None, None] * P + p) * INPUTS + tl.arange(0, INPUTS)[None, :, None]
    return tl.load(x + i + tl.arange(0, T)[None, None, :] * (W * P * INPUTS))


@triton.jit
def _rows(x, W: tl.constexpr, T: tl.constexpr, P: tl.constexpr, p):
    """Piece p of T pictures as rows: (W, T, 16)."""
    i = (tl.arange(0, W)[:, None, None] * P + p) * INPUTS + tl.arange(0, INPUTS)[None, None, :]
    return tl.load(x + i + tl.arange(0, T)[None, :, None] * (W * P * INPUTS))


@triton.jit
def _first_layer(
    w_ptr, s, S,
    n_in: tl.constexpr, n_1: tl.constexpr, W: tl.constexpr, N: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The pieces of a tensor like w^1, (W, N, 16) each."""
    pieces = ()
    for p in tl.static_range(P):
        at, there = _weights_at(s, S, n_in, n_1, W, N, P, p)
        pieces = pieces + (tl.load(w_ptr + at, mask=there, other=0.0),)
    return pieces


@triton.jit
def _sum_of_inputs(pieces, N: tl.constexpr, P: tl.constexpr):
    """The sum of a tensor like w^1 over its inputs, (N,)."""
    c = tl.zeros((N,), tl.float32)
    for p in tl.static_range(P):
        c += tl.sum(tl.sum(pieces[p], 2), 0)
    return c


@triton.jit
def _forward(
    w1, b1, c, w2, b2, x, scale, shift, n, m,
    n_1: tl.constexpr, n_out: tl.constexpr, W: tl.constexpr, N: tl.constexpr, T: tl.constexpr, P: tl.constexpr,
    ACTIVATION: tl.constexpr, COST: tl.constexpr,
):  # fmt: skip
    """a^1 (N, T), z^2 and a^2 (M, T) of T pictures: equation 25."""
    parts = tl.zeros((W, N, T), tl.float32)
    for p in tl.static_range(P):
        parts = _times(w1[p], _columns(x, W, T, P, p), parts)
    a1 = _sigma(tl.sum(parts, 0) * scale + (b1 - shift * c)[:, None], ACTIVATION)
    a1 = tl.where((n < n_1)[:, None], a1, 0.0)  # or a node that only fills up would learn weights to the next layer
    z2 = tl.dot(tl.trans(w2), a1, input_precision="ieee") + b2[:, None]
    return a1, z2, _output(z2, m, n_out, COST)


@triton.jit
def _backward(
    a1, a2, w2, y_ptr, total_ptr, t, B, step, m, nabla_w2, nabla_b2, nabla_b1, nabla_c,
    n_out: tl.constexpr, ACTIVATION: tl.constexpr, COST: tl.constexpr,
):  # fmt: skip
    """step delta^1 of some pictures, (N, T), and the sums of gradients with what these pictures add."""
    there = (t < B)[None, :] & (m < n_out)[:, None]
    y = tl.load(y_ptr + t[None, :] * n_out + m[:, None], mask=there, other=0.0)
    d2 = (a2 - y) * step  # BP1
    if COST == QUADRATIC:
        d2 = d2 * a2 * (1 - a2)
    d2 = tl.where(there, d2, 0.0)
    d1 = tl.dot(w2, d2, input_precision="ieee") * _slope(a1, ACTIVATION)  # BP2
    nabla_w2 = tl.dot(a1, tl.trans(d2), acc=nabla_w2, input_precision="ieee")  # BP4
    total = tl.load(total_ptr + t, mask=t < B, other=0.0)
    # BP3 and the gradient of c, which are summed over the pictures at the end.
    return d1, nabla_w2, nabla_b2 + d2, nabla_b1 + d1, nabla_c + d1 * total[None, :]


@triton.jit
def _parts(d, W: tl.constexpr, N: tl.constexpr, T: tl.constexpr):
    """An error delta (N, T) as two bfloat16 numbers, for each warp: (W, N, T)."""
    high = d.to(tl.bfloat16)
    low = (d - high.to(tl.float32)).to(tl.bfloat16)
    return tl.broadcast_to(high[None], (W, N, T)), tl.broadcast_to(low[None], (W, N, T))


@triton.jit
def _move(parameter, v, downhill, mu, STEP: tl.constexpr):
    """The parameter and its velocity after a step of network.py: STEP is `PLAIN`, `MOMENTUM` or `NESTEROV`."""
    if STEP == 0:
        parameter += downhill
    else:
        v = mu * v + downhill
        parameter += v if STEP == 1 else mu * v + downhill
    return parameter, v


# ---------------------------------------------------------------- the kernels


# Not for numbers that change: the last mini-batch, or fewer starts, would be compiled anew.
@triton.jit(do_not_specialize=["S", "B", "K"], do_not_specialize_on_alignment=["total_ptr", "y_ptr", "factor_ptr"])
def _descend(
    x_ptr, total_ptr, y_ptr, w1_ptr, w2_ptr, b1_ptr, b2_ptr, v_w1_ptr, v_w2_ptr, v_b1_ptr, v_b2_ptr,
    eta_ptr, decay_ptr, mu_ptr, factor_ptr, delta_ptr, scale, shift, S, B, K,
    n_in: tl.constexpr, n_1: tl.constexpr, n_out: tl.constexpr,
    W: tl.constexpr, N: tl.constexpr, M: tl.constexpr, T: tl.constexpr, P: tl.constexpr,
    ACTIVATION: tl.constexpr, COST: tl.constexpr, STEP: tl.constexpr, DECAYS: tl.constexpr, IN_ONE: tl.constexpr,
):  # fmt: skip
    """K mini-batches of B pictures for start program_id(0).

    P: pieces of 16 inputs for each warp. IN_ONE: a mini-batch has at most T pictures; else delta^1 of more goes through
    memory, (S, N, B) at `delta_ptr`.
    """
    s = tl.program_id(0)
    n, m = tl.arange(0, N), tl.arange(0, M)
    at_2, there_2 = (s * n_1 + n[:, None]) * n_out + m[None, :], (n < n_1)[:, None] & (m < n_out)[None, :]
    at_b1, at_b2 = s * n_1 + n, s * n_out + m
    w1 = _first_layer(w1_ptr, s, S, n_in, n_1, W, N, P)
    c = _sum_of_inputs(w1, N, P)
    b1, b2 = tl.load(b1_ptr + at_b1, mask=n < n_1, other=0.0), tl.load(b2_ptr + at_b2, mask=m < n_out, other=0.0)
    w2 = tl.load(w2_ptr + at_2, mask=there_2, other=0.0)
    v_c, v_b1, v_b2, v_w2 = tl.zeros_like(c), tl.zeros_like(b1), tl.zeros_like(b2), tl.zeros_like(w2)
    if STEP > 0:
        v_c = _sum_of_inputs(_first_layer(v_w1_ptr, s, S, n_in, n_1, W, N, P), N, P)
        v_b1 = tl.load(v_b1_ptr + at_b1, mask=n < n_1, other=0.0)
        v_b2 = tl.load(v_b2_ptr + at_b2, mask=m < n_out, other=0.0)
        v_w2 = tl.load(v_w2_ptr + at_2, mask=there_2, other=0.0)
    eta, mu = tl.load(eta_ptr + s), tl.load(mu_ptr + s)
    delta = delta_ptr + s.to(tl.int64) * (N * B) + n[:, None] * B
    for k in range(K):
        x, y, total = x_ptr + k * B * (W * P * INPUTS), y_ptr + k * B * n_out, total_ptr + k * B
        factor = tl.load(factor_ptr + k)
        step = -eta * factor / B
        decay = tl.load(decay_ptr + s) * factor
        nabla_w2, nabla_b2 = tl.zeros((N, M), tl.float32), tl.zeros((M, T), tl.float32)
        nabla_b1, nabla_c = tl.zeros((N, T), tl.float32), tl.zeros((N, T), tl.float32)
        if IN_ONE:
            t = tl.arange(0, T)
            a1, _, a2 = _forward(w1, b1, c, w2, b2, x, scale, shift, n, m, n_1, n_out, W, N, T, P, ACTIVATION, COST)
            d, nabla_w2, nabla_b2, nabla_b1, nabla_c = _backward(
                a1, a2, w2, y, total, t, B, step, m, nabla_w2, nabla_b2, nabla_b1, nabla_c, n_out, ACTIVATION, COST
            )
            high, low = _parts(d * scale, W, N, T)
        else:
            for first in range(0, B, T):
                t, some = first + tl.arange(0, T), x + first * (W * P * INPUTS)
                a1, _, a2 = _forward(
                    w1, b1, c, w2, b2, some, scale, shift, n, m, n_1, n_out, W, N, T, P, ACTIVATION, COST
                )
                d, nabla_w2, nabla_b2, nabla_b1, nabla_c = _backward(
                    a1, a2, w2, y, total, t, B, step, m, nabla_w2, nabla_b2, nabla_b1, nabla_c, n_out, ACTIVATION, COST
                )
                tl.store(delta + t[None, :], d * scale, mask=(t < B)[None, :])
            tl.debug_barrier()  # each warp reads what others have written
        downhill_b1 = tl.sum(nabla_b1, 1)
        moved = ()
        for p in tl.static_range(P):
            # Summed from zero, because tensor cores round towards zero, which w must not do at each step.
            downhill = tl.zeros((W, N, INPUTS), tl.float32)
            if IN_ONE:
                rows = _rows(x, W, T, P, p)
                downhill = tl.dot(high, rows, acc=tl.dot(low, rows, acc=downhill))
            else:
                for first in range(0, B, T):
                    t = first + tl.arange(0, T)
                    d = tl.load(delta + t[None, :], mask=(t < B)[None, :], other=0.0)
                    high, low = _parts(d, W, N, T)
                    rows = _rows(x + first * (W * P * INPUTS), W, T, P, p)
                    downhill = tl.dot(high, rows, acc=tl.dot(low, rows, acc=downhill))
            downhill -= (shift * downhill_b1)[None, :, None]
            if DECAYS:
                downhill -= decay * w1[p]
            if STEP > 0:
                at, there = _weights_at(s, S, n_in, n_1, W, N, P, p)
                w, v = _move(w1[p], tl.load(v_w1_ptr + at, mask=there, other=0.0), downhill, mu, STEP)
                tl.store(v_w1_ptr + at, v, mask=there)
                moved = moved + (w,)
            else:
                moved = moved + (w1[p] + downhill,)
        w1 = moved
        c, v_c = _move(c, v_c, tl.sum(nabla_c, 1) - decay * c, mu, STEP)
        b1, v_b1 = _move(b1, v_b1, downhill_b1, mu, STEP)
        w2, v_w2 = _move(w2, v_w2, nabla_w2 - decay * w2, mu, STEP)
        b2, v_b2 = _move(b2, v_b2, tl.sum(nabla_b2, 1), mu, STEP)
        if STEP > 0 or not IN_ONE:
            tl.debug_barrier()  # the velocity is written, delta is read and may be written again
    for p in tl.static_range(P):
        at, there = _weights_at(s, S, n_in, n_1, W, N, P, p)
        tl.store(w1_ptr + at, w1[p], mask=there)
    tl.store(b1_ptr + at_b1, b1, mask=n < n_1)
    tl.store(b2_ptr + at_b2, b2, mask=m < n_out)
    tl.store(w2_ptr + at_2, w2, mask=there_2)
    if STEP > 0:
        tl.store(v_b1_ptr + at_b1, v_b1, mask=n < n_1)
        tl.store(v_b2_ptr + at_b2, v_b2, mask=m < n_out)
        tl.store(v_w2_ptr + at_2, v_w2, mask=there_2)


@triton.jit(do_not_specialize=["S", "B"])
def _evaluate(
    x_ptr, y_ptr, w1_ptr, w2_ptr, b1_ptr, b2_ptr, cost_ptr, right_ptr, scale, shift, S, B,
    n_in: tl.constexpr, n_1: tl.constexpr, n_out: tl.constexpr,
    W: tl.constexpr, N: tl.constexpr, M: tl.constexpr, T: tl.constexpr, P: tl.constexpr,
    ACTIVATION: tl.constexpr, COST: tl.constexpr,
):  # fmt: skip
    """Sum the costs of B pictures for start program_id(0), and count the pictures that it gets right."""
    s = tl.program_id(0)
    n, m = tl.arange(0, N), tl.arange(0, M)
    w1 = _first_layer(w1_ptr, s, S, n_in, n_1, W, N, P)
    c = _sum_of_inputs(w1, N, P)
    b1 = tl.load(b1_ptr + s * n_1 + n, mask=n < n_1, other=0.0)
    b2 = tl.load(b2_ptr + s * n_out + m, mask=m < n_out, other=0.0)
    there_2 = (n < n_1)[:, None] & (m < n_out)[None, :]
    w2 = tl.load(w2_ptr + (s * n_1 + n[:, None]) * n_out + m[None, :], mask=there_2, other=0.0)
    costs, right = tl.zeros((T,), tl.float64), tl.zeros((T,), tl.float64)
    for first in range(0, B, T):
        t, some = first + tl.arange(0, T), x_ptr + first * (W * P * INPUTS)
        _, z, a = _forward(w1, b1, c, w2, b2, some, scale, shift, n, m, n_1, n_out, W, N, T, P, ACTIVATION, COST)
        there = (t < B)[None, :] & (m < n_out)[:, None]
        y = tl.load(y_ptr + t[None, :] * n_out + m[:, None], mask=there, other=0.0)
        if COST == QUADRATIC:
            cost = tl.sum(tl.where(there, 0.5 * (a - y) * (a - y), 0.0), 0)
        elif COST == LOG_LIKELIHOOD:
            real = tl.where((m < n_out)[:, None], z, -float("inf"))
            most = tl.max(real, 0)
            cost = most + tl.log(tl.sum(tl.exp(real - most[None, :]), 0)) - tl.sum(tl.where(there, y * z, 0.0), 0)
        else:
            softplus = tl.where(z > 0, z, 0.0) + tl.log(1 + tl.exp(-tl.abs(z)))
            cost = tl.sum(tl.where(there, softplus - y * z, 0.0), 0)
        # Nodes that only fill up get -1, which is below any output.
        answer, wanted = tl.argmax(tl.where((m < n_out)[:, None], a, -1.0), 0), tl.argmax(tl.where(there, y, -1.0), 0)
        costs += tl.where(t < B, cost, 0.0)
        right += tl.where((t < B) & (answer == wanted), 1.0, 0.0)
    tl.store(cost_ptr + s, tl.sum(costs, 0))
    tl.store(right_ptr + s, tl.sum(right, 0))


# ---------------------------------------------------------------- how they are called


def descend(
    network: Network,
    x: Float[Tensor, "R n_in"],
    y: Float[Tensor, "R n_out"],
    batch_size: int,
    factors: Float[Tensor, " K"],
    pixels: Pixels,
    eta: PerStart,
    decay: PerStart,
    step: GradientDescent,
) -> None:
    """Do what `Network.descend` does, for each mini-batch in turn, in place.

    Args:
        x, y: pictures as network inputs, and wanted outputs; the last mini-batch may be smaller.
        factors: learning-rate multiplier of each mini-batch.
        pixels: the pixels that the inputs are.
        decay: eta lmbda/n.
        step: plain descent, `Momentum` or `Nesterov`, of this network.
    """
    S, R = network.starts, len(x)
    shape = _shape(network)
    mu, velocity = (step.mu, step.state["velocity"]) if isinstance(step, Momentum) else (0.0, network)
    per_start = [torch.as_tensor(v, dtype=torch.float32, device=x.device).expand(S) for v in (eta, decay, mu)]
    kind = NESTEROV if isinstance(step, Nesterov) else MOMENTUM if isinstance(step, Momentum) else PLAIN
    decays = isinstance(decay, Tensor) or decay != 0
    in_one = batch_size <= PICTURES
    delta = x.new_empty(1 if in_one else S * shape["N"] * batch_size)
    inputs, total = _laid_out(pixels, x, shape), x.double().sum(1).float()
    whole = R // batch_size * batch_size
    for rows, B in ((slice(0, whole), batch_size), (slice(whole, R), R - whole)):
        batches = factors[rows.start // batch_size :][: -(-(rows.stop - rows.start) // batch_size)]
        if not len(batches):
            continue
        _descend[(S,)](
            inputs[rows.start :], total[rows.start :], y[rows.start :],
            *_in_memory(network), *_in_memory(velocity),
            *map(torch.Tensor.contiguous, per_start), batches, delta, 1 / pixels.std, pixels.shift, S, B, len(batches),
            **shape, STEP=kind, DECAYS=decays, IN_ONE=in_one, num_warps=shape["W"], num_stages=STAGES,
        )  # fmt: skip


def evaluate(
    network: Network, x: Float[Tensor, "R n_in"], y: Float[Tensor, "R n_out"], pixels: Pixels
) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
    """Sum over the pictures of each start's costs (`Network.evaluate`), and the number it gets right, in float64."""
    shape = _shape(network)
    cost, right = x.new_empty(2, network.starts, dtype=torch.float64)
    _evaluate[(network.starts,)](
        _laid_out(pixels, x, shape), y, *_in_memory(network), cost, right, 1 / pixels.std, pixels.shift,
        network.starts, len(x), **shape, num_warps=shape["W"], num_stages=STAGES,
    )  # fmt: skip
    return cost, right


def _shape(network: Network) -> dict[str, int]:
    """The constants that a kernel is compiled for."""
    n_in, n_1, n_out = network.sizes
    W = slices(n_in, n_1)
    return {
        "n_in": n_in,
        "n_1": n_1,
        "n_out": n_out,
        "W": W,
        "N": filled(n_1),
        "M": filled(n_out),
        "T": PICTURES,
        "P": -(-n_in // (INPUTS.value * W)),
        "ACTIVATION": KERNEL_ACTIVATIONS.index(network.activation),
        "COST": KERNEL_COSTS.index(network.cost),
    }


def _laid_out(pixels: Pixels, x: Tensor, shape: dict[str, int]) -> Tensor:
    """The pixels in rows of whole pieces, and rows of zeros behind the last picture, so that no load needs a mask."""
    laid_out = x.new_zeros(len(x) + shape["T"], shape["W"] * shape["P"] * INPUTS.value, dtype=torch.bfloat16)
    laid_out[: len(x), : x.shape[1]] = pixels.levels(x)
    return laid_out


def _in_memory(network: Network) -> list[Tensor]:
    """w^1 as it lies in memory, (n_in, S, n_1), w^2, b^1, b^2."""
    return [network.w[0].transpose(0, 1), *network.parameters[1:]]
