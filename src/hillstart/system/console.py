"""Output of a command, on a terminal or into a pipe.

Names with control characters cannot disturb a terminal, and a closed terminal or pipe does no harm.
"""

import codecs
import errno
import html
import io
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

UNLIMITED = 10_000
"""Characters in a line where there is no terminal, as in a pipe, unless COLUMNS says otherwise."""
PATIENCE_SECONDS = 1.0
"""Shorter work gets no progress bar."""

BROKEN_PIPE, INTERRUPTED, UNWRITABLE = 141, 130, os.EX_IOERR
"""Exit codes: those of a shell for a program ended by SIGPIPE or by Ctrl-C, and one for output that failed."""
GONE = (errno.EPIPE, errno.EIO)
"""Error numbers of a pipe without a reader and of a closed terminal."""

_outlives = False  # whether this process continues when its output cannot be written


@contextmanager
def command() -> Iterator[None]:
    """Run a whole command, with the same treatment of its terminal and of its end for every command.

    When nobody reads its output any longer, the command ends silently with exit code 141, unless `outlive` was called.
    """
    os.environ["MPLBACKEND"] = "agg"  # commands inherit a notebook's backend, but none opens a window
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
        outlive()  # otherwise a failed write would replace the traceback
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def outlive() -> None:
    """Continue the work from now on, even if its output cannot be written."""
    global _outlives
    _outlives = True


