"""What a stranger may hand to a reader of files: sound ones to damage, and what is to come of whatever they become.

Shared by `test_hostile.py`, which tries what Hypothesis thinks of, and `fuzz.py`, which looks for hours.
"""

import gzip
import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image, TiffImagePlugin

from hillstart.cli.mistakes import USER_ERRORS, conf_keys, explain
from hillstart.cli.options import check_words
from hillstart.config.build import build_run_spec, composed_options, trainer_maker
from hillstart.config.options import conf_folder, read_stored_options
from hillstart.data import cache as decoded
from hillstart.data import idx, quickdraw
from hillstart.data.batches import MiniBatches
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.network import Network
from hillstart.runs.reader import OPTIONS as FILE_OF_OPTIONS
from hillstart.runs.reader import OVERRIDES, stored_overrides
from hillstart.runs.tables import Tables
from hillstart.runs.writer import _stored as _stored_checkpoint
from made import trainer, training

SMALL = Preprocessing(size=4, channels=3)
PIXELS = 1 << 20  # of the largest picture, so that one that only claims to be large costs a test no time
LONGEST = 600  # characters of a sentence, beside the name of its file


# ---------------------------------------------------------------- sound files


def pictures() -> list[bytes]:
    """Small ones of all formats and of the kinds that are converted."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    rgba = Image.fromarray(pixels)
    rgb, grey, deep = rgba.convert("RGB"), rgba.convert("L"), Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    turned, palette = Image.Exif(), rgb.quantize(8)
    turned[274] = 6
    tiff = TiffImagePlugin.ImageFileDirectory_v2()
    tiff[270] = "described"
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (rgba, "PNG", {}),
        (deep, "PNG", {}),
        (palette, "PNG", {"transparency": 3}),
        (rgb, "JPEG", {"exif": turned}),
        (grey, "JPEG", {"progressive": True}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (palette, "GIF", {"save_all": True, "append_images": [palette.rotate(90)]}),
        (rgb, "BMP", {}),
        (deep, "TIFF", {"tiffinfo": tiff}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}),
        (rgba, "WEBP", {}),
        (rgb, "PPM", {}),
        (rgb, "AVIF", {}),
    ]
    return [_saved(image, form, **how) for image, form, how in kinds]


def _saved(image: Image.Image, form: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def models() -> list[bytes]:
    network = Network.start([12, 2, 2], range(2))
    origins = tuple(Start(s, Hyperparameters(0.1)) for s in range(2))
    preprocessing = Preprocessing(2, 3)
    with TemporaryDirectory() as folder:
        path = Path(folder, "m.safetensors")
        model_file.save(
            path, Classifier(network, origins, ("a", "b"), preprocessing, None, {"files": 0}, {"torch": "2"})
        )
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
    """What lies in a checkpoint, by name."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(checkpoint))
    return {name: reader.get_record(name) for name in reader.get_all_records()}


def data_pkl() -> list[bytes]:
    return [records(checkpoints()[0])["data.pkl"]]


def zipped(path: Path, of: dict[str, bytes]) -> Path:
    """A checkpoint with sound checksums, whatever is in it."""
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


def kept() -> list[bytes]:
    """The cache of a decoded picture."""
    with TemporaryDirectory() as folder:
        place = _cached(Path(folder))
        return [place.read_bytes()]


def tables() -> list[bytes]:
    lines = ["seed,eta,epochs,status,train_cost,val_cost,val_accuracy,rank", "0,0.1,3,finished,0.5,0.25,0.75,1"]
    return ["\r\n".join([*lines, "1,0.1,3,diverged,nan,inf,0.5,2", ""]).encode()]


def options() -> list[bytes]:
    return [b"starts=3\ndescent.eta=[0.1,0.5]\ndescent.batch_size=5\nnetwork.hidden=[4]", b"data.size=9\nkeep=1"]


def plain(value: object) -> bytes:
    """As in a pickle, without its begin and end."""
    return pickle.dumps(value, 2)[2:-1]


def headed(text: bytes) -> bytes:
    """A model file without tensors that says this before them."""
    return struct.pack("<Q", len(text)) + text


# ---------------------------------------------------------------- readers


def _checkpoint(path: Path) -> None:
    model_file.load_checkpoint(path)


def _around(path: Path) -> Path:
    """A checkpoint of which only the pickle is the stranger's, so that no checksum gives it away."""
    of = records(checkpoints()[0]) | {"data.pkl": path.read_bytes()}
    return zipped(path.with_name("of.ckpt"), of)


