"""Pictures become answers: in batches, in turns, within limits."""

import asyncio
import os
import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from PIL import Image

from hillstart.data.preprocessing import Preprocessing
from hillstart.inference.classifier import Classifier
from hillstart.serve import batching
from hillstart.serve.batching import Quota, Service
from serving import Client, Held, encoded, head, once, picture, running, until


def test_the_answer_is_that_of_the_classifier(classifier: Classifier, port: int) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        status, headers, answer = once(port, picture(1, kind))
        expected = classifier.predict(picture(1, kind))
        assert (status, headers["Content-Type"]) == (200, "application/json")
        keys = ["label", "probability", "probabilities", "agreement", "unsure", "opinions", "calibrated"]
        assert list(answer) == keys and answer["calibrated"] is False  # this model has no temperature
        assert (answer["label"], answer["agreement"], answer["unsure"]) == (
            expected.label,
            expected.agreement,
            expected.unsure,
        )
        assert answer["probability"] == pytest.approx(expected.probability, abs=1e-6)
        assert list(answer["probabilities"]) == list(expected.probabilities)
        assert [(o["seed"], o["label"]) for o in answer["opinions"]] == [(o.seed, o.label) for o in expected.opinions]


def test_many_clients_lose_nothing(classifier: Classifier, port: int) -> None:
    pictures = [picture(seed) for seed in range(128)]
    expected = classifier.predict(pictures)
    assert len({round(one.probability, 6) for one in expected}) > 120, "the pictures are to be told apart"

    def client(these: range) -> list[Any]:
        with Client(port) as ask:
            return [ask(pictures[i]) for i in these]

    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(client, [range(k, 128, 32) for k in range(32)]))
    for k, of_client in enumerate(answers):
        for (status, _, answer), one in zip(of_client, expected[k::32], strict=True):
            assert (status, answer["label"]) == (200, one.label)
            assert answer["probability"] == pytest.approx(one.probability, abs=1e-6)


def test_what_waits_goes_through_the_networks_together(held: Held) -> None:
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


def test_one_client_has_its_share_of_what_waits_and_hears_when_to_come_again(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = Quota(4)
    quota.add("greedy", 3)
    assert quota.exhausted("greedy") and not quota.exhausted("modest")
    quota.add("modest", 1)
    assert quota.exhausted("modest")
    held = Held(classifier, monkeypatch, waiting=4)
    with running(held.service) as (port, _), ThreadPoolExecutor(3) as clients, Client(port) as late:
        early = [clients.submit(once, port, picture(k)) for k in range(3)]
        until(lambda: held.service.unanswered.used == 3)
        status, headers, answer = late(picture(3))
        assert (status, headers["Retry-After"]) == (503, "1") and "try again" in answer["error"]
        held.go.set()
        assert [future.result()[0] for future in early] == [200, 200, 200]
        assert late(picture(3))[0] == 200


def test_all_that_is_received_is_bounded_too(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "WAITING_BYTES", 20_000)
    with running(Service(classifier)) as (port, _):
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


def test_pictures_of_clients_that_have_left_are_not_decoded(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow, asked, left = Slow(monkeypatch), Service(classifier), picture(1)
    with running(asked) as (port, server), ThreadPoolExecutor(CORES + 1) as clients:
        stay = [clients.submit(once, port, picture(2)) for _ in range(CORES)]
        until(lambda: len(slow.begun) == CORES)
        for body in [left, left[:100], b""] * 5:
            with closing(socket.create_connection(("127.0.0.1", port))) as connection:
                connection.sendall(head(len(left)) + body)
        until(lambda: asked.unanswered.used == CORES + 5 and len(server.server_state.connections) == CORES)
        stay.append(clients.submit(once, port, picture(3)))
        until(lambda: asked.unanswered.used == CORES + 6)
        slow.go.set()
        assert [future.result()[0] for future in stay] == [200] * (CORES + 1)
        until(lambda: (asked.unanswered.used, asked.received.used) == (0, 0))
    assert left not in slow.begun
    assert not asked.unanswered.used_by and not asked.received.used_by, (
        "whoever has been there once leaves nothing behind"
    )
    assert not caplog.records


def test_small_pictures_do_not_wait_behind_large_ones(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "SMALL_PIXELS", 10_000)
    slow, asked = Slow(monkeypatch, lambda max_pixels: max_pixels > 10_000), Service(classifier)
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
        asking[0].cancel()  # its turn has just come, and is passed on
        await asyncio.wait(asking)
        async with asyncio.timeout(60), turns.turn("last"):  # it is free again
            pass

    asyncio.run(main())
    assert order == ["b", "a1", "a1"]


def test_the_wait_for_an_answer_is_bounded(monkeypatch: pytest.MonkeyPatch, held: Held) -> None:
    monkeypatch.setattr(batching, "ANSWER_SECONDS", 0)
    with running(held.service) as (port, _):
        status, headers, _ = once(port, picture(1))
        assert (status, headers["Retry-After"]) == (503, "1")
        assert (held.service.unanswered.used, held.service.received.used) == (0, 0)
        held.go.set()


def test_a_failure_is_told_without_a_traceback(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service, answer = Service(classifier), Classifier.answer

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
