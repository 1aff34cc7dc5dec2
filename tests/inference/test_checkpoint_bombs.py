"""Zips and pickles that torch.save would not write: none runs code, takes memory or time, or hides another pickle."""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from hillstart.inference import model_file
from hillstart.system.untrusted import MAX_DESCRIPTION_BYTES
from stored import Bomb, measured, refused, sentence, whole

LARGE = 100_000_000
"""Bytes to which a bomb unpacks, in a file that is many times smaller."""


def integer(n: int) -> bytes:
    digits = n.to_bytes(n.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(digits)]) + digits


def text(given: str) -> bytes:
    return b"X" + struct.pack("<I", len(given)) + given.encode()


def a_global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def together(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + together(*arguments) + b"R"


def tensor(key: str, stored: int, shape: Iterable[int], strides: Iterable[int]) -> bytes:
    """A tensor as torch pickles it, with the number of elements that its storage claims to have."""
    storage = (
        together(text("storage"), a_global("torch", "FloatStorage"), text(key), text("cpu"), integer(stored)) + b"Q"
    )
    hooks = called(a_global("collections", "OrderedDict"))
    of = (integer(0), together(*map(integer, shape)), together(*map(integer, strides)), b"\x89", hooks)
    return called(a_global("torch._utils", "_rebuild_tensor_v2"), storage, *of)


def pickled(*items: bytes) -> bytes:
    """A checkpoint whose state holds these items."""
    state = b"}(" + b"".join(text(str(k)) + item for k, item in enumerate(items)) + b"u"
    return b"\x80\x02}(" + text("hillstart") + b"}" + text("state_dict") + state + b"u."


def record(name: str, data: bytes, method: int, at: int, comment: int = 0) -> tuple[bytes, bytes]:
    """An entry of a zip, and its line in the directory."""
    packed = data
    if method == zipfile.ZIP_DEFLATED:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = deflate.compress(data) + deflate.flush()
    of = struct.pack("<5H3L", 20, 0, method, 0, 0, zlib.crc32(data), len(packed), len(data))
    local = b"PK\3\4" + of + struct.pack("<2H", len(name.encode()), 0) + name.encode() + packed
    listed = b"PK\1\2" + struct.pack("<H", 20) + of + struct.pack("<5H2L", len(name.encode()), 0, comment, 0, 0, 0, at)
    return local, listed + name.encode() + bytes(comment)


def ended(start: int, length: int, count: int, at: int) -> bytes:
    """The end of a zip as torch writes it, which itself lies at `at`."""
    large = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start)
    where = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    return large + where + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, length, start, 0)


def zipped(path: Path, entries: dict[str, bytes], packed: Iterable[str] = ()) -> None:
    """A zip as torch writes it, some entries of it packed."""
    body = directory = b""
    for name, data in entries.items():
        method = zipfile.ZIP_DEFLATED if name in packed else zipfile.ZIP_STORED
        local, listed = record(name, data, method, len(body))
        body, directory = body + local, directory + listed
    path.write_bytes(body + directory + ended(len(body), len(directory), len(entries), len(body) + len(directory)))


def torch_file(*items: bytes, whole: bytes | None = None) -> dict[str, bytes]:
    """Entries of a checkpoint that holds these items and one storage of 45 numbers."""
    return {
        "archive/data.pkl": pickled(*items) if whole is None else whole,
        "archive/byteorder": b"little",
        "archive/data/0": bytes(4 * 45),
        "archive/version": b"3\n",
    }


def two_directories(path: Path, form: str) -> None:
    """Two directories: the one right before the end names harmless entries, the one that the end points to a bomb.

    Args:
        form: of the end: `short`, `long` as torch writes it, or `posing` as if it were so, with a wrong sign.
    """
    harmless, packed_bomb = torch_file(), torch_file(whole=b"\x80\x02" + text("a" * LARGE) + b".")
    comment = 76 if form == "posing" else 0
    length = sum(46 + len(name) for name in harmless) + comment
    body, directories = b"", [b"", b""]
    for which, entries in enumerate((packed_bomb, harmless)):
        body += bytes(1000)
        for name, data in entries.items():
            # zipfile takes what lies between the two for something put before the zip, and moves all places by it.
            at, last = len(body) - which * length, list(entries)[-1]
            method = zipfile.ZIP_STORED if which else zipfile.ZIP_DEFLATED
            local, listed = record(name, data, method, at, comment if name == last else 0)
            body, directories[which] = body + local, directories[which] + listed
    body = b"PK\3\4" + body[4:]  # how torch knows a zip
    count, end = len(harmless), len(body) + 2 * length
    if form == "posing":
        posing = ended(len(body) + length, length - 76, count, end - 76)[:76].replace(b"PK\6\7", b"PK\6\0")
        directories[1] = directories[1][:-76] + posing
    tail = ended(len(body), length, count, end)
    path.write_bytes(body + directories[0] + directories[1] + (tail if form == "long" else tail[76:]))


def overlapping(path: Path) -> None:
    """Entries that contain one another: each takes time to be read, and no space in the file."""
    local = b""
    for k in range(50):
        local, _ = record(f"archive/data/{k}", local, zipfile.ZIP_STORED, 0)
    inner, directory, base = local, b"", {"archive/data.pkl": pickled(), "archive/version": b"3\n"}
    body = b""
    for name, data in base.items():
        entry, listed = record(name, data, zipfile.ZIP_STORED, len(body))
        body, directory = body + entry, directory + listed
    place = len(body)
    for k in reversed(range(50)):
        head = 30 + len(f"archive/data/{k}")
        _, listed = record(f"archive/data/{k}", inner[head:], zipfile.ZIP_STORED, place)
        inner, place, directory = inner[head:], place + head, directory + listed
    body += local
    path.write_bytes(body + directory + ended(len(body), len(directory), 52, len(body) + len(directory)))


