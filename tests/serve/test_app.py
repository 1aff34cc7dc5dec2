"""The server with real clients, real signals and a real browser."""

import asyncio
import base64
import contextlib
import errno
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from benchmarks.serving import ask
from hillstart.cli import serve
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.inference.loading import load
from hillstart.network import Network
from hillstart.serve import app, batching
from launching import BOUND

pytest.importorskip("uvicorn", reason="the server needs hillstart[serve]")
from hillstart.serve import connections

TOP = Path(__file__).parents[2]
CLASSES = ("lion", "duck", "10", "2")  # names that are numbers change places in a browser's objects


def write_model(path: Path, classes: tuple[str, ...] = CLASSES, starts: int = 4) -> Path:
    network = Network.start([3 * 8 * 8, 8, len(classes)], range(starts), cost="log_likelihood")
    origins = tuple(Start(seed, Hyperparameters(0.1)) for seed in range(starts))
    centred = Preprocessing(8, 3, mean=(0.5,) * 3, std=(0.2,) * 3)  # so that each class is the label of some picture
    model_file.save(path, Classifier(network, origins, classes, centred))
    return path


@pytest.fixture
def classifier(tmp_path: Path) -> Classifier:
    return load(write_model(tmp_path / "network.safetensors"))


def picture(seed: int, kind: str = "JPEG") -> bytes:
    """A coarse pattern of its own for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST), kind)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@contextmanager
def running(
    service: app.Service, hosts: tuple[str, ...] = ("127.0.0.1",), origins: tuple[str, ...] = ()
) -> Iterator[tuple[int, Any]]:
    """The port and the uvicorn server of a service that answers in a thread."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = app.server(app.application(service, "network.safetensors", hosts, origins))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()[1], server
    finally:
        server.should_exit = True
        thread.join()


class Client:
    """One connection that stays open."""

    def __init__(self, port: int, host: str = "127.0.0.1"):
        self.connection = http.client.HTTPConnection(host, port, timeout=60)

    def __call__(self, body: Any = None, path: str = "/predict", method: str = "POST", **headers: str) -> Any:
        """The status, the headers and the answer."""
        self.connection.request(method, path, body, {name.replace("_", "-"): of for name, of in headers.items()})
        response = self.connection.getresponse()
        text = response.read().decode()
        return response.status, response.headers, json.loads(text) if text.startswith("{") else text

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()


def once(port: int, body: Any = None, **options: str) -> Any:
    with Client(port) as client:
        return client(body, **options)


@pytest.fixture
def port(classifier: Classifier) -> Iterator[int]:
    with running(app.Service(classifier, max_bytes=100_000, max_pixels=1_000_000)) as (port, _):
        yield port


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


class Held:
    """A service whose networks wait until they are let go; `batches`: how many pictures went through them together."""

    def __init__(self, classifier: Classifier, monkeypatch: pytest.MonkeyPatch, waiting: int = 512):
        self.service, self.go, self.batches = app.Service(classifier, waiting=waiting), threading.Event(), []
        answer = Classifier.answer

        def held(of: Classifier, pixels: Any, *options: Any) -> Any:
            self.batches.append(len(pixels))
            assert self.go.wait(60)
            return answer(of, pixels, *options)

        monkeypatch.setattr(Classifier, "answer", held)


# ---------------------------------------------------------------- answers


def test_the_answer_is_that_of_the_classifier(classifier: Classifier, port: int) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        status, headers, answer = once(port, picture(1, kind))
        expected = classifier.predict(picture(1, kind))
        assert (status, headers["Content-Type"]) == (200, "application/json")
        keys = ["label", "probability", "probabilities", "agreement", "unsure", "opinions", "calibrated"]
        assert list(answer) == keys and answer["calibrated"] is False  # this model has no temperature
        assert [answer[key] for key in ("label", "agreement", "unsure")] == [
            expected.label, expected.agreement, expected.unsure]  # fmt: skip
        assert answer["probability"] == pytest.approx(expected.probability, abs=1e-6)
        assert list(answer["probabilities"]) == list(expected.probabilities)
        assert [(o["seed"], o["label"]) for o in answer["opinions"]] == [(o.seed, o.label) for o in expected.opinions]


