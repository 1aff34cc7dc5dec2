"""Checks on untrusted files before parsing: bounded size, no code execution.

Text and pickles are scanned before any object is built: they may have `MAX_DESCRIPTION_BYTES` in the file and
`MAX_OBJECT_BYTES` as Python objects. A pickle may only make plain data of few levels, with names as keys of dicts, in
which only texts and tensors occur twice. Otherwise ten lists, each holding the previous one a hundred times, would take
for ever to print, and integer keys could be chosen so that building a dict takes hours.
"""

import json
import os
import pickletools
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from hillstart.system.errors import InputError
from hillstart.system.files import open_regular

# The JSON in a model file or the pickle in a checkpoint: 16 starts need a few kilobytes, a hundred thousand 5 MB.
MAX_DESCRIPTION_BYTES = 8 << 20
MAX_OBJECT_BYTES = 96 << 20  # by the estimates below; a hundred thousand starts need 78 MiB
MAX_DIRECTORY_BYTES = 1 << 20  # the directory at the end of a checkpoint, a zip with an entry for each tensor
MAX_DEPTH = 16
MAX_YAML_BYTES = 1 << 18  # the options of a run take some kilobytes
MAX_MESSAGE = 200  # characters of another library's message that an error of ours repeats


def briefly(message: object) -> str:
    """Shorten another library's message, which may repeat bytes of a file, to printable text."""
    words = " ".join(str(message).split()).rstrip(".")
    plain = "".join(c if c.isprintable() else "?" for c in words[: MAX_MESSAGE + 1])
    return plain if len(plain) <= MAX_MESSAGE else f"{plain[:MAX_MESSAGE]} ..."


def opened(path: Path) -> BinaryIO:
    """Open a model file or checkpoint. Raises InputError if it is missing or cannot be read."""
    try:
        str(path).encode()
    except UnicodeError:  # safetensors and torch could not open it
        raise InputError(f"{path}: its name, or that of a folder above it, is not UTF-8; rename it.") from None
    try:
        return open_regular(path)
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')}; give a run folder, a model file or a checkpoint.") from error


def refusal(path: Path, wrong: str) -> InputError:
    """The error for a file that a run cannot have written like this."""
    return InputError(f"{path}: {wrong}; give a file as a run wrote it.")


# ---------------------------------------------------------------- YAML, JSON


