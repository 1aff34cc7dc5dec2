"""`scripts/bench.py`: what was asked for is measured section by section, shown as tables and written as JSON."""

import json
import logging
import warnings
from argparse import ArgumentParser
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import many_starts, predicting, seeds, serving, speed, sweep
from hillstart.cli.train import EXPECTED_WARNINGS
from hillstart.system.console import end
from hillstart.system.errors import InputError
from hillstart.system.files import replacing
from hillstart.system.machine import processor

SECTIONS: dict[str, Callable[[Console, torch.device, bool], Any]] = {
    "starts": many_starts.section,
    "sweep": sweep.section,
    "seeds": seeds.section,
    "predict": predicting.section,
    "serve": serving.section,
}
"""Those beside `speed`; in the JSON each has its own name as key."""
PACKAGES = ("hillstart", "torch", "lightning", "scikit-learn", "jax")
MODULES = {"scikit-learn": "sklearn"}

ABOUT = """How fast, each number beside a peer of the same run. speed: the engine, the path through Lightning and six
peers, as shares of the machine's matrix-product peak. starts: what a run adds to the engine, and how time and memory
grow with the starts. sweep: Hydra's share of a multirun, by our sweeper and by its own. seeds: 1,024 starts together
against one ordinary Lightning run for each. predict: one picture and 10,000. serve: 64 clients at once."""


def main() -> None:
    """`scripts/bench.py`."""
    parser = ArgumentParser(description=ABOUT)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", nargs="+", choices=["speed", *SECTIONS], help="these sections; without it, all")
    parser.add_argument("--json", type=Path, help="also write machine, versions, peak, rows and sections to this file")
    parser.add_argument(
        "--quick", action="store_true", help="all of it smaller; without --only, speed alone, in two minutes"
    )
    options = parser.parse_args()
    device, chosen = torch.device(options.device), options.only or ["speed", *([] if options.quick else SECTIONS)]
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device here")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for expected in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", expected)

    peak, console = speed.peak_flops(device), Console(width=110)
    console.print(f"matrix-product peak, float32: {peak / 1e9:.0f} GFLOP/s on {machine(device)}")
    rows: list[dict[str, Any]] = []
    if "speed" in chosen:
        rows, peak = speed.section(console, device, options.quick, peak)
    found: dict[str, Any] = {
        "machine": machine(device),
        "versions": {name: version(name) for name in PACKAGES if find_spec(MODULES.get(name, name))},
        "peak_gflops": peak / 1e9,
        "rows": rows,
    }
    for name, section in SECTIONS.items():
        if name in chosen:
            found[name] = section(console, device, options.quick)
    if options.json:
        try:
            with replacing(options.json, sync=False) as new:
                new.write_text(json.dumps(found, indent=2) + "\n")
        except InputError as error:
            end(error, 1)


def machine(device: torch.device) -> str:
    """Name of the device, with the number of threads on the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads"
