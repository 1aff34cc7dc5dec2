"""A pickle that would run code, as a file of any format that data are read from: it is refused and runs nothing.

`inference/` has the same for model files and checkpoints.
"""

import gzip
import io
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from hillstart.data import cifar10
from hillstart.system.errors import InputError
from hostile import outcome
from stored import Bomb


def written(write: Callable[[io.BytesIO], None]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def legacy(bomb: Bomb) -> bytes:
    return written(lambda file: torch.save(bomb, file, _use_new_zipfile_serialization=False))


def checkpoint(bomb: Bomb) -> bytes:
    return written(lambda file: torch.save({"hillstart": {}, "state_dict": bomb}, file))


def array(bomb: Bomb) -> bytes:
    return written(lambda file: np.save(file, np.array([bomb] * 4, dtype=object)))


def arrays(bomb: Bomb) -> bytes:
    return written(lambda file: np.savez(file, np.array([bomb] * 4, dtype=object)))


BOMBS: list[tuple[str, Callable[[Bomb], bytes]]] = [
    *(("npy", make) for make in (array, arrays, pickle.dumps)),
    *((reader, pickle.dumps) for reader in ("pickle to resume", "idx", "ndjson", "picture", "table")),
    ("gzip", lambda bomb: gzip.compress(pickle.dumps(bomb))),
    ("options of a run", lambda bomb: f"- !!python/object/apply:os.mkdir ['{bomb.folder}']\n".encode()),
]


@pytest.mark.parametrize(("reader", "make"), BOMBS)
def test_a_bomb_is_refused_and_does_not_go_off(tmp_path: Path, reader: str, make: Callable[[Bomb], bytes]) -> None:
    assert outcome(reader, make(Bomb(tmp_path / "went off")), tmp_path)
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("make", [pickle.dumps, checkpoint, legacy])
def test_a_bomb_in_the_cache_of_pictures_does_not_go_off(tmp_path: Path, make: Callable[[Bomb], bytes]) -> None:
    assert outcome("cache", make(Bomb(tmp_path / "went off")), tmp_path) is None  # and the picture is decoded again
    assert not (tmp_path / "went off").exists()


def cifar10_of_bombs(folder: Path) -> Path:
    """All files of CIFAR-10, which are pickles: only a file with the known checksum may be read."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"):
        (batches / name).write_bytes(pickle.dumps(Bomb(folder / "went off")))
    return folder


def test_a_bomb_in_cifar10_does_not_go_off(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not hold all files of CIFAR-10"):
        cifar10.load(root=cifar10_of_bombs(tmp_path))
    assert not (tmp_path / "went off").exists()


def test_a_less_careful_reader_would_set_them_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = Bomb(tmp_path / "went off")
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    for read in (
        lambda: pickle.loads(pickle.dumps(bomb)),
        lambda: torch.load(io.BytesIO(checkpoint(bomb)), weights_only=False),
        lambda: torch.load(io.BytesIO(legacy(bomb)), weights_only=False),
        lambda: np.load(io.BytesIO(array(bomb)), allow_pickle=True),
        lambda: np.load(io.BytesIO(arrays(bomb)), allow_pickle=True)["arr_0"],
        lambda: cifar10.load(root=cifar10_of_bombs(tmp_path)),
    ):
        with suppress(Exception):  # unpickling fails after the first of several bombs
            read()
        bomb.folder.rmdir()
