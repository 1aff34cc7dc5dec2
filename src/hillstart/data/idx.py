"""Fashion-MNIST and MNIST from their idx files: ten classes, 28 x 28 grey, with an official test split.

Sources: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747; LeCun, Cortes and Burges, THE MNIST DATABASE, where the format
of the files is described too.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from hillstart.data.dataset import PictureSet, Preset, Split, assemble_official, pick_classes
from hillstart.data.preprocessing import Preprocessing, Size
from hillstart.system.errors import InputError
from hillstart.system.files import open_regular
from hillstart.system.schema import Flag, Location, Names, Seed, Share, checked, one_of
from hillstart.system.untrusted import briefly

CLASSES = {
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "mnist": tuple("0123456789"),
}
FOLDER = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST"}  # torchvision's names
HOME = Path("data")  # where a download goes
DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}  # the package dataset-fashion-mnist
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SIDE = 28
MAX_BYTES = 10**9
BLOCK_BYTES = 1 << 20


@checked("data")
def load(
    *,
    name: Annotated[str, *one_of(("fashion_mnist", "mnist"))] = "fashion_mnist",
    root: Location = None,
    classes: Names = None,
    size: Size = 28,
    augment: Preset = "none",
    normalise: Flag = True,
    val_fraction: Share = 1 / 6,
    seed: Seed = 0,
) -> PictureSet:
    """Load the named data set with its official test split; validation is taken from the training split by `seed`.

    `root`: a folder holding the four idx files, gzipped or not, directly or as torchvision lays them out; None: ./data,
    then the folder of Debian's package, and else downloaded into ./data.
    """
    names = pick_classes(CLASSES[name], classes)
    folder = found(name) or _downloaded(name) if root is None else _folder(name, Path(root))
    if folder is None:
        raise InputError(f"data.root: {root} does not hold {FILES[0]} or {FILES[0]}.gz; give the folder of both.")
    return assemble_official(
        [_read_split(folder, *FILES[:2]), _read_split(folder, *FILES[2:])],
        CLASSES[name],
        val_fraction=val_fraction,
        seed=seed,
        classes=names,
        preprocessing=Preprocessing(size=size, channels=1),
        augment=augment,
        normalise=normalise,
        source=f"{name} from {folder}",
        files=FILES[:2],
    )


def found(name: str) -> Path | None:
    """The folder with the files of this data set: one downloaded before, or that of Debian's package; None if none."""
    roots = filter(None, (HOME, DEBIAN.get(name)))
    return next(filter(None, (_folder(name, root) for root in roots)), None)


def _folder(name: str, root: Path) -> Path | None:
    """The folder, at or below root, that holds the files."""
    folders = (root, root / "raw", root / FOLDER[name] / "raw")
    return next((folder for folder in folders if _file(folder, FILES[0])), None)


def _file(folder: Path, name: str) -> Path | None:
    dotted = name.replace("-idx", ".idx")  # as many copies are named
    names = (name, f"{name}.gz", dotted, f"{dotted}.gz")
    return next((path for path in map(folder.joinpath, names) if path.is_file()), None)


def _downloaded(name: str) -> Path | None:
    import torchvision  # type: ignore[import-untyped]

    try:
        getattr(torchvision.datasets, FOLDER[name])(str(HOME), download=True)
    except (OSError, RuntimeError) as error:
        wrong = f"{name} is not in ./{HOME} and cannot be downloaded ({briefly(error)})"
        raise InputError(f"data.root: {wrong}; go online, or give the folder that holds its idx files.") from error
    return _folder(name, HOME)


def _read_split(folder: Path, images: str, labels: str) -> Split:
    arrays = []
    for name, dimensions in ((images, 3), (labels, 1)):
        path = _file(folder, name)
        if path is None:
            raise InputError(f"{folder / name}: there is no such file, nor its .gz; give a folder with all four files.")
        arrays.append(read_idx(path, dimensions))
    x, y = arrays
    wrong = None
    if len(x) != len(y):
        wrong = f"{labels}: holds {len(y)} labels for {len(x)} pictures"
    elif x.shape[1:] != (SIDE, SIDE):
        wrong = f"{images}: holds pictures of {x.shape[1]} x {x.shape[2]} in place of {SIDE} x {SIDE}"
    elif y.max() > 9:
        wrong = f"{labels}: holds the label {y.max()}, which is above 9"
    if wrong:
        raise InputError(f"{folder}/{wrong}; give the original files.")
    return Split(torch.from_numpy(x).unsqueeze(1), torch.from_numpy(y.astype(np.int64)))


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an idx file of unsigned bytes in so many dimensions, gzipped if its name ends in .gz, as uint8.

    Raises InputError if it is damaged, not of this form, or larger than `MAX_BYTES`.
    """
    try:
        with open_regular(path) as raw, gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw as file:
            header = file.read(4 + 4 * dimensions)
            if header[:4] != bytes((0, 0, 8, dimensions)) or len(header) != 4 + 4 * dimensions:
                raise InputError(f"{path}: is no idx file of bytes in {dimensions} dimensions; give the original file.")
            shape = np.frombuffer(header[4:], dtype=">u4").tolist()
            length = math.prod(shape)
            if not 0 < length <= MAX_BYTES:
                raise InputError(f"{path}: states that it holds {length} bytes; give a file of 1 to {MAX_BYTES} bytes.")
            data = bytearray()  # grows with the data, whatever length the header claims
            while len(data) <= length and (block := file.read(min(BLOCK_BYTES, length + 1 - len(data)))):
                data += block
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: is damaged ({briefly(error)}); give the original file.") from error
    if len(data) != length:
        raise InputError(f"{path}: does not hold the {length} bytes that its header states; give the original file.")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
