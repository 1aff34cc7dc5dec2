"""`train`: what `scripts/train.py` does, from Python and in a notebook."""

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback
from omegaconf import DictConfig

from hillstart.api.opened import OpenedRun, open_run
from hillstart.cli.mistakes import one_sentence
from hillstart.cli.train import TrainingTask, run
from hillstart.config.conf import known_keys
from hillstart.data.given import choice, giving
from hillstart.runs.logs import LogFile
from hillstart.system.console import silent_libraries
from hillstart.system.errors import InputError


def train(*overrides: str, data: Any = None, callbacks: Sequence[Callback] = (), **options: Any) -> OpenedRun:
    """Train as `scripts/train.py` does, and open the run; the arguments of this process are not read.

    Args:
        overrides: what would be typed after `scripts/train.py`, such as "experiment=nielsen_30"; see `--help` there.
        data: the name of a file of conf/data; (X, y), with a test set of its own ((X, y), (X_test, y_test)); or a
            `hillstart.data.dataset.PictureSet`. X: rows of numbers (N, D), or pictures (N, H, W), (N, H, W, C) or
            (N, C, H, W), as a NumPy array, a tensor, a data frame or lists; y: (N,) texts, whole numbers or booleans.
            Arrays are split by the options data.test_fraction, data.val_fraction and data.seed. They are not stored
            in the run: "resume=RUN" needs the same again.
        callbacks: of Lightning, beside those that the options name; all packs of starts share them.
        options: values by key, or by the last part of a key that no other key shares: max_epochs=3 is
            "trainer.max_epochs=3", and eta=[0.1, 0.5] is "descent.eta=[0.1,0.5]".

    Raises:
        InputError: an option or the data cannot be used.
        KeyboardInterrupt: the training was interrupted; "resume=RUN" goes on with it.

    Example:
        >>> run = hillstart.train("report=false", starts=4, max_epochs=2)
        pictures: lion_duck...
        rank  seed  eta  epochs...
        >>> print(run.starts["val_accuracy"].max() > 0.5)
        True
        >>> X = numpy.array([[0.1 * k, 2.0] for k in range(60)])
        >>> y = numpy.where(X[:, 0] > 3, "long", "short")
        >>> run = hillstart.train("report=false", data=(X, y), hidden=[4], starts=4)
        rows: arrays from Python; 38 to train, 10 to validate, 12 to test; classes long, short...
        >>> run.classifier.predict(X[-1]).label
        'long'
    """
    keys, given = known_keys() if options else [], None
    words = [*overrides, *(f"{_full(name, keys)}={_typed(value)}" for name, value in options.items())]
    if isinstance(data, str):
        words.append(f"data={data}")
    elif data is not None:
        words.append(f"data={choice(data)}")
        given = data
    for word in words:
        if word.startswith("-"):
            raise InputError(f"{word}: options with dashes are for scripts/train.py; give KEY=VALUE.")
        if re.match(r"\+*trainer\.(devices|num_nodes)=(?!1$)", word):
            raise InputError(f"{word}: several processes are for scripts/train.py; from Python a run has one device.")
    task = _Task(callbacks)
    with _state_of_hydra(), silent_libraries(), giving(given):
        try:
            with one_sentence():
                run(task, ["hydra/job_logging=none", "hydra/hydra_logging=none", *words])
        except SystemExit as end:
            if isinstance(end.code, str):
                raise InputError(end.code.removeprefix("hillstart: ")) from end
            if isinstance(end.__context__, KeyboardInterrupt):  # Lightning ends the process
                raise KeyboardInterrupt from None
            raise
    if task.mistakes:
        raise InputError(" ".join(task.mistakes))
    assert task.folder
    named = (word for word in words if re.match(r"(data|network|descent|stop)\._target_=", word))
    return open_run(task.folder, *named, data=given)


class _Task(TrainingTask):
    """A single run, whose lines are printed and written to its `train.log` without Hydra's change of all logging."""

    def __init__(self, callbacks: Sequence[Callback]):
        super().__init__(traceback=False, callbacks=callbacks)
        self.folder: Path | None = None

    def __call__(self, cfg: DictConfig) -> float | None:
        hydra = HydraConfig.get()
        self.folder = Path(hydra.runtime.output_dir)
        with _logged(self.folder / f"{hydra.job.name}.log"):
            return super().__call__(cfg)


@contextmanager
def _logged(file: Path) -> Iterator[None]:
    """Print what a training says, and write it to `file`."""
    logger = logging.getLogger("hillstart")
    shown, stored = logging.StreamHandler(sys.stdout), LogFile(file)
    shown.setFormatter(logging.Formatter("%(message)s"))
    stored.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a handler of the caller's would print each line again
    logger.addHandler(shown)
    logger.addHandler(stored)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        for handler in (shown, stored):
            logger.removeHandler(handler)
            handler.close()


@contextmanager
def _state_of_hydra() -> Iterator[None]:
    """Leave Hydra as the caller has initialised it, or not."""
    configs: Any = HydraConfig.instance()
    before, options = GlobalHydra.instance().hydra, configs.cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra, configs.cfg = before, options


def _full(name: str, keys: Sequence[str]) -> str:
    """The key of conf that a keyword means; an unknown one stays, and is refused with the nearest key."""
    ends = [key for key in keys if key.endswith(f".{name}")]
    return ends[0] if name not in keys and len(ends) == 1 else name


def _typed(value: Any) -> str:
    """The value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple | range):
        return f"[{','.join(map(_typed, value))}]"
    return str(value)
