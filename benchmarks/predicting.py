"""Speed of predictions: one picture beside the import of torch and torchvision, many beside bare decoding.

`python -m benchmarks.predicting ours|bare|small FOLDER MODEL` times the pictures of a folder in a process of its
own and prints a JSON of seconds and peak memory.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from benchmarks.timing import Spread, in_turns
from hillstart.cli.predict import main as predict
from hillstart.data.images import REDUCING_GAP
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.network import Network

SIDE, STARTS = 32, 16
IMPORT = "import torch, torchvision"


@dataclass(frozen=True)
class Size:
    """The number of pictures and of repeats; memory is compared with that of `few` pictures."""

    pictures: int
    few: int
    repeats: int


FULL, QUICK = Size(10_000, 1_000, 5), Size(1_000, 250, 2)


def make_pictures(folder: Path, count: int) -> None:
    """Write `count` colour JPEGs of 128 x 128: soft blobs under a little noise, about as large as such photos."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
            (128, 128), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(coarse).astype(int) + rng.integers(-12, 13, (128, 128, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05}.jpg", quality=85)


def make_model(path: Path) -> None:
    """16 starts that were never trained: how long they take does not depend on what they know."""
    network = Network.start([3 * SIDE**2, 64, 2], range(STARTS), cost="cross_entropy")
    origins = tuple(Start(seed, Hyperparameters(0.1)) for seed in range(STARTS))
    model_file.save(path, Classifier(network, origins, ("lion", "duck"), Preprocessing(SIDE, 3)))


def bare(paths: list[Path], small: bool = False) -> None:
    """Decode and resize, with a thread for each core, and nothing else.

    Args:
        small: let libjpeg decode at a fraction of the size, as `images.read_picture` does; ordinary loops do not.
    """

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            if small:
                image.draft(None, (REDUCING_GAP * SIDE,) * 2)
            return np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BICUBIC))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(read, paths, chunksize=64):
            pass


def ours(folder: Path, model: Path) -> None:
    """The command with all it does, its output thrown away."""
    sys.argv[1:] = [str(model), str(folder), "--json"]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        try:
            predict()
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"predict ended with {end.code}") from end


def in_a_process(what: str, folder: Path, model: Path) -> dict[str, float]:
    """Seconds and peak memory, in MiB, of `ours`, `bare` or `small`, without what a process takes to start."""
    command = [sys.executable, "-m", "benchmarks.predicting", what, str(folder), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def process_seconds(command: list[str]) -> float:
    """Seconds of a fresh process from its start to its end."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def measure(size: Size) -> dict[str, Any]:
    """One picture, many pictures, and memory; each contestant in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder, few, model = (Path(name, of) for of in ("many", "few", "network.safetensors"))
        folder.mkdir()
        few.mkdir()
        make_pictures(folder, size.pictures)
        make_model(model)
        pictures = sorted(folder.iterdir())
        for path in pictures[: size.few]:
            (few / path.name).hardlink_to(path)
        one = [sys.executable, "-c", "from hillstart.cli.predict import main; main()", str(model), str(pictures[0])]
        contestants: dict[str, Callable[[], float]] = {
            "predict": partial(process_seconds, one),
            "import": partial(process_seconds, [sys.executable, "-c", IMPORT]),
            "ours": lambda: size.pictures / in_a_process("ours", folder, model)["seconds"],
            "bare": lambda: size.pictures / in_a_process("bare", folder, model)["seconds"],
            "small": lambda: size.pictures / in_a_process("small", folder, model)["seconds"],
        }
        timed = {name: Spread.of(found) for name, found in in_turns(contestants, size.repeats).items()}
        memory = {len(list(of.iterdir())): in_a_process("ours", of, model)["mebibytes"] for of in (few, folder)}
    return {
        "repeats": size.repeats,
        "pictures": size.pictures,
        "seconds_of_one": {name: asdict(timed[name]) for name in ("predict", "import")},
        "one_ratio": timed["predict"].median / timed["import"].median,
        "pictures_per_second": {name: asdict(timed[name]) for name in ("ours", "bare", "small")},
        "many_ratio": timed["ours"].median / timed["bare"].median,
        "many_ratio_to_small": timed["ours"].median / timed["small"].median,
        "peak_mebibytes": memory,
    }


def section(console: Console, device: torch.device, quick: bool) -> dict[str, Any]:
    """Measure and show; what goes under `predict` in the JSON."""
    found = measure(QUICK if quick else FULL)
    table = Table("", "median", "low", "high", title="predictions")
    for name, what in (("predict", "one picture by scripts/predict.py, s"), ("import", f"python -c '{IMPORT}', s")):
        table.add_row(what, *Spread(**found["seconds_of_one"][name]).shown(2))
    kinds = (("ours", "predicted"), ("bare", "only decoded and resized"), ("small", "the same, decoded small as ours"))
    for name, what in kinds:
        table.add_row(
            f"{found['pictures']} JPEGs {what}, a second", *Spread(**found["pictures_per_second"][name]).shown(0)
        )
    memory = " and ".join(f"{mib:.0f} MiB for {count}" for count, mib in found["peak_mebibytes"].items())
    ratios = f"ratios {found['one_ratio']:.2f}, {found['many_ratio']:.2f} and {found['many_ratio_to_small']:.2f}"
    console.print(table, f"{ratios}; peak memory {memory}; {STARTS} starts of [{3 * SIDE**2}, 64, 2], medians of "
                         f"{found['repeats']} interleaved repeats.")  # fmt: skip
    return found


def main() -> None:
    """One contestant, in this process."""
    what, folder, model = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    began = time.perf_counter()
    if what == "ours":
        ours(folder, model)
    else:
        bare(sorted(folder.iterdir()), small=what == "small")
    taken = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": taken, "mebibytes": peak}))


if __name__ == "__main__":
    main()
