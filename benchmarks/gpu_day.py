"""All that is to be measured on a GPU, in the order of its worth: `python -m benchmarks.gpu_day --part first`.

Each step is a process of its own with a limit, so that a fault of the device or a hang costs this step alone. Each
result is a line in OUT/results.jsonl, on the disk as soon as it is known; what the steps print is in OUT/log.txt. A
step is left out when less than half of its expected time is left. `--device cpu --quick` tries every step without a
GPU, in small. Exit code 1 if a step failed or found a claim that does not hold.

A machine without a network needs this checkout, `PYTHONPATH=src:.` with the folder of the packages that it lacks, and:
- `pip download --no-deps --only-binary=:all: -d WHEELS hydra-core==1.3.8 omegaconf==2.3.1 beartype` and what else
  `pip install --dry-run` there reports as missing, for its Python and platform;
- `pip wheel --no-deps -w WHEELS antlr4-python3-runtime==4.9.3 .`, as the first has no wheel, and versions of packages,
  hillstart's too, are read from what is installed;
- `pip install --no-index --no-deps --target SITE WHEELS/*.whl` there;
- data/FashionMNIST/raw with the files of that data set, if accuracies are to be measured on it (31 MB).
"""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import gpu_steps
from benchmarks.timing import Row

RESERVE = 8.0
"""Seconds that no step may use, for the end of the command."""

SMALL: dict[str, Any] = {"sizes": ([36, 5, 3],), "starts": (4,), "batches": (50,), "repeats": 1}


class Step(NamedTuple):
    """A step of a part.

    Attributes:
        run: yields its results.
        expected, limit: seconds that it should take, and after which it is ended.
        quick: the size of its work for `--quick`.
    """

    run: Callable[..., Iterator[Row]]
    expected: float
    limit: float
    quick: dict[str, Any] = {}  # noqa: RUF012 - never changed


PEERS = ("hillstart", "torch-vmap", "torch-vmap-compiled", "jax-vmap", "jax-vmap-tf32", "torch-autograd", "lightning")
PARTS: dict[str, dict[str, Step]] = {
    "first": {
        "environment": Step(gpu_steps.environment, 20, 45, {"elements": 1000, "n": 64, "repeats": 2}),
        "gradient": Step(gpu_steps.gradient, 20, 60, {"samples": 2, "steps": 3}),
        "tests": Step(gpu_steps.tests, 45, 100, {"only": ["engine/test_cuda.py"]}),
        "graphs": Step(gpu_steps.graphs, 40, 90, {"cases": [{"sizes": [36, 5, 3], "starts": 4, "batch": 50}]}),
        "kernel": Step(partial(gpu_steps.kernel, starts=(10_000,), batches=(128, 10)), 45, 110, SMALL),
        "engine": Step(gpu_steps.contest, 75, 110, SMALL),
        "whole run": Step(
            gpu_steps.whole_run, 45, 90, {"starts": 8, "pictures": 300, "others": 50, "sizes": [36, 5, 3]}
        ),
        "accuracy": Step(
            gpu_steps.accuracy,
            45,
            90,
            {"starts": 8, "epochs": 2, "pictures": 300, "others": 200, "sizes": [36, 5, 3]},
        ),
        "peers": Step(
            partial(gpu_steps.contest, names=PEERS, starts=(1024, 10_000), batches=(128,)),
            80,
            140,
            SMALL | {"names": ("hillstart", "torch-vmap"), "batches": (500,)},
        ),
        "other sizes": Step(
            partial(gpu_steps.contest, sizes=([784, 100, 10], [3072, 64, 2]), starts=(10_000,), batches=(128, 10)),
            40,
            70,
            SMALL,
        ),
        "profile": Step(gpu_steps.profile, 25, 60, {"cases": ((2, 500),)}),
    },
    "second": {
        "widths": Step(
            partial(
                gpu_steps.contest,
                names=("hillstart-engine",),
                starts=(64, 512, 2048, 8192, 20_000, 40_000, 65_535),
                batches=(128, 10),
                repeats=2,
            ),
            100,
            140,
            SMALL,
        ),
        "out of memory": Step(gpu_steps.out_of_memory, 35, 70, {"starts": 6, "sizes": [36, 5, 3]}),
        "resume": Step(
            gpu_steps.resume,
            40,
            80,
            {"starts": 3, "chosen": ("data.train=60", "data.test=20", "network.hidden=[4]")},
        ),
        "drift": Step(
            gpu_steps.drift, 45, 90, {"starts": 2, "epochs": 1, "pictures": 200, "batches": (10,), "sizes": [36, 5, 3]}
        ),
        "30 epochs": Step(
            partial(gpu_steps.whole_run, epochs=(30,), batches=(128, 10)),
            190,
            260,
            {"starts": 8, "pictures": 300, "others": 50, "epochs": (2,), "batches": (10,), "sizes": [36, 5, 3]},
        ),
        "slow tests": Step(
            partial(gpu_steps.tests, marked="gpu and slow"), 60, 150, {"only": ["engine/test_kernel.py"]}
        ),
    },
}