class _Output(io.FileIO):
    """Standard output or error; after a write that failed it discards everything."""

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
    """Make sure a standard stream is open: otherwise the next opened file would get its number and its output."""
    try:
        os.fstat(number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open takes the lowest free number


def _wrapped(stream: Any, number: int) -> Any:
    """Replace a standard stream by one that can print every file name and survives a reader that is gone."""
    if stream is not None:
        stream.flush()
    output, encoding = _Output(number, "wb", closefd=False), getattr(stream, "encoding", "utf-8")
    if getattr(stream, "write_through", False):  # PYTHONUNBUFFERED is set
        return io.TextIOWrapper(output, encoding, errors="hillstart", write_through=True)
    by_line = getattr(stream, "line_buffering", False)
    return io.TextIOWrapper(io.BufferedWriter(output), encoding, errors="hillstart", line_buffering=by_line)


def _encoded(error: UnicodeError) -> tuple[bytes, int]:
    """Encode what the encoding lacks: an undecodable byte of a file name as that byte, a letter as its escape."""
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
    """Escape control characters and undecodable bytes, so that no file name can control the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(c: str) -> str:
    return f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else ascii(c)[1:-1]


def print_table(
    headings: Iterable[str],
    rows: Iterable[Sequence[str]],
    title: str | None = None,
    spare: Sequence[str] = (),
    left: Collection[str] = ("", "status"),
) -> None:
    """Print a table whose cells are never cut: on a narrow terminal it has fewer columns.

    Args:
        spare: headings of columns to leave out where the width needs it, the first ones first.
        left: headings of columns that are aligned to the left.
    """
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    most = shutil.get_terminal_size((UNLIMITED, 0)).columns
    shown = [list(map(visible, row)) for row in rows]
    columns = {head: [head, *cells] for head, *cells in zip(headings, *shown, strict=True)}
    kept = list(columns)

    def fits() -> bool:
        lines = ([line for cell in columns[head] for line in cell.split("\n")] for head in kept)
        return sum(2 + max(map(cell_len, column)) for column in lines) - 2 <= most  # two spaces between columns

    if not fits():
        for head, column in columns.items():
            column[0] = head.replace(" ", "\n")
    for head in dict.fromkeys((*spare, *reversed(kept[1:]))):
        if head in kept and not fits():
            kept.remove(head)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for head in kept:
        table.add_column(columns[head][0], justify="left" if head in left else "right", overflow="fold")
    for row in zip(*(columns[head][1:] for head in kept), strict=True):
        table.add_row(*row)
    console = Console(width=most, markup=False, highlight=False, emoji=False)
    if title:
        console.print(title, soft_wrap=True)
    console.print(table)
    if missing := [" ".join(head.split()) for head in columns if head not in kept]:
        console.print(f"too narrow for: {', '.join(missing)}")


class _NotebookBar:
    """A progress bar below the cell of a notebook; that of rich needs ipywidgets there."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html, self._shown_at = HTML, time.monotonic()
        self._display: Any = display(HTML(""), display_id=True)

    def update(self, what: str, done: float, total: float | None) -> None:
        if time.monotonic() - self._shown_at > 0.2:  # a message to the browser each time
            self._shown_at = time.monotonic()
            share = f"value={done} max={total}" if total else ""
            self._display.update(self._html(f"<progress {share}></progress> {html.escape(what)}"))

    def stop(self) -> None:
        self._display.update(self._html(""))


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules and type(sys.stdout).__module__.startswith("ipykernel")


class ProgressBar:
    """A progress bar on the terminal or in a notebook, shown once the work has taken `PATIENCE_SECONDS`.

    Without either, as into a pipe, there is none.

    Args:
        streams: the bar appears on the first of them that is a terminal; standard error if none are given.

    Attributes:
        total: how many items there will be; None if unknown. It is read when the bar appears.
    """

    def __init__(self, what: str, total: float | None = None, done: float = 0, streams: Sequence[Any] = ()):
        self.total = total
        self._what, self._done, self._began = what, done, time.monotonic()
        self._terminal = next((stream for stream in streams or (sys.stderr,) if stream.isatty()), None)
        self._bar: Any = None
        self._notebook: _NotebookBar | None = None

    def update(self, done: float, what: str | None = None) -> None:
        """Set how many items are done, and the text before the bar."""
        self._done, self._what = done, what or self._what
        if time.monotonic() - self._began > PATIENCE_SECONDS:
            if self._bar is None and self._terminal:
                self._start(self._terminal)
            elif self._notebook is None and _in_notebook():
                self._notebook = _NotebookBar()
        if self._notebook is not None:
            self._notebook.update(self._what, done, self.total)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=self._short())

    def advance(self, items: float = 1) -> None:
        """More items are done."""
        self.update(self._done + items)

    def _short(self) -> str:
        """The text before the bar, without the last of its parts for which there is no room."""
        what = self._what
        while len(what) > self._room and ", " in what:
            what = what.rpartition(", ")[0]
        return what

    def stop(self) -> None:
        """Remove the bar."""
        for bar in filter(None, (self._bar, self._notebook)):
            bar.stop()
        self._bar = self._notebook = None

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _start(self, terminal: Any) -> None:
        from rich.console import Console  # only when a bar is needed: predictions start without rich
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(file=terminal)
        columns: list[Any] = [TextColumn("{task.description}"), TimeRemainingColumn()]
        if console.width >= 60:
            columns.insert(1, MofNCompleteColumn())
        if console.width >= 80:
            columns.insert(1, BarColumn(min(40, console.width - 70)))
        self._room = min(50, console.width - 10 - 15 * (console.width >= 60))
        # Text for the same terminal appears above the bar; text for a pipe is not touched.
        self._bar = Progress(
            *columns,
            console=console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(self._short(), total=self.total, completed=self._done)
        self._bar.start()


class Lines(ProgressBar):
    """Lines of output on the terminal or into a pipe, and on a terminal a progress bar below them."""

    def __init__(self) -> None:
        super().__init__("pictures", streams=(sys.stdout, sys.stderr))

    def show(self, line: str) -> None:
        """Print a line of the result to standard output: with `visible` on a terminal, unchanged into a pipe."""
        self._print(visible(line) if sys.stdout.isatty() else line, sys.stdout)

    def note(self, sentence: str) -> None:
        """Print what else the user should know to standard error."""
        self._print(f"hillstart: {visible(sentence)}", sys.stderr)

    def _print(self, line: str, stream: Any) -> None:
        if self._bar is not None and stream.isatty():
            self._bar.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            print(line, file=stream)


LIBRARIES = ("lightning.pytorch", "lightning.fabric")
EXPECTED_WARNINGS = (
    ".*LeafSpec.* is deprecated",  # lightning 2.6.6 with torch 2.14
    "Checkpoint directory .* exists and is not empty",  # a resumed run continues in its folder ...
    "The dirpath has changed",  # ... which may have been moved
    "It is recommended to use .*sync_dist=True",  # ranks log nothing together
)


def silence_libraries() -> None:
    """Silence Lightning's advice and warnings that do not apply to our trainings, in this process."""
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    for expected in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", expected)


@contextmanager
def silent_libraries() -> Iterator[None]:
    """`silence_libraries` for the enclosed work alone."""
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    try:
        with warnings.catch_warnings():
            silence_libraries()
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
