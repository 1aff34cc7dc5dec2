"""`scripts/bench.py`: measures the sections that were asked for, shows tables, and writes all figures as JSON."""

import json
from argparse import ArgumentParser
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import first, many_starts, predicting, scikit, seeds, serving, speed, sweep
from benchmarks.timing import Part
from hillstart.system.console import end, silence_libraries
from hillstart.system.errors import InputError
from hillstart.system.files import replacing
from hillstart.system.machine import processor

SECTIONS: dict[str, Any] = {
    "speed": speed,
    "first": first,
    "starts": many_starts,
    "sweep": sweep,
    "seeds": seeds,
    "sklearn": scikit,
    "predict": predicting,
    "serve": serving,
}
"""Modules with a function `measure`, whose keyword arguments are the size of its work, and a smaller size, `QUICK`."""
PACKAGES = {
    "hillstart": "hillstart",
    "torch": "torch",
    "lightning": "lightning",
    "scikit-learn": "sklearn",
    "jax": "jax",
}

ABOUT = """How fast, each number beside a peer of the same run. speed: the engine, the path through Lightning, plain and
with momentum, and six peers, as shares of the machine's matrix-product peak. first: from the prompt to a trained epoch,
import by import. starts: what a run adds to the engine, and how time and memory grow with the starts. sweep: Hydra's
share of a multirun, by our sweeper and by its own. seeds: 1,024 starts together against one ordinary Lightning run for
each. sklearn: seconds and scores of 16 starts against 16 fits of its MLPClassifier. predict: one picture and 10,000.
serve: 64 clients at once."""


def main() -> None:
    """`scripts/bench.py`."""
    parser = ArgumentParser(description=ABOUT)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections; without it, all")
    parser.add_argument("--json", type=Path, help="also write machine, versions, peak, rows and sections to this file")
    parser.add_argument(
        "--quick", action="store_true", help="all of it smaller; without --only, speed alone, in two minutes"
    )
    options = parser.parse_args()
    device, chosen = torch.device(options.device), options.only or (["speed"] if options.quick else SECTIONS)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device here")
    silence_libraries()

    peaks, console = [speed.peak_flops(device) / 1e9], Console(width=110)
    console.print(f"matrix-product peak, float32: {peaks[0]:.0f} GFLOP/s on {machine(device)}")
    sections: dict[str, list[Part]] = {}
    for name in SECTIONS:
        if name in chosen:
            sections[name] = []
            console.print(f"\n{name}: {' '.join(SECTIONS[name].__doc__.split())}", markup=False)
            for part in SECTIONS[name].measure(device, **(SECTIONS[name].QUICK if options.quick else {})):
                sections[name].append(part)
                show(console, part)
    speeds = sections.pop("speed", [])
    found = {
        "machine": machine(device),
        "versions": {name: version(name) for name, module in PACKAGES.items() if find_spec(module)},
        "peak_gflops": max([*peaks, *(part.figures["peak_gflops"] for part in speeds)]),
        "rows": [row for part in speeds for row in part.rows],
        **{name: [part._asdict() for part in parts] for name, parts in sections.items()},
    }
    if options.json:
        try:
            with replacing(options.json, sync=False) as new:
                new.write_text(json.dumps(found, indent=2) + "\n")
        except InputError as error:
            end(error, 1)


def show(console: Console, part: Part) -> None:
    """Print the rows as a table, and the figures below it."""

    def text(value: object) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    keys = dict.fromkeys(key for row in part.rows for key in row)
    table = Table(*(key.replace("_", " ") for key in keys), title=escape(part.title))
    table.columns[0].no_wrap = True
    for row in part.rows:
        table.add_row(*(escape(text(row.get(key, ""))) for key in keys))
    console.print(table, ", ".join(f"{name.replace('_', ' ')}: {text(value)}" for name, value in part.figures.items()))


def machine(device: torch.device) -> str:
    """Name of the device, with the number of threads on the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads"
