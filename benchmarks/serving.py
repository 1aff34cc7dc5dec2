"""Pictures a second that the server answers to 64 clients, beside bare decoding of the same pictures.

`python -m benchmarks.serving URL FOLDER EXPECTED` is the clients, in a process of their own: over as many
connections that stay open they send the pictures of a folder and compare the answers with those of a JSON file.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.predicting import SIDE, STARTS, in_a_process, make_model, make_pictures
from benchmarks.timing import Spread, in_turns
from hillstart.inference.loading import load

CLIENTS = 64
TOLERANCE = 1e-6
"""Between the probability that was answered and the one expected, which was computed in another batch."""


@dataclass(frozen=True)
class Size:
    """The number of pictures and of repeats."""

    pictures: int
    repeats: int


FULL, QUICK = Size(10_000, 3), Size(1_000, 2)


@dataclass
class Heard:
    """The answers of the server: seconds of each, and the number of wrong ones."""

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0


async def client(host: str, port: int, questions: Iterator[tuple[bytes, tuple[str, float]]], heard: Heard) -> None:
    """One connection, which asks as soon as it is answered, until nobody has a question left."""
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
            heard.seconds.append(time.perf_counter() - began)
            heard.wrong += answer["label"] != label or abs(answer["probability"] - probability) > TOLERANCE
    writer.close()


def ask(url: str, folder: Path, expected: Path) -> dict[str, float]:
    """All clients, all pictures."""
    answers = json.loads(expected.read_text())
    pictures = [((folder / name).read_bytes(), tuple(answer)) for name, answer in answers.items()]
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    questions, heard = iter(pictures), Heard()

    async def all_of_them() -> None:
        await asyncio.gather(*(client(host, port, questions, heard) for _ in range(CLIENTS)))

    began = time.perf_counter()
    asyncio.run(all_of_them())
    taken = time.perf_counter() - began
    p50, p99 = 1000 * np.percentile(heard.seconds or [np.nan], [50, 99])
    return {"per_second": len(heard.seconds) / taken, "p50_ms": float(p50), "p99_ms": float(p99),
            "lost": len(pictures) - len(heard.seconds), "wrong": heard.wrong}  # fmt: skip


@contextlib.contextmanager
def serving(model: Path, device: torch.device) -> Iterator[str]:
    """The command in a process of its own; its address.

    Raises:
        RuntimeError: it did not start.
    """
    command = [sys.executable, "-c", "from hillstart.cli.serve import main; main()", str(model), "--port", "0",
               "--device", device.type]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            if not line.startswith("http://"):
                raise RuntimeError(f"{' '.join(command)} did not start: {line!r}")
            yield line.split()[0]
        finally:
            process.terminate()


def measure(size: Size, device: torch.device) -> dict[str, Any]:
    """Served and bare in turns, with the same pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder, model, expected = (Path(name, of) for of in ("pictures", "network.safetensors", "expected.json"))
        folder.mkdir()
        make_pictures(folder, size.pictures)
        make_model(model)
        paths = sorted(folder.iterdir())
        answers = load(model, device).predict(paths)
        expected.write_text(json.dumps({path.name: (answer.label, answer.probability)
                                        for path, answer in zip(paths, answers, strict=True)}))  # fmt: skip
        runs: list[dict[str, float]] = []

        with serving(model, device) as url:
            command = [sys.executable, "-m", "benchmarks.serving", url, str(folder), str(expected)]

            def served() -> float:
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                runs.append(json.loads(done.stdout.splitlines()[-1]))
                return runs[-1]["per_second"]

            def bare() -> float:
                return size.pictures / in_a_process("bare", folder, model)["seconds"]

            timed = {
                of: Spread.of(found) for of, found in in_turns({"served": served, "bare": bare}, size.repeats).items()
            }
    return {
        "repeats": size.repeats,
        "pictures": size.pictures,
        "clients": CLIENTS,
        "pictures_per_second": {of: asdict(spread) for of, spread in timed.items()},
        "ratio": timed["served"].median / timed["bare"].median,
        "p50_ms": asdict(Spread.of([run["p50_ms"] for run in runs])),
        "p99_ms": asdict(Spread.of([run["p99_ms"] for run in runs])),
        "lost": sum(run["lost"] for run in runs),
        "wrong": sum(run["wrong"] for run in runs),
    }


def section(console: Console, device: torch.device, quick: bool) -> dict[str, Any]:
    """Measure and show; what goes under `serve` in the JSON."""
    found = measure(QUICK if quick else FULL, device)
    table = Table("", "median", "low", "high", title=f"the server and {CLIENTS} clients")
    for of, what in (("served", "answered"), ("bare", "only decoded and resized")):
        spread = Spread(**found["pictures_per_second"][of])
        table.add_row(f"{found['pictures']} JPEGs {what}, a second", *spread.shown(0))
    for key, what in (("p50_ms", "half of the answers within, ms"), ("p99_ms", "99 % of the answers within, ms")):
        table.add_row(what, *Spread(**found[key]).shown())
    console.print(table, f"ratio {found['ratio']:.2f}; lost {found['lost']}, wrong {found['wrong']}; the clients take "
                         f"the same cores; {STARTS} starts of [{3 * SIDE**2}, 64, 2], medians of {found['repeats']} "
                         "interleaved repeats.")  # fmt: skip
    return found


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
