"""Speed of predictions: one picture beside the import of torch and torchvision, many beside bare decoding.

By 16 starts of [3072, 64, 2].
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from benchmarks.timing import Part, Row, in_new_process, in_turns, peak_bytes, quiet, seconds, spread
from hillstart.cli.predict import main as predict
from hillstart.data.images import REDUCING_GAP
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.network import Network

SIDE, STARTS = 32, 16
IMPORT = "import torch, torchvision"
MANY = {"ours": "predicted", "bare": "only decoded and resized", "small": "the same, decoded small as ours"}
QUICK = {"pictures": 1_000, "few": 250, "repeats": 2}


def measure(device: torch.device, pictures: int = 10_000, few: int = 1_000, repeats: int = 5) -> Iterator[Part]:
    """One picture, many pictures, each contestant in turns; and peak memory, also with `few` pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder, few_folder, model = (Path(name, of) for of in ("many", "few", "network.safetensors"))
        make_pictures(folder, pictures)
        make_pictures(few_folder, few)
        make_model(model)
        predicting = "from hillstart.cli.predict import main; main()", str(model), str(next(folder.iterdir()))
        commands = {"one picture by scripts/predict.py": predicting, f"python -c '{IMPORT}'": (IMPORT,)}
        contestants: dict[str, Callable[[], float]] = {
            name: partial(
                seconds, partial(subprocess.run, [sys.executable, "-c", *words], check=True, capture_output=True)
            )
            for name, words in commands.items()
        }
        timed = in_turns(contestants | {name: partial(per_second, name, folder, model) for name in MANY}, repeats)
        memory = [
            {"pictures": count, "peak_mib": in_new_process(peak_mebibytes, of, model)}
            for count, of in ((few, few_folder), (pictures, folder))
        ]
    one: list[Row] = [{"what": name} | spread(timed[name], "seconds") for name in commands]
    yield Part("one picture", one, {"repeats": repeats, "ratio": one[0]["seconds"] / one[1]["seconds"]})
    many: list[Row] = [{"what": what} | spread(timed[name], "per_second") for name, what in MANY.items()]
    ours, bare, small = (row["per_second"] for row in many)
    figures = {"repeats": repeats, "ratio": ours / bare, "ratio_to_small": ours / small}
    yield Part(f"{pictures} JPEGs", many, figures)
    yield Part("memory against pictures", memory, {})


def make_pictures(folder: Path, count: int) -> None:
    """Write `count` colour JPEGs of 128 x 128: soft blobs under a little noise, about as large as such photos."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        blobs = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        pixels = np.asarray(blobs.resize((128, 128), Image.Resampling.BICUBIC)).astype(int)
        pixels += rng.integers(-12, 13, (128, 128, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05}.jpg", quality=85)


def make_model(path: Path) -> None:
    """16 starts that were never trained: how long they take does not depend on what they know."""
    network = Network.start([3 * SIDE**2, 64, 2], range(STARTS), cost="cross_entropy")
    origins = tuple(Start(seed, Hyperparameters(0.1)) for seed in range(STARTS))
    model_file.save(path, Classifier(network, origins, ("lion", "duck"), Preprocessing(SIDE, 3)))


def per_second(contestant: str, folder: Path, model: Path) -> float:
    """Pictures a second of one of `MANY` in a new process, without the time that the process takes to start."""
    run = partial(ours, folder, model) if contestant == "ours" else partial(bare, folder, contestant == "small")
    return len(list(folder.iterdir())) / in_new_process(seconds, run)


def peak_mebibytes(folder: Path, model: Path) -> float:
    """Peak memory of this process after predicting a folder."""
    ours(folder, model)
    return peak_bytes() / 2**20


def ours(folder: Path, model: Path) -> None:
    """The command with all it does, except that nobody reads its output."""
    sys.argv[1:] = [str(model), str(folder), "--json"]
    with quiet():
        predict()


def bare(folder: Path, small: bool = False) -> None:
    """Decode and resize all pictures of a folder, with a thread for each core, and nothing else.

    Args:
        small: let libjpeg decode at a fraction of the size, as `images.read_picture` does; ordinary loops do not.
    """

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            if small:
                image.draft(None, (REDUCING_GAP * SIDE,) * 2)
            return np.asarray(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.BICUBIC))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(read, sorted(folder.iterdir()), chunksize=64):
            pass
