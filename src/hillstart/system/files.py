"""Atomic files: a reader never sees a half-written file, whenever the writer was stopped."""

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
"""The name of an unfinished file: the name of the file it will replace, and the process that writes it."""
FULL_OF_LINKS = frozenset((".venv", "venv", ".git", "node_modules", "wandb"))
"""Folders that may be in a run's folder and hold links that lead out of it; hillstart never writes into them."""
DISK_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space on its disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "let its folder be written to, or choose another one"),
    errno.EFBIG: "raise the limit of this process (ulimit -f)",
    errno.EIO: "check its disk",
}
"""Advice by error number, for errors caused by a disk or a folder rather than by the program."""
FOLDER_ADVICE = dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "restore its folder")


class MissingError(InputError, FileNotFoundError):
    """There is no such file; `filename` is its path."""

    def __init__(self, path: Path):
        super().__init__(f"{visible(str(path))}: there is no such file.")
        self.filename = str(path)

    def __str__(self) -> str:  # OSError.__str__ would print an error number
        return str(self.args[0])


class WritingError(InputError, OSError):
    """A file cannot be written; an earlier file of that name is unchanged."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise an OSError while `path` is written as a WritingError, which is one sentence."""
    try:
        yield
    except WritingError:
        raise
    except OSError as error:
        raise WritingError(f"{relative(path)} cannot be written: {reason(error)}.") from error


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[Path]:
    """Give a new file to write to, which replaces `path` once it is complete.

    `sync`: wait until the file is on the disk, to survive a power cut; False for files that can be made again. Raises
    WritingError if the disk is full, the folder is gone or may not be written to, and the like.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            # An existing file could be a link, and its target would be overwritten.
            new.unlink(missing_ok=True)
            os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            yield new
            if sync:
                on_disk(new)
            new.replace(path)
            if sync:
                on_disk(path.parent)
    finally:
        with suppress(OSError):  # for example if the folder is gone; `sweep_up` removes the file at the next start
            new.unlink(missing_ok=True)


def open_regular(path: Path) -> BinaryIO:
    """Open an untrusted file for reading, unless it is a pipe or a device, which could block or never end.

    Raises MissingError if there is no such file, and InputError if it is not a regular file or cannot be read.
    """
    try:
        _check_regular(path, path.stat().st_mode)  # before opening, since opening a device may have an effect
        # It may have been replaced since; with O_NONBLOCK a pipe opens at once and is then refused.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except InputError:
        raise
    except ValueError:  # how Python refuses such a name
        raise InputError(f"{visible(str(path))}: contains a zero byte, which no file name does.") from None
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
    """Read an untrusted text file. Raises what `open_regular` raises, and UnicodeError."""
    with open_regular(path) as file:
        return file.read().decode(encoding)


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"{visible(str(path))}: is {what}, not a file.")


def check_links(folder: Path) -> None:
    """Raise InputError if a symbolic link leads out of a folder, at any depth, since writing could follow it."""
    inside = folder.resolve()
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in FULL_OF_LINKS]
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise InputError(
                    f"{visible(str(path))}: is a link that leads out of the folder, so nothing is written there; "
                    "remove it, or replace it by a copy of its target."
                )


def on_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk; a power cut could otherwise restore old names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync folders
            raise
    finally:
        os.close(handle)


def sweep_up(folder: Path) -> None:
    """Remove the unfinished files of killed processes in `folder`."""
    for path in folder.glob(".*.part"):
        found = UNFINISHED.fullmatch(path.name)
        if found and not _is_running(int(found[1])):
            path.unlink(missing_ok=True)


def own_folder(wanted: Path) -> Path:
    """Make a new folder for this process: `wanted`, or if it exists, the same name with -2, -3 ..."""
    folder, number = wanted, 1
    with writing(wanted):
        with suppress(FileExistsError):  # if it is a file, the next mkdir reports it
            folder.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
                folder = wanted.with_name(f"{wanted.name}-{number}")
            else:
                return folder


def as_path(value: str | os.PathLike[str], what: str) -> Path:
    """A path that is given from Python; raises InputError if it is none. `what`: the kinds of file it may name."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"the path is {value!r}; give that of {what}.")
    return Path(value)


def relative(path: Path) -> Path:
    """The path relative to the folder in which the command was given, if it is inside."""
    start = Path(os.environ.get("PWD", "."))
    return path.relative_to(start) if path.is_relative_to(start) else path


def reason(error: OSError) -> str:
    """The message of the system, and what the user can do."""
    advice = (DISK_ADVICE | FOLDER_ADVICE).get(error.errno or 0, "check its disk")
    return f"{error.strerror or error}; {advice}"


def _is_running(process: int) -> bool:
    """True if another process with this number is running; this process has no unfinished file when it sweeps."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it belongs to somebody else
        return True
    return process != os.getpid()