def other_case(path: Path) -> None:
    """torch ignores the case of names, and finds the first of two."""
    zipped(path, {"archive/DATA.PKL": BIG} | torch_file())


def zero_in_name(path: Path) -> None:
    """zipfile cuts a name at a zero byte, and finds the last of two."""
    zipped(path, torch_file(whole=BIG) | {"archive/data.pkl\0": pickled()})


BIG = b"\x80\x02" + called(a_global("builtins", "bytearray"), integer(LARGE)) + b"."
"""A pickle that allocates as many bytes."""

DOUBLED = called(a_global("_codecs", "encode"), text("a" * 1000), text("utf-8"))
for _ in range(16):
    DOUBLED = called(a_global("_codecs", "encode"), DOUBLED, text("hex_codec"))

Write = Callable[[Path], Any]


def state(*items: bytes) -> Write:
    return lambda path: zipped(path, torch_file(*items))


def data_pkl(pickled: bytes, **packed: Any) -> Write:
    return lambda path: zipped(path, torch_file(whole=pickled), **packed)


def saved(value: Any, **how: Any) -> Write:
    return lambda path: torch.save(value, path, **how)


# Text that the error message must hold, and the checkpoints that cause it.
HARMFUL: dict[str, dict[str, Write]] = {
    "not a whole checkpoint": {
        "empty": lambda path: path.touch(),
        "text": lambda path: path.write_text("# My model\n" * 100),
        "model file": lambda path: model_file.save(path, whole()),
        "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb(path.with_name("ran")))),
        "bomb of an older torch": lambda path: torch.save(
            Bomb(path.with_name("ran")), path, _use_new_zipfile_serialization=False
        ),
        "no pickle": lambda path: zipped(path, {"archive/version": b"3\n"}),
        "no entries": lambda path: zipped(path, {}),
        "two directories, short": partial(two_directories, form="short"),
        "two directories, long": partial(two_directories, form="long"),
        "two directories, posing": partial(two_directories, form="posing"),
        "two names, other case": other_case,
        "two names, zero byte": zero_in_name,
        "a name with an umlaut": lambda path: zipped(path, torch_file() | {"archive/ü": b""}),
        "overlapping entries": overlapping,
        "a comment behind": lambda path: (zipped(path, torch_file()), path.write_bytes(path.read_bytes() + b"more")),
        "pickle larger than any": state(text("a" * MAX_DESCRIPTION_BYTES)),
        "a storage of 10^9": state(tensor("0", 10**9, [10**9], [1])),
        "a tensor of 10^9 in a storage of 45": state(tensor("0", 45, [10**9], [1])),
        "a tensor past the end of its storage": state(tensor("0", 45, [45], [3])),
        "a missing storage": state(tensor("1", 45, [45], [1])),
        "a pickle without end": data_pkl(pickled()[:-1]),
        "a pickle of an empty stack": data_pkl(b"\x80\x02R."),
    },
    "not from hillstart": {
        "another project": saved({"state_dict": {"weight": torch.zeros(3)}, "hyper_parameters": {"lr": 0.1}}),
        "a tensor": saved(torch.zeros(3)),
        "a list": saved([1, 2]),
        "a description of another type": saved({"hillstart": 1, "state_dict": {}}),
        "a state of another type": saved({"hillstart": {}, "state_dict": [1]}),
    },
    "the entry sizes is missing": {"nothing in it": state()},
    "is compressed": {
        "packed tensor": lambda path: zipped(path, torch_file(), packed=["archive/data/0"]),
        "packed pickle": data_pkl(bytes(LARGE), packed=["archive/data.pkl"]),
    },
    "asks for 4": {"a later pickle": data_pkl(pickle.dumps({"hillstart": {}, "state_dict": {}}, 4))},
    "asks for 'posix mkdir'": {"bomb": lambda path: torch.save({"state_dict": Bomb(path.with_name("ran"))}, path)},
    "asks for 'builtins bytearray'": {"bytes": state(called(a_global("builtins", "bytearray"), integer(LARGE)))},
    "UntypedStorage'": {"memory": state(called(a_global("torch.storage", "UntypedStorage"), integer(10**10)))},
    "asks for 'torch Tensor'": {"numbers": state(called(a_global("torch", "Tensor"), integer(10**10)))},
    "asks for '_codecs encode'": {"text doubled 16 times": state(DOUBLED)},
    r"asks for 'posix\x1b[2J system": {"an odd name": state(called(a_global("posix\x1b[2J", "system" * 100)))},
}
FILES = {f"{name}.ckpt": (write, named) for named, of in HARMFUL.items() for name, write in of.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harmful")
    for name, (write, _) in FILES.items():
        write(folder / name)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_harmful_checkpoint_is_refused(folder: Path, name: str) -> None:
    assert FILES[name][1] in refused(folder / name)
    assert not (folder / "ran").exists()


@pytest.mark.slow
def test_a_harmful_checkpoint_takes_no_memory(folder: Path) -> None:
    for path, message, bytes_, _ in measured(*(folder / name for name in FILES)):
        assert message is not None and FILES[path.name][1] in sentence(path, message)
        assert bytes_ < 20 * path.stat().st_size + (8 << 20), path.name


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("two ")])
def test_torch_would_have_seen_another_pickle(folder: Path, name: str) -> None:
    """Otherwise these files would not show that a check by zipfile alone is not enough."""
    with zipfile.ZipFile(folder / name) as archive:
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        assert archive.testzip() is None and archive.read("archive/data.pkl") == pickled()
    assert len(torch.load(folder / name, weights_only=True, mmap=True)) == LARGE
