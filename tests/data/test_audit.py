"""Findings that spoil a measurement, and how they are listed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hillstart.data import audit
from hillstart.data.audit import LabelledPicture
from hillstart.data.cache import decode
from hillstart.data.preprocessing import Preprocessing


@pytest.mark.parametrize(
    ("second", "kinds"),
    [
        (("train", "a"), ["copies"]),
        (("train", "b"), ["copies across classes"]),
        (("val", "a"), ["validation leak"]),
        (("test", "a"), ["leak"]),
        (("test", "b"), ["leak", "copies across classes"]),
    ],
)
def test_copies_by_split_and_class(second: tuple[str, str], kinds: list[str]) -> None:
    x = torch.arange(3 * 48, dtype=torch.uint8).reshape(3, 3, 4, 4)
    x[2] = x[0]
    pictures = [
        LabelledPicture(Path("2"), *second),
        LabelledPicture(Path("1"), "train", "a"),
        LabelledPicture(Path("0"), "train", "a"),
    ]
    found = list(audit.copies(x, pictures))
    assert [finding.kind for finding in found] == kinds
    assert {path.name for finding in found for path in finding.paths} == {"0", "2"}
    if second[0] != "train":
        assert found[0].text == "0 = 2", "the picture that is learned comes first"
    x[2, 0, 0, 0] += 1
    assert not list(audit.copies(x, pictures))


def test_a_lossless_copy_in_another_format_is_found(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    paths = [tmp_path / name for name in ("a.png", "a.bmp", "a.jpg")]
    for path in paths:
        picture.save(path)
    read = decode(paths, Preprocessing(16, 3))
    (found,) = audit.copies(read.x, [LabelledPicture(path, "train", "a") for path in paths])
    assert [path.name for path in found.paths] == ["a.png", "a.bmp"]


def test_class_names_that_look_alike() -> None:
    folders = [Path("root", name) for name in ("Lion", "lion", "duck", "caf\u00e9", "cafe\u0301", "cafe")]
    assert [list(finding.paths) for finding in audit.similar_names(folders)] == [folders[:2], folders[3:5]]


def test_the_summary_names_the_leak_first_without_control_characters() -> None:
    found = [audit.Finding(kind, (Path(name),)) for kind, name in (("copies", "x"), ("copies", "y"), ("leak", "a\nb"))]
    leak, copies = audit.summary([*found, audit.Finding("leak", (Path("\udcff"),))], Path("photos"))
    assert leak.startswith("LEAK: ") and ": 2 (first: a\\nb; python scripts/audit.py photos lists them)" in leak
    assert copies.endswith(": 2 (first: x; python scripts/audit.py photos lists them)")
