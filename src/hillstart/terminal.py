"""Lines for a terminal or a pipe, safe whatever a name holds, and a progress bar below them where it takes long."""

import io
import sys
import time
from typing import Any, NoReturn

# Work that is done sooner needs no progress bar.
PATIENCE_SECONDS = 1.0


def pass_any_name() -> None:
    """Let standard output and error carry every file name: it is bytes, and need not be text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")


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
        """A line of what was asked for, to standard output."""
        self._print(line, sys.stdout)

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
