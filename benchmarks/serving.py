"""Pictures a second that the server answers to 64 clients, beside bare decoding of the same pictures.

By 16 starts of [3072, 64, 2]. The clients use the same cores.
"""

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch

from benchmarks.predicting import make_model, make_pictures, per_second
from benchmarks.timing import Part, Row, in_new_process, in_turns, spread
from hillstart.inference.loading import load

CLIENTS = 64
TOLERANCE = 1e-6
"""Between the probability that was answered and the one expected, which was computed in another batch."""

QUICK = {"pictures": 1_000, "repeats": 2}

Answers = Mapping[str, tuple[str, float]]
"""Label and probability of each picture, by the name of its file."""


def measure(device: torch.device, pictures: int = 10_000, repeats: int = 3) -> Iterator[Part]:
    """Served and bare in turns, with the same pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name, "pictures"), Path(name, "network.safetensors")
        make_pictures(folder, pictures)
        make_model(model)
        paths = sorted(folder.iterdir())
        answers = zip(paths, load(model, device).predict(paths), strict=True)
        expected = {path.name: (answer.label, answer.probability) for path, answer in answers}
        runs: list[dict[str, float]] = []
        with serving(model, device) as url:

            def served() -> float:
                runs.append(in_new_process(ask, url, folder, expected))
                return runs[-1]["per_second"]

            bare = partial(per_second, "bare", folder, model)
            timed = in_turns({"answered": served, "only decoded and resized": bare}, repeats)
    rows: list[Row] = [{"what": name} | spread(values, "per_second") for name, values in timed.items()]
    ratio = rows[0]["per_second"] / rows[1]["per_second"]
    lost, wrong = (sum(run[name] for run in runs) for name in ("lost", "wrong"))
    figures = {"clients": CLIENTS, "repeats": repeats, "ratio": ratio, "lost": lost, "wrong": wrong}
    yield Part(f"{pictures} JPEGs", rows, figures)
    times = {"half of the answers": "p50_ms", "99 % of the answers": "p99_ms"}
    rows = [{"within": what} | spread([run[name] for run in runs], "ms") for what, name in times.items()]
    yield Part("time of an answer", rows, {"repeats": repeats})


@contextmanager
def serving(model: Path, device: torch.device) -> Iterator[str]:
    """The command in a process of its own; its address.

    Raises:
        RuntimeError: it did not start.
    """
    code = "from hillstart.cli.serve import main; main()"
    command = [sys.executable, "-c", code, str(model), "--port", "0", "--device", device.type]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            if not line.startswith("http://"):
                raise RuntimeError(f"{' '.join(command)} did not start: {line!r}")
            yield line.split()[0]
        finally:
            process.terminate()


def ask(url: str, folder: Path, expected: Answers) -> dict[str, float]:
    """Let all clients send all pictures; the rate, the times of the answers, and how many are lost or wrong."""
    questions = iter([((folder / name).read_bytes(), answer) for name, answer in expected.items()])
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    seconds: list[float] = []
    wrong = 0

    async def client() -> None:
        """One connection, which asks as soon as it is answered, until no question is left."""
        nonlocal wrong
        reader, writer = await asyncio.open_connection(host, port)
        for picture, (label, probability) in questions:
            began = time.perf_counter()
            head = f"POST /predict HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(picture)}\r\n\r\n"
            writer.write(head.encode() + picture)
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = re.search(r"^content-length: (\d+)", head, re.MULTILINE)
                answer = json.loads(await reader.readexactly(int(length[1]) if length else 0))
            except (OSError, EOFError, ValueError):
                writer.close()
                reader, writer = await asyncio.open_connection(host, port)
                continue
            if head.startswith("http/1.1 200"):
                seconds.append(time.perf_counter() - began)
                wrong += answer["label"] != label or abs(answer["probability"] - probability) > TOLERANCE
        writer.close()

    async def clients() -> None:
        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    began = time.perf_counter()
    asyncio.run(clients())
    taken = time.perf_counter() - began
    p50, p99 = 1000 * np.percentile(seconds or [np.nan], [50, 99])
    return {
        "per_second": len(seconds) / taken,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "lost": len(expected) - len(seconds),
        "wrong": wrong,
    }