def test_many_clients_lose_nothing(classifier: Classifier, port: int) -> None:
    pictures = [picture(seed) for seed in range(1024)]
    expected = classifier.predict(pictures)
    assert len({round(one.probability, 6) for one in expected}) > 1000, "the pictures are to be told apart"

    def client(these: range) -> list[Any]:
        with Client(port) as ask:
            return [ask(pictures[i]) for i in these]

    with ThreadPoolExecutor(64) as clients:
        answers = list(clients.map(client, [range(k, 1024, 64) for k in range(64)]))
    for k, of_client in enumerate(answers):
        for (status, _, answer), one in zip(of_client, expected[k::64], strict=True):
            assert (status, answer["label"]) == (200, one.label)
            assert answer["probability"] == pytest.approx(one.probability, abs=1e-6)


def test_what_waits_goes_through_the_networks_together(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(classifier, monkeypatch)
    with running(held.service) as (port, _), ThreadPoolExecutor(10) as clients:
        first = clients.submit(once, port, picture(0))
        until(lambda: held.batches == [1])  # one alone waits for nobody
        others = [clients.submit(once, port, picture(k)) for k in range(1, 9)]
        until(lambda: len(held.service._ready) == 8)
        held.go.set()
        assert {future.result()[0] for future in [first, *others]} == {200}
    assert held.batches == [1, 8]


def test_a_bad_picture_hurts_nobody_else(classifier: Classifier, port: int, caplog: pytest.LogCaptureFixture) -> None:
    good = [picture(seed) for seed in range(20)]
    bad = [b"no picture", picture(1)[:-500], b"", encoded(Image.new("1", (2000, 2000)))]
    with ThreadPoolExecutor(24) as clients:
        of_bad = [clients.submit(once, port, one) for one in bad]
        of_good = list(clients.map(lambda one: once(port, one), good))
    assert [answer["label"] for _, _, answer in of_good] == [one.label for one in classifier.predict(good)]
    for future, what in zip(of_bad, ["not a picture", "damaged", "not a picture", "1 million pixels"], strict=True):
        status, _, answer = future.result()
        assert status == 400
        assert re.fullmatch(rf"the given bytes: .*{what}.*", answer["error"])
    assert not caplog.records


# ---------------------------------------------------------------- limits


def raw(port: int, head: str, body: Iterator[bytes], ends: bool = False) -> tuple[bytes, int]:
    """The whole answer to a head and as much of the body as the server takes; how much that was."""
    sent = 0
    with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as connection:
        connection.sendall(f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n\r\n".encode())
        try:
            for part in body:
                connection.sendall(part)
                sent += len(part)
        except OSError:
            pass  # the server has closed
        if ends:
            connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read(), sent


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
    with running(app.Service(classifier, max_bytes=8_000_000)) as (port, _):
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
        ({"body": b"--x", "Content_Type": "multipart/form-data; boundary=x"}, 415, "send the bytes of the picture"),
        ({"method": "GET"}, 405, "POST"),
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


def test_a_full_queue_says_when_to_come_again(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(classifier, monkeypatch, waiting=2)
    with running(held.service) as (port, _), ThreadPoolExecutor(2) as clients, Client(port) as late:
        early = [clients.submit(once, port, picture(k)) for k in range(2)]
        until(lambda: held.service._unanswered == 2)
        status, headers, answer = late(picture(2))
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "try again" in answer["error"]
        held.go.set()
        assert [future.result()[0] for future in early] == [200, 200]
        assert late(picture(2))[0] == 200


def test_all_that_is_received_is_bounded_too(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "WAITING_BYTES", 20_000)
    status, headers, _ = once(port, bytes(30_000))
    assert (status, headers["Retry-After"], headers["Connection"]) == (503, "1", "close")
    assert once(port, picture(1))[0] == 200


class Slow:
    """Decoding that waits until it is let go; `begun`: the pictures that it has begun with, by their bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, waits: Callable[[int], bool] = lambda max_pixels: True):
        self.go, self.begun = threading.Event(), list[bytes]()
        read = batching.read_picture

        def slow(source: bytes, preprocessing: Preprocessing, max_pixels: int) -> Any:
            self.begun.append(source)
            assert not waits(max_pixels) or self.go.wait(60)
            return read(source, preprocessing, max_pixels)

        monkeypatch.setattr(batching, "read_picture", slow)
        monkeypatch.setattr(batching, "AHEAD", 1)


CORES = os.cpu_count() or 1


def head(length: int) -> bytes:
    return f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode()


def test_pictures_of_clients_that_have_left_are_not_decoded(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow, asked, left = Slow(monkeypatch), app.Service(classifier), picture(1)
    with running(asked) as (port, server), ThreadPoolExecutor(CORES + 1) as clients:
        stay = [clients.submit(once, port, picture(2)) for _ in range(CORES)]
        until(lambda: len(slow.begun) == CORES)
        for body in [left, left[:100], b""] * 5:
            with closing(socket.create_connection(("127.0.0.1", port))) as connection:
                connection.sendall(head(len(left)) + body)
        until(lambda: asked._unanswered == CORES + 5 and len(server.server_state.connections) == CORES)
        stay.append(clients.submit(once, port, picture(3)))
        until(lambda: asked._unanswered == CORES + 6)
        slow.go.set()
        assert [future.result()[0] for future in stay] == [200] * (CORES + 1)
        until(lambda: (asked._unanswered, asked._received) == (0, 0))
    assert left not in slow.begun
    assert not asked._unanswered_of and not asked._received_of, "whoever has been there once leaves nothing behind"
    assert not caplog.records


def test_small_pictures_do_not_wait_behind_large_ones(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "SMALL_PIXELS", 10_000)
    slow, asked = Slow(monkeypatch, lambda max_pixels: max_pixels > 10_000), app.Service(classifier)
    large = encoded(Image.new("L", (101, 100)))
    with running(asked) as (port, _), ThreadPoolExecutor(CORES + 5) as clients:
        costly = [clients.submit(once, port, large) for _ in range(CORES + 5)]
        until(lambda: len(slow.begun) == CORES + 5 + CORES)  # each first as if it were small
        assert once(port, picture(1))[0] == 200
        assert not any(future.done() for future in costly)
        slow.go.set()
        assert {future.result()[0] for future in costly} == {200}


def test_clients_take_turns() -> None:
    order = []

    async def main() -> None:
        turns = batching.Turns(1)

        async def ask(client: str) -> None:
            async with turns.turn(client):
                order.append(client)

        async with turns.turn("first"):
            asking = [asyncio.create_task(ask(client)) for client in ("a1", "a1", "a1", "gone", "b")]
            await asyncio.sleep(0)
            asking[3].cancel()
        await asyncio.wait(asking)
        async with asyncio.timeout(60), turns.turn("last"):  # it is free again
            pass

    asyncio.run(main())
    assert order == ["a1", "b", "a1", "a1"]


def test_a_turn_that_comes_to_one_who_is_cancelled_is_passed_on() -> None:
    async def main() -> None:
        turns = batching.Turns(1)

        async def ask() -> None:
            async with turns.turn("a"):
                pass

        async with turns.turn("first"):
            asking = asyncio.create_task(ask())
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        async with asyncio.timeout(60), turns.turn("last"):
            pass

    asyncio.run(main())


def test_one_client_has_its_share_of_what_waits(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(classifier, monkeypatch, waiting=4)

    async def parts() -> AsyncIterator[bytes]:
        yield picture(1)

    async def main() -> None:
        early = [asyncio.create_task(held.service.answer(parts(), "greedy")) for _ in range(3)]
        while held.service._unanswered < 3:
            await asyncio.sleep(0)
        with pytest.raises(batching.RefusedError) as refused:
            await held.service.answer(parts(), "greedy")
        assert refused.value.status == 503
        other = asyncio.create_task(held.service.answer(parts(), "modest"))
        while held.service._unanswered < 4:
            await asyncio.sleep(0)
        held.go.set()
        assert len({json.loads(await one)["label"] for one in [*early, other]}) == 1
        monkeypatch.setattr(batching, "WAITING_BYTES", len(picture(1)))
        with pytest.raises(batching.RefusedError) as refused:
            await held.service.answer(parts(), "greedy")
        assert (refused.value.status, refused.value.headers["Connection"]) == (503, "close")

    asyncio.run(main())


def test_the_wait_for_an_answer_is_bounded(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "ANSWER_SECONDS", 0)
    held = Held(classifier, monkeypatch)
    with running(held.service) as (port, _):
        status, headers, _ = once(port, picture(1))
        assert (status, headers["Retry-After"]) == (503, "1")
        assert (held.service._unanswered, held.service._received) == (0, 0)
        held.go.set()


def test_a_failure_is_told_without_a_traceback(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service, answer = app.Service(classifier), Classifier.answer

    def fail(*_: Any) -> None:
        monkeypatch.setattr(Classifier, "answer", answer)
        raise RuntimeError("out of memory at secret/place")

    monkeypatch.setattr(Classifier, "answer", fail)
    with running(service) as (port, _):
        status, _, found = once(port, picture(1))
        assert (status, list(found)) == (500, ["error"])
        assert "secret" not in found["error"] and "Traceback" not in found["error"]
        assert once(port, picture(1))[0] == 200
    assert "secret" in caplog.text, "whoever runs the server is to know"


# ---------------------------------------------------------------- connections


def closed(connection: socket.socket) -> bool:
    """Wait for the server to close; False if it answers instead."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


WHOLE_HEAD = head(1000)


@pytest.mark.parametrize("said", [b"", WHOLE_HEAD[:-9], WHOLE_HEAD + bytes(500)], ids=["nothing", "head", "body"])
def test_silent_connections_make_room(classifier: Classifier, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 4)
    with running(app.Service(classifier)) as (port, server), ThreadPoolExecutor(20) as waiting:
        silent = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(20)]
        for connection in silent:
            connection.sendall(said)
        ends = [waiting.submit(closed, connection) for connection in silent]
        until(lambda: sum(end.done() for end in ends) == 20 - 3)  # the share of one client
        assert once(port, picture(1))[0] == 200
        assert len(server.server_state.connections) <= 4
        for connection in silent:  # or the threads would wait for the last ones
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def test_more_connections_than_there_may_be_are_answered_503(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 4)
    held = Held(classifier, monkeypatch)
    with running(held.service) as (port, _), ThreadPoolExecutor(3) as clients:
        early = [clients.submit(once, port, picture(k)) for k in range(3)]
        until(lambda: held.service._unanswered == 3)
        status, headers, _ = once(port, picture(1))
        assert (status, headers["Connection"]) == (503, "close")
        held.go.set()
        assert {future.result()[0] for future in early} == {200}


def test_the_connections_are_fewer_than_the_files_that_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, most in ((1024, 512), (256, 128), (1 << 20, 1024), (connections.resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(connections.resource, "getrlimit", lambda which, files=files: (files, files))
        assert connections.most_connections() == most


def test_a_head_has_its_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(port) as client:
        assert client(picture(1))[0] == 200
        monkeypatch.setattr(connections, "HEAD_SECONDS", 0)
        client.connection.sock.sendall(b"GET /hea")
        assert closed(client.connection.sock)
    with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as silent:
        assert closed(silent)


def test_time_between_requests_and_for_a_request_is_bounded(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(classifier, monkeypatch)
    with running(held.service) as (port, _), Client(port) as idle:
        monkeypatch.setattr(connections, "IDLE_SECONDS", 0)
        assert idle(path="/health", method="GET")[0] == 200
        assert closed(idle.connection.sock)
        monkeypatch.setattr(connections, "REQUEST_SECONDS", 0)
        with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as asking:
            asking.sendall(head(len(picture(1))) + picture(1))
            assert closed(asking)
        held.go.set()


def test_a_client_that_does_not_read_its_answers_is_closed(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(app.Service(classifier)) as (port, server):
        with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as deaf:
            deaf.setblocking(False)

            def stuck() -> bool:
                with contextlib.suppress(BlockingIOError):
                    deaf.send(b"GET /page.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 100)
                return any(one.flow and one.flow.write_paused for one in [*server.server_state.connections])

            until(stuck)
            (one,) = server.server_state.connections
            assert one.waits
            one._until = 0.0
            until(lambda: not server.server_state.connections)
        assert once(port, picture(1))[0] == 200


def parsed(data: bytes) -> tuple[int, str]:
    """How many events come of the bytes that a client sends, and why no more do."""
    parser, events = connections.Parser(), 0
    parser.receive_data(data)
    while True:
        try:
            event = parser.next_event()
        except connections.h11.RemoteProtocolError as error:
            return events, str(error)
        if event in (connections.h11.NEED_DATA, connections.h11.PAUSED):
            return events, ""
        events += 1


CHUNKED = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_tiny_chunks_are_refused() -> None:
    events, why = parsed(CHUNKED + b"1\r\nx\r\n" * 10_000)
    assert events <= connections.PARTS + 2
    assert "chunks are too small" in why
    assert parsed(CHUNKED + b"200\r\n" + bytes(512) + b"\r\n") == (2, "")
    assert parsed(CHUNKED + (b"200\r\n" + bytes(512) + b"\r\n") * 1000 + b"0\r\n\r\n")[1] == ""


def test_heads_and_trailers_are_bounded_before_they_are_read() -> None:
    lines = b"a:\r\n" * 50_000 + b"\r\n"
    assert parsed(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + lines)[0] == 0
    assert parsed(CHUNKED + b"0\r\n" + lines)[0] == 1
    assert parsed(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"a:\r\n" * 50 + b"\r\n") == (2, "")


def test_a_picture_may_come_in_chunks(classifier: Classifier, port: int) -> None:
    one = picture(1)
    _, _, answer = once(port, iter([one[k : k + 100] for k in range(0, len(one), 100)]))
    assert answer["label"] == classifier.predict(one).label
    answered, _ = raw(port, "Transfer-Encoding: chunked", iter([b"1\r\nx\r\n" * (connections.PARTS + 1)]))
    assert b" 400 " in answered and b"chunks are too small" in answered


@pytest.mark.parametrize(
    "request_head",
    [
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
        b"POST /predict HTTP/1.0\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked",
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6",
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip, chunked",
    ],
)
def test_a_body_whose_end_is_doubtful_is_refused(port: int, request_head: bytes) -> None:
    with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as connection:
        connection.sendall(request_head + b"\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answers = connection.makefile("rb").read()
    assert answers.startswith(b"HTTP/1.1 400 ") and answers.count(b"HTTP/1.1 ") == 1


def test_a_broken_chunk_after_an_early_answer_is_quiet(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as connection:
        connection.sendall(CHUNKED.replace(b"/predict", b"/nothing"))
        assert connection.recv(13) == b"HTTP/1.1 404 "
        connection.sendall(b"no chunk\r\n")
        while connection.recv(65536):
            pass
    assert not caplog.records


def test_a_failure_to_accept_is_told_once(capsys: pytest.CaptureFixture[str], classifier: Classifier) -> None:
    server = app.server(app.application(app.Service(classifier), "model"))

    async def main() -> None:
        server.should_exit = True
        await server.serve([socket.create_server(("127.0.0.1", 0))])
        for _ in range(3):
            asyncio.get_running_loop().call_exception_handler({"exception": OSError(errno.EMFILE, "Too many files")})

    asyncio.run(main())
    assert capsys.readouterr().err.count("Too many files") == 1


# ---------------------------------------------------------------- who may ask, and what the page may do


def test_only_a_local_name_is_answered(port: int) -> None:
    assert once(port, picture(1), Host="127.0.0.1:1")[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", ""):
        assert once(port, picture(1), Host=host)[0] == 400


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
    with running(app.Service(classifier), origins=("https://ok.example",)) as (port, _):
        for origin, may in (("https://ok.example", True), ("https://evil.example", False)):
            asked = {"Origin": origin, "Sec_Fetch_Site": "cross-site"}
            for options in ({"body": picture(1)}, {"body": b"no picture"}, preflight):
                status, headers, _ = once(port, **options, **asked)
                assert headers["Access-Control-Allow-Origin"] == (origin if may else None)
                assert (status in (400, 403)) == (not may or options.get("body") == b"no picture")
    with running(app.Service(classifier), origins=("*",)) as (port, _):
        status, headers, _ = once(port, picture(1), Origin="https://any.example")
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")


def test_the_page_needs_nothing_but_the_server(port: int) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/theme.css", "text/css"),
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


# ---------------------------------------------------------------- the command


@contextmanager
def process(model: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, str(TOP / "scripts/serve.py"), str(model), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            line = started.stdout.readline()
            found = re.fullmatch(r"http://[^ ]+:(\d+) tells lion, duck, 10, 2 by the networks of .*; Ctrl-C .*\n", line)
            assert found, line
            yield started, int(found[1])
        finally:
            started.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with process(write_model(tmp_path / "network.safetensors")) as (server, port), Client(port, "localhost") as idle:
        assert idle(picture(1))[0] == 200
        with Client(port) as wrong:
            assert wrong(picture(1), Host="evil.example")[0] == 400
        with closing(socket.create_connection(("127.0.0.1", port))) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nabc")
            assert once(port, picture(1))[0] == 200  # connections are accepted in their order
            server.send_signal(number)
            printed = server.communicate(timeout=BOUND)
        assert server.returncode == code
        assert "Traceback" not in "".join(printed)


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_requests_in_flight_are_answered_at_the_end(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(classifier, monkeypatch)
    with ThreadPoolExecutor(1) as clients, running(held.service) as (port, server):
        asked = clients.submit(once, port, picture(1))
        until(lambda: held.batches == [1])
        server.should_exit = True
        until(lambda: refuses(port))
        time.sleep(0.5)
        held.go.set()
        assert asked.result()[0] == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_drops_nothing(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    held = Held(classifier, monkeypatch)
    with ThreadPoolExecutor(1) as clients, running(held.service) as (port, server):
        asked = clients.submit(once, port, picture(1))
        until(lambda: held.batches == [1])
        server.handle_exit(number, None)
        server.handle_exit(number, None)
        until(lambda: refuses(port))
        assert not server.force_exit
        held.go.set()
        status, headers, _ = asked.result()
        assert (status, headers["Connection"]) == (200, "close")


def test_a_request_that_is_under_way_at_the_end_is_answered(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STAY_SECONDS", 60)
    with running(app.Service(classifier)) as (port, server), Client(port) as client:
        assert client(picture(1))[0] == 200
        server.should_exit = True
        until(lambda: refuses(port))
        status, headers, _ = client(picture(1))
        assert (status, headers["Connection"]) == (200, "close")


def test_connections_that_are_not_yet_accepted_at_the_end_are_answered(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 64)  # eight are accepted at once
    with running(app.Service(classifier)) as (port, server):
        assert once(port, picture(1))[0] == 200
        busy, go = threading.Event(), threading.Event()
        server.servers[0].get_loop().call_soon_threadsafe(lambda: (busy.set(), go.wait(60)))
        assert busy.wait(60)
        early = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(40)]
        for connection in early:
            connection.sendall(head(len(picture(1))) + picture(1))
        server.should_exit = True
        go.set()
        assert [connection.recv(12)[9:] for connection in early] == [b"200"] * 40
        for connection in early:
            connection.close()


def test_silent_clients_do_not_delay_the_end(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "END_SECONDS", 6000)
    monkeypatch.setattr(connections, "STAY_SECONDS", 0)
    with running(app.Service(classifier)) as (port, server):
        silent = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(3)]
        for connection, said in zip(silent, (b"", WHOLE_HEAD[:-9], WHOLE_HEAD + bytes(500)), strict=True):
            connection.sendall(said)
        until(lambda: len(server.server_state.connections) == 3)
        server.should_exit = True
        assert all(map(closed, silent))
        for connection in silent:
            connection.close()


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["serve.py", *map(str, arguments)])
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as end:
            serve.main()
        assert end.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return call


def test_what_keeps_it_from_starting_is_one_sentence(
    tmp_path: Path, main: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "network.safetensors")
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        said = main(model, "--port", taken.getsockname()[1])
    assert re.fullmatch(r"hillstart: 127.0.0.1, port \d+: cannot listen \(Address already in use\); .*", said)
    assert "no such file" in main(tmp_path / "none.safetensors")
    assert "number from 0 to 65535" in main(model, "--port", 65536)
    assert "number from 0 to 1" in main(model, "--unsure-below", "nan")
    assert "number from 1" in main(model, "--max-pixels", 0)
    assert "invalid int value" in main(model, "--max-bytes", "many")
    for origin in ("example.org", "https://example.org/page", ""):
        assert "is not an origin" in main(model, "--allow-origin", origin)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(model) == "hillstart: a server needs two more packages: pip install 'hillstart[serve]'."


@pytest.mark.slow
def test_it_needs_neither_lightning_nor_hydra(tmp_path: Path) -> None:
    code = """
import sys
from hillstart.serve import app as serving
from hillstart.inference.loading import load
serving.server(serving.application(serving.Service(load(sys.argv[1])), "model"))
print({"lightning", "pytorch_lightning", "hydra", "torchvision"} & set(sys.modules))
"""
    command = [sys.executable, "-c", code, str(write_model(tmp_path / "network.safetensors"))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_bench_counts_what_is_lost_and_what_is_wrong(classifier: Classifier, tmp_path: Path) -> None:
    expected = {}
    for k in range(70):
        (tmp_path / f"{k}.jpg").write_bytes(picture(k))
        answer = classifier.predict(picture(k))
        expected[f"{k}.jpg"] = [answer.label, answer.probability]
    expected["7.jpg"][1] += 0.01
    expected["8.jpg"][0] = "2" if expected["8.jpg"][0] != "2" else "10"
    (tmp_path / "9.jpg").write_bytes(b"no picture")
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    with running(app.Service(classifier)) as (port, _):
        found = ask(f"http://127.0.0.1:{port}", tmp_path, tmp_path / "expected.json")
    assert (found["lost"], found["wrong"]) == (1, 2)
    assert 0 < found["p50_ms"] <= found["p99_ms"]


# ---------------------------------------------------------------- the page, in a browser

HOSTILE = ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "10", "2")
DROP = """
const [name, type, base64] = arguments;
const data = new DataTransfer();
data.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name, { type }));
for (const kind of ["dragover", "drop"])
  document.getElementById("zone").dispatchEvent(
    new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
"""
PASTE = DROP.replace("DragEvent", "ClipboardEvent").replace("dataTransfer", "clipboardData").replace(
    '["dragover", "drop"]', '["paste"]')  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium with its chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for name in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
                 "disable-component-update", "disable-sync"):  # fmt: skip
        options.add_argument(f"--{name}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


class Page:
    """The page of a server, in the browser."""

    def __init__(self, browser: Any, port: int):
        self.browser = browser
        browser.get(f"http://127.0.0.1:{port}/")
        until(lambda: "networks vote" in self.text("about"))

    def text(self, element: str) -> str:
        return str(self.browser.find_element("id", element).text)

    def script(self, code: str, *arguments: object) -> Any:
        return self.browser.execute_script(code, *arguments)

    def choose(self, path: Path) -> None:
        self.browser.find_element("id", "file").send_keys(str(path))

    def give(self, script: str, content: bytes) -> None:
        self.script(script, "given.jpg", "image/jpeg", base64.b64encode(content).decode())


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[tuple[Page, Classifier]]:
    asked = load(write_model(tmp_path / "hostile.safetensors", HOSTILE, 16))
    with running(app.Service(asked, max_bytes=100_000)) as (port, _):
        yield Page(browser, port), asked


def pictures_by_label(asked: Classifier) -> dict[str, bytes]:
    """For each class a picture that is called so."""
    found = {asked.predict(picture(seed)).label: picture(seed) for seed in range(200)}
    assert set(found) == set(HOSTILE)
    return found


@pytest.mark.slow
def test_a_picture_that_is_chosen_dropped_or_pasted_is_answered_beside_it(
    page: tuple[Page, Classifier], tmp_path: Path
) -> None:
    shown, asked = page
    assert shown.text("about").startswith("<script>alert(1)</script>, <img src=x onerror=alert(1)>, 10 or 2?")
    ways: list[Callable[[bytes], None]] = [
        lambda content: (tmp_path / "chosen.jpg").write_bytes(content) and shown.choose(tmp_path / "chosen.jpg"),
        lambda content: shown.give(DROP, content),
        lambda content: shown.give(PASTE, content),
        lambda content: shown.give(DROP, content),
    ]
    for give, (label, content) in zip(ways, pictures_by_label(asked).items(), strict=True):
        give(content)
        until(lambda label=label: shown.text("label") == label)
        expected = asked.predict(content)
        count = round(16 * expected.agreement)
        assert shown.text("probability") == f"{100 * expected.probability:.1f}%"
        assert shown.text("agreement") == f"{count} of 16 networks say {label}."
        assert len(shown.browser.find_elements("css selector", "#dots .agrees")) == count
        bars = [row.text.split("\n")[0] for row in shown.browser.find_elements("css selector", "#classes li")]
        assert bars == list(expected.probabilities)
        assert bool(shown.text("unsure")) == expected.unsure
        assert shown.text("uncalibrated").startswith("Not calibrated")
        until(lambda: shown.script("return document.getElementById('shown').naturalWidth") == 64)
        assert label in shown.script("return document.getElementById('spoken').textContent")
    assert shown.script("return document.querySelectorAll('#answer script, #answer img').length") == 0
    assert [entry for entry in shown.browser.get_log("browser") if entry["level"] != "INFO"] == []


@pytest.mark.slow
def test_the_page_says_what_is_wrong(page: tuple[Page, Classifier], tmp_path: Path) -> None:
    shown, asked = page
    (tmp_path / "notes.txt").write_text("no picture")
    shown.choose(tmp_path / "notes.txt")
    until(lambda: shown.text("error") == "notes.txt: is not a picture; give a file such as PNG, JPEG or WebP.")
    until(lambda: shown.text("invited") == "This browser cannot show that file.")
    shown.give(DROP, bytes(100_001))
    until(lambda: shown.text("error") == "given.jpg: the file is too large; choose one of at most 0.1 MB.")
    (label, content), *_ = pictures_by_label(asked).items()
    shown.give(DROP, content)
    until(lambda: shown.text("label") == label and not shown.text("error"))
    logged = [entry["message"] for entry in shown.browser.get_log("browser")]
    assert all("400 (Bad Request)" in message for message in logged), "the browser itself notes the answer, no more"


@pytest.mark.slow
def test_the_page_can_be_used_by_keyboard_and_on_a_phone(page: tuple[Page, Classifier]) -> None:
    shown, asked = page
    shown.script("document.body.focus()")
    webdriver.ActionChains(shown.browser).send_keys(Keys.TAB).perform()
    assert shown.script("return document.activeElement.id") == "file"
    assert shown.script("return getComputedStyle(document.getElementById('zone')).outlineStyle") == "solid"
    for width in (320, 390, 1400):
        shown.browser.set_window_size(width, 800)
        shown.give(DROP, picture(1))
        until(lambda: shown.text("label") == asked.predict(picture(1)).label)
        assert shown.script("return document.documentElement.scrollWidth <= innerWidth")
