"""The idx sets: local files are found and read, downloaded only if missing, and damaged files are named."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from hillstart.data import idx
from hillstart.system.errors import InputError

Arrays = dict[str, np.ndarray]
TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = idx.FILES[1:]


def packed(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def arrays() -> Arrays:
    """60 and 20 pictures: labels in turn, and each picture's first pixel is its label."""
    made = {}
    for part, n in (("train", 60), ("t10k", 20)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        images = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = labels
        made |= {f"{part}-images-idx3-ubyte": images, f"{part}-labels-idx1-ubyte": labels}
    return made


def write(folder: Path, arrays: Arrays, zipped: bool = False, dot: str = "-") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        data, name = packed(array), name.replace("-idx", f"{dot}idx")
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)
    return folder


@pytest.fixture(autouse=True)
def no_files_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(idx, "DEBIAN", {})


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("below", "dot"), [(".", "."), ("raw", "-"), ("FashionMNIST/raw", "-")])
def test_files_are_found_and_read(tmp_path: Path, arrays: Arrays, zipped: bool, below: str, dot: str) -> None:
    write(tmp_path / "sets" / below, arrays, zipped, dot)
    made = idx.load(root=tmp_path / "sets")
    assert [len(split.y) for split in (made.train, made.val, made.test)] == [50, 10, 20]
    assert torch.equal(made.test.x[:, 0], torch.from_numpy(arrays[TEST_IMAGES]))
    for split in (made.train, made.val, made.test):
        assert torch.equal(split.x[:, 0, 0, 0].long(), split.y)
    assert made.classes[0] == "T-shirt/top" and made.classes[9] == "Ankle boot" and len(made.classes) == 10


def test_the_users_files_come_before_debians(tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "DEBIAN", {"fashion_mnist": write(tmp_path / "debian", arrays, zipped=True)})
    assert idx.load().source == f"fashion_mnist from {tmp_path / 'debian'}"
    write(Path("data/FashionMNIST/raw"), arrays)
    assert idx.load().source == "fashion_mnist from data/FashionMNIST/raw"


def test_it_is_downloaded_only_if_missing(arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(root: str, download: bool) -> None:
        raise RuntimeError("Error downloading train-images:\nno route")

    def download(root: str, download: bool) -> None:
        write(Path(root) / "MNIST/raw", arrays)

    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    with pytest.raises(InputError, match=r"^data\.root: mnist .* \(Error downloading train-images: no route\); go"):
        idx.load(name="mnist")
    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    assert idx.load(name="mnist").source == "mnist from data/MNIST/raw"
    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    made = idx.load(name="mnist", classes=["7", "3"], size=14)
    assert made.classes == ("7", "3") and made.test.y.tolist() == [1, 0, 1, 0] and made.test.x.shape == (4, 1, 14, 14)


def test_files_that_do_not_belong_together(tmp_path: Path, arrays: Arrays) -> None:
    for file, array, wrong in (
        (TRAIN_LABELS, np.zeros(59, np.uint8), "59 labels for 60"),
        (TRAIN_LABELS, np.full(60, 10, np.uint8), "label 10"),
        (TEST_IMAGES, np.zeros((20, 32, 28), np.uint8), "32 x 28"),
    ):
        write(tmp_path, arrays | {file: array})
        with pytest.raises(InputError, match=f"{file}: .*{wrong}"):
            idx.load(root=tmp_path)
    for file, wrong in ((TEST_LABELS, f"{TEST_LABELS}: there is no such file"), (idx.FILES[0], r"data\.root: ")):
        (tmp_path / file).unlink()
        with pytest.raises(InputError, match=wrong):
            idx.load(root=tmp_path)


def test_damaged_files(tmp_path: Path) -> None:
    whole = packed(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    for data, wrong in (
        *((data, "does not hold the 18 bytes") for data in (whole[:-1], whole + b"x")),
        *((data, "is no idx file") for data in (b"", whole[:9], whole[:2] + b"\x0d" + whole[3:], whole[:3] + b"\1")),
        *((whole[:4] + size * 12, "states that it holds") for size in (b"\0", b"\xff")),
    ):
        for path, written in ((tmp_path / "a", data), (tmp_path / "a.gz", gzip.compress(data))):
            path.write_bytes(written)
            with pytest.raises(InputError, match=f"^{path}: {wrong}"):
                idx.read_idx(path, 3)
    b = gzip.compress(packed(np.random.default_rng(0).integers(0, 256, (9, 28, 28), dtype=np.uint8)))
    for data in (b[:-200], b"no gzip", b[:50] + b"\xff" * 99 + b[149:], b[:10] + b"\xff" + b[11:]):
        (tmp_path / "a.gz").write_bytes(data)
        with pytest.raises(InputError, match=r"a\.gz: is damaged"):
            idx.read_idx(tmp_path / "a.gz", 3)
