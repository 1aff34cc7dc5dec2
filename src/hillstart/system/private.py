"""The private interfaces of torch and Lightning that hillstart uses, and what it does when they are gone.

Checked with torch 2.14.1 and lightning 2.6.6. Lightning is imported only by what needs it, because predictions do not.

========================================  ===========================================  ================================
interface                                 why                                          without it
========================================  ===========================================  ================================
torch.ops.mkldnn._linear_pointwise        oneDNN's products, up to twice as fast as    torch.addmm
                                          MKL's (docs/speed.md)
torch.jit._get_trace_graph,               a block of descent as one call without       the same operators one by one
  torch._C._create_function_from_graph    Python's lock (engine/traced.py); the        from Python: the same bits, up to
                                          public torch.jit.trace is deprecated, and    a third slower on two cores
                                          keeps some MB for each recording for ever
fit_loop.epoch_loop.manual_optimization   a chunk counts as many steps, so that        as many empty steps, some 20 us
  .optim_step_progress                    max_steps and loggers count mini-batches     each
fit_loop.epoch_loop.max_steps             with max_steps, Lightning would take a       a run with trainer.max_steps may
                                          checkpoint for one within an epoch, and      skip an epoch when it is resumed
                                          skip the next epoch
========================================  ===========================================  ================================
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import lightning.pytorch as pl


def one_dnn_forward(b: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """`MatmulBackend.forward` by oneDNN.

    Raises:
        AttributeError, RuntimeError, TypeError: this torch has no such operator, or another one.
    """
    return torch.ops.mkldnn._linear_pointwise(x, w.t(), b, "none", [], "")


def one_dnn_add(w: Tensor, xt: Tensor, d: Tensor) -> Tensor:
    """`MatmulBackend.add` by oneDNN, as a new tensor; raises as `one_dnn_forward`."""
    return torch.ops.mkldnn._linear_pointwise.binary(xt, w, d.t(), None, "add")


def recorded(
    function: Callable[..., Iterable[Tensor]], inputs: Sequence[Tensor]
) -> Callable[..., Iterable[Tensor]] | None:
    """The operators that a function of tensors calls, as a function that runs without Python; None if that fails.

    Args:
        function: must call the same operators whatever the values of the tensors.
        inputs: of the shapes that it is recorded for; the function is computed with them once.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # shapes become constants of the recording, as they should
            graph, _ = torch.jit._get_trace_graph(function, tuple(inputs))
        run = torch._C._create_function_from_graph("forward", graph)
    except Exception:  # another torch may fail in any way, and nothing depends on it but speed
        return None

    def unchanged(*tensors: Tensor) -> Iterable[Tensor]:
        with torch.jit.optimized_execution(False):  # else addmm becomes mm and add, with other bits
            return run(*tensors)

    return unchanged


def take_max_steps(trainer: "pl.Trainer") -> int:
    """`trainer.max_steps`, which Lightning itself does not know from here on."""
    steps, trainer.fit_loop.epoch_loop.max_steps = trainer.max_steps, -1
    return steps


def count_steps(trainer: "pl.Trainer", optimiser: Any, steps: int) -> None:
    """Add to `trainer.global_step`, which counts the steps of `optimiser`."""
    try:
        progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        counters = (progress.total, progress.current)
    except AttributeError:
        for _ in range(steps):
            optimiser.step(lambda: None)
        return
    for counter in counters:
        counter.ready += steps
        counter.completed += steps
