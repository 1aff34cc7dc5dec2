"""What is done when a private interface of another package is gone."""

from types import SimpleNamespace

import pytest
import torch

import hillstart.engine.matmul
from hillstart.engine.matmul import TORCH
from hillstart.system import private


def test_steps_are_counted_by_public_calls_too() -> None:
    steps = []
    trainer = SimpleNamespace(fit_loop=SimpleNamespace(epoch_loop=None))
    private.count_steps(trainer, SimpleNamespace(step=steps.append), 5)
    assert len(steps) == 5


def test_products_are_torchs_own_without_one_dnn(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*tensors: torch.Tensor) -> torch.Tensor:
        raise AttributeError

    monkeypatch.setattr(hillstart.engine.matmul, "one_dnn_forward", gone)
    monkeypatch.setattr(hillstart.engine.matmul, "_is_there", hillstart.engine.matmul._is_there.__wrapped__)
    assert hillstart.engine.matmul.matmul_backend(torch.zeros(1)) is TORCH
