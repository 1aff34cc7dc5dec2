"""The private interfaces of torch and Lightning that hillstart uses, and what it does when they are gone.

Checked with torch 2.14.1 and lightning 2.6.6. Lightning is imported only by what needs it, because predictions do not.

========================================  ===========================================  ================================
interface                                 why                                          without it
========================================  ===========================================  ================================
torch.ops.mkldnn._linear_pointwise        oneDNN's products, up to twice as fast as    torch.addmm
                                          MKL's (docs/speed.md)
fit_loop.epoch_loop.manual_optimization   a chunk counts as many steps, so that        as many empty steps, some 20 us
  .optim_step_progress                    max_steps and loggers count mini-batches     each
fit_loop.epoch_loop.max_steps             with max_steps, Lightning would take a       a run with trainer.max_steps may
                                          checkpoint for one within an epoch, and      skip an epoch when it is resumed
                                          skip the next epoch
========================================  ===========================================  ================================
"""

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
