"""What a run writes beside its results, `train.log` and a logger's figures: a disk that refuses them ends no training.

The first error of each is told in one sentence; what can be written later is.
"""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from hillstart.files import WritingError, writing

log = logging.getLogger(__name__)

WRITERS = ("log_hyperparams", "log_metrics", "save", "finalize")


def forgiving_logger(logger: Logger) -> Logger:
    """The same logger of Lightning; what the system says against its files is told, not raised."""
    told: list[WritingError] = []
    for name in WRITERS:
        setattr(logger, name, _forgiving(getattr(logger, name), type(logger).__name__, told))
    return logger


def _forgiving(write: Callable[..., Any], name: str, told: list[WritingError]) -> Callable[..., Any]:
    @wraps(write)
    def writes(*args: Any, **kwargs: Any) -> Any:
        try:
            with writing(Path(f"what {name} writes")):
                return write(*args, **kwargs)
        except WritingError as error:
            if not told:
                told.append(error)
                log.warning(f"training goes on without all figures of the logger: {error}")

    return writes


def forgive_log_files() -> None:
    """Of the log files that are open now: one sentence on the terminal in place of a traceback for each line."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = _forgive(handler)  # type: ignore[method-assign,assignment]


def _forgive(handler: logging.FileHandler) -> Callable[[logging.LogRecord], None]:
    told: list[str] = []

    def tell(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            logging.Handler.handleError(handler, record)
        elif not told:
            try:
                with writing(Path(handler.baseFilename)):
                    raise error
            except WritingError as sentence:
                told.append(str(sentence))
                print(f"hillstart: the log is not whole: {sentence}", file=sys.stderr)

    return tell
