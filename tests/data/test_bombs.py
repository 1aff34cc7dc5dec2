"""A pickle that would run something, in every format and by every name that is read: refused, and it runs nothing."""

import gzip
import io
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hillstart.data import cifar10
from hillstart.system.errors import InputError
from hostile import headed, outcome


class Bomb:
    """What makes a folder when it is unpickled."""

    def __init__(self, made: Path):
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


def legacy(bomb: Bomb) -> bytes:
    file = io.BytesIO()
    torch.save(bomb, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def saved(bomb: Bomb) -> bytes:
    file = io.BytesIO()
    torch.save({"hillstart": {}, "state_dict": bomb}, file)
    return file.getvalue()


def objects(bomb: Bomb, save: Callable[..., None] = np.save) -> bytes:
    file = io.BytesIO()
    save(file, np.array([bomb] * 4, dtype=object))
    return file.getvalue()


BOMBS: dict[str, tuple[str, Callable[[Bomb], bytes]]] = {
    "a checkpoint": ("checkpoint", saved),
    "a checkpoint as an older torch wrote it": ("checkpoint", legacy),
    "a checkpoint by another name": ("model", saved),
    "a pickle as a checkpoint": ("checkpoint", pickle.dumps),
    "a pickle in a checkpoint": ("pickle", pickle.dumps),
    "a pickle in a checkpoint to resume": ("pickle to resume", pickle.dumps),
    "an older pickle in a checkpoint": ("pickle", lambda bomb: pickle.dumps(bomb, 2)),
    "a pickle as a model file": ("model", pickle.dumps),
    "a pickle in a model file": ("model", lambda bomb: headed(pickle.dumps(bomb))),
    "objects as bitmaps": ("npy", objects),
    "a pickle as bitmaps": ("npy", pickle.dumps),
    "many arrays as bitmaps": ("npy", lambda bomb: objects(bomb, np.savez)),
    "a pickle as an idx file": ("idx", pickle.dumps),
    "a pickle as a packed idx file": ("gzip", lambda bomb: gzip.compress(pickle.dumps(bomb))),
    "a pickle as drawings": ("ndjson", pickle.dumps),
    "a pickle as a picture": ("picture", pickle.dumps),
    "an object as an option": (
        "options of a run",
        lambda bomb: f"- !!python/object/apply:os.mkdir ['{bomb.made}']\n".encode(),
    ),
    "a pickle as a table": ("table", pickle.dumps),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_and_does_not_go_off(tmp_path: Path, name: str) -> None:
    reader, make = BOMBS[name]
    assert outcome(reader, make(Bomb(tmp_path / "went off")), tmp_path)
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("make", [pickle.dumps, saved, legacy])
def test_a_bomb_in_the_cache_of_pictures_does_not_go_off(tmp_path: Path, make: Callable[[Bomb], bytes]) -> None:
    assert outcome("kept", make(Bomb(tmp_path / "went off")), tmp_path) is None  # and the picture is decoded anew
    assert not (tmp_path / "went off").exists()


def cifar10_of_bombs(folder: Path) -> Path:
    """All files of CIFAR-10, which are pickles: what makes them sound is that each has the known checksum."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"):
        (batches / name).write_bytes(pickle.dumps(Bomb(folder / "went off")))
    return folder


def test_a_bomb_in_cifar10_does_not_go_off(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not hold CIFAR-10 whole"):
        cifar10.load(root=cifar10_of_bombs(tmp_path))
    assert not (tmp_path / "went off").exists()


def test_these_bombs_would_go_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a reader is less careful."""
    gone_off = tmp_path / "went off"
    bomb = Bomb(gone_off)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    for careless in (
        lambda: pickle.loads(pickle.dumps(bomb)),
        lambda: torch.load(io.BytesIO(saved(bomb)), weights_only=False),
        lambda: torch.load(io.BytesIO(legacy(bomb)), weights_only=False),
        lambda: np.load(io.BytesIO(objects(bomb)), allow_pickle=True),
        lambda: np.load(io.BytesIO(objects(bomb, np.savez)), allow_pickle=True)["arr_0"],
        lambda: cifar10.load(root=cifar10_of_bombs(tmp_path)),
    ):
        with suppress(Exception):  # which a bomb in place of four may lead to
            careless()
        gone_off.rmdir()
