"""Handling of Ctrl-C, SIGTERM and a closed terminal: a training ends between two chunks and prints how to resume it.

Python runs signal handlers in the main thread, between two bytecodes, so that none runs while that thread waits in a
library. Therefore another thread receives each signal as well; it ends the process if the main thread does not react,
or at the second signal. This module uses the standard library alone, since it is imported before anything else.
"""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TypeVar

from hillstart.system.console import outlive

CAUGHT = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP, as of a closed terminal"}
PATIENCE = 4.0  # seconds for the main thread to react, in case it waits in a library
TWICE = 1.0  # seconds in which a second signal counts as the same one: the terminal and a launcher may both send it
RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")  # variables in which launchers number their processes

OWN_LAUNCH = "hillstart"  # the TORCHELASTIC_RUN_ID of processes that this project starts itself

T = TypeVar("T")

received: int | None = None  # the signal that asked this process to end
_deferring = 0  # nesting depth of `deferred`
_noticed = threading.Event()
_is_listening = False
_printing = threading.Lock()
_advice: Callable[[], str] = lambda: "nothing was trained yet."  # noqa: E731


class Interrupted(SystemExit):
    """A signal asked the program to end; the exit code is 128 + its number, as in shells."""


@contextmanager
def caught() -> Iterator[None]:
    """Run a whole command, so that a signal at any moment ends it cleanly, with one line and no traceback.

    A signal that was ignored when the process began, as under nohup, stays ignored.
    """
    _start_listener()
    install_handlers()
    try:
        yield
    except SystemExit as end:
        if received is None:
            raise
        if isinstance(end.code, str):
            _write(end.code)
    if received is not None:
        _print_last_line()
        sys.exit(128 + received)


def install_handlers() -> None:
    """Install our signal handlers while a command runs; needed again after Lightning has installed its own."""
    if _is_listening and threading.current_thread() is threading.main_thread():
        for number in CAUGHT:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _handle)


@contextmanager
def deferred() -> Iterator[None]:
    """Let a signal end the enclosed work only at `check_interrupt` and at its end."""
    global _deferring
    _deferring += 1
    try:
        yield
    finally:
        _deferring -= 1
    if not _deferring:
        check_interrupt()


def check_interrupt() -> None:
    """End here if a signal came; called where the state is consistent.

    Raises:
        Interrupted: a signal came.
    """
    if received is not None:
        _noticed.set()
        raise Interrupted(128 + received)


def interruptible(items: Iterable[T]) -> Iterator[T]:
    """Yield the same items, with `check_interrupt` before each."""
    for item in items:
        check_interrupt()
        yield item


def set_advice(advice: Callable[[], str]) -> None:
    """Set how the last line of an interrupted command ends, which says how to resume."""
    global _advice
    _advice = advice


def hand_over() -> None:
    """Leave signals to the processes that this one supervises: they end in good order, and say how to resume."""
    _noticed.set()
    _printing.acquire()


def command(name: str, argument: str) -> str:
    """The command line that passes one argument to `train` or `report`, in the way that this command was started."""
    by_others = os.environ.get("TORCHELASTIC_RUN_ID", OWN_LAUNCH) != OWN_LAUNCH or "SLURM_PROCID" in os.environ
    if name == "train" and by_others:
        return f"the same command with {shlex.quote(argument)}"
    return f"{program(name)} {shlex.quote(argument)}"


def program(name: str) -> str:
    """The beginning of a command line that starts another command in the same way as this one."""
    path = Path(sys.argv[0])
    path = path.with_name(path.name.replace("train", name))
    return shlex.join(["python", str(path)] if path.suffix == ".py" else [path.name])


def _handle(number: int, frame: FrameType | None) -> None:
    _receive(number)
    if not _deferring:
        raise Interrupted(128 + number)


def _receive(number: int) -> None:
    global received
    if received is None:
        outlive()  # the reader of our output may have ended by the same signal
        received = number


def _start_listener() -> None:
    """Start the thread that receives every signal, whatever the main thread waits for."""
    global _is_listening
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reading,), name="signals", daemon=True).start()
    _is_listening = True


def _listen(reading: int) -> None:
    came = None
    while True:
        # Several signals that came before this thread got to run count as one.
        numbers = [number for number in os.read(reading, 512) if number in CAUGHT]
        if not numbers:
            continue
        if came is None:
            came = time.monotonic()
            _receive(numbers[0])
            threading.Thread(target=_end_if_unnoticed, name="patience", daemon=True).start()
        elif came + TWICE < time.monotonic():
            _end_at_once()


def _end_if_unnoticed() -> None:
    if not _noticed.wait(PATIENCE):
        _end_at_once()


def _end_at_once() -> None:
    _print_last_line()
    os._exit(128 + (received or 0))


def _print_last_line() -> None:
    assert received is not None
    if _printing.acquire(blocking=False) and not any(os.environ.get(rank, "0") not in ("", "0") for rank in RANKS):
        _write(f"hillstart: stopped by {CAUGHT[signal.Signals(received)]}; {_advice()}")


def _write(sentence: str) -> None:
    with suppress(OSError):  # the terminal is gone
        below_a_bar = "\r\x1b[K\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides the cursor
        os.write(2, f"{below_a_bar}{sentence}\n".encode())
