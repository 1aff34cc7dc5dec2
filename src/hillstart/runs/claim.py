"""A folder taken for writing: by one process at a time, and never over the files of an earlier run unasked.

A lock of the operating system marks the folder as taken. It ends with its process, however that ends, and on a shared
disk it holds against other hosts too; where a file system has no such locks, a lease takes its place, which others may
take over once it has not been renewed for `LEASE_SECONDS`. Readers of a folder take no lock.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from hillstart.system.console import visible
from hillstart.system.errors import InputError
from hillstart.system.files import check_links, open_regular, relative, writing

RESULTS = (
    *("checkpoints/packs.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "pack.json"),
    *("summary.json", "starts.csv", "history.csv", "network.safetensors", "report.html"),
    *("network.onnx", "network-start*.onnx", "network.pt2", "network-start*.pt2"),
    *(f"network{of}-csv/{table}.csv" for of in ("", "-start*") for table in ("about", "start*-seed*-layer*")),
)
"""Files of a run by which its folder is known to hold one."""
BESIDE = (
    *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "multirun.yaml", "optimization_results.yaml"),
    "mlflow_run_id.txt",
    *("train.log", "csv/version_*/metrics.csv", "csv/version_*/hparams.yaml"),
    *("tensorboard/version_*/events.out.tfevents.*", "tensorboard/version_*/hparams.yaml"),
)
"""Other files of a run, some of them written before it begins: its folder is not recognised by them."""

LOCK, LEASE = ".lock", ".lease"
LEASE_SECONDS, LEASE_WAIT = 30.0, 45.0
"""Seconds after which a lease that was not renewed may be taken over, and seconds to wait for that."""
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def claim(folder: Path, *, resume: bool = False, overwrite: bool = False, sweep: bool = False) -> Iterator[None]:
    """Hold `folder` for a run that writes into it, until the block ends; made if it is not there.

    Args:
        resume: the run in it goes on; else there must be none.
        overwrite: remove the files of the run that it holds first, and no others.
        sweep: it is the root of a multirun, whose jobs have folders in it.

    Raises:
        InputError: a link in it leads elsewhere, another process holds it, or it holds a run.
        WritingError: it cannot be made or written to.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_links(folder)
    with _locked(folder):
        if overwrite and not resume:
            # Hydra numbers the jobs of a sweep; a folder with another name may belong to something else.
            jobs = [path for path in folder.iterdir() if path.name.isdecimal()] if sweep else []
            for place in (*jobs, *folder.glob("packs/*"), folder):
                remove_run(place)
        if not resume:
            check_free(folder)
        if sweep and not resume:
            _check_no_jobs(folder)
        yield


def check_free(folder: Path) -> None:
    """Refuse a folder that holds a run.

    Raises:
        InputError: it does.
    """
    if found := _result(folder):
        place = visible(str(relative(folder)))
        raise InputError(
            f"{place}: holds a run already ({found.relative_to(folder)}); give another folder, resume={place} to go on "
            "with that run, or overwrite=true to remove it first."
        )


def _result(folder: Path) -> Path | None:
    return next((path for pattern in RESULTS for path in folder.glob(pattern)), None)


def _check_no_jobs(folder: Path) -> None:
    for pattern in ("**/.hydra", "**/summary.json"):
        if found := next((path.parent for path in folder.glob(pattern) if path.parent != folder), None):
            raise InputError(
                f"{visible(str(relative(folder)))}: holds a run in {visible(str(found.relative_to(folder)))}, which "
                "would be counted among the jobs of this sweep; give another folder, or, where that run is a job of an "
                "earlier sweep, overwrite=true, which removes jobs in folders named by a number."
            )


def remove_run(folder: Path) -> None:
    """Remove the files of the run in a folder, if it holds one, and folders that are empty then.

    Its options go first, without which it cannot be resumed, and its results last, by which the folder is known to hold
    a run: a removal that is interrupted is completed by the next one.
    """
    if not _result(folder) and not (folder / ".hydra").is_dir():
        return
    folders = set[Path]()
    for pattern in (*BESIDE, *reversed(RESULTS)):
        for path in list(folder.glob(pattern)):
            folders.update(parent for parent in path.parents if parent.is_relative_to(folder))
            with writing(path):
                path.unlink(missing_ok=True)
    for place in sorted(folders, key=lambda place: len(place.parts), reverse=True):
        with suppress(OSError):  # it holds something else
            place.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    path = folder / LOCK
    lock: BaseFileLock = FileLock(
        path, blocking=False, thread_local=False, fallback_to_soft=False, on_acquired=_write_holder
    )
    try:
        lock.acquire()
    except Timeout:
        raise _taken(folder, _holder(path)) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            with writing(path):
                raise
        path.unlink(missing_ok=True)
        path = folder / LEASE
        lock = _leased(folder)
    try:
        yield
    finally:
        if path.name == LOCK:  # while it is held: a process that has opened it by then notices, and opens a new one
            with suppress(OSError):
                path.unlink()
        lock.release()


def _leased(folder: Path) -> SoftFileLease:
    def lost(_: object) -> None:  # in a thread: the main thread may be in the middle of a chunk
        print(f"hillstart: {relative(folder)}: was taken over by another process, so this one ends.", file=sys.stderr)
        os._exit(1)

    lease = SoftFileLease(
        folder / LEASE,
        timeout=LEASE_WAIT,
        poll_interval=LEASE_SECONDS / 30,
        thread_local=False,
        lease_duration=LEASE_SECONDS,
        on_compromise=lost,
    )
    try:
        lease.acquire()
    except Timeout:
        owner = lease.owner
        raise _taken(folder, owner and f"process {owner.pid} on {owner.hostname}") from None
    except OSError:
        with writing(folder / LEASE):
            raise
    return lease


def _write_holder(file: int) -> None:
    os.ftruncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(errors="replace"))


def _holder(path: Path) -> str | None:
    with suppress(InputError), open_regular(path) as file:
        return file.read(200).decode(errors="replace").strip()
    return None


def _taken(folder: Path, holder: str | None) -> InputError:
    who = f" ({visible(holder)})" if holder else ""
    return InputError(
        f"{visible(str(relative(folder)))}: another training writes into it{who}; "
        "wait until that has ended, or give another folder."
    )
