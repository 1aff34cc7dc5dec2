"""Decoded pictures are kept by content: a second run is the same, and whatever is wrong with the cache is noticed."""

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

from hillstart.data import cache as decoded
from hillstart.data.cache import decode
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.system import machine
from hillstart.system.machine import own_cache
from launching import BOUND

SMALL = Preprocessing(size=8, channels=3)


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


def expected(paths: list[Path]) -> torch.Tensor:
    return torch.stack([read_picture(path, SMALL) for path in paths])


def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is decoded from now on."""
    names: list[str] = []

    def counted(source: bytes, preprocessing: Preprocessing, *, name: str, notice: object) -> torch.Tensor:
        names.append(Path(name).name)
        return read_picture(source, preprocessing, name=name, notice=notice)

    monkeypatch.setattr(decoded, "read_picture", counted)
    return names


def test_a_second_run_decodes_nothing_and_gives_the_same(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first, names = decode(paths, SMALL, "set"), decodes(monkeypatch)
    second = decode(paths, SMALL, "set")
    assert not names
    assert torch.equal(first.x, expected(paths)) and torch.equal(second.x, first.x)
    assert (second.good, second.traits, second.errors) == (first.good, first.traits, first.errors)
    assert torch.equal(decode(paths[::-1], SMALL, "set").x, expected(paths[::-1])) and not names


def test_only_what_is_new_is_decoded(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decode(paths[:4], SMALL, "set")
    names = decodes(monkeypatch)
    assert torch.equal(decode(paths, SMALL, "set").x, expected(paths))
    assert sorted(names) == ["4.png", "5.png"]


def test_a_file_that_hides_its_change_is_noticed(paths: list[Path]) -> None:
    """The same size, inode and times of change: only its content tells."""
    for i, path in enumerate(paths[:2]):
        Image.new("RGB", (9, 9), (i,) * 3).save(path.with_suffix(".bmp"))
    one, other = (path.with_suffix(".bmp") for path in paths[:2])
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
def test_another_preprocessing_is_another_set(
    other: Preprocessing, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGBA", (9, 9), (9, 9, 9, 0)).save(paths[0])
    decode(paths, SMALL, "set")
    names = decodes(monkeypatch)
    assert torch.equal(decode(paths, other, "set").x, torch.stack([read_picture(path, other) for path in paths]))
    assert len(names) == len(paths)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "no header"])
def test_a_damaged_cache_is_noticed_and_made_anew(
    damage: str, paths: list[Path], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    decode(paths, SMALL, "set")
    (place,) = cache.iterdir()
    whole = place.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    place.write_bytes({"flipped": flipped, "cut": whole[:-9], "empty": b"", "no header": b"x" * 99}[damage])
    assert torch.equal(decode(paths, SMALL, "set").x, expected(paths))
    (message,) = caplog.messages
    assert "the cached pictures are damaged" in message
    decode(paths, SMALL, "set")
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("entries", "x"),
    [
        ("1", torch.zeros(1, 3, 8, 8, dtype=torch.uint8)),
        ("[" * 9999, torch.zeros(1, 3, 8, 8, dtype=torch.uint8)),
        ('[["SHA256", [[]]]]', torch.zeros(1, 3, 8, 8, dtype=torch.uint8)),
        ('[["0", []], ["SHA256", []]]', torch.zeros(1, 3, 8, 8, dtype=torch.uint8)),
        ('[["SHA256", []]]', torch.zeros(1, 3, 8, 9, dtype=torch.uint8)),
        ('[["SHA256", []]]', torch.zeros(1, 3, 8, 8)),
        ('[["SHA256", []]]', torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16)),
    ],
    ids=["a number", "deep", "lists as traits", "more than pixels", "another size", "another type", "unknown to numpy"],
)
def test_a_cache_that_lies_is_noticed_and_made_anew(
    entries: str, x: torch.Tensor, paths: list[Path], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    decode(paths[:1], SMALL, "set")
    (place,) = cache.iterdir()
    entries = entries.replace("SHA256", hashlib.sha256(paths[0].read_bytes()).hexdigest())
    sha256 = hashlib.sha256(entries.encode() + x.view(torch.uint8).numpy().tobytes()).hexdigest()
    save_file({"x": x}, place, {"entries": entries, "sha256": sha256})
    assert torch.equal(decode(paths[:1], SMALL, "set").x, expected(paths[:1]))
    assert "the cached pictures are damaged" in caplog.text


def test_bad_files_are_told_again_and_never_kept(paths: list[Path]) -> None:
    paths[1].write_text("no picture")
    paths[3].write_bytes(paths[3].read_bytes()[:-60])
    for _ in range(2):
        read = decode(paths, SMALL, "set")
        assert {i: error.reason for i, error in read.errors.items()} == {1: "no picture", 3: "damaged"}
        assert read.good == (0, 2, 4, 5) and torch.equal(read.x, expected([paths[i] for i in read.good]))


def test_a_cache_that_cannot_be_written_is_no_error(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    with caplog.at_level(logging.INFO):
        assert torch.equal(decode(paths, SMALL, "set").x, expected(paths))
    assert "not cached for the next run" in caplog.text


def test_what_was_not_used_for_longest_goes_first(
    paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    for k in range(3):
        decode(paths, SMALL, f"set {k}")
        (new,) = set(cache.iterdir()) - set(places)
        places.append(new)
        os.utime(new, (k, k))
    decode(paths, SMALL, "set 0")  # is used, and so is no longer the oldest
    orphan = cache / ".killed.1"
    orphan.touch()
    os.utime(orphan, (0, 0))
    monkeypatch.setattr(decoded, "CACHE_BYTES", 3 * places[0].stat().st_size)
    decode(paths, SMALL, "set 3")
    assert places[0].exists() and not places[1].exists() and places[2].exists() and not orphan.exists()


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
    two = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, paths)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in two:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate(timeout=BOUND) for process in two]
    assert [process.returncode for process in two] == [0, 0] and [err for _, err in told] == ["", ""]
    assert told[0] == told[1]
    assert len(list(cache.iterdir())) == 1 and torch.equal(decode(paths, SMALL, "set").x, expected(paths))


def test_a_pipe_in_the_cache_is_replaced(paths: list[Path], cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    decode(paths, SMALL, "set")
    (place,) = cache.iterdir()
    place.unlink()
    os.mkfifo(place)
    assert torch.equal(decode(paths, SMALL, "set").x, expected(paths))
    assert "the cached pictures are damaged" in caplog.text and place.is_file()


@pytest.mark.parametrize("below", ["hillstart", "hillstart/pictures"])
def test_nothing_is_kept_behind_a_link(
    below: str, paths: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere").mkdir()
    place = tmp_path / "cache" / below
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "elsewhere")
    with caplog.at_level(logging.INFO):
        assert torch.equal(decode(paths, SMALL, "set").x, expected(paths))
    assert not list((tmp_path / "elsewhere").rglob("*.safetensors")) and "is a link" in caplog.text


def test_the_notes_of_a_machine_may_be_a_pipe(cache: Path, tmp_path: Path) -> None:
    notes = cache.parent / machine.NOTES
    notes.parent.mkdir(parents=True)
    os.mkfifo(notes)
    assert machine.noted("what", ("a", "b"), lambda: "b") == "b"
    assert machine.noted("what", ("a", "b"), lambda: "a") == "b" and notes.is_file()
    notes.unlink()
    (tmp_path / "precious").write_text("{}")
    notes.symlink_to(tmp_path / "precious")
    assert machine.noted("what", ("a", "b"), lambda: "a") == "a"
    assert (tmp_path / "precious").read_text() == "{}" and not notes.is_symlink()
