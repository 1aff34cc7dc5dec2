"""CIFAR-10: torchvision's official splits, and one sentence where it fails."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision

from hillstart.data import cifar10
from hillstart.system.errors import InputError


def small(root: str, train: bool, download: bool) -> SimpleNamespace:
    """As torchvision.datasets.CIFAR10, with 40 or 20 pictures whose first red pixel is their label."""
    assert (root, download) == ("data", True)
    targets = [i % 10 for i in range(40 if train else 20)]
    data = np.random.default_rng(len(targets)).integers(0, 256, (len(targets), 32, 32, 3), dtype=np.uint8)
    data[:, 0, 0, 0] = targets
    return SimpleNamespace(data=data, targets=targets)


def test_official_splits_colour_order_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", small)
    made = cifar10.load(val_fraction=0.25)
    assert [len(split.y) for split in (made.train, made.val, made.test)] == [30, 10, 20]
    assert torch.equal(made.test.x.permute(0, 2, 3, 1), torch.from_numpy(small("data", False, True).data))
    for split in (made.train, made.val, made.test):
        assert torch.equal(split.x[:, 0, 0, 0].long(), split.y)
    assert made.classes == cifar10.CLASSES and made.augment.flip
    made = cifar10.load(classes=["dog", "cat"], size=16)
    assert made.classes == ("dog", "cat") and made.test.y.tolist() == [1, 0, 1, 0] and made.test.x.shape[-1] == 16


@pytest.mark.parametrize("error", [RuntimeError("no\nroute."), ConnectionError("no route")])
def test_offline_or_with_a_wrong_root(monkeypatch: pytest.MonkeyPatch, error: Exception, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^data\.root: {tmp_path} does not hold all files of CIFAR-10; give"):
        cifar10.load(root=tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(InputError, match=r"^data\.root: CIFAR-10 cannot be downloaded \(no route\); go online"):
        cifar10.load()