def main() -> None:
    """`python -m benchmarks.gpu_day`."""
    assert __doc__
    parser = ArgumentParser("python -m benchmarks.gpu_day", description=__doc__.split("\n\n")[1])
    parser.add_argument("--part", choices=PARTS, default="first", help="default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps of the part, in its order")
    parser.add_argument("--seconds", type=float, default=540, help="for all steps together (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu_day")), help="default: $OUT")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small work: the steps are tried, not the device")
    parser.add_argument("--step", help="run this step in this process")
    options = parser.parse_args()
    results = options.out / "results.jsonl"
    if options.step:
        logging.basicConfig(level=logging.INFO)  # whether a training takes the kernel, for instance
        step, device = PARTS[options.part][options.step], torch.device(options.device)
        for row in step.run(device, **(step.quick if options.quick else {})):
            append(results, {"step": options.step} | row)
        return
    unknown = {*(options.only or [])} - {*PARTS[options.part]}
    if unknown:
        parser.error(f"--only: {', '.join(sorted(unknown))}: the steps are {', '.join(PARTS[options.part])}")
    options.out.mkdir(parents=True, exist_ok=True)
    results.unlink(missing_ok=True)
    steps = {name: step for name, step in PARTS[options.part].items() if not options.only or name in options.only}
    words = ["--part", options.part, "--out", str(options.out), "--device", options.device]
    if options.quick:  # on any machine, however slow
        words, steps = [*words, "--quick"], {name: step._replace(limit=math.inf) for name, step in steps.items()}
    session(steps, options.seconds, options.out, words)
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    sys.exit(any(row.get("ok") is False or row.get("exit") not in (None, 0) for row in rows))


def session(steps: Mapping[str, Step], seconds: float, out: Path, words: list[str]) -> None:
    """Run the steps one after the other, each in a process, within so many seconds."""
    began, results, shown = time.monotonic(), out / "results.jsonl", 0

    def close(row: Row) -> None:
        """Write the last row of a step, and print all of its rows."""
        nonlocal shown
        append(results, row)
        lines = results.read_text().splitlines()
        print(*lines[shown:], sep="\n", flush=True)
        shown = len(lines)

    # Another process may hold memory of the device: JAX must not take three quarters of it.
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    for name, step in steps.items():
        left = seconds - (time.monotonic() - began) - RESERVE
        if left < step.expected / 2:
            close({"step": name, "skipped": f"{left:.0f} seconds are left"})
            continue
        at, command = time.monotonic(), [sys.executable, "-m", "benchmarks.gpu_day", *words, "--step", name]
        with (out / "log.txt").open("a") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            try:
                code: int | str = process.wait(min(step.limit, left))
            except subprocess.TimeoutExpired:
                code = "out of time"
            finally:
                end_group(process)
        close({"step": name, "exit": code, "seconds": round(time.monotonic() - at, 1)})


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a step and all that it has started, which share its process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def append(file: Path, row: Row) -> None:
    """Write a row to the end of the file, on the disk before this returns."""
    with file.open("a") as opened:
        opened.write(json.dumps(row) + "\n")
        opened.flush()
        os.fsync(opened.fileno())


if __name__ == "__main__":
    main()
