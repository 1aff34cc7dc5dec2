"""Model files and checkpoints for tests: sound ones, and the checks on what becomes of damaged ones."""

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from forking import run_forked
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.inference.voting import Calibration
from hillstart.network import Network
from hillstart.system.errors import InputError


def made(
    S: int = 3, hidden: tuple[int, ...] = (5,), classes: tuple[str, ...] = ("a", "b", "c"), **more: Any
) -> Classifier:
    kinds = {name: more.pop(name) for name in ("activation", "cost") if name in more}
    network = Network.start([36, *hidden, len(classes)], range(S), **kinds)
    origins = tuple(Start(10**9 + s, Hyperparameters(0.1 * (s + 1), 0.9, 1e-4)) for s in range(S))
    return Classifier(network, origins, classes, Preprocessing(6, 1, 7, (0.1,), (0.7,)), **more)


def whole() -> Classifier:
    """A classifier with everything that a model file can hold."""
    trained_on = {"pictures": 103, "files": 0, "sha256": None}
    about = {"trained_on": trained_on, "versions": {"torch": "2.14.1"}, "val_accuracies": (0.9, 0.8, 1.0)}
    return made(calibration=Calibration(1.7, (1.1, 0.5, 2.0)), **about)


def assert_same(one: Classifier, other: Classifier) -> None:
    for name in ("origins", "classes", "preprocessing", "calibration", "trained_on", "versions", "val_accuracies"):
        assert getattr(one, name) == getattr(other, name), name
    assert (one.network.activation, one.network.cost) == (other.network.activation, other.network.cost)
    for p, q in zip(one.network.parameters, other.network.parameters, strict=True):
        assert p.dtype == q.dtype and torch.equal(p, q)
    assert one.network.w[0].transpose(0, 1).is_contiguous()  # what `Network` multiplies as one wide matrix
    assert all(t.is_contiguous() for t in one.network.parameters[1:])


def load(path: Path) -> Classifier:
    return (model_file.load_checkpoint if path.suffix == ".ckpt" else model_file.load)(path)


def refused(path: Path) -> str:
    """The error message for a file that must not be loaded, without its name."""
    with pytest.raises(InputError) as error:
        load(path)
    return sentence(path, str(error.value))


def sentence(path: Path, message: str) -> str:
    """The message without the name of its file; it must be one short printable sentence with advice."""
    assert message.startswith(str(path))
    rest = message.removeprefix(str(path)).removeprefix(":").strip()
    assert rest.isprintable() and len(rest) < 160, rest
    assert rest.endswith(".") and ". " not in rest and rest.count("; ") == 1, rest
    return rest


def refused_or_sound(path: Path) -> Classifier | None:
    """The classifier in a damaged file, checked in every part; None if it is refused."""
    try:
        model = load(path)
    except InputError as error:
        sentence(path, str(error))
        return None
    network = model.network
    assert network.sizes == [36, 5, 3] and network.starts == len(model.origins) == 3
    assert all(bool(t.isfinite().all()) for t in network.parameters)
    assert len(set(model.classes)) == 3 and all(isinstance(name, str) for name in model.classes)
    assert bool(model.preprocessing.normalise(torch.zeros(2, 1, 6, 6)).isfinite().all())
    if model.calibration is not None:
        assert len(model.calibration.starts) == 3
        temperatures = torch.tensor([model.calibration.vote, *model.calibration.starts])  # in float32
        assert bool((torch.full((4,), 100.0) / temperatures).isfinite().all()) and bool((temperatures > 0).all())
    return model


def flipped(data: bytes, first: int, last: int, rng: random.Random) -> bytes:
    """The data with a few bits between two positions flipped."""
    damaged = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        damaged[rng.randrange(first, last)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


class Bomb:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


LOAD_ALL = """
import json, os, sys
from pathlib import Path
import torch
from hillstart.inference import model_file
from hillstart.system.errors import InputError

def now(what):
    return int(next(line for line in open("/proc/self/status") if line.startswith(what)).split()[1]) << 10

torch.set_num_threads(1)
for path in map(Path, sys.argv[1:]):
    if not os.fork():  # a new process has peaks of its own
        before, resident = now("VmSize"), now("VmRSS")
        try:
            (model_file.load_checkpoint if path.suffix == ".ckpt" else model_file.load)(path)
            message = None
        except InputError as error:
            message = str(error)
        print(json.dumps([path.name, message, now("VmPeak") - before, now("VmHWM") - resident]), flush=True)
        os._exit(0)
    os.wait()
"""


def measured(*paths: Path) -> Iterator[tuple[Path, str | None, int, int]]:
    """Each path, the error message, and the bytes by which loading it grew a process: asked for, and really used."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells the peak memory of a process")
    run = run_forked([sys.executable, "-c", LOAD_ALL, *paths], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [line[0] for line in lines] == [path.name for path in paths], run.stderr
    return ((path, *line[1:]) for path, line in zip(paths, lines, strict=True))
