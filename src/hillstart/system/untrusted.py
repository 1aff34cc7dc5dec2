"""What a file must be before it is read, for it may come from a stranger: of a description of sound size, and harmless.

Nothing here builds what a file describes. The text or pickle in which it does so is first gone through for how much
memory it would take, which is bounded by `MAX_DESCRIPTION_BYTES` in the file and `MAX_ROOM` out of it, and a pickle
for what it would do: make plain data of few levels, whose dicts have names as keys, and in which nothing but texts and
tensors is found in two places. Else ten lists, each holding the one before a hundred times, would be endless to print,
and whole numbers could be chosen so that a dict of them takes hours to make.
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

# Of the JSON in a model file and of the pickle in a checkpoint: 16 starts need a few kilobytes, a hundred thousand 5
# megabytes.
MAX_DESCRIPTION_BYTES = 8 << 20
# What either may take as Python objects, by a count that a hundred thousand starts bring to 78 MiB.
MAX_ROOM = 96 << 20
MAX_DIRECTORY_BYTES = 1 << 20
"""Of the entries of a checkpoint, one for each tensor, as a zip lists them at its end."""
MAX_DEPTH = 16
LONGEST = 200
"""Characters of what another library says of a file, in a sentence of ours."""


def briefly(said: object) -> str:
    """What another library says of a file, which may repeat what is in it, as part of a line that can be printed."""
    words = " ".join(str(said).split()).rstrip(".")
    plain = "".join(c if c.isprintable() else "?" for c in words[: LONGEST + 1])
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]} ..."


def opened(path: Path) -> BinaryIO:
    """A model file or checkpoint.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    try:
        str(path).encode()
    except UnicodeError:  # safetensors and torch could not open it
        raise InputError(f"{path}: its name, or that of a folder above it, is not UTF-8; rename it.") from None
    try:
        return open_regular(path)
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')}; give a run folder, a model file or a checkpoint.") from error


def refusal(path: Path, wrong: str) -> InputError:
    """A file that a run did not write like this."""
    return InputError(f"{path}: {wrong}; give a file as a run wrote it.")


# ---------------------------------------------------------------- YAML, JSON

MAX_YAML_BYTES = 1 << 18
"""Of the options of a run, which take some kilobytes."""


