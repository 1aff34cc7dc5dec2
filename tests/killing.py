"""Runs that are killed from outside, as by a power cut or the kernel's want of memory, and what is left of them.

A run here is a process of its own with packs, momentum, augmentation, a falling eta, starts that stop and starts that
diverge, and it writes a checkpoint after each epoch, so that many moments lie within one of its writes.
"""

import json
import random
import shutil
import sys
import time
from pathlib import Path
from subprocess import PIPE, STDOUT

from forking import ForkedPopen
from launching import BOUND, wait_for

OFTEN = (
    "from hillstart.training import callbacks; from hillstart.cli.train import train;"
    "callbacks.SHARE = float('inf'); train()"
)
OPTIONS = [
    *("data.train=200", "data.test=40", "network.hidden=[6]", "network.activation=relu", "descent.schedule=linear"),
    *("descent.eta=[1000,0.005]", "descent.momentum=0.9", "descent.batch_size=10", "starts=9", "pack=7", "keep=4"),
    *("stop.patience=20", "trainer.max_epochs=100", "report=false"),
]
RESULTS = ("starts.csv", "history.csv", "network.safetensors")


def process(folder: Path, *options: str) -> ForkedPopen:
    """A run that has begun in `folder`."""
    command = [sys.executable, "-c", OFTEN, *options]
    return ForkedPopen(command, cwd=folder.parent, stdout=PIPE, stderr=STDOUT, text=True)


def begun(run: ForkedPopen, folder: Path) -> None:
    """Wait until it has noted its packs: from then on it can be resumed."""
    wait_for(run, (folder / "checkpoints" / "packs.json").is_file)


def whole_run(folder: Path, *options: str) -> float:
    """An uninterrupted run in `folder`; the seconds from when it noted its packs to its summary."""
    run = process(folder, *OPTIONS, *options, f"hydra.run.dir={folder.name}")
    begun(run, folder)
    began = time.time()
    out, _ = run.communicate(timeout=BOUND)
    assert run.returncode == 0, out
    return (folder / "summary.json").stat().st_mtime - began


def killed_run(folder: Path, seconds: float, *options: str) -> bool:
    """A run in `folder`, killed so many seconds after it noted its packs; False where it had ended before."""
    run = process(folder, *OPTIONS, *options, f"hydra.run.dir={folder.name}")
    begun(run, folder)
    time.sleep(seconds)
    run.kill()
    run.communicate(timeout=BOUND)
    return run.returncode < 0


def resumed_run(folder: Path, *options: str) -> None:
    """Take a run up again and see it to its end."""
    run = process(folder, f"resume={folder.name}", *options)
    out, _ = run.communicate(timeout=BOUND)
    assert run.returncode == 0, out
    assert "Traceback" not in out, out


def differences(folder: Path, whole: Path) -> list[str]:
    """The results of two runs that are not the same to the last bit, and what was not swept up."""
    found = [name for name in RESULTS if (folder / name).read_bytes() != (whole / name).read_bytes()]
    ours, theirs = (json.loads((run / "summary.json").read_text()) for run in (folder, whole))
    found += [key for key in theirs if key != "seconds" and ours[key] != theirs[key]]
    return found + [path.name for path in folder.rglob(".*.part")]


def killed_often(folder: Path, whole: Path, seconds: float, times: int, seed: int = 0) -> list[str]:
    """So many runs in `folder`, each killed at a random moment of its training and then resumed.

    Args:
        whole: an uninterrupted run, which took so many seconds.

    Returns:
        Which did not end as the uninterrupted one, and how.
    """
    moments = random.Random(seed)
    killed, wrong = 0, []
    while killed < times:
        run, moment = folder / str(killed), moments.uniform(0, seconds)
        if not killed_run(run, moment):  # it had ended: the machine is faster than a moment ago
            shutil.rmtree(run)
            seconds *= 0.8
            continue
        killed += 1
        resumed_run(run)
        found = differences(run, whole)
        wrong += [f"killed after {moment:.3f} of {seconds:.3f} s: {', '.join(found)} differ"] if found else []
    return wrong
