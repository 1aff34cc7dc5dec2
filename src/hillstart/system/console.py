"""What a command says on a terminal or into a pipe: safe whatever a name holds, and without harm where nobody reads."""

import codecs
import errno
import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

# Work that is done sooner needs no progress bar.
PATIENCE_SECONDS = 1.0

BROKEN_PIPE, INTERRUPTED, UNWRITABLE = 141, 130, os.EX_IOERR
"""Exit codes: as the shell has them for a program that SIGPIPE or Ctrl-C ends; and for output that is refused."""
GONE = (errno.EPIPE, errno.EIO)
"""What the system says where nobody reads any longer: a pipe without a reader, a terminal that was closed."""

_outlives = False  # whether this process goes on when nobody reads what it says


@contextmanager
def command() -> Iterator[None]:
    """Run a whole command: how it meets its terminal, and how it ends without one, is the same for all of them.

    When nobody reads its output any longer, it ends quietly with exit code 141, unless it `outlives` its terminal.
    """
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands its own to the commands it starts, but none opens a window
    for number in (0, 1, 2):
        _open(number)
    sys.stdout, sys.stderr = _wrapped(sys.stdout, 1), _wrapped(sys.stderr, 2)
    try:
        yield
    except KeyboardInterrupt:
        outlive()
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        print(end.code, file=sys.stderr)
        sys.exit(1)
    except BaseException:
        outlive()  # or the traceback would be lost with the output
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def outlive() -> None:
    """From now on, go on with the work whether or not somebody reads what is said about it."""
    global _outlives
    _outlives = True


class _Output(io.FileIO):
    """Standard output or error, which no longer writes anything once it was refused."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if error.errno not in GONE:
                what = "standard output" if self.fileno() == 1 else "standard error"
                print(f"hillstart: {what} cannot be written: {error.strerror}.", file=sys.stderr)
            if not _outlives:
                sys.exit(BROKEN_PIPE if error.errno in GONE else UNWRITABLE)
            return memoryview(data).nbytes


def _open(number: int) -> None:
    """See that a standard stream is open: a file would get its number, and what is said would be written into it."""
    try:
        os.fstat(number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free


def _wrapped(stream: Any, number: int) -> Any:
    """A standard stream as it was, but for names that are no text, and for readers that are gone."""
    if stream is not None:
        stream.flush()
    output, encoding = _Output(number, "wb", closefd=False), getattr(stream, "encoding", "utf-8")
    if getattr(stream, "write_through", False):  # PYTHONUNBUFFERED is set
        return io.TextIOWrapper(output, encoding, errors="hillstart", write_through=True)
    by_line = getattr(stream, "line_buffering", False)
    return io.TextIOWrapper(io.BufferedWriter(output), encoding, errors="hillstart", line_buffering=by_line)


def _encoded(error: UnicodeError) -> tuple[bytes, int]:
    """What an encoding lacks: a byte of a file name that is no text stays that byte, a letter becomes its number."""
    assert isinstance(error, UnicodeEncodeError)
    c = error.object[error.start]
    is_byte = 0xDC80 <= ord(c) <= 0xDCFF
    return bytes([ord(c) - 0xDC00]) if is_byte else ascii(c)[1:-1].encode(), error.start + 1


codecs.register_error("hillstart", _encoded)


def end(sentence: object, code: int) -> NoReturn:
    """End the program with a sentence on standard error."""
    print(f"hillstart: {visible(str(sentence))}", file=sys.stderr)
    sys.exit(code)


def visible(text: str) -> str:
    """With control characters and bytes that are no text written out, so that no name can play with a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _written_out(c) for c in text)


def _written_out(c: str) -> str:
    return f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else ascii(c)[1:-1]


class Lines:
    """Lines on the terminal or into a pipe, and on a terminal, once it takes long, a progress bar below them.

    Attributes:
        total: how many pictures there will be; None: not known.
    """

    def __init__(self) -> None:
        self.total: int | None = None
        self._began, self._count = time.monotonic(), 0
        self._terminal = next((stream for stream in (sys.stdout, sys.stderr) if stream.isatty()), None)
        self._bar: Any = None

    def show(self, line: str) -> None:
        """A line of what was asked for, to standard output: on a terminal made visible, into a pipe as it is."""
        self._print(visible(line) if sys.stdout.isatty() else line, sys.stdout)

    def note(self, sentence: str) -> None:
        """What else the user should know, to standard error."""
        self._print(f"hillstart: {visible(sentence)}", sys.stderr)

    def advance(self) -> None:
        """One more picture is done."""
        self._count += 1
        if self._bar is None and self._terminal and time.monotonic() - self._began > PATIENCE_SECONDS:
            self._begin_bar(self._terminal)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._count)

    def _print(self, line: str, stream: Any) -> None:
        if self._bar is not None and stream.isatty():
            self._bar.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            print(line, file=stream)

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _begin_bar(self, terminal: Any) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(file=terminal), transient=True, redirect_stdout=False,
                             redirect_stderr=False)  # fmt: skip
        self._task = self._bar.add_task("pictures", total=self.total)
        self._bar.start()
