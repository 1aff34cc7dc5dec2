"""Small files that would need much memory or time are refused with little of both.

Each is read in a process of its own, since a signal cannot stop what hangs within one step of Python.
"""

import gzip
import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from forking import run_forked
from hostile import READERS, headed, heif_files, plain
from launching import BOUND

pytestmark = pytest.mark.slow  # starts processes

SECONDS = 30
"""Limit of processor time for a file."""
LARGE, OBJECTS, LINE, MEMORY = 2 << 20, 24 << 20, 1 << 18, 40 << 20
"""Bytes of a description, of the objects that it may become, of a drawing, and of a process for a file: a quarter of
what hillstart allows, which would take four times as long."""


def described(text: bytes | str) -> bytes:
    """A model file with this description."""
    about = text if isinstance(text, str) else text.decode()
    return headed(json.dumps({"__metadata__": {"hillstart": about}}, ensure_ascii=False).encode())


def doing(*opcodes: bytes) -> bytes:
    """The pickle of a checkpoint in which these opcodes make one more entry of the preprocessing."""
    about = {"sizes": [12, 2], "activation": "sigmoid", "cost": "quadratic", "seeds": [0], "rolls": [[0.1, 0.0, 0.0]]}
    entry = plain("preprocessing") + plain({"mean": [0.1], "std": [0.1]}) + plain("more") + b"".join(opcodes) + b"ss"
    return b"\x80\2}" + plain("hillstart") + plain(about | {"classes": ["a", "b"]}) + entry + b"s" + STATE + b"."


STATE = plain("state_dict") + b"}s"
FULL = LARGE - 2000
ALIASES = [b"- &%c [%s]\n" % (k + 1, b", ".join([b"*%c" % k] * 9)) for k in range(97, 120)]
TENSOR = (  # without the hooks of a backward pass
    b"ctorch._utils\n_rebuild_tensor_v2\n((" + plain("storage") + b"ctorch\nFloatStorage\n" + plain("0") + plain("cpu"),
    b"K\1tQK\0))\x89",
)
NO_HOOKS = b"ccollections\nOrderedDict\n)R"


def of_one_hash(count: int) -> list[bytes]:
    """Whole numbers of which a dict holds each where it first looks for all others."""
    return [b"\x8a\x0f" + (k * (2**61 - 1)).to_bytes(15, "little") for k in range(count)]


