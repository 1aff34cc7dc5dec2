"""Decoded pictures are cached by content: a second run is the same, and damage to the cache is noticed."""

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from forking import ForkedPopen
from hillstart.data import cache as module
from hillstart.data.cache import Decoded, decode
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.system import machine
from hillstart.system.machine import own_cache
from launching import BOUND

SMALL = Preprocessing(size=8, channels=3)
DAMAGED = "the cached pictures are damaged"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return own_cache() / "pictures"


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    (tmp_path / "photos").mkdir()
    made = [tmp_path / "photos" / f"{i}.png" for i in range(6)]
    for i, path in enumerate(made):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return made


@pytest.fixture
def cached(paths: list[Path], cache: Path) -> Path:
    """The file of the six pictures in the cache."""
    decode(paths, SMALL, "set")
    (file,) = cache.iterdir()
    return file


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the pictures that are decoded."""
    names: list[str] = []

    def counted(source: bytes, *args: object, name: str, **options: object) -> torch.Tensor:
        names.append(Path(name).name)
        return read_picture(source, *args, name=name, **options)

    monkeypatch.setattr(module, "read_picture", counted)
    return names


def check(paths: list[Path], preprocessing: Preprocessing = SMALL) -> Decoded:
    """Decode the pictures, which must be right in any state of the cache."""
    found = decode(paths, preprocessing, "set")
    assert torch.equal(found.x, torch.stack([read_picture(path, preprocessing) for path in paths]))
    return found


def test_only_new_pictures_are_decoded(paths: list[Path], names: list[str]) -> None:
    check(paths[:4])
    first = check(paths)
    assert sorted(names) == [path.name for path in paths]
    second = check(paths)
    assert (second.good, second.traits, second.errors) == (first.good, first.traits, first.errors)
    check(paths[::-1])
    assert len(names) == len(paths)


def test_a_changed_file_of_the_same_size_and_time_is_noticed(paths: list[Path]) -> None:
    one, other = (path.with_suffix(".bmp") for path in paths[:2])
    for i, path in enumerate((one, other)):
        Image.new("RGB", (9, 9), (i,) * 3).save(path)
    before = one.stat()
    decode([one], SMALL, "set")
    with one.open("r+b") as file:
        file.write(other.read_bytes())
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = one.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert int(decode([one], SMALL, "set").x.max()) == 1


@pytest.mark.parametrize(
    "other", [Preprocessing(4, 3), Preprocessing(8, 1), Preprocessing(8, 3, background=0)], ids=str
)
def test_another_preprocessing_is_another_set(other: Preprocessing, paths: list[Path], names: list[str]) -> None:
    Image.new("RGBA", (9, 9), (9, 9, 9, 0)).save(paths[0])
    check(paths)
    check(paths, other)
    assert len(names) == 2 * len(paths)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "no header", "a pipe"])
def test_a_damaged_cache_is_noticed_and_written_anew(
    damage: str, paths: list[Path], cached: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = cached.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    if damage == "a pipe":
        cached.unlink()
        os.mkfifo(cached)
    else:
        cached.write_bytes({"flipped": flipped, "cut": whole[:-9], "empty": b"", "no header": b"x" * 99}[damage])
    check(paths)
    check(paths)
    (message,) = caplog.messages
    assert DAMAGED in message and cached.is_file()


def test_a_wrong_cache_with_a_right_checksum_is_noticed(
    paths: list[Path], cached: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry, x = (
        f'["{hashlib.sha256(paths[0].read_bytes()).hexdigest()}", []]',
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
    )
    for entries, pixels in (
        *((entries, x) for entries in ("1", "[" * 9999, f"[{entry.replace('[]', '[[]]')}]", f'[["0", []], {entry}]')),
        *((f"[{entry}]", wrong) for wrong in (x[..., :7], x.float(), x.bfloat16())),
    ):
        caplog.clear()
        pixels = pixels.contiguous()
        sha256 = hashlib.sha256(entries.encode() + pixels.view(torch.uint8).numpy().tobytes()).hexdigest()
        save_file({"x": pixels}, cached, {"entries": entries, "sha256": sha256})
        check(paths[:1])
        assert DAMAGED in caplog.text, (entries, pixels.dtype)


def test_the_least_recently_used_is_removed_first(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Path] = []
    for k in range(3):
        decode(paths, SMALL, f"set {k}")
        (new,) = set(cache.iterdir()) - set(files)
        files.append(new)
        os.utime(new, (k, k))
    decode(paths, SMALL, "set 0")  # is used, and so is no longer the oldest
    unfinished = cache / ".killed.1"
    unfinished.touch()
    os.utime(unfinished, (0, 0))
    monkeypatch.setattr(module, "CACHE_BYTES", 3 * files[0].stat().st_size)
    decode(paths, SMALL, "set 3")
    assert [file.exists() for file in (*files, unfinished)] == [True, False, True, False]


@pytest.mark.slow
def test_two_processes_fill_one_cache(paths: list[Path], cache: Path) -> None:
    code = (
        "import sys, hashlib; from pathlib import Path; from hillstart.data.cache import decode;"
        "from hillstart.data.preprocessing import Preprocessing; paths = [Path(p) for p in sys.argv[1:]];"
        "sys.stdin.readline()\n"
        "for k in range(20):\n"
        "    for n in (3, 6): x = decode(paths[:n], Preprocessing(8, 3), 'set').x\n"
        "print(hashlib.sha256(x.numpy().data).hexdigest())"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    two = [ForkedPopen([sys.executable, "-c", code, *paths], text=True, **pipes) for _ in range(2)]
    for process in two:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=BOUND) for process in two]
    assert [process.returncode for process in two] == [0, 0] and [err for _, err in printed] == ["", ""]
    assert printed[0] == printed[1]
    assert len(list(cache.iterdir())) == 1
    check(paths)


@pytest.mark.parametrize("below", ["", "hillstart", "hillstart/pictures"])
def test_without_a_cache_folder_or_behind_a_link_nothing_is_cached(
    below: str, paths: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "cache" / below
    if below:
        folder.parent.mkdir(parents=True)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.write_text("a file in the way")
    with caplog.at_level(logging.INFO):
        check(paths)
    assert "not cached for the next run" in caplog.text and ("is a link" in caplog.text) == bool(below)
    assert not list((tmp_path / "elsewhere").rglob("*.safetensors"))


def test_the_notes_of_a_machine_may_be_a_pipe_or_a_link(cache: Path, tmp_path: Path) -> None:
    notes = cache.parent / machine.CHOICES
    notes.parent.mkdir(parents=True)
    os.mkfifo(notes)
    assert machine.cached_choice("what", ("a", "b"), lambda: "b") == "b"
    assert machine.cached_choice("what", ("a", "b"), lambda: "a") == "b" and notes.is_file()
    notes.unlink()
    (tmp_path / "precious").write_text("{}")
    notes.symlink_to(tmp_path / "precious")
    assert machine.cached_choice("what", ("a", "b"), lambda: "a") == "a"
    assert (tmp_path / "precious").read_text() == "{}" and not notes.is_symlink()
