"""Atomic files, untrusted files and folders of their own for each run."""

import errno
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hillstart.system.errors import InputError
from hillstart.system.files import (
    MissingError,
    WritingError,
    check_links,
    open_regular,
    own_folder,
    replacing,
    sweep_up,
)


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # Python ignores the signal that comes with it
    try:
        with pytest.raises(WritingError, match=r"table cannot be written: .*ulimit -f"), replacing(path) as new:
            new.write_bytes(bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(ZeroDivisionError), replacing(path) as new:  # a fault of the program stays one
        new.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "choose another"),
        (errno.EIO, "check its disk"),
        (0, "its disk"),
    ],
)
def test_an_error_of_the_system_becomes_one_sentence(tmp_path: Path, number: int, advice: str) -> None:
    sentence = rf"table cannot be written: {os.strerror(number)}; .*{advice}"
    with pytest.raises(WritingError, match=sentence) as refused, replacing(tmp_path / "table"):
        raise OSError(number, os.strerror(number))
    assert isinstance(refused.value, InputError) and isinstance(refused.value, OSError)


def test_a_folder_that_is_gone_is_named_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "gone/table"
    with pytest.raises(WritingError, match=r"gone/table cannot be written: .*"), replacing(path) as new:
        new.write_text("x")
    assert not path.parent.exists()


def test_the_file_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        calls.append("folder" if os.fstat(handle).st_ino == tmp_path.stat().st_ino else "file")
        fsync(handle)

    def replaced(self: Path, target: Path) -> Path:
        calls.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    with replacing(tmp_path / "table") as new:
        new.write_text("x")
    assert calls == ["file", "name", "folder"]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "precious").write_text("kept")
    table = tmp_path / "folder/table"
    for link in (table, table.with_name(f".table.{os.getpid()}.part")):
        link.symlink_to(tmp_path / "precious")
        with replacing(table) as new:
            new.write_text("written")
        assert (tmp_path / "precious").read_text() == "kept"
        assert table.read_text() == "written" and not table.is_symlink()
        assert list(table.parent.iterdir()) == [table]


@pytest.mark.slow
def test_unfinished_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    unfinished = [f".last.ckpt.{dead.pid}.part", f".starts.csv.{os.getpid()}.part"]
    others = [f".last.ckpt.{os.getppid()}.part", "last.ckpt", ".hidden.part", f".{dead.pid}", f"a.{dead.pid}.part"]
    for name in (*unfinished, *others):
        (tmp_path / name).touch()
    sweep_up(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_each_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    wanted = tmp_path / "outputs/12-00-00"
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: own_folder(wanted), range(40)))
    assert len(set(folders)) == 40 and all(folder.is_dir() for folder in folders)
    assert {wanted, wanted.with_name("12-00-00-2"), wanted.with_name("12-00-00-40")} <= set(folders)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(WritingError, match=r"file/12-00-00 cannot be written: Not a directory"):
        own_folder(tmp_path / "file/12-00-00")


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match=f"{path}: is "):
            open_regular(path)
    with pytest.raises(InputError, match="zero byte"):
        open_regular(tmp_path / "a\0b")
    with pytest.raises(MissingError, match="none: there is no such file") as missing:
        open_regular(tmp_path / "none")
    assert isinstance(missing.value, InputError) and missing.value.filename == str(tmp_path / "none")


@pytest.mark.parametrize("name", ["starts.csv", "csv/version_0/metrics.csv"])
def test_a_folder_with_a_link_that_leaves_it_is_refused(tmp_path: Path, name: str) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    (folder / name).parent.mkdir(parents=True)
    elsewhere.mkdir()
    (folder / "inside").symlink_to(".")
    (folder / ".venv").mkdir()
    (folder / ".venv/python").symlink_to(elsewhere)
    check_links(folder)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(InputError, match=name):
        check_links(folder)
