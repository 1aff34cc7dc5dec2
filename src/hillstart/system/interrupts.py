"""Ctrl-C, SIGTERM and a closed terminal: a training ends between two chunks of its work, and says how it goes on.

Python runs a signal's handler in the main thread, between two of its own instructions, so that no handler runs while
the thread waits in a library. Therefore a thread of ours hears of each signal as well, and ends the process where the
main thread cannot be reached, or at the second wish. The standard library only, as in `terminal`: this is imported
before all else.
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
PATIENCE = 4.0  # seconds for the main thread to notice, in case it waits in a library
TWICE = 1.0  # seconds within which a second one is the same wish: it comes from the terminal and through a launcher too
RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")  # of the variables by which launchers number their processes

T = TypeVar("T")

asked: int | None = None  # the signal that wants this process to end
_holding = 0  # how many blocks hold a signal back until `check_interrupt`
_noticed = threading.Event()
_is_heard = False
_speaking = threading.Lock()
_at_once: list[Callable[[], object]] = []
_onward: Callable[[], str] = "nothing was trained yet.".__str__


class Interrupted(SystemExit):
    """A signal wants the program to end; the exit code is 128 + its number, as shells have it."""


@contextmanager
def caught() -> Iterator[None]:
    """A whole command: whatever the moment, one of the signals ends it in good order, with one line and no traceback.

    One that was ignored when the process began, as under nohup, stays so.
    """
    _hear()
    install_handlers()
    try:
        yield
    except SystemExit as end:
        if asked is None:
            raise
        if isinstance(end.code, str):
            _write(end.code)
    if asked is not None:
        _say_last_words()
        sys.exit(128 + asked)


def install_handlers() -> None:
    """Be the one who handles the signals, if a command is under way: Lightning puts handlers of its own in place."""
    if _is_heard and threading.current_thread() is threading.main_thread():
        for number in CAUGHT:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _handle)


@contextmanager
def deferred() -> Iterator[None]:
    """Work that a signal may end at `check_interrupt` only, and at its end."""
    global _holding
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1
    if not _holding:
        check_interrupt()


def check_interrupt() -> None:
    """A moment at which all is in order: end here, if a signal came.

    Raises:
        Interrupted: it did.
    """
    if asked is not None:
        _noticed.set()
        raise Interrupted(128 + asked)


def interruptible(items: Iterable[T]) -> Iterator[T]:
    """The same items, with a moment to `check_interrupt` before each."""
    for item in items:
        check_interrupt()
        yield item


def say(onward: Callable[[], str]) -> None:
    """From now on, how the last line of an interrupted command ends."""
    global _onward
    _onward = onward


def when_ended_at_once(call: Callable[[], object]) -> None:
    """To be called from another thread before the process ends without the main thread."""
    _at_once.append(call)


def pass_on(number: int) -> None:
    """A signal that came to another process of the same work counts as if it had come to this one."""
    _ask(number)
    os.kill(os.getpid(), number)


def command(name: str, argument: str) -> str:
    """What a user types to give one argument to `train` or `report`, by the same way as this command was given."""
    if name == "train" and not {"TORCHELASTIC_RUN_ID", "SLURM_PROCID"}.isdisjoint(os.environ):
        return f"the same command with {shlex.quote(argument)}"
    program = Path(sys.argv[0])
    program = program.with_name(program.name.replace("train", name))
    return shlex.join([*(["python", str(program)] if program.suffix == ".py" else [program.name]), argument])


def _handle(number: int, frame: FrameType | None) -> None:
    _ask(number)
    if not _holding:
        raise Interrupted(128 + number)


def _ask(number: int) -> None:
    global asked
    if asked is None:
        outlive()  # who reads what this process says may have ended by the same signal
        asked = number


def _hear() -> None:
    """Let a thread hear of every signal, whatever the main thread waits for."""
    global _is_heard
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reading,), name="signals", daemon=True).start()
    _is_heard = True


def _listen(reading: int) -> None:
    came = None
    while True:
        # Those that came while a busy machine gave this thread no turn are one wish.
        numbers = [number for number in os.read(reading, 512) if number in CAUGHT]
        if not numbers:
            continue
        if came is None:
            came = time.monotonic()
            _ask(numbers[0])
            threading.Thread(target=_lose_patience, name="patience", daemon=True).start()
        elif came + TWICE < time.monotonic():
            _end_at_once()


def _lose_patience() -> None:
    if not _noticed.wait(PATIENCE):
        _end_at_once()


def _end_at_once() -> None:
    _say_last_words()
    for call in _at_once:
        call()
    os._exit(128 + (asked or 0))


def _say_last_words() -> None:
    assert asked is not None
    if _speaking.acquire(blocking=False) and not any(os.environ.get(rank, "0") not in ("", "0") for rank in RANKS):
        _write(f"hillstart: stopped by {CAUGHT[signal.Signals(asked)]}; {_onward()}")


def _write(sentence: str) -> None:
    with suppress(OSError):  # nobody is left to read it
        below_a_bar = "\r\x1b[K\x1b[?25h" if sys.stderr.isatty() else ""  # which had hidden the cursor
        os.write(2, f"{below_a_bar}{sentence}\n".encode())