DUPLICATE = b"q\1h\1\x86"  # a pair of the last object and itself
ENDLESS: dict[str, tuple[str, Callable[[], bytes]]] = {
    # Objects in two places, which grow exponentially.
    "pairs of pairs": ("pickle", lambda: doing(b")" + DUPLICATE * 60)),
    "pairs of pairs as a key": ("pickle", lambda: doing(b"})" + DUPLICATE * 60 + b"Ns")),
    "pairs of pairs, copied": ("pickle", lambda: doing(b")" + b"2\x86" * 60)),
    "pairs of pairs as a key, to resume": ("pickle to resume", lambda: doing(b"})" + DUPLICATE * 60 + b"Ns")),
    "lists of themselves": ("pickle", lambda: doing(b"]q\1h\1a")),
    "dicts that grow later": ("pickle", lambda: doing(b"ccollections\nOrderedDict\n)Rq\1h\1" + plain("a") + b"h\1s")),
    "aliases of aliases": ("options of a run", lambda: b"- &a [x, x, x]\n" + b"".join(ALIASES)),
    # Deep nesting.
    "deep tuples as a key": ("pickle", lambda: doing(b"})" + b"\x85" * 10**6 + b"Ns")),
    "deep lists": ("pickle", lambda: doing(b"]" * 10**5 + b"a" * (10**5 - 1))),
    "tensors within tensors": (
        "pickle",
        lambda: doing(b"".join([*TENSOR, NO_HOOKS, plain("a")]) * 30_000, b"N", b"stR" * 30_000),
    ),
    "deep lists in JSON": ("model", lambda: described("[" * 10**5 + "]" * 10**5)),
    # Keys of one hash, for which building a dict takes hours.
    "numbers of one hash": ("pickle", lambda: doing(b"}(", *(n + b"N" for n in of_one_hash(200_000)), b"u")),
    "pairs of one hash": (
        "pickle",
        lambda: doing(NO_HOOKS[:-2], b"](", *(n + b"N\x86" for n in of_one_hash(100_000)), b"e\x85R"),
    ),
    # Descriptions of allowed length with large objects.
    "empty lists": ("pickle", lambda: doing(b"](" + b"]" * FULL + b"e")),
    "marks": ("pickle", lambda: doing(b"(" * FULL)),
    "memo entries": ("pickle", lambda: doing(b"N", *(b"r" + struct.pack("<I", k) for k in range(FULL // 5)))),
    "a wide text": ("pickle", lambda: doing(plain("🦁" + "a" * FULL))),
    "empty lists in JSON": ("model", lambda: described("[" + "[]," * (LARGE // 4) + "0]")),
    "dicts of one in JSON": ("model", lambda: headed(b"[" + b'{"a":0},' * (FULL // 8) + b"0]")),
    "numbers in JSON": ("model", lambda: described("[" + "0.1," * (FULL // 4) + "0]")),
    "texts in JSON": ("model", lambda: headed(b"[" + b'"ab",' * (FULL // 5) + b"0]")),
    "a text that becomes wide in JSON": ("model", lambda: described('"\\ud83e\\udd81' + "a" * (FULL - 99) + '"')),
    "names in JSON": ("model", lambda: headed(b"{" + b",".join(b'"%x":0' % k for k in range(FULL // 12)) + b"}")),
    # Small files that state or unpack to a large size.
    "idx that states a large size": ("idx", lambda: bytes((0, 0, 8, 3)) + struct.pack(">3L", 10**6, 31, 31) + bytes(9)),
    "a zipped idx that is large": (
        "gzip",
        lambda: gzip.compress(bytes((0, 0, 8, 3)) + struct.pack(">3L", 2, 3, 4) + bytes(60 << 20), 1),
    ),
    "bitmaps that state a large number": (
        "npy",
        lambda: READERS["npy"].sound()[0].replace(b"(4, 784), }         ", b"(4000000000, 784), }"),
    ),
    "an endless drawing": ("ndjson", lambda: b'{"drawing": [' + b"[[0],[0]]," * (1 << 20)),
    "a drawing of empty strokes": ("ndjson", lambda: b'{"drawing": [' + b"[]," * 85_000 + b"[]]}"),
    "a picture that states a large size": ("picture", lambda: b"P6 30000 30000 255\n" + bytes(99)),
    "a HEIC whose tiles state a large size": (
        "picture",
        # The rows and columns of tiles, and the size of the whole.
        lambda: heif_files()[1].replace(
            struct.pack(">4B2H", 0, 0, 1, 1, 128, 128), struct.pack(">4B2H", 0, 0, 255, 255, 16384, 16384)
        ),
    ),
    "a zipped text in a picture": (
        "picture",
        lambda: READERS["picture"].sound()[0][:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(60 << 20), 1)),
    ),
}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


READ_ALL = """
import json, os, resource, sys
from pathlib import Path
import torch
import hostile
from hillstart.data import quickdraw
from hillstart.system import untrusted

def now(what):
    return int(next(line for line in open("/proc/self/status") if line.startswith(what)).split()[1]) << 10

torch.set_num_threads(1)
hostile.checkpoints()
files, folder = map(Path, sys.argv[1:3])
seconds, untrusted.MAX_DESCRIPTION_BYTES, untrusted.MAX_OBJECT_BYTES, quickdraw.LONGEST_LINE = map(int, sys.argv[3:])
for path in sorted(files.iterdir()):
    reader, data = path.read_bytes().split(b"|", 1)
    if not os.fork():  # a new process has its own peak of memory and limit of time
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        before = now("VmSize")
        error = hostile.outcome(reader.decode(), data, folder)
        print(json.dumps([path.name, error, now("VmPeak") - before]), flush=True)
        os._exit(0)
    pid, status = os.wait()
    if status:
        print(json.dumps([path.name, f"ended with {status}", 0]), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the peak of a process's memory")
def test_small_files_that_would_be_large_or_endless(tmp_path: Path) -> None:
    for folder in (tmp_path / "files", tmp_path / "read"):
        folder.mkdir()
    for name, (reader, make) in ENDLESS.items():
        (tmp_path / "files" / name).write_bytes(reader.encode() + b"|" + make())
    limits = map(str, (SECONDS, LARGE, OBJECTS, LINE))
    command = [sys.executable, "-c", READ_ALL, tmp_path / "files", tmp_path / "read", *limits]
    tests = Path(__file__).parents[1]
    run = run_forked(command, cwd=tests, capture_output=True, text=True, check=True, timeout=BOUND)
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("[")]
    assert sorted(name for name, *_ in lines) == sorted(ENDLESS), run.stderr
    for name, error, memory in lines:
        print(f"{name:40} {memory / 2**20:6.0f} MiB  {error}")
        assert error and error.endswith("."), (name, error)
        assert memory < MEMORY, name
