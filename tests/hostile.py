"""Every reader of files, with sound files to damage, and the check that a file is read or refused in one sentence.

Shared by `test_hostile.py`, with examples by Hypothesis, and `fuzz.py`, which searches for hours.
"""

import gzip
import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pillow_heif
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image, TiffImagePlugin

from hillstart.cli.mistakes import USER_ERRORS, explain
from hillstart.cli.words import readable
from hillstart.config.build import build_run_spec, composed_options, trainer_maker
from hillstart.config.conf import conf_folder, conf_keys
from hillstart.config.options import read_stored_options
from hillstart.data import cache as picture_cache
from hillstart.data import folder as picture_folder
from hillstart.data import idx, picture_csv, quickdraw
from hillstart.data.batches import MiniBatches
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.network import Network
from hillstart.runs.reader import OPTIONS as OPTIONS_FILE
from hillstart.runs.reader import OVERRIDES, stored_overrides
from hillstart.runs.tables import Tables
from hillstart.runs.writer import _stored as _stored_checkpoint
from made import trainer, training

SMALL = Preprocessing(size=4, channels=3)
MAX_PIXELS = 1 << 20  # so that a picture that only claims to be large costs a test no time
MAX_SENTENCE = 600  # characters, beside the name of the file


# ---------------------------------------------------------------- sound files


@cache
def pictures() -> list[bytes]:
    """Small ones of all formats and of the kinds that are converted."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    rgba = Image.fromarray(pixels)
    rgb, grey, deep = rgba.convert("RGB"), rgba.convert("L"), Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    turned, palette = Image.Exif(), rgb.quantize(8)
    turned[274] = 6
    tiff = TiffImagePlugin.ImageFileDirectory_v2()
    tiff[270] = "described"

    def saved(image: Image.Image, form: str, **how: object) -> bytes:
        file = io.BytesIO()
        image.save(file, form, **how)
        return file.getvalue()

    return [
        *(saved(image, "PNG") for image in (rgba, deep)),
        saved(palette, "PNG", transparency=3),
        saved(rgb, "JPEG", exif=turned),
        saved(grey, "JPEG", progressive=True),
        saved(rgb.convert("CMYK"), "JPEG"),
        saved(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
        saved(deep, "TIFF", tiffinfo=tiff),
        saved(rgb, "TIFF", compression="tiff_lzw"),
        *heif_files(),
        saved(rgba, "WEBP"),
        *(saved(rgb, form) for form in ("BMP", "PPM", "AVIF")),
    ]


def heif_files() -> list[bytes]:
    """A picture with transparency, and one of four tiles."""
    pillow_heif.register_heif_opener()
    found = []
    for mode, tile in (("RGBA", 0), ("RGB", 64)):
        file = io.BytesIO()
        Image.new(mode, (128, 128), "red").save(file, "HEIF", tile_size=tile)
        found.append(file.getvalue())
    return found


def models() -> list[bytes]:
    network = Network.start([12, 2, 2], range(2))
    starts = tuple(Start(s, Hyperparameters(0.1)) for s in range(2))
    classifier = Classifier(network, starts, ("a", "b"), Preprocessing(2, 3), None, {"files": 0}, {"torch": "2"})
    with TemporaryDirectory() as folder:
        path = Path(folder, "m.safetensors")
        model_file.save(path, classifier)
        return [path.read_bytes()]


@cache
def checkpoints() -> list[bytes]:
    """Of trainings by gradient descent with momentum and by an optimiser of torch."""
    found = []
    for how in ({"momentum": 0.9}, {"optimiser": torch.optim.Adam, "eta": 0.01}):
        with TemporaryDirectory() as folder:
            trainer(Path(folder), max_epochs=1).fit(training(starts=2, **how))
            found.append(Path(folder, "checkpoints/last.ckpt").read_bytes())
    return found


def records(checkpoint: bytes) -> dict[str, bytes]:
    """The content of a checkpoint, by name."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(checkpoint))
    return {name: reader.get_record(name) for name in reader.get_all_records()}


def zipped(path: Path, of: dict[str, bytes]) -> Path:
    """A checkpoint with right checksums, whatever its content."""
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, data in of.items():
        if name not in ("version", ".data/serialization_id"):
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    return path


def idx_files() -> list[bytes]:
    return [bytes((0, 0, 8, 3)) + np.array([2, 3, 4], ">u4").tobytes() + bytes(range(24))]


def npy_files() -> list[bytes]:
    found = []
    for version in ((1, 0), (2, 0), (3, 0)):
        file = io.BytesIO()
        np.lib.format.write_array(file, np.ones((4, 784), np.uint8), version)
        found.append(file.getvalue())
    return found


def drawings() -> list[bytes]:
    lines = [{"word": "x", "drawing": [[[0, 9, 255], [0, 9, k]], [[3], [4]]]} for k in range(3)]
    return ["\n".join(map(json.dumps, lines)).encode()]


def caches() -> list[bytes]:
    """The cache of a decoded picture."""
    with TemporaryDirectory() as folder:
        return [_decode(Path(folder)).read_bytes()]


def tables() -> list[bytes]:
    lines = ["seed,eta,epochs,status,train_cost,val_cost,val_accuracy,rank", "0,0.1,3,finished,0.5,0.25,0.75,1"]
    return ["\r\n".join([*lines, "1,0.1,3,diverged,nan,inf,0.5,2", ""]).encode()]


