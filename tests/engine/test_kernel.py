"""The kernel is descent (by Triton's interpreter, or on a GPU), fits a multiprocessor, and gets what it can take."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hillstart.data.augment import Augment
from hillstart.engine.cuda import Pixels, why_not_kernel
from hillstart.network import GradientDescent, Momentum, Nesterov, Network, PerStart
from launching import BOUND
from made import blobs, trainer, training
from pretended import Device, pretended

OF_THE_WAY = 2e-5
"""Error of a parameter as a share of the way that it moved: delta^1 is two bfloat16, which the interpreter cuts off."""


def kernels(what: str, device: str) -> list[tuple[str, list[float]]]:
    """The names and the figures of each case of `tests/kernels.py`."""
    pytest.importorskip("triton")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine, and none can be pretended to Triton")
    command = [sys.executable, str(Path(__file__).parents[1] / "kernels.py"), what]
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if device == "cpu" else {})
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return [(" ".join(row[:3]), [float(figure) for figure in row[3:]]) for row in rows]


ON = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.slow
@pytest.mark.parametrize("device", ON)
def test_the_kernel_is_descent(device: str) -> None:
    found = kernels("descend", device)
    assert len(found) == 9 + 6 + 1
    for case, errors in found:
        assert len(errors) == 4 and max(errors) < OF_THE_WAY, case


@pytest.mark.slow
@pytest.mark.parametrize("device", ON)
def test_the_kernel_evaluates(device: str) -> None:
    found = kernels("evaluate", device)
    assert len(found) == 9
    for case, (cost, right) in found:
        assert cost < 1e-6 and right == 0, case


@pytest.mark.slow
def test_the_kernel_fits_a_multiprocessor() -> None:
    """Compiled for an H100: at batch 10 next to nothing of [784, 30, 10] leaves the registers."""
    found = dict(kernels("compile", ""))
    most = {"descend 10 0": 512, "descend 10 1": 1536, "descend 128 0": 1536, "descend 128 1": 2048}
    most["evaluate 1000 0"] = 0
    assert found.keys() == most.keys()
    for case, (registers, spilt, shared) in found.items():
        assert registers <= 255 and spilt <= most[case] and shared <= 227 << 10, case


@pytest.mark.parametrize("mean", [0.0, 72.84, 85.5, 127.0])
def test_levels_are_whole_and_exact(mean: float) -> None:
    pixels, level = Pixels(mean, 89.93), torch.arange(256.0).unsqueeze(1)
    x = (level - mean) / pixels.std
    torch.testing.assert_close(pixels.levels(x).float() + round(mean), level, rtol=0, atol=0)
    torch.testing.assert_close(pixels.levels(x).double() / pixels.std - pixels.shift, x.double(), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- which way a start goes


class Clipped(GradientDescent):
    """A step of one's own."""


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, None),
        ({"step": Momentum, "sizes": [784, 32, 32]}, None),
        ({"step": Nesterov, "sizes": [196, 16, 2]}, None),
        ({"sizes": [784, 33, 10]}, "one hidden layer"),
        ({"sizes": [784, 30, 33]}, "one hidden layer"),
        ({"sizes": [784, 30, 20, 10]}, "one hidden layer"),
        ({"sizes": [1024, 30, 10]}, "registers"),
        ({"pixels": None}, "grey levels"),
        ({"step": Clipped}, "gradient descent"),
        ({"optimises": True}, "gradient descent"),
        ({"dtype": torch.float64}, "float32"),
    ],
)
def test_the_kernel_takes_what_it_can(given: dict[str, Any], why: str | None) -> None:
    with pretended():
        options = {"sizes": [784, 30, 10], "dtype": torch.float32, "step": GradientDescent, "optimises": False} | given
        network = Network.start(options["sizes"], [0], dtype=options["dtype"], device="cuda")
        found = why_not_kernel(network, options["step"], options["optimises"], given.get("pixels", Pixels(72.8, 89.9)))
    assert found is None if why is None else why in str(found)


def in_place_of_the_kernel(calls: list[str]) -> SimpleNamespace:
    """The kernel's functions, computed by network.py from the levels that the kernel would multiply."""

    def inputs(x: Tensor, pixels: Pixels) -> Tensor:
        return pixels.levels(x).float() / pixels.std - pixels.shift

    def descend(
        network: Network,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        factors: Tensor,
        pixels: Pixels,
        eta: PerStart,
        decay: PerStart,
        step: GradientDescent,
    ) -> None:
        calls.append("descend")
        parts = zip(inputs(x, pixels).split(batch_size), y.split(batch_size), factors.tolist(), strict=True)
        for part, wanted, factor in parts:
            network.descend(part, wanted, eta * factor, decay / eta, 1, step)

    def evaluate(network: Network, x: Tensor, y: Tensor, pixels: Pixels) -> tuple[Tensor, Tensor]:
        calls.append("evaluate")
        cost, outputs = network.evaluate(inputs(x, pixels), y)
        return cost.double().sum(1), (outputs.argmax(-1) == y.argmax(-1)).double().sum(1)

    return SimpleNamespace(descend=descend, evaluate=evaluate)


@pytest.mark.parametrize("options", [{}, {"eta": [0.1, 0.5], "momentum": [0.0, 0.9], "lmbda": 3.0, "nesterov": True}])
def test_training_by_the_kernel_ends_as_on_the_cpu(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "hillstart.engine.kernel", in_place_of_the_kernel(calls))  # type: ignore[arg-type]
    data = blobs()
    data = replace(data, preprocessing=data.preprocessing.fitted(data.train.x))
    ends = []
    with pretended() as cuda:
        for device in ("cpu", "cuda"):
            made = training(data=data, cost="cross_entropy", kernel="auto", **options)
            trainer(tmp_path / device, accelerator=device).fit(made)
            ends.append(made)
            assert bool(calls) == (device == "cuda")
        assert cuda.replays == 0 and set(calls) == {"descend", "evaluate"}
    on_cpu, on_cuda = (made.history.figures for made in ends)
    torch.testing.assert_close(on_cuda, on_cpu, rtol=1e-4, atol=1e-4)


def test_a_run_that_the_kernel_cannot_take_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cuda: Device | None
) -> None:
    data = replace(blobs(), augment=Augment.preset("photo", 6))
    with caplog.at_level(logging.INFO, logger="hillstart"):
        trainer(tmp_path, accelerator="cuda", max_epochs=1).fit(training(data=data, kernel="auto"))
    (said,) = [record.message for record in caplog.records if "descent.kernel" in record.message]
    assert "grey levels" in said
