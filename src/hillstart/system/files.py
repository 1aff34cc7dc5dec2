"""Files that are whole or not there: whoever reads one never meets half of it, whenever the writer was stopped."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hillstart.system.console import visible
from hillstart.system.errors import InputError

UNFINISHED = re.compile(r"\..+\.(\d+)\.part")
"""The name of a file that is not whole yet: that of the file it is to replace, and the process that writes it."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_FOLDER = (errno.ENOENT, errno.ENOTDIR)


class MissingError(InputError, FileNotFoundError):
    """There is no such file; `filename` is its path."""

    def __init__(self, path: Path):
        super().__init__(f"{visible(str(path))}: there is no such file.")
        self.filename = str(path)

    def __str__(self) -> str:  # that of OSError would make an error number of it
        return str(self.args[0])


class WritingError(InputError, OSError):
    """A file cannot be written; what stood in its place stands there still."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says against writing `path`, in one sentence.

    Raises:
        WritingError: it said so.
    """
    try:
        yield
    except WritingError:
        raise
    except OSError as error:
        raise WritingError(f"{relative(path)} cannot be written: {reason(error)}.") from error


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """A new file to write to; it takes the place of `path` when all of it is written.

    Args:
        sync: and lies on the disk, so that a power cut does not matter either; False for what can be made again.

    Raises:
        WritingError: the disk is full, the folder is gone or may not be written to, and the like.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            # A new file, never one that another has put there: of a link, the file that it leads to would be written.
            new.unlink(missing_ok=True)
            os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            yield new
            if sync:
                on_disk(new)
            new.replace(path)
            if sync:
                on_disk(path.parent)
    finally:
        with suppress(OSError):  # of a folder that is gone, say; what is left is swept up at the next start
            new.unlink(missing_ok=True)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading that a stranger may have made: a pipe or a device would never end, or never begin.

    Raises:
        MissingError: there is no such file.
        InputError: it is a folder, a pipe, a socket or a device, or it cannot be read.
    """
    try:
        _check_regular(path, path.stat().st_mode)  # first of all, since to open a device may do something
        # It may have been replaced since: without waiting, a pipe opens at once and is then refused.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except InputError:
        raise
    except ValueError:  # Python's word for it
        raise InputError(f"{visible(str(path))}: holds a zero byte, as no name of a file does.") from None
    except FileNotFoundError:
        raise MissingError(path) from None
    except OSError as error:
        raise InputError(f"{visible(str(path))}: cannot be read ({error.strerror}).") from error
    try:
        _check_regular(path, os.fstat(file.fileno()).st_mode)
    except InputError:
        file.close()
        raise
    return file


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """All of a text file that a stranger may have made. Raises as `open_regular` does, and UnicodeError."""
    with open_regular(path) as file:
        return file.read().decode(encoding)


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{visible(str(path))}: is {what}, not a file.")


FULL_OF_LINKS = frozenset((".venv", "venv", ".git", "node_modules"))
"""Folders that may lie beside a run that is written into one's working folder; none is ever written into."""


def check_links(folder: Path) -> None:
    """Refuse a folder that would lead what is written into it elsewhere.

    Raises:
        InputError: a symbolic link in it leads out of it, at any depth, but for `FULL_OF_LINKS`.
    """
    inside = folder.resolve()
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in FULL_OF_LINKS]
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise InputError(
                    f"{visible(str(path))}: is a link that leads out of the folder, so nothing is written there; "
                    "remove it or put a copy of what it leads to in its place."
                )


def on_disk(path: Path) -> None:
    """Wait until a file lies on the disk, or a folder's list of names: without that a power cut brings old names back.

    Raises:
        OSError: the disk cannot take it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems of a network know no such thing for folders
            raise
    finally:
        os.close(handle)


def sweep_up(folder: Path) -> None:
    """Remove what processes that were killed had not finished writing in `folder`."""
    for path in folder.glob(".*.part"):
        found = UNFINISHED.fullmatch(path.name)
        if found and not _lives(int(found[1])):
            path.unlink(missing_ok=True)


def own_folder(wanted: Path) -> Path:
    """A new folder for this process alone: `wanted`, or where that is there already, the same name with -2, -3 ...

    Raises:
        WritingError: none can be made.
    """
    folder, number = wanted, 1
    with writing(wanted):
        with suppress(FileExistsError):  # where it is no folder, the next one says so
            folder.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
                folder = wanted.with_name(f"{wanted.name}-{number}")
            else:
                return folder


def relative(path: Path) -> Path:
    """As a user would write it, from the folder the command was given in."""
    start = Path(os.environ.get("PWD", "."))
    return path.relative_to(start) if path.is_relative_to(start) else path


def of_the_disk(error: OSError) -> bool:
    """Whether the fault is a disk's or a folder's rather than the program's."""
    return error.errno in (*NO_ROOM, *NO_RIGHT, errno.EFBIG, errno.EIO)


def reason(error: OSError) -> str:
    """What the system says, and what would mend it."""
    said = error.strerror or str(error)
    if error.errno in NO_ROOM:
        return f"{said}; make room on its disk"
    if error.errno == errno.EFBIG:
        return f"{said} for this process; raise that limit (ulimit -f)"
    if error.errno in NO_RIGHT:
        return f"{said}; let its folder be written to, or choose another one"
    if error.errno in NO_FOLDER:
        return f"{said}; put its folder back"
    return f"{said}; see to its disk"


def _lives(process: int) -> bool:
    """Whether another process of this number runs; this one has nothing half written when it sweeps."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True
