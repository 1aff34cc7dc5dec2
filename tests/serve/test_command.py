"""The command, as a process and in this one."""

import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from subprocess import PIPE

import pytest

from forking import ForkedPopen
from hillstart.cli import serve
from hillstart.serve import app
from launching import BOUND, ran
from serving import Client, once, picture, write_model

TOP = Path(__file__).parents[2]


@contextmanager
def process(model: Path, *options: str) -> Iterator[tuple[ForkedPopen, int]]:
    command = [sys.executable, str(TOP / "scripts/serve.py"), str(model), "--port", "0", *options]
    with ForkedPopen(command, stdout=PIPE, stderr=PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            line = started.stdout.readline()
            found = re.fullmatch(
                r"http://[^ ]+:(\d+) classifies pictures by .* as lion, duck, 10, 2; Ctrl-C .*\n", line
            )
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "{taken}"], r"hillstart: 127.0.0.1, port \d+: cannot listen \(Address already in use\); .*"),
        (["--port", "65536"], ".*--port.*number from 0 to 65535"),
        (["--unsure-below", "nan"], ".*--unsure-below.*number from 0 to 1"),
        (["--max-pixels", "0"], ".*--max-pixels.*number from 1 .*"),
        (["--max-bytes", "many"], ".*--max-bytes.*number from 1 .*"),
        (["--allow-origin", "example.org"], ".*--allow-origin.*"),
        (["--allow-origin", "https://example.org/page"], ".*--allow-origin.*"),
        (["--allow-origin", ""], ".*--allow-origin.*"),
        (["--allow-host", "https://example.org"], ".*--allow-host.*"),
        (["--allow-host", "a.*.example.org"], ".*--allow-host.*"),
        (["--allow-host", ""], ".*--allow-host.*"),
    ],
)
def test_what_keeps_it_from_starting_is_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    model = write_model(tmp_path / "network.safetensors")
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        end = ran(serve.main, monkeypatch, capsys, model, *(word.format(taken=port) for word in arguments))
    assert end.code == 2 and re.fullmatch(sentence, end.err.splitlines()[-1])


def test_packages_and_models_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert "none.safetensors" in ran(serve.main, monkeypatch, capsys, tmp_path / "none.safetensors").err
    for package in ("uvicorn", "multipart"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, package, None)
            end = ran(serve.main, monkeypatch, capsys, tmp_path)
        assert end.code == 2 and "pip install 'hillstart[serve]'" in end.err


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ((), {"localhost", "127.0.0.1", "::1", "[::1]"}),
        (("--allow-host", "a.example"), {"localhost", "127.0.0.1", "::1", "[::1]", "a.example"}),
        (("--host", "0.0.0.0"), {"*"}),
        (
            ("--host", "0.0.0.0", "--allow-host", "*.a.example"),
            {"localhost", "127.0.0.1", "::1", "[::1]", "0.0.0.0", "*.a.example"},
        ),
    ],
)
def test_names_that_are_answered(
    options: tuple[str, ...],
    names: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[set[str]] = []

    def application(service: object, model: str, hosts: list[str], origins: list[str]) -> None:
        asked.append(set(hosts))
        sys.exit(0)

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(app, "application", application)
    model, listen = write_model(tmp_path / "network.safetensors"), serve._listen
    with ExitStack() as stack:
        monkeypatch.setattr(serve, "_listen", lambda host, port: stack.enter_context(listen(host, port)))
        assert ran(serve.main, monkeypatch, capsys, model, "--port", "0", *options).code == 0
    assert asked == [names]
