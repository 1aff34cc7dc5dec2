"""The picture in the body of a request: the body itself, a file of a form, or base64 in JSON.

`multipart` finds a boundary at the speed of `bytes.find`; starlette's own forms would be parsed in Python by the event
loop, and kept on the disk.
"""

import base64
import json

from hillstart.system.errors import InputError

BESIDE_BYTES, FORM_PARTS = 16 << 10, 16
"""Limits of what a body may hold beside the picture: bytes, and parts of a form."""
FORM, JSON = "multipart/form-data", "application/json"


def most_bytes(kind: str, max_bytes: int) -> int:
    """The largest body of this Content-Type that can hold a picture of `max_bytes`."""
    return {FORM: max_bytes + BESIDE_BYTES, JSON: (max_bytes + 2) // 3 * 4 + BESIDE_BYTES}.get(_name(kind), max_bytes)


def picture_in(body: bytes, kind: str) -> bytes:
    """The file of the picture in a body of this Content-Type; any but a form and JSON means the picture itself.

    Raises:
        InputError: a form without one file in it, or JSON without base64.
    """
    return {FORM: _from_form, JSON: _from_json}.get(_name(kind), lambda body, kind: body)(body, kind)


def _name(kind: str) -> str:
    return kind.partition(";")[0].strip().lower()


def _from_form(body: bytes, kind: str) -> bytes:
    # The command says which package is missing; without it this module is imported still.
    from multipart import (  # type: ignore[import-untyped]
        MultipartError,
        MultipartSegment,
        PushMultipartParser,
        parse_options_header,
    )

    files: list[list[bytes]] = []
    is_file = False
    try:
        with PushMultipartParser(
            parse_options_header(kind)[1].get("boundary", ""), max_segment_count=FORM_PARTS
        ) as form:
            for event in form.parse(body):
                if isinstance(event, MultipartSegment):
                    is_file = event.filename is not None
                    files += [[]] if is_file else []
                elif event and is_file:
                    files[-1].append(bytes(event))
    except MultipartError as error:
        raise InputError(f"the form cannot be read ({error}); send it as `curl -F file=@picture.jpg` does.") from error
    if len(files) != 1:
        raise InputError(f"the form holds {len(files)} files; send one, as `curl -F file=@picture.jpg` does.")
    return b"".join(files[0])


def _from_json(body: bytes, kind: str) -> bytes:
    try:
        if sum(map(body.count, (b"[", b"{", b","))) > FORM_PARTS:  # none of them is in base64; each may cost an object
            raise ValueError
        text = json.loads(body)["image"].rpartition(",")[2]  # what follows `data:image/jpeg;base64,`
        return base64.b64decode(text + "==")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise InputError('the JSON holds no picture; send {"image": "..."} with base64 or a data URL in it.') from None