def yaml_text(path: Path) -> str:
    """A file of options as text, which is of sound size and holds no alias: ten levels of them make a billion values.

    Raises:
        InputError: it cannot be read, is too large, or holds an alias.
    """
    import yaml  # type: ignore[import-untyped] # predictions need none

    try:
        with open_regular(path) as file:
            content = file.read(MAX_YAML_BYTES + 1)
        if len(content) > MAX_YAML_BYTES:
            raise refusal(path, "it is longer than the options of any run")
        text = content.decode()
        tokens = yaml.scan(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if any(isinstance(token, yaml.AliasToken) for token in tokens):
            raise refusal(path, "it holds an alias")
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({briefly(error)}); give the folder of a run.") from error
    return text


# No less than a sign of JSON adds to its Python objects: of the list or dict it begins, the value that follows it, or
# half of a text's.
_SIGNS = (("[", 100), ("{", 350), (",", 40), ('"', 32))


def header(path: Path) -> dict[str, Any]:
    """What a safetensors file says before its tensors.

    Raises:
        InputError: it says nothing, or too much, or there is no such file.
    """
    with opened(path) as file:
        length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
        found = parsed(path, file.read(length)) if length <= min(size - 8, MAX_DESCRIPTION_BYTES) else None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a whole model file; give one that a run wrote.")
    return found


def parsed(path: Path, text: str | bytes) -> Any:
    """JSON without what Python's reader is lenient in: a name twice, NaN, and numbers beyond all measure.

    Raises:
        InputError: it is not sound, or would take too much memory.
    """

    def number(digits: str) -> int | float:
        value = int(digits) if digits.lstrip("-").isdigit() else float(digits)
        if not abs(value) < 2**64:
            raise ValueError("no number of ours")
        return value

    def named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a name twice")
        return found

    try:
        text = text if isinstance(text, str) else text.decode()
        if sum(text.count(sign) * room for sign, room in _SIGNS) > MAX_ROOM:
            raise refusal(path, "its description is longer than that of any run")
        return json.loads(text, parse_int=number, parse_float=number, parse_constant=number, object_pairs_hook=named)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise refusal(path, "its description is not sound JSON") from error


# ---------------------------------------------------------------- checkpoints

# How a zip by torch ends: length and place of its directory of entries, which lies right before; and no comment.
_END = struct.Struct("<4s36x2Q4s4xQ4x4s18x")


def check_checkpoint(path: Path, file: BinaryIO) -> None:
    """That this is a zip as torch writes it, undamaged, and that its pickle builds nothing but plain data.

    torch itself unpacks what is packed, ignores checksums, and looks for the directory and for names in it in ways of
    its own: where zipfile could see other entries than torch will, the file is refused.

    Raises:
        InputError: it asks for what no checkpoint does.
        Exception: whatever else the damage leads to.
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


# All that the pickle in a checkpoint may name. torch allows more, some of which allocates whatever it is asked for.
_EMPTY, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_NAMES = {_EMPTY, _TENSOR, *(f"torch {kind}Storage" for kind in _STORAGES)}

# All that it may do; `_KEYS` make what may be the key of a dict, `_MADE` and `_GROWN` put together what they find.
_KEYS = {"GLOBAL", "BINUNICODE", "BININT", "BININT1", "BININT2", "NONE", "NEWTRUE", "NEWFALSE"}
_PUT, _GET = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
_MADE = {
    *("LONG1", "BINFLOAT", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"),
    *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINPERSID", "REDUCE"),
}
_GROWN = {"APPEND", "APPENDS", "SETITEM", "SETITEMS"}
_ALLOWED = {"PROTO", "MARK", "STOP"} | _KEYS | _PUT | _GET | _MADE | _GROWN
_ROOM = 80  # no less than one of these adds to the objects, beside the number or text that it holds


class _Item(NamedTuple):
    """What a pickle has on its stack.

    `depth`: levels below it that hold something. `name`: of what may be a key, or be called. `repeats`: whether it may
    be found in several places.
    """

    depth: int = 0
    name: str | None = None
    repeats: bool = False


def _check_pickle(path: Path, pickled: bytes) -> None:
    stack, below = list[_Item](), list[list[_Item]]()
    memo: dict[Any, _Item] = {}
    room = 0
    for code, value, _ in pickletools.genops(pickled):
        does = code.name
        wrong = does if does not in _ALLOWED else value
        if wrong is does or (does == "GLOBAL" and value not in _NAMES) or (does == "PROTO" and value != 2):
            raise InputError(f"{path} asks for {wrong!r:.50}, as no checkpoint does; give one that a run wrote.")
        room += _ROOM + sys.getsizeof(value)
        if room > MAX_ROOM:
            raise refusal(path, "its description is longer than that of any run")
        if does == "MARK":
            below.append(stack)
            stack = []
        elif does in _KEYS:
            stack.append(_Item(name=str(value), repeats=True))
        elif does in _PUT:
            memo[value] = stack[-1]
        elif does in _GET:
            if not memo[value].repeats:
                raise refusal(path, "it holds the same list or dict in two places")
            stack.append(memo[value])
        elif does in _MADE | _GROWN:
            takes = code.stack_before
            if pickletools.markobject in takes:
                items, stack = stack, below.pop()
                items = [stack.pop() for _ in takes[: takes.index(pickletools.markobject)]] + items
            else:
                items = stack[len(stack) - len(takes) :]
                del stack[len(stack) - len(takes) :]
            stack.append(_together(path, does, items))


def _together(path: Path, does: str, items: list[_Item]) -> _Item:
    """What an opcode of a pickle makes of these."""
    if does in ("SETITEM", "SETITEMS") and any(key.name is None for key in items[1::2]):
        raise refusal(path, "it holds a dict whose keys are not names")
    called = items[0].name if does == "REDUCE" else None
    if does == "REDUCE" and called != _TENSOR and (called != _EMPTY or items[1].depth):
        raise refusal(path, "it holds more than plain data")
    grown = items.pop(0).depth if does in _GROWN else 0
    depth = max((item.depth + 1 for item in items), default=0)
    if depth > MAX_DEPTH:
        raise refusal(path, "it holds lists within lists without end")
    return _Item(max(grown, depth), repeats=called == _TENSOR)
