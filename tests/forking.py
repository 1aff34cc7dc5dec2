"""Python commands in forks of an interpreter that has imported the libraries already, used like those of subprocess.

Importing torch, Lightning and Hydra takes a command seconds. The fork server of multiprocessing does it once for each
worker of pytest; hillstart itself is imported by each command. What acts when an interpreter starts does not act here:
options like -W, and PYTHON* variables other than PYTHONPATH. Start such commands by subprocess.
"""

import atexit
import gc
import os
import runpy
import signal
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, CompletedProcess, TimeoutExpired
from types import ModuleType
from typing import IO, Any

LIBRARIES = [
    *("torch", "torchvision", "torchmetrics", "lightning.pytorch", "hydra", "hydra.core.plugins", "pydantic"),
    *(
        "matplotlib.figure",
        "scipy.stats",
        "scipy.optimize",
        "rich.progress",
        "rich.table",
        "jinja2",
        "safetensors.torch",
    ),
]
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(LIBRARIES)


class ForkedPopen:
    """A Python script with its arguments, or a module after -m, or code after -c, in a process of its own.

    A process that still runs when nothing refers to it any longer is killed.
    """

    _polling = threading.Lock()
    """Starting a process polls all others too, and only one thread can read the exit code of each."""

    def __init__(
        self,
        args: Sequence[Any],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        text: bool = False,
        start_new_session: bool = False,
    ):
        self.args = args
        self.stdin: IO[Any] | None
        self.stdout: IO[Any] | None
        self.stderr: IO[Any] | None
        ours: list[IO[Any] | None] = []
        theirs: list[Connection] = []  # any file: it is what multiprocessing can send to another process
        for number, stream in enumerate((stdin, stdout, stderr)):
            file = None
            if stream == PIPE:
                reading, writing = os.pipe()
                end, other = (reading, writing) if number == 0 else (writing, reading)
                file = os.fdopen(other, ("r" if number else "w") + ("" if text else "b"))
            elif stream == DEVNULL:
                end = os.open(os.devnull, os.O_RDWR)
            elif stream == STDOUT:
                end = os.dup(theirs[1].fileno())
            else:
                end = os.dup(number if stream is None else stream if isinstance(stream, int) else stream.fileno())
            ours.append(file)
            theirs.append(Connection(end))
        self.stdin, self.stdout, self.stderr = ours
        words = [os.fsdecode(word) for word in args]
        assert words[0] == sys.executable, words
        command = (words, cwd or Path.cwd(), dict(os.environ if env is None else env), theirs, start_new_session)
        self._process = CONTEXT.Process(target=_run, args=command)
        with self._polling:
            self._process.start()
        for connection in theirs:
            connection.close()
        self.pid = self._process.pid or 0
        weakref.finalize(self, _kill, self._process)

    @property
    def returncode(self) -> int | None:
        """The exit code, -N after signal N, or None while the process runs."""
        with self._polling:
            return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        if not wait([self._process.sentinel], timeout):
            raise TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        if self.stdin:
            with suppress(BrokenPipeError), self.stdin:
                if input:
                    self.stdin.write(input)
        streams = (self.stdout, self.stderr)
        with ThreadPoolExecutor(2) as pool:
            parts = [stream and pool.submit(stream.read) for stream in streams]
            try:
                out, err = [part and part.result(timeout) for part in parts]
            except TimeoutError:
                self.kill()
                raise TimeoutExpired(self.args, timeout or 0) from None
        for stream in filter(None, streams):
            stream.close()
        self.wait(timeout)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "ForkedPopen":
        return self

    def __exit__(self, *error: object) -> None:
        for stream in filter(None, (self.stdin, self.stdout, self.stderr)):
            stream.close()
        self.wait()


def run_forked(
    args: Sequence[Any],
    *,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> CompletedProcess[Any]:
    """`subprocess.run` for a `ForkedPopen`."""
    pipes = {"stdout": PIPE, "stderr": PIPE} if capture_output else {}
    with ForkedPopen(args, **pipes, **options) as process:
        out, err = process.communicate(timeout=timeout)
    done = CompletedProcess(args, process.returncode or 0, out, err)
    if check:
        done.check_returncode()
    return done


def _kill(process: BaseProcess) -> None:
    with ForkedPopen._polling:
        if process.exitcode is None:
            process.kill()


def _run(args: list[str], cwd: Path, env: dict[str, str], streams: list[Connection], start_new_session: bool) -> None:
    """Become, in the forked process, what a new interpreter with these arguments would be."""
    gc.freeze()  # else each collection would walk, and so copy, what the fork server has imported
    if start_new_session:
        os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if "OMP_NUM_THREADS" in env:
        import torch

        torch.set_num_threads(int(env["OMP_NUM_THREADS"]))  # which OpenMP has read in the fork server already
    _, script, *arguments = sys.orig_argv = args
    helpers = str(Path(__file__).parent)
    sys.path[:] = [*filter(None, env.get("PYTHONPATH", "").split(":")), *(path for path in sys.path if path != helpers)]
    try:
        if script == "-c":
            sys.path.insert(0, "")
            sys.argv = ["-c", *arguments[1:]]
            main = sys.modules["__main__"] = ModuleType("__main__")
            exec(arguments[0], vars(main))
        elif script == "-m":
            sys.path.insert(0, "")
            sys.argv = arguments
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(script).resolve().parent))
            sys.argv = [script, *arguments]
            runpy.run_path(script, run_name="__main__")
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:  # as an interpreter ends; multiprocessing would wait for joblib's workers first, and do no exit functions
        threading._shutdown()
        atexit._run_exitfuncs()
