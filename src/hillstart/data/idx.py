"""Fashion-MNIST and MNIST from their idx files: ten classes, 28 x 28 grey, with an official test split.

Sources: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747; LeCun, Cortes and Burges, THE MNIST DATABASE, where the format
of the files is described too.
"""

import gzip
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from hillstart.data.dataset import PictureSet, Preset, Split, assemble_official, only_classes, pick_classes, resized
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
MOST_BYTES = 10**9
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
    """The named data set, its official test split kept; validation is taken from the training split by `seed`.

    `root`: a folder holding the four idx files, gzipped or not, directly or as torchvision lays them out; None: ./data,
    then where Debian's package puts them, and else downloaded into ./data. Raises InputError naming the key or file.
    """
    names = pick_classes(CLASSES[name], classes)
    folder = _found(name, Path(root)) if root is not None else _found_or_downloaded(name)
    if folder is None:
        raise InputError(
            f"data.root: {root} does not hold {FILES[0]} or {FILES[0]}.gz; give the folder of the idx files."
        )
    preprocessing = Preprocessing(size=size, channels=1)
    splits = []
    for images, labels in (FILES[:2], FILES[2:]):
        split = only_classes(_read_split(folder, images, labels), CLASSES[name], names)
        splits.append(Split(resized(split.x, preprocessing), split.y))
    train, test = splits
    return assemble_official(
        train,
        test,
        val_fraction=val_fraction,
        seed=seed,
        classes=names,
        preprocessing=preprocessing,
        augment=augment,
        normalise=normalise,
        source=f"{name} from {folder}",
        files=FILES[:2],
    )


def _found(name: str, root: Path) -> Path | None:
    """The folder, at or below root, in which the files lie."""
    for folder in (root, root / "raw", root / FOLDER[name] / "raw"):
        if any(_file(folder, FILES[0])):
            return folder
    return None


def _file(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]


def _found_or_downloaded(name: str) -> Path | None:
    for root in (HOME, DEBIAN.get(name)):
        if root and (folder := _found(name, root)):
            return folder
    import torchvision  # type: ignore[import-untyped]

    try:
        getattr(torchvision.datasets, FOLDER[name])(str(HOME), download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"data.root: {name} is not in ./{HOME} and cannot be downloaded ({reason}); go online, or give the folder "
            "that holds its idx files."
        ) from error
    return _found(name, HOME)


def _read_split(folder: Path, images: str, labels: str) -> Split:
    x, y = read_idx(_only(folder, images), 3), read_idx(_only(folder, labels), 1)
    if len(x) != len(y):
        raise InputError(
            f"{folder / labels}: holds {len(y)} labels for {len(x)} pictures; give files that belong together."
        )
    if x.shape[1:] != (SIDE, SIDE):
        raise InputError(
            f"{folder / images}: pictures are {x.shape[1]} x {x.shape[2]}; give the original ones, {SIDE} x {SIDE}."
        )
    if y.max() > 9:
        raise InputError(f"{folder / labels}: holds the label {y.max()}; give labels from 0 to 9.")
    return Split(torch.from_numpy(x).unsqueeze(1), torch.from_numpy(y.astype(np.int64)))


def _only(folder: Path, name: str) -> Path:
    files = _file(folder, name)
    if not files:
        raise InputError(f"{folder / name}: there is no such file, nor its .gz; give a folder with all four idx files.")
    return files[0]


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An idx file of unsigned bytes, gzipped when its name ends in .gz: uint8, of as many dimensions as stated.

    Raises InputError when it is not one, when its length is not what its head says, or when it is beyond a gigabyte.
    """
    try:
        with open_regular(path) as raw, gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw as file:
            head = file.read(4 + 4 * dimensions)
            if head[:4] != bytes((0, 0, 8, dimensions)) or len(head) != 4 + 4 * dimensions:
                raise InputError(
                    f"{path}: is not an idx file of bytes in {dimensions} dimensions; give the original file."
                )
            shape = np.frombuffer(head[4:], dtype=">u4").tolist()
            length = int(np.prod([1, *shape], dtype=object))
            if not 0 < length <= MOST_BYTES:
                raise InputError(f"{path}: says that it holds {length} bytes; give a file of 1 to {MOST_BYTES} bytes.")
            data = bytearray()  # grows with the data, whatever length the head claims
            while len(data) <= length and (block := file.read(min(BLOCK_BYTES, length + 1 - len(data)))):
                data += block
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: is damaged ({briefly(error)}); give the original file.") from error
    if len(data) != length:
        raise InputError(f"{path}: does not hold the {length} bytes that its head promises; give the original file.")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
