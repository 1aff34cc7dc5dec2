"""`scripts/train.py` for tests that must not depend on how busy the machine is.

A signal never ends the process by the bound that `signals.PATIENCE` sets. If the environment holds
WAIT_IN=MODULE:FUNCTION, that function waits for a signal when the expression WAIT_WHEN is true for its arguments
`args`, and the file `waiting` in the working folder says that it does.
"""

import importlib
import os
import time
from functools import wraps
from operator import attrgetter
from pathlib import Path
from typing import Any

from hillstart.cli.main import train
from hillstart.system import interrupts


def wait_in(module: str, function: str, when: str) -> None:
    *owner, name = function.split(".")
    place = attrgetter(*owner)(importlib.import_module(module)) if owner else importlib.import_module(module)
    original = getattr(place, name)

    @wraps(original)
    def waits(*args: Any, **kwargs: Any) -> Any:
        if eval(when, {"args": args, "Path": Path}):
            Path("waiting").touch()
            while interrupts.received is None:
                time.sleep(0.005)
        return original(*args, **kwargs)

    setattr(place, name, waits)


if __name__ == "__main__":
    interrupts.PATIENCE = 1e6
    if "WAIT_IN" in os.environ:
        wait_in(*os.environ["WAIT_IN"].split(":"), os.environ["WAIT_WHEN"])
    train()
