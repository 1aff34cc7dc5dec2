"""A server with small networks, and clients for it."""

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.network import Network

pytest.importorskip("uvicorn", reason="the server needs hillstart[serve]")
from hillstart.serve import app
from hillstart.serve.batching import Service

CLASSES = ("lion", "duck", "10", "2")  # names that are numbers change places in a browser's objects


def write_model(path: Path, classes: tuple[str, ...] = CLASSES, starts: int = 4) -> Path:
    network = Network.start([3 * 8 * 8, 8, len(classes)], range(starts), cost="log_likelihood")
    origins = tuple(Start(seed, Hyperparameters(0.1)) for seed in range(starts))
    centred = Preprocessing(8, 3, mean=(0.5,) * 3, std=(0.2,) * 3)  # so that each class is the label of some picture
    model_file.save(path, Classifier(network, origins, classes, centred))
    return path


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
    service: Service, hosts: tuple[str, ...] = ("127.0.0.1",), origins: tuple[str, ...] = ()
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


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


class Held:
    """A service whose networks wait for `go`; `batches`: how many pictures went through them together."""

    def __init__(self, classifier: Classifier, monkeypatch: pytest.MonkeyPatch, waiting: int = 512):
        self.service, self.go, self.batches = Service(classifier, waiting=waiting), threading.Event(), []
        answer = Classifier.answer

        def held(of: Classifier, pixels: Any, *options: Any) -> Any:
            self.batches.append(len(pixels))
            assert self.go.wait(60)
            return answer(of, pixels, *options)

        monkeypatch.setattr(Classifier, "answer", held)


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
        return until_closed(connection), sent


def until_closed(connection: socket.socket) -> bytes:
    """All that the server sends; what it left unread of a request resets the connection, after its answer."""
    found = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    return found


def head(length: int) -> bytes:
    return f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode()
