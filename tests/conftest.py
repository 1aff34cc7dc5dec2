"""Shapes and types of public functions are checked while tests run; tests of CUDA pretend a device if there is none."""

import gc
import logging
import multiprocessing.process
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from launching import train_in
from pretended import Device, pretended

# The tower: a whole number is a float too, as in eta=3.
jaxtyping.install_import_hook("hillstart", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


@pytest.fixture(autouse=True, scope="session")
def _recorded_unchecked() -> Iterator[None]:
    """While a descent is recorded, torch gives sizes as tensors, which are not the annotated `int`."""
    from hillstart.engine import traced

    def recorded(*arguments: Any) -> Any:
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            return original(*arguments)
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)

    original = traced.recorded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traced, "recorded", recorded)
        yield


SLOW_FOLDERS = ("e2e", "benchmarks")


def pytest_configure(config: pytest.Config) -> None:
    # Workers share the cores, and the threads of small products would wait for each other.
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)
        if "cuda" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)
    # Files of slow tests come first, so that no worker is left with one when the others have finished.
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    gc.freeze()  # else each collection would walk millions of objects of the libraries, a second each time


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    gc.unfreeze()  # Hypothesis, if it is imported as late as for the summary, looks for what refers to an object


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Keep the fast suite fast: a test that starts a process or a browser must be marked `slow`."""
    start = subprocess.Popen.__init__

    def start_only_git(self: subprocess.Popen[bytes], args: Any, *rest: Any, **options: Any) -> None:
        if args[0] not in ("git", "fc-list"):  # for the commit of a run; once by Matplotlib, for its list of fonts
            pytest.fail(f"starts {args}; mark the test slow.")
        start(self, args, *rest, **options)

    def start_none(self: multiprocessing.process.BaseProcess) -> None:
        pytest.fail(f"starts {self}; mark the test slow.")

    with pytest.MonkeyPatch.context() as patch:
        if not item.get_closest_marker("slow"):
            patch.setattr(subprocess.Popen, "__init__", start_only_git)
            patch.setattr(multiprocessing.process.BaseProcess, "start", start_none)
        return (yield)


@pytest.fixture
def cuda() -> Iterator[Device | None]:
    """CUDA: this machine's own (None), or a pretended device where it has none."""
    if torch.cuda.is_available():
        yield None
    else:
        with pretended() as device:
            yield device


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs in a folder of its own, as a shell tells it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))


@pytest.fixture
def train(empty_folder: None) -> Callable[..., None]:
    """`scripts/train.py` with these options, in this process and in an empty folder."""
    return lambda *options: train_in(Path.cwd(), *options)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded pictures are kept in a folder of these tests, never in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def drawn_once() -> Iterator[None]:
    """Keep the drawings of lion_duck: to draw them is half the time of a small training."""
    from hillstart.data import lion_duck

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lion_duck, "_drawn", cache(lion_duck._drawn))
        yield


@pytest.fixture(autouse=True)
def closed_logs() -> Iterator[None]:
    """Remove the log handlers that Hydra has added for a training in this process.

    One word more would open its file again, or go to a standard stream that pytest has closed since.
    """
    yield
    for handler in logging.root.handlers[:]:
        if type(handler).__module__ in ("logging", "hillstart.runs.logs"):
            logging.root.removeHandler(handler)
            handler.close()


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Two network namespaces, 10.77.0.1 and 10.77.0.2, that see each other and nothing else."""
    names = [f"hillstart-{os.getpid()}-{i}" for i in (1, 2)]
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip")
    ip = lambda *words: subprocess.run(["ip", *words], check=True, capture_output=True)  # noqa: E731
    made: list[str] = []
    try:
        try:
            for name in names:
                ip("netns", "add", name)
                made.append(name)
            ends = [f"hs{os.getpid()}-{i}" for i in (1, 2)]
            ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
            for i, (name, end) in enumerate(zip(names, ends, strict=True), 1):
                ip("-n", name, "link", "set", end, "name", "veth")
                ip("-n", name, "address", "add", f"10.77.0.{i}/24", "dev", "veth")
                for link in ("lo", "veth"):
                    ip("-n", name, "link", "set", link, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        yield names
    finally:
        for name in made:
            ip("netns", "delete", name)