def yaml_text(path: Path) -> str:
    """Read a file of options of bounded size and without aliases: ten levels of aliases can make a billion values.

    Raises InputError if it is too large, holds an alias or cannot be read.
    """
    import yaml  # type: ignore[import-untyped] # predictions need no YAML

    try:
        with open_regular(path) as file:
            content = file.read(MAX_YAML_BYTES + 1)
        if len(content) > MAX_YAML_BYTES:
            raise refusal(path, "it is larger than the options of any run")
        text = content.decode()
        tokens = yaml.scan(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if any(isinstance(token, yaml.AliasToken) for token in tokens):
            raise refusal(path, "it holds an alias")
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({briefly(error)}); give the folder of a run.") from error
    return text


# Bytes that a character of JSON adds to the Python objects at least: for the list or dict that it begins, the value
# that follows it, or half of a text.
_BYTES_OF = (("[", 100), ("{", 350), (",", 40), ('"', 32))


def header(path: Path) -> dict[str, Any]:
    """Read the header of a safetensors file. Raises InputError if it is missing, damaged or too large."""
    with opened(path) as file:
        length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
        found = parsed(path, file.read(length)) if length <= min(size - 8, MAX_DESCRIPTION_BYTES) else None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a whole model file; give one that a run wrote.")
    return found


def parsed(path: Path, text: str | bytes) -> Any:
    """Parse JSON strictly: no duplicate names, no NaN, no numbers of 2^64 or more.

    Raises InputError if it is not valid or would take too much memory.
    """

    def number(digits: str) -> int | float:
        value = int(digits) if digits.lstrip("-").isdigit() else float(digits)
        if not abs(value) < 2**64:
            raise ValueError("number too large")
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("duplicate name")
        return found

    try:
        text = text if isinstance(text, str) else text.decode()
        if sum(text.count(character) * size for character, size in _BYTES_OF) > MAX_OBJECT_BYTES:
            raise refusal(path, "its description is longer than that of any run")
        return json.loads(text, parse_int=number, parse_float=number, parse_constant=number, object_pairs_hook=unique)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise refusal(path, "its description is not sound JSON") from error


# ---------------------------------------------------------------- checkpoints

# The end of a zip as torch writes it: length and position of the directory, which is right before it, and no comment.
_END = struct.Struct("<4s36x2Q4s4xQ4x4s18x")


def check_checkpoint(path: Path, file: BinaryIO) -> None:
    """Check that a file is an undamaged zip as torch writes it, and that its pickle builds only plain data.

    torch unpacks compressed entries, ignores checksums, and finds the directory and names in it differently from
    zipfile. A file in which zipfile could see other entries than torch is refused. Raises InputError for a pickle that
    does what no checkpoint does, and any class for a damaged file.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(size - _END.size)
    first, length, start, second, end, third = _END.unpack(file.read())
    if not (
        (first, second, third) == (b"PK\6\6", b"PK\6\7", b"PK\5\6")
        and start + length == end == size - _END.size
        and length <= MAX_DIRECTORY_BYTES
    ):
        raise zipfile.BadZipFile
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.orig_filename for entry in entries]
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError(f"{path} is compressed, as no checkpoint is; give one that a run wrote.")
        if not (
            len({name.lower() for name in names}) == len(names)
            and all(name.isascii() and name.isprintable() for name in names)
            and sum(entry.file_size for entry in entries) <= size
            and archive.testzip() is None
        ):
            raise zipfile.BadZipFile
        pickled = archive.getinfo(names[0].split("/")[0] + "/data.pkl")
        if pickled.file_size > MAX_DESCRIPTION_BYTES:
            raise zipfile.BadZipFile
        _check_pickle(path, archive.read(pickled))


# The only globals in the pickle of a checkpoint. torch allows others that allocate as much memory as a file asks for.
_EMPTY, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_GLOBALS = {_EMPTY, _TENSOR, *(f"torch {kind}Storage" for kind in _STORAGES)}

# The only opcodes: `_KEYS` make possible keys of a dict, `_MADE` and `_GROWN` combine what is on the stack.
_KEYS = {"GLOBAL", "BINUNICODE", "BININT", "BININT1", "BININT2", "NONE", "NEWTRUE", "NEWFALSE"}
_PUT, _GET = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
_MADE = {
    *("LONG1", "BINFLOAT", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"),
    *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINPERSID", "REDUCE"),
}
_GROWN = {"APPEND", "APPENDS", "SETITEM", "SETITEMS"}
_ALLOWED = {"PROTO", "MARK", "STOP"} | _KEYS | _PUT | _GET | _MADE | _GROWN
_OPCODE_BYTES = 80  # that an opcode adds to the objects at least, beside its number or text


class _Item(NamedTuple):
    """An object on the stack of a pickle.

    `depth`: levels of containers below it. `name`: set if it may be a key or be called. `repeats`: whether it may occur
    in several places.
    """

    depth: int = 0
    name: str | None = None
    repeats: bool = False


def _check_pickle(path: Path, pickled: bytes) -> None:
    stack, below = list[_Item](), list[list[_Item]]()
    memo: dict[Any, _Item] = {}
    size = 0
    for opcode, value, _ in pickletools.genops(pickled):
        name = opcode.name
        wrong = name if name not in _ALLOWED else value
        if wrong is name or (name == "GLOBAL" and value not in _GLOBALS) or (name == "PROTO" and value != 2):
            raise InputError(f"{path} asks for {wrong!r:.50}, as no checkpoint does; give one that a run wrote.")
        size += _OPCODE_BYTES + sys.getsizeof(value)
        if size > MAX_OBJECT_BYTES:
            raise refusal(path, "its description is longer than that of any run")
        if name == "MARK":
            below.append(stack)
            stack = []
        elif name in _KEYS:
            stack.append(_Item(name=str(value), repeats=True))
        elif name in _PUT:
            memo[value] = stack[-1]
        elif name in _GET:
            if not memo[value].repeats:
                raise refusal(path, "it holds the same list or dict in two places")
            stack.append(memo[value])
        elif name in _MADE | _GROWN:
            takes, items = opcode.stack_before, list[_Item]()
            if pickletools.markobject in takes:
                takes, items, stack = takes[: takes.index(pickletools.markobject)], stack, below.pop()
            stack.append(_combined(path, name, [stack.pop() for _ in takes][::-1] + items))


def _combined(path: Path, opcode: str, items: list[_Item]) -> _Item:
    """The object that an opcode makes of these items, of which the first grows if it is one of `_GROWN`."""
    if opcode in ("SETITEM", "SETITEMS") and any(key.name is None for key in items[1::2]):
        raise refusal(path, "it holds a dict whose keys are not names")
    called = items[0].name if opcode == "REDUCE" else None
    if opcode == "REDUCE" and called != _TENSOR and (called != _EMPTY or items[1].depth):
        raise refusal(path, "it holds more than plain data")
    grown = items.pop(0).depth if opcode in _GROWN else 0
    depth = max((item.depth + 1 for item in items), default=0)
    if depth > MAX_DEPTH:
        raise refusal(path, "its lists are nested too deeply")
    return _Item(max(grown, depth), repeats=called == _TENSOR)
