"""Who may ask, what is refused in a sentence, and what the page may do."""

import re
import socket
from contextlib import closing
from typing import Any

import pytest

from hillstart.inference.classifier import Classifier
from hillstart.serve import app, batching
from hillstart.serve.batching import Service
from serving import CLASSES, once, picture, raw, running


def test_a_body_too_large_is_refused_unread(port: int) -> None:
    answer, _ = raw(port, "Content-Length: 1000000000000", iter(()))
    assert b" 413 " in answer and b"at most 0.1 MB" in answer
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    answer, sent = raw(port, "Transfer-Encoding: chunked", (chunk for _ in range(2000)))
    assert b" 413 " in answer and b"at most 0.1 MB" in answer
    assert sent < 64 << 20, "it was to stop at the limit, and only buffers on the way may have been filled"


def test_a_client_that_listens_only_once_it_has_sent_all_hears_that_it_is_too_much(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "LINGER_SECONDS", 60)
    part = bytes(1_000_000)  # more of them than fit into the buffers on the way
    with running(Service(classifier, max_bytes=8_000_000)) as (port, _):
        for body in (part * 15, iter([part] * 15)):
            status, headers, answer = once(port, body)
            assert (status, headers["Connection"]) == (413, "close")
            assert "8 MB" in answer["error"]


def test_a_body_of_another_length_than_it_says_hurts_nobody(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one = picture(1)
    assert raw(port, f"Content-Length: {len(one) + 10}", iter([one]), ends=True)[0] == b""
    answer, _ = raw(port, f"Content-Length: {len(one) - 500}\r\nConnection: close", iter([one]))
    assert b" 400 " in answer and b"damaged" in answer
    monkeypatch.setattr(batching, "READ_SECONDS", 0.2)
    answer, _ = raw(port, "Content-Length: 1000", iter([b"abc"]))
    assert b" 408 " in answer and b"within 0.2 s" in answer
    assert once(port, one)[0] == 200


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        ({"method": "GET"}, 405, "POST"),
        (
            {"body": picture(1).replace(b"\n", b""), "Content_Type": "application/x-www-form-urlencoded"},
            400,
            "-F file=",
        ),
        ({"path": "/health", "body": b"abc"}, 405, "POST the bytes of a picture to /predict"),
        ({"path": "/nothing"}, 404, "POST the bytes of a picture to /predict"),
        ({"path": "/../pyproject.toml", "method": "GET"}, 404, "POST the bytes of a picture to /predict"),
    ],
)
def test_other_requests_are_refused_in_a_sentence(
    port: int, options: dict[str, Any], status: int, sentence: str
) -> None:
    found, headers, answer = once(port, **options)
    assert found == status
    assert sentence in answer["error"]
    assert (status != 405) or headers["Allow"]


def test_only_a_local_name_is_answered(port: int) -> None:
    assert once(port, picture(1), Host="127.0.0.1:1")[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", ""):
        status, _, answer = once(port, picture(1), Host=host)
        assert status == 400 and "--allow-host" in answer["error"]


def test_more_names_can_be_answered(classifier: Classifier) -> None:
    with running(Service(classifier), hosts=("ok.example", "*.lions.example")) as (port, _):
        for host, status in (
            ("OK.example:80", 200),
            ("a.lions.example", 200),
            ("lions.example", 400),
            ("evil.example", 400),
        ):
            assert once(port, picture(1), Host=host)[0] == status


def test_a_health_check_needs_no_host(port: int) -> None:
    for request, status in (("GET /health", b"200"), ("GET /", b"400"), ("POST /predict", b"400")):
        with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as connection:
            connection.sendall(f"{request} HTTP/1.0\r\n\r\n".encode())
            assert connection.makefile("rb").read().split()[1] == status
    assert once(port, path="/health", method="GET", Host="evil.example")[0] == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),  # an old browser, or a server that is not on this machine
        ({"Origin": "http://127.0.0.1:1", "Sec_Fetch_Site": "same-site"}, 403),  # another port is another page
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "https://lions.example", "Sec_Fetch_Site": "same-origin"}, 200),  # a proxy that changes the name
        ({"Sec_Fetch_Site": "none"}, 200),
        ({}, 200),
    ],
)
def test_pages_of_other_sites_may_not_send_pictures(port: int, headers: dict[str, str], status: int) -> None:
    sent = {name: value.format(port=port) for name, value in headers.items()}
    found, answered, answer = once(port, picture(1), **sent)
    assert found == status
    assert status == 200 or "--allow-origin" in answer["error"]
    assert "Access-Control-Allow-Origin" not in answered
    assert once(port, path="/", method="GET", **sent)[0] == 200, "a link leads to the page from anywhere"


def test_a_foreign_picture_is_refused_unread(port: int) -> None:
    answer, _ = raw(port, "Origin: https://evil.example\r\nContent-Length: 100000\r\nExpect: 100-continue", iter(()))
    assert answer.startswith(b"HTTP/1.1 403 ") and b"100 Continue" not in answer


def test_pages_of_allowed_sites_may_send_pictures_and_read_the_answer(classifier: Classifier) -> None:
    preflight = {"method": "OPTIONS", "Access_Control_Request_Method": "POST"}
    with running(Service(classifier), origins=("https://ok.example",)) as (port, _):
        for origin, may in (("https://ok.example", True), ("https://evil.example", False)):
            asked = {"Origin": origin, "Sec_Fetch_Site": "cross-site"}
            in_json = preflight | {"Access_Control_Request_Headers": "content-type"}
            for options in ({"body": picture(1)}, {"body": b"no picture"}, preflight, in_json):
                status, headers, _ = once(port, **options, **asked)
                assert headers["Access-Control-Allow-Origin"] == (origin if may else None)
                assert (status in (400, 403)) == (not may or options.get("body") == b"no picture")
    with running(Service(classifier), origins=("*",)) as (port, _):
        status, headers, _ = once(port, picture(1), Origin="https://any.example")
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")


def test_the_page_needs_nothing_but_the_server(port: int) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/theme.css", "text/css"),
        ("/camera.js", "text/javascript"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
    ):
        status, headers, text = once(port, path=path, method="GET")
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy and "unsafe" not in policy
        assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
        assert "Access-Control-Allow-Origin" not in headers
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|eval\(", text)
    status, _, health = once(port, path="/health", method="GET")
    assert [health[key] for key in ("model", "classes", "seeds")] == ["network.safetensors", [*CLASSES], [0, 1, 2, 3]]
    assert health["calibrated"] is False
