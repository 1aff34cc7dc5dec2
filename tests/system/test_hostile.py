"""Any file and any option is read or refused in one sentence and in bounded time.

Examples are the same each time. `fuzz.py` searches further, by hand.
"""

import pickletools
import re
import signal
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from hostile import OPTIONS, READERS, outcome, plain, tables

set_hypothesis_home_dir(Path(tempfile.gettempdir(), "hillstart-hypothesis"))  # of its tables of letters, say

SECONDS = 20
"""Limit of processor time for a file."""


class TooLong(BaseException):
    """No reader may take this for damage of a file."""


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """A signal can stop a reader between two steps of Python; test_endless.py tests what hangs within one."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, stop)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


def read(reader: str, data: bytes, folder: Path) -> str | None:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    error = outcome(reader, data, folder)
    signal.setitimer(signal.ITIMER_PROF, 0)
    return error


def examples(most: int) -> settings:
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=most, derandomize=True, database=None, deadline=None, suppress_health_check=slow)


# ---------------------------------------------------------------- damage

EXTREMES = [0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]


@st.composite
def damaged(draw: st.DrawFn, sound: list[bytes]) -> bytes:
    """A sound file with bits flipped, cut, with parts of it or of another repeated, or with extreme numbers in it."""
    data = draw(st.sampled_from(sound))
    for _ in range(draw(st.integers(1, 4))):
        # Most readers check the beginning first.
        at = draw(st.integers(0, min(64, len(data))) | st.integers(0, len(data)))
        how = draw(st.sampled_from(["flip", "flip", "cut", "repeat", "splice", "insert", "number", "number"]))
        size = draw(st.sampled_from([1, 2, 4, 8, 30]))
        new = b""
        if how == "flip":
            size, new = 1, bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[at : at + 1])
        elif how == "cut":
            size = len(data)
        elif how == "repeat":  # or remove
            new = data[at : at + size] * draw(st.integers(2, 100) | st.just(0))
        elif how == "splice":
            other = draw(st.sampled_from(sound))
            size, new = len(data), other[draw(st.integers(0, len(other))) :]
        elif how == "insert":
            size, new = 0, draw(st.binary(max_size=9))
        else:
            order, width = draw(st.sampled_from("<>")), draw(st.sampled_from("BHLQ"))
            size = struct.calcsize(f"<{width}")
            new = struct.pack(order + width, draw(st.sampled_from(EXTREMES)) % (1 << 8 * size))
        data = data[:at] + new + data[at + size :]
    return data


@pytest.mark.parametrize("reader", [name for name in READERS if name != "options"])
def test_a_damaged_file(reader: str, folder: Path) -> None:
    sound = READERS[reader].sound()
    assert [read(reader, data, folder) for data in sound] == [None] * len(sound)

    @examples(80 if reader == "picture" else 30)
    @given(damaged(sound))
    def check(data: bytes) -> None:
        read(reader, data, folder)

    check()


# ---------------------------------------------------------------- files of the right form with odd content

NUMBERS = st.sampled_from([*EXTREMES, -1, 0.5, -0.0, 1e-45, 1e38, 1e308, -(2**63), 10**30]) | st.floats()
TEXTS = st.text(max_size=5) | st.sampled_from(["", "\0", "\ud800", "F32", "sigmoid", "w1", "x" * 2000, "a\nb", "\x1b["])
FLAT = st.none() | st.booleans() | NUMBERS | TEXTS
ODD: st.SearchStrategy[Any] = (
    FLAT | st.lists(FLAT, max_size=4) | st.dictionaries(TEXTS, FLAT, max_size=3) | st.lists(st.lists(FLAT), max_size=3)
)

OPCODES = [
    *(bytes([byte]) for byte in b"()]}tqQRaeus012.NlGK\x85\x86\x87\x88\x89\x8f\x90\x94"),
    *(b"q\0", b"h\0", b"q\1", b"h\1", b"K\0", b"M\0\1", b"J\xff\xff\xff\xff", b"\x8a\x09" + b"\xff" * 9, b"\x8a\xff"),
    *(b"G" + struct.pack(">d", number) for number in (0.0, float("nan"), 1e308)),
    *map(plain, ("hillstart", "state_dict", "storage", "cpu", "0", "", "best.w1", "history", "seeds")),
    *(b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n"),
    *(b"cposix\nsystem\n", b"cbuiltins\neval\n", b"r\0\0\0\1", b"j\0\0\0\1", b"\x80\2"),
]


@examples(100)
@given(st.data())
def test_pickles(folder: Path, data: st.DataObject) -> None:
    (sound,) = READERS["pickle"].sound()
    odd = b"".join(data.draw(st.lists(st.sampled_from(OPCODES), max_size=20)))
    if data.draw(st.booleans()):
        at = data.draw(st.sampled_from([position for _, _, position in pickletools.genops(sound)]))
        read("pickle", sound[:at] + odd + sound[at:], folder)
    else:
        read("pickle", b"\x80\2" + odd + b".", folder)


@examples(50)
@given(st.data())
def test_bitmaps(folder: Path, data: st.DataObject) -> None:
    kinds = ["|u1", "<f8", "|O", "|V0", "|S0", "<U4", "<M8[ns]", ">i4", "O", "", "x", [("a", "|u1")], [("a", "|O")], 3]
    shapes = st.lists(st.sampled_from([0, 1, 4, 784, -1, 2**31, 2**62, 2**64]), max_size=70)
    entries = {"descr": st.sampled_from(kinds) | ODD, "fortran_order": st.booleans() | ODD}
    about = data.draw(st.fixed_dictionaries(entries, optional={"shape": shapes.map(tuple) | ODD}))
    text = data.draw(st.just(repr(about)) | st.sampled_from(["(" * 9000, "[" * 300, "-" * 9000, "{}", "\0", "1L"]))
    body = text.encode(errors="surrogatepass") + b"\n"
    version = data.draw(st.sampled_from([1, 2, 3, 4, 0]))
    length = struct.pack("<H" if version < 2 else "<L", min(len(body), 65535))
    read("npy", b"\x93NUMPY" + bytes([version, 0]) + length + body + bytes(4 * 784), folder)


@examples(40)
@given(st.data())
def test_tables(folder: Path, data: st.DataObject) -> None:
    entries = tables()[0].decode().split(",")
    entries[data.draw(st.integers(0, len(entries) - 1))] = data.draw(TEXTS | NUMBERS.map(str))
    read("table", ",".join(entries).encode(errors="surrogatepass"), folder)


VALUES = st.sampled_from(
    [
        *("null", "true", "-1", "0", "1e999", "nan", "-inf", "[]", "[[]]", "{a:1}", "''", "'", "[", "${seed}"),
        *("${nowhere}", "1" * 30, "[0.1,0.1]", "[0.1,nan]", "[1,null]", "???", "'a\\nb'", "é", "x" * 3000, "1,2"),
    ]
) | TEXTS.map(lambda text: re.sub(r"[\r\n]", "", text))


@examples(15)
@given(st.lists(st.tuples(st.sampled_from(OPTIONS), VALUES), min_size=1, max_size=3))
def test_options(folder: Path, words: list[tuple[str, str]]) -> None:
    read("options", "\n".join(f"{key}={value}" for key, value in words).encode(errors="replace"), folder)
