"""The idx sets: read where they lie, fetched only when nowhere, and damaged files named."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from hillstart.data import idx
from hillstart.system.errors import InputError


def packed(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """60 and 20 pictures: labels in turn, and each picture's first pixel is its label."""
    made = {}
    for part, n in (("train", 60), ("t10k", 20)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        images = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = labels
        made |= {f"{part}-images-idx3-ubyte": images, f"{part}-labels-idx1-ubyte": labels}
    return made


def write(folder: Path, arrays: dict[str, np.ndarray], zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        data = packed(array)
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)
    return folder


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(idx, "DEBIAN", {})


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("below", [".", "raw", "FashionMNIST/raw"])
def test_files_are_found_and_read(tmp_path: Path, arrays: dict[str, np.ndarray], zipped: bool, below: str) -> None:
    write(tmp_path / "sets" / below, arrays, zipped)
    made = idx.load(root=tmp_path / "sets")
    assert [len(s.y) for s in (made.train, made.val, made.test)] == [50, 10, 20]
    assert torch.equal(made.test.x[:, 0], torch.from_numpy(arrays["t10k-images-idx3-ubyte"]))
    for split in (made.train, made.val, made.test):
        assert torch.equal(split.x[:, 0, 0, 0].long(), split.y)
    assert made.classes[0] == "T-shirt/top" and made.classes[9] == "Ankle boot" and len(made.classes) == 10


def test_mnist_and_its_classes(arrays: dict[str, np.ndarray]) -> None:
    write(Path("data/MNIST/raw"), arrays)
    made = idx.load(name="mnist", classes=["7", "3"], size=14)
    assert made.classes == ("7", "3") and made.test.y.tolist() == [1, 0, 1, 0]
    assert made.test.x.shape == (4, 1, 14, 14)
    with pytest.raises(InputError, match=r"data\.classes: there is no class 'seven'"):
        idx.load(name="mnist", classes=["seven", "3"])


def test_debian_comes_after_ones_own(
    tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idx, "DEBIAN", {"fashion_mnist": write(tmp_path / "debian", arrays, zipped=True)})
    assert idx.load().source == f"fashion_mnist from {tmp_path / 'debian'}"
    write(Path("data/FashionMNIST/raw"), arrays)
    assert idx.load().source == "fashion_mnist from data/FashionMNIST/raw"


def test_it_is_downloaded_only_when_nowhere(arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(root: str, download: bool) -> None:
        assert download
        write(Path(root) / "MNIST" / "raw", arrays)

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetched)
    assert idx.load(name="mnist").source == "mnist from data/MNIST/raw"
    monkeypatch.setattr(torchvision.datasets, "MNIST", None)
    idx.load(name="mnist")


def test_offline_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(root: str, download: bool) -> None:
        raise RuntimeError("Error downloading train-images:\nno route")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fails)
    with pytest.raises(
        InputError, match=r"^data\.root: fashion_mnist .* \(Error downloading train-images: no route\); go"
    ):
        idx.load()


def test_wrong_root_and_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^data\.root: .* does not hold train-images-idx3-ubyte"):
        idx.load(root=tmp_path)
    with pytest.raises(InputError, match=r"^data\.name is 'emnist'"):
        idx.load(name="emnist")


def test_a_missing_file_is_named(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    del arrays["t10k-labels-idx1-ubyte"]
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte: there is no such file"):
        idx.load(root=write(tmp_path / "a", arrays))


def test_files_that_do_not_belong_together(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    short = arrays | {"train-labels-idx1-ubyte": arrays["train-labels-idx1-ubyte"][:-1]}
    with pytest.raises(InputError, match="holds 59 labels for 60 pictures"):
        idx.load(root=write(tmp_path / "a", short))
    with pytest.raises(InputError, match="holds the label 10"):
        idx.load(root=write(tmp_path / "b", arrays | {"train-labels-idx1-ubyte": np.full(60, 10, np.uint8)}))
    large = arrays | {"t10k-images-idx3-ubyte": np.zeros((20, 32, 28), np.uint8)}
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte: .*32 x 28.* 28 x 28"):
        idx.load(root=write(tmp_path / "c", large))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda b: b[:-1], "does not hold the 18 bytes"),
        (lambda b: b + b"x", "does not hold the 18 bytes"),
        (lambda b: b[:9], "is not an idx file"),
        (lambda b: b"", "is not an idx file"),
        (lambda b: b[:2] + b"\x0d" + b[3:], "is not an idx file"),
        (lambda b: b[:3] + b"\x01" + b[4:], "is not an idx file"),
        (lambda b: b[:4] + b"\xff" * 12, "says that it holds"),
        (lambda b: b[:4] + b"\0" * 12, "says that it holds 0 bytes"),
    ],
)
def test_damaged_files(tmp_path: Path, damage: object, said: str) -> None:
    data = damage(packed(np.arange(18, dtype=np.uint8).reshape(2, 3, 3)))
    for path, written in ((tmp_path / "a", data), (tmp_path / "a.gz", gzip.compress(data))):
        path.write_bytes(written)
        with pytest.raises(InputError, match=f"^{path}: {said}"):
            idx.read_idx(path, 3)


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(packed(np.random.default_rng(0).integers(0, 256, (9, 28, 28), dtype=np.uint8)))
    for i, data in enumerate(
        (whole[:-200], b"no gzip", whole[:50] + b"\xff" * 99 + whole[149:], whole[:10] + b"\xff" + whole[11:])
    ):
        path = tmp_path / f"{i}.gz"
        path.write_bytes(data)
        with pytest.raises(InputError, match=rf"{i}\.gz: is damaged"):
            idx.read_idx(path, 3)
