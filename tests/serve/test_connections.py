"""Connections that are slow, silent, many or malformed, and the end of the server."""

import asyncio
import contextlib
import errno
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from hillstart.inference.classifier import Classifier
from hillstart.serve import app, connections
from hillstart.serve.batching import Service
from serving import Client, Held, head, once, picture, raw, running, until, until_closed


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def closed(connection: socket.socket) -> bool:
    """Wait for the server to close; False if it answers instead."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


WHOLE_HEAD = head(1000)
SAID = [b"", WHOLE_HEAD[:-9], WHOLE_HEAD + bytes(500)]


@pytest.mark.parametrize("said", SAID, ids=["nothing", "head", "body"])
def test_silent_connections_make_room(classifier: Classifier, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 4)
    with running(Service(classifier)) as (port, server), ThreadPoolExecutor(8) as waiting:
        silent = [connected(port) for _ in range(8)]
        for connection in silent:
            connection.sendall(said)
        ends = [waiting.submit(closed, connection) for connection in silent]
        until(lambda: sum(end.done() for end in ends) == 8 - 3)  # the share of one client
        assert once(port, picture(1))[0] == 200
        assert len(server.server_state.connections) <= 4
        for connection in silent:  # or the threads would wait for the last ones
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def test_more_connections_than_there_may_be_are_answered_503(monkeypatch: pytest.MonkeyPatch, held: Held) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 4)
    with running(held.service) as (port, _), ThreadPoolExecutor(3) as clients:
        early = [clients.submit(once, port, picture(k)) for k in range(3)]
        until(lambda: held.service.unanswered.used == 3)
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
    with closing(connected(port)) as silent:
        assert closed(silent)


def test_time_between_requests_and_for_a_request_is_bounded(monkeypatch: pytest.MonkeyPatch, held: Held) -> None:
    with running(held.service) as (port, _), Client(port) as idle:
        monkeypatch.setattr(connections, "IDLE_SECONDS", 0)
        assert idle(path="/health", method="GET")[0] == 200
        assert closed(idle.connection.sock)
        monkeypatch.setattr(connections, "REQUEST_SECONDS", 0)
        with closing(connected(port)) as asking:
            asking.sendall(head(len(picture(1))) + picture(1))
            assert closed(asking)
        held.go.set()


def test_a_client_that_does_not_read_its_answers_is_closed(served: tuple[int, Any]) -> None:
    port, server = served
    with closing(connected(port)) as deaf:
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
    """The number of events parsed from the bytes of a client, and the reason why parsing stopped."""
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


def test_chunks_heads_and_trailers_are_bounded_before_they_are_read() -> None:
    events, why = parsed(CHUNKED + b"1\r\nx\r\n" * 10_000)
    assert events <= connections.PARTS + 2 and "chunks are too small" in why
    whole = b"200\r\n" + bytes(512) + b"\r\n"
    assert parsed(CHUNKED + whole) == (2, "")
    assert parsed(CHUNKED + whole * 1000 + b"0\r\n\r\n")[1] == ""
    begun, lines = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"a:\r\n" * 50_000 + b"\r\n"
    assert parsed(begun + lines)[0] == 0
    assert parsed(CHUNKED + b"0\r\n" + lines)[0] == 1
    assert parsed(begun + b"a:\r\n" * 50 + b"\r\n") == (2, "")


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
    with closing(connected(port)) as connection:
        connection.sendall(request_head + b"\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answers = until_closed(connection)
    assert answers.startswith(b"HTTP/1.1 400 ") and answers.count(b"HTTP/1.1 ") == 1


def test_a_broken_chunk_after_an_early_answer_is_quiet(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with closing(connected(port)) as connection:
        connection.sendall(CHUNKED.replace(b"/predict", b"/nothing"))
        assert connection.recv(13) == b"HTTP/1.1 404 "
        connection.sendall(b"no chunk\r\n")
        while connection.recv(65536):
            pass
    assert not caplog.records


def test_a_failure_to_accept_is_told_once(capsys: pytest.CaptureFixture[str], classifier: Classifier) -> None:
    server = app.server(app.application(Service(classifier), "model"))

    async def main() -> None:
        server.should_exit = True
        await server.serve([socket.create_server(("127.0.0.1", 0))])
        for _ in range(3):
            asyncio.get_running_loop().call_exception_handler({"exception": OSError(errno.EMFILE, "Too many files")})

    asyncio.run(main())
    assert capsys.readouterr().err.count("Too many files") == 1


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_requests_in_flight_are_answered_at_the_end_whatever_signals_come(number: signal.Signals, held: Held) -> None:
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
    served: tuple[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STAY_SECONDS", 60)
    port, server = served
    with Client(port) as client:
        assert client(picture(1))[0] == 200
        server.should_exit = True
        until(lambda: refuses(port))
        status, headers, _ = client(picture(1))
        assert (status, headers["Connection"]) == (200, "close")


def test_connections_that_are_not_yet_accepted_at_the_end_are_answered(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 64)  # eight are accepted at once
    with running(Service(classifier)) as (port, server):
        assert once(port, picture(1))[0] == 200
        busy, go = threading.Event(), threading.Event()
        server.servers[0].get_loop().call_soon_threadsafe(lambda: (busy.set(), go.wait(60)))
        assert busy.wait(60)
        early = [connected(port) for _ in range(40)]
        for connection in early:
            connection.sendall(head(len(picture(1))) + picture(1))
        server.should_exit = True
        go.set()
        assert [connection.recv(12)[9:] for connection in early] == [b"200"] * 40
        for connection in early:
            connection.close()


def test_silent_clients_do_not_delay_the_end(served: tuple[int, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STAY_SECONDS", 0)
    port, server = served
    server.config.timeout_graceful_shutdown = 6000
    silent = [connected(port) for _ in range(3)]
    for connection, said in zip(silent, SAID, strict=True):
        connection.sendall(said)
    until(lambda: len(server.server_state.connections) == 3)
    server.should_exit = True
    assert all(map(closed, silent))
    for connection in silent:
        connection.close()
