"""Time of a first run, from the prompt to a trained epoch, import by import, each in a new process.

Each row does what the one before does, and more.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.timing import Part, Row, in_turns, seconds, spread

IMPORTS = ("import torch", "import lightning.pytorch", "import hillstart.cli.train")
TRAIN = "from hillstart.cli.train import train; train()"
QUICK = {"repeats": 2}


def measure(device: torch.device, repeats: int = 5, options: tuple[str, ...] = ()) -> Iterator[Part]:
    """The imports and the default run of one epoch, in turns.

    Args:
        options: of the run, beside its device, one epoch and no page.
    """
    run = (TRAIN, f"trainer.accelerator={device.type}", "trainer.max_epochs=1", "report=false", *options)
    commands = {"python": ("pass",), **{words: (words,) for words in IMPORTS}, "scripts/train.py, one epoch": run}
    with tempfile.TemporaryDirectory() as folder:
        start = partial(subprocess.run, check=True, capture_output=True, cwd=folder)
        timed = in_turns(
            {
                name: partial(seconds, partial(start, [sys.executable, "-c", *words]))
                for name, words in commands.items()
            },
            repeats,
        )
    rows: list[Row] = [{"what": name} | spread(timed[name], "seconds") for name in commands]
    yield Part(
        "from the prompt", rows, {"repeats": repeats, "imports_share": rows[-2]["seconds"] / rows[-1]["seconds"]}
    )
