"""Files that are whole or not there, whatever stops or refuses the writer, and folders that no two runs share."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores the signal that comes with it
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_grows_too_large_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("before")
    too_large = r"table cannot be written: File too large; .*ulimit -f"
    with no_file_above(4096), pytest.raises(WritingError, match=too_large), replacing(path) as new:
        new.write_bytes(bytes(10_000))
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["table"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space on its disk"),
        (errno.EROFS, "let its folder be written to, or choose another one"),
        (errno.EIO, "check its disk"),
    ],
)
def test_what_the_system_says_is_one_sentence(tmp_path: Path, number: int, advice: str) -> None:
    with pytest.raises(InputError) as refused, replacing(tmp_path / "table"):
        raise OSError(number, os.strerror(number))
    assert str(refused.value) == f"{tmp_path / 'table'} cannot be written: {os.strerror(number)}; {advice}."
    assert isinstance(refused.value, OSError)


def test_a_folder_that_is_gone_is_named_and_not_made(tmp_path: Path) -> None:
    with (
        pytest.raises(WritingError, match=r"gone/table cannot be written: .*"),
        replacing(tmp_path / "gone" / "table") as new,
    ):
        new.write_text("x")
    assert not (tmp_path / "gone").exists()


def test_a_fault_of_the_program_stays_one(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "table") as new:
        new.write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_file_and_name_lie_on_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        told.append("folder" if os.fstat(handle).st_ino == tmp_path.stat().st_ino else "file")
        fsync(handle)

    def replaced(self: Path, target: Path) -> Path:
        told.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    with replacing(tmp_path / "table") as new:
        new.write_text("x")
    assert told == ["file", "name", "folder"]


@pytest.mark.slow
def test_what_the_killed_left_is_swept_up_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [f".last.ckpt.{dead.pid}.part", f".starts.csv.{os.getpid()}.part"]
    stay = [f".last.ckpt.{os.getppid()}.part", "last.ckpt", ".hidden.part", f".{dead.pid}", f"a.{dead.pid}.part"]
    for name in (*left, *stay):
        (tmp_path / name).touch()
    sweep_up(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)


def test_no_two_get_the_same_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: own_folder(tmp_path / "outputs" / "12-00-00"), range(40)))
    assert len(set(folders)) == 40
    assert all(folder.is_dir() for folder in folders)
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir())[:2] == ["12-00-00", "12-00-00-10"]


def test_where_no_folder_can_be_made_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(WritingError, match=r"outputs/12-00-00 cannot be written: Not a directory"):
        own_folder(tmp_path / "outputs" / "12-00-00")


def test_a_file_is_opened_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"
    for name in ("pipe", "link", ".", "missing"):
        with pytest.raises(InputError, match=name.replace(".", str(tmp_path))):
            open_regular(tmp_path / name)
    with pytest.raises(InputError, match="/dev/zero"):
        open_regular(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["starts.csv", "checkpoints", "csv/version_0/metrics.csv"])
def test_a_folder_with_a_link_that_leaves_it_is_refused(tmp_path: Path, name: str) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    (folder / name).parent.mkdir(parents=True)
    elsewhere.mkdir()
    (folder / "inside").symlink_to(".")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "python").symlink_to(elsewhere)
    check_links(folder)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(InputError, match=name):
        check_links(folder)


def test_a_missing_file_is_both_kinds_of_error(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as missing:
        open_regular(tmp_path / "none")
    with pytest.raises(InputError, match="zero byte"):
        open_regular(tmp_path / "a\0b")
    assert isinstance(missing.value, InputError) and missing.value.filename == str(tmp_path / "none")


def test_nothing_is_written_through_a_planted_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "precious").write_text("kept")
    table = tmp_path / "folder" / "table"
    for planted in (table, table.with_name(f".table.{os.getpid()}.part")):
        planted.symlink_to(tmp_path / "precious")
        with replacing(table) as new:
            new.write_text("written")
        assert (tmp_path / "precious").read_text() == "kept"
        assert table.read_text() == "written" and not table.is_symlink()
        assert [path.name for path in table.parent.iterdir()] == ["table"]
