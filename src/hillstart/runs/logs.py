"""The log of a run, `train.log`: failing to write it ends no training."""

import errno
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Any

from hillstart.system.console import visible
from hillstart.system.files import reason, relative


class LogFile(logging.FileHandler):
    """The log of a run, in conf's `hydra/job_logging`: what the disk refuses is told once, in a sentence.

    What was refused is written with the next line that is not. A link in the place of the file is not followed.
    """

    _is_told = False

    def _open(self) -> Any:
        try:
            return open(self.baseFilename, self.mode, encoding="utf-8", errors="backslashreplace", opener=_opened)
        except OSError as error:
            self._tell(error)
            return Path(os.devnull).open("w")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - of logging
        """One sentence in place of a traceback for each line."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._tell(error)
        else:
            super().handleError(record)

    def close(self) -> None:
        """Close it, whatever the disk says to its last line."""
        try:
            super().close()
        except OSError as error:
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        if not self._is_told:
            self._is_told = True
            name = visible(str(relative(Path(self.baseFilename))))
            print(f"hillstart: the log is not whole: {name} cannot be written: {reason(error)}.", file=sys.stderr)


def _opened(path: str, flags: int) -> int:
    """A regular file alone: a link may lead anywhere, and a pipe would wait for someone who reads it."""
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no file but a pipe or a device")
    return handle