def _cached(folder: Path, data: bytes | None = None) -> Path:
    """Decode a picture, with these data as the cache; its file."""
    picture = folder / "a.png"
    picture.write_bytes(pictures()[0])
    with patch.dict(os.environ, {"XDG_CACHE_HOME": str(folder)}):
        place = decoded._cache_file("set", SMALL)
        assert place
        place.unlink(missing_ok=True)
        if data is not None:
            place.write_bytes(data)
        assert decoded.decode([picture], SMALL, "set").x.shape == (1, 3, 4, 4)
    return place


def stored() -> list[bytes]:
    """Options as a run leaves them."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfgs = [compose("train", words) for words in ([], ["descent=adam", "data=folder", "data.root=pets"])]
    return [OmegaConf.to_yaml(cfg).encode() for cfg in cfgs]


def _stored(path: Path) -> None:
    path.with_name(".hydra").mkdir(exist_ok=True)
    (path.parent / FILE_OF_OPTIONS).write_bytes(path.read_bytes())
    read_stored_options(path.parent)


def _typed(path: Path) -> None:
    path.with_name(".hydra").mkdir(exist_ok=True)
    (path.parent / OVERRIDES).write_bytes(path.read_bytes())
    stored_overrides(path.parent)


OPTIONS = sorted({key for _, _, keys in conf_keys() for key in keys} - {"data.root", "resume"})
"""Keys of conf, but for those that name files."""


def _options(path: Path) -> None:
    """All that is looked at before a training, of lines KEY=VALUE; others are passed over."""
    lines = path.read_text(errors="replace").splitlines()
    said = [line for line in lines if line.partition("=")[0] in OPTIONS]
    for name in ("lion", "duck"):
        np.save(path.with_name(f"{name}.npy"), np.zeros((9, 784), np.uint8))
    fixed = ["data=quickdraw", f"data.root='{path.parent}'", "logger=none"]
    check_words(said)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("train", [*said, *fixed])
    options = composed_options(cfg)
    trainer_maker(options, path.parent)()
    of, device = build_run_spec(options), torch.device("cpu")
    of.packs(device, most=options.pack)
    of.begin([of.starts[-1].seed])
    data = of.data
    MiniBatches(data.train, 2, data.preprocessing, data.augment, of.descent.batch_size, of.descent.seed, device)


@dataclass(frozen=True)
class Reader:
    """`read` a file called `name`, such as those in `sound()`."""

    name: str
    read: Callable[[Path], object]
    sound: Callable[[], list[bytes]]


READERS = {
    "picture": Reader("p.png", lambda path: read_picture(path, SMALL, PIXELS), pictures),
    "model": Reader("m.safetensors", model_file.load, models),
    "checkpoint": Reader("last.ckpt", _checkpoint, checkpoints),
    "pickle": Reader("data.pkl", lambda path: model_file.load_checkpoint(_around(path)), data_pkl),
    "pickle to resume": Reader("data.pkl", lambda path: _stored_checkpoint(_around(path)), data_pkl),
    "options of a run": Reader("config.yaml", _stored, stored),
    "typed options of a run": Reader("overrides.yaml", _typed, lambda: [b"- starts=4\n- 'data.size=8'\n"]),
    "idx": Reader("train", lambda path: idx.read_idx(path, 3), idx_files),
    "gzip": Reader("train.gz", lambda path: idx.read_idx(path, 3), lambda: list(map(gzip.compress, idx_files()))),
    "npy": Reader("a.npy", lambda path: quickdraw._read(path, 100), npy_files),
    "ndjson": Reader("a.ndjson", lambda path: quickdraw.read_drawings(path, 100), drawings),
    "kept": Reader("kept", lambda path: _cached(path.parent, path.read_bytes()), kept),
    "table": Reader("starts.csv", lambda path: Tables(path.parent, [Start(0, Hyperparameters(0.1))]).read(), tables),
    "options": Reader("options.txt", _options, options),
}


def outcome(reader: str, data: bytes, folder: Path) -> str | None:
    """What is said of a file with these data, in one line; None where it can be read."""
    (folder / READERS[reader].name).write_bytes(data)
    return said(reader, folder)


def said(reader: str, folder: Path) -> str | None:
    """The same of the file that lies in the folder already."""
    try:
        READERS[reader].read(folder / READERS[reader].name)
    except USER_ERRORS as error:
        line = explain(error)
        if reader != "options":  # what a user typed comes back to him as it was
            assert line.isprintable() and len(line) <= LONGEST + len(str(folder)), line
        assert len(line.splitlines()) == 1
        return line
    return None
