"""A picture arrives in any form that the description of the server names, and costs no more in one than in another."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hillstart.inference.classifier import Classifier
from hillstart.serve import app, batching, connections
from hillstart.serve.batching import Service
from hillstart.serve.bodies import BESIDE_BYTES, FORM_PARTS, most_bytes, picture_in
from hillstart.system.errors import InputError
from serving import Held, once, picture, raw, running

FORM = "multipart/form-data; boundary=b"


def part(content: bytes, name: str = 'name="file"; filename="x.jpg"') -> bytes:
    return b"--b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (name.encode(), content)


def form(content: bytes) -> bytes:
    return part(b"a field", 'name="note"') + part(content) + b"--b--\r\n"


def in_json(content: bytes, before: str = "") -> bytes:
    return json.dumps({"image": before + base64.b64encode(content).decode()}).encode()


# Content-Type of the description: what is sent, and how a picture is put into the body.
WAYS: dict[str, list[tuple[str, Callable[[bytes], bytes]]]] = {
    "application/octet-stream": [("application/octet-stream", bytes), ("", bytes)],
    "image/*": [("image/jpeg", bytes), ("application/x-www-form-urlencoded", bytes)],  # curl says the latter
    "multipart/form-data": [(FORM, form), ('Multipart/Form-Data; boundary="b"', form)],
    "application/json": [
        ("application/json", in_json),
        ("application/json; charset=utf-8", lambda content: in_json(content, "data:image/jpeg;base64,")),
        ("application/json", lambda content: json.dumps({"image": base64.encodebytes(content).decode()}).encode()),
    ],
}
each_way = pytest.mark.parametrize(("kind", "put"), [way for ways in WAYS.values() for way in ways])


@each_way
def test_a_picture_is_the_same_in_every_form(
    classifier: Classifier, port: int, kind: str, put: Callable[[bytes], bytes]
) -> None:
    for content in (picture(1), picture(2, "PNG")):
        status, _, answer = once(port, put(content), Content_Type=kind)
        assert (status, answer["label"]) == (200, classifier.predict(content).label)
        assert answer["probability"] == pytest.approx(classifier.predict(content).probability, abs=1e-6)


@each_way
def test_a_picture_may_be_as_large_in_every_form(
    classifier: Classifier, kind: str, put: Callable[[bytes], bytes]
) -> None:
    content = picture(1)
    with running(Service(classifier, max_bytes=len(content))) as (port, _):
        assert once(port, put(content), Content_Type=kind)[0] == 200
        for larger in (content + b"x", content + bytes(2 * BESIDE_BYTES)):  # by its bytes, and by those of the body
            status, _, answer = once(port, put(larger), Content_Type=kind)
            assert status == 413 and "at most" in answer["error"]


@pytest.mark.parametrize(
    ("kind", "body", "what"),
    [
        (FORM, b"--b--\r\n", "0 files"),
        (FORM, part(b"", 'name="file"') + b"--b--\r\n", "0 files"),
        (FORM, part(b"1") + part(b"2") + b"--b--\r\n", "2 files"),
        (FORM, part(b"1"), "end"),  # cut off
        (FORM, part(b"") * (FORM_PARTS + 1) + b"--b--\r\n", "segment count"),
        (FORM, b"--b\r\n" + b"a: b\r\n" * 10_000, "header count"),
        (FORM, b"--b\r\n" + b"a" * 10_000, "header length"),
        ("multipart/form-data", form(b"1"), "boundary"),
        ("application/json", b"{", "base64"),
        ("application/json", b"[" * FORM_PARTS, "base64"),
        ("application/json", b'{"image": "", "more": [' + b"[]," * 100_000 + b"[]]}", "base64"),
        ("application/json", b'{"image": 1}', "base64"),
        ("application/json", b'{"image": "\xff"}', "base64"),
        ("application/json", b'{"image": "\\ud800"}', "base64"),
        ("application/json", b'{"picture": ""}', "base64"),
        ("application/json", b'"image"', "base64"),
        ("application/json", b"9" * 10_000, "base64"),
    ],
)
def test_a_body_without_a_picture_is_refused_in_a_sentence(kind: str, body: bytes, what: str) -> None:
    with pytest.raises(InputError, match=what):
        picture_in(body, kind)


def test_a_form_larger_than_its_picture_may_be_is_refused_unread(port: int) -> None:
    for kind in (FORM, "application/json"):
        answer, _ = raw(port, f"Content-Type: {kind}\r\nContent-Length: {most_bytes(kind, 100_000) + 1}", iter(()))
        assert b" 413 " in answer and b"at most 0.1 MB" in answer


# ---------------------------------------------------------------- the description

DESCRIPTION = json.loads((Path(app.__file__).parent / "openapi.json").read_text())


def schema_of(path: str, method: str, status: int, kind: str) -> Any:
    """The schema of an answer, with the shared ones in reach; KeyError if the description has none."""
    response = DESCRIPTION["paths"][path][method]["responses"][str(status)]
    while "$ref" in response:
        response = DESCRIPTION["components"]["responses"][response["$ref"].rpartition("/")[2]]
    return response["content"][kind]["schema"] | {"components": DESCRIPTION["components"]}


def test_the_description_is_true(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    pytest.importorskip("openapi_spec_validator").validate(DESCRIPTION)
    seen = set()

    def noted(path: str, method: str, status: int, kind: str, answer: Any) -> int:
        kind = kind.partition(";")[0]
        jsonschema.validate(answer, schema_of(path, method, status, kind))
        seen.add((path, method, str(status), kind))
        return status

    def ask(path: str, body: bytes | None = None, **headers: str) -> int:
        method = "get" if body is None else "post"
        status, answered, answer = once(port, body, path=path, method=method.upper(), **headers)
        return noted(path, method, status, answered["Content-Type"], answer)

    def ask_raw(head: str) -> int:
        """POST /predict with a head of one's own and not all of its body."""
        answered, _, text = raw(port, head, iter([b"abc"]))[0].decode().partition("\r\n\r\n")
        kind = re.search("content-type: (.*)", answered, re.I)
        assert kind
        answer = json.loads(text) if "json" in kind[1] else text
        return noted("/predict", "post", int(answered.split()[1]), kind[1].strip(), answer)

    held.go.set()
    content = picture(1)
    with running(held.service) as (port, _):
        assert once(port, path="/openapi.json", method="GET")[2] == DESCRIPTION
        for path, operations in DESCRIPTION["paths"].items():
            if "get" in operations:
                assert (ask(path), ask(path, Host="evil.example")) == (200, 400)
        for described in DESCRIPTION["paths"]["/predict"]["post"]["requestBody"]["content"]:
            for kind, put in WAYS[described]:
                assert ask("/predict", put(content), Content_Type=kind) == 200
                assert ask("/predict", put(b"no picture"), Content_Type=kind) == 400
        assert ask("/predict", content, Host="evil.example") == 400
        assert ask("/predict", content, Origin="https://evil.example") == 403
        assert ask("/predict", bytes(held.service.max_bytes + 1)) == 413
        assert ask_raw("Transfer-Encoding: chunked\r\nContent-Length: 1") == 400
        with monkeypatch.context() as patched:
            patched.setattr(batching, "READ_SECONDS", 0)
            assert ask_raw("Content-Length: 1000") == 408
        with monkeypatch.context() as patched:
            patched.setattr(held.service.unanswered, "limit", 0)
            assert ask("/predict", content) == 503
        with monkeypatch.context() as patched:
            patched.setattr(connections, "most_connections", lambda: 0)
            assert ask("/predict", content) == 503
        with monkeypatch.context() as patched:
            patched.setattr(Classifier, "answer", lambda *_: 1 / 0)
            assert ask("/predict", content) == 500
    for path, operations in DESCRIPTION["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                for kind in response.get("content", {"application/json": None}):
                    assert (path, method, status, kind) in seen, "described, and never answered"