def labelled() -> list[bytes]:
    rows = [f"{k % 2}," + ",".join(map(str, range(k, k + 25))) for k in range(9)]
    return ["\n".join([heading, *rows]).encode() for heading in ("label," + ",".join(f"p{k}" for k in range(25)), "")]


def stored_options() -> list[bytes]:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfgs = [compose("train", words) for words in ([], ["descent=adam", "data=folder", "data.root=pets"])]
    return [OmegaConf.to_yaml(cfg).encode() for cfg in cfgs]


def plain(value: object) -> bytes:
    """A pickle of plain data without its first and last opcodes."""
    return pickle.dumps(value, 2)[2:-1]


def headed(text: bytes) -> bytes:
    """A model file of this header, without tensors."""
    return struct.pack("<Q", len(text)) + text


# ---------------------------------------------------------------- readers


def _around(path: Path) -> Path:
    """A checkpoint with this pickle and right checksums."""
    return zipped(path.with_name("of.ckpt"), records(checkpoints()[0]) | {"data.pkl": path.read_bytes()})


def _decode(folder: Path, cached: bytes | None = None) -> Path:
    """Decode a picture, with these bytes as the file of the cache, whose path is returned."""
    picture = folder / "a.png"
    picture.write_bytes(pictures()[0])
    with patch.dict(os.environ, {"XDG_CACHE_HOME": str(folder)}):
        file = picture_cache._cache_file("set", SMALL)
        assert file
        file.unlink(missing_ok=True)
        if cached is not None:
            file.write_bytes(cached)
        assert picture_cache.decode([picture], SMALL, "set").x.shape == (1, 3, 4, 4)
    return file


OPTIONS = sorted({key for _, _, keys in conf_keys() for key in keys} - {"data.root", "resume"})
"""Keys of conf, except those that name files."""


def _check_options(path: Path) -> None:
    """Run all checks before a training on lines KEY=VALUE of known keys."""
    words = [line for line in path.read_text(errors="replace").splitlines() if line.partition("=")[0] in OPTIONS]
    for name in ("lion", "duck"):
        np.save(path.with_name(f"{name}.npy"), np.zeros((9, 784), np.uint8))
    words = readable(words)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("train", [*words, "data=quickdraw", f"data.root='{path.parent}'", "logger=none"])
    options = composed_options(cfg)
    trainer_maker(options, path.parent)()
    spec, device = build_run_spec(options), torch.device("cpu")
    spec.packs(device, most=options.pack)
    spec.begin([spec.starts[-1].seed])
    data, descent = spec.data, spec.descent
    MiniBatches(data.train, 2, data.preprocessing, data.augment, descent.batch_size, descent.seed, device)


class Reader(NamedTuple):
    """`read` a file called `name`, such as those in `sound()`."""

    name: str | Path
    read: Callable[[Path], object]
    sound: Callable[[], list[bytes]]


def pickles() -> list[bytes]:
    return [records(checkpoints()[0])["data.pkl"]]


START = Start(0, Hyperparameters(0.1))
READERS = {
    "picture": Reader("p.png", lambda path: read_picture(path, SMALL, MAX_PIXELS), pictures),
    "model": Reader("m.safetensors", model_file.load, models),
    "checkpoint": Reader("last.ckpt", model_file.load_checkpoint, checkpoints),
    "pickle": Reader("data.pkl", lambda path: model_file.load_checkpoint(_around(path)), pickles),
    "pickle to resume": Reader("data.pkl", lambda path: _stored_checkpoint(_around(path)), pickles),
    "options of a run": Reader(OPTIONS_FILE, lambda path: read_stored_options(path.parents[1]), stored_options),
    "typed options of a run": Reader(
        OVERRIDES, lambda path: stored_overrides(path.parents[1]), lambda: [b"- starts=4\n- 'data.size=8'\n"]
    ),
    "idx": Reader("train", lambda path: idx.read_idx(path, 3), idx_files),
    "gzip": Reader("train.gz", lambda path: idx.read_idx(path, 3), lambda: list(map(gzip.compress, idx_files()))),
    "npy": Reader("a.npy", lambda path: quickdraw._read(path, 100, False), npy_files),
    "ndjson": Reader("a.ndjson", lambda path: quickdraw.read_drawings(path, 100), drawings),
    "labelled pictures": Reader(
        "train.csv", lambda path: picture_csv.read_tables({"train": path}, None, SMALL, picture_folder._raise), labelled
    ),
    "cache": Reader("cache", lambda path: _decode(path.parent, path.read_bytes()), caches),
    "table": Reader("starts.csv", lambda path: Tables(path.parent, [START]).read(), tables),
    "options": Reader(
        "options.txt", _check_options, lambda: [b"starts=3\ndescent.eta=[0.1,0.5]\nnetwork.hidden=[4]", b"data.size=9"]
    ),
}


def outcome(reader: str, data: bytes, folder: Path) -> str | None:
    """The error, in one line, for a file with these data; None if it can be read."""
    path = folder / READERS[reader].name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    try:
        READERS[reader].read(path)
    except USER_ERRORS as error:
        line = explain(error)
        if reader != "options":  # what a user typed is repeated as it was
            assert line.isprintable() and len(line) <= MAX_SENTENCE + len(str(folder)), line
        assert len(line.splitlines()) == 1
        return line
    return None
