"""scripts/audit.py: every kind of odd file, told by its kind and path, in a folder made for it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hillstart.cli import audit
from hillstart.data import cache
from launching import Ran, ran

TOP = Path(__file__).parents[2]


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: Any) -> Ran:
        return ran(audit.main, monkeypatch, capsys, *arguments)

    return run


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for k, name in enumerate(("duck", "lion")):
        (root / name).mkdir(parents=True)
        for i in range(6):
            noise(10 * k + i).save(root / name / f"{i}.png")
    return root


def test_all_is_well(photos: Path, run: Run) -> None:
    ran = run(photos)
    assert (ran.code, ran.err) == (0, "") and "12 pictures, duck 6, lion 6" in ran.out


def damaged(duck: Path) -> None:
    (duck / "odd.png").write_bytes((duck / "0.png").read_bytes()[:-60])


def large(duck: Path) -> None:
    Image.new("1", (12_000, 12_000)).save(duck / "odd.png")


def huge_file(duck: Path) -> None:
    (duck / "odd.png").touch()
    os.truncate(duck / "odd.png", cache.LARGEST_FILE + 1)  # takes no room, as it is all hole


def floating(duck: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(duck / "odd.tif")


def cut_jpeg(duck: Path) -> None:
    noise(99).save(duck / "odd.jpg")
    content = (duck / "odd.jpg").read_bytes()
    (duck / "odd.jpg").write_bytes(content[: len(content) * 9 // 10])


def moving(duck: Path) -> None:
    noise(99).save(duck / "odd.gif", save_all=True, append_images=[noise(98)])


def deep_grey(duck: Path, levels: int = 2**16) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, levels, (9, 9), dtype=np.uint16)).save(duck / "odd.png")


def transparent(duck: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(duck / "odd.png")


def turned(duck: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(99).save(duck / "odd.jpg", exif=exif)


def circle(duck: Path) -> None:
    (duck / "odd").symlink_to(duck.parent)


CASES: dict[str, tuple[Callable[[Path], Any], str, int]] = {
    "damaged": (damaged, "damaged", 1),
    "a JPEG cut at 90 %": (cut_jpeg, "damaged", 1),
    "no picture": (lambda duck: (duck / "odd.jpg").write_text("text"), "no picture", 1),
    "zero bytes": (lambda duck: (duck / "odd.jpg").touch(), "no picture", 1),
    "a pipe": (lambda duck: os.mkfifo(duck / "odd.jpg"), "no picture", 1),
    "a link to nothing": (lambda duck: (duck / "odd.jpg").symlink_to("none"), "unreadable", 1),
    "too many pixels": (large, "too large", 1),
    "too many bytes": (huge_file, "too large", 1),
    "floating pixels": (floating, "unsupported", 1),
    "a copy": (lambda duck: copy(duck / "1.png", duck / "odd.png"), "copies", 1),
    "in two classes": (lambda duck: copy(duck.parent / "lion/1.png", duck / "odd.png"), "copies across classes", 1),
    "other extension": (lambda duck: (duck / "odd.txt").write_text("x"), "extension", 0),
    "other format": (lambda duck: (duck / "odd.jxl").write_text("x"), "format", 1),
    "no class": (lambda duck: noise(99).save(duck.parent / "odd.png"), "no class", 0),
    "hidden": (lambda duck: noise(99).save(duck / ".odd.png"), "hidden", 0),
    "hidden class": (lambda duck: (duck.parent / "__MACOSX").mkdir(), "hidden", 0),
    "a circle": (circle, "linked twice", 0),
    "animated": (moving, "animated", 0),
    "deep": (deep_grey, "deep", 0),
    "deep and dark": (lambda duck: deep_grey(duck, 10_000), "deep, dark", 0),
    "transparent": (transparent, "transparent", 0),
    "turned": (turned, "turned", 0),
    "CMYK": (lambda duck: noise(99).convert("CMYK").save(duck / "odd.jpg"), "colours", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_is_found_in_every_run(case: str, photos: Path, run: Run) -> None:
    make, kind, code = CASES[case]
    make(photos / "duck")
    runs = [run(photos, "--json") for _ in range(2)]
    assert runs[0] == runs[1], "the second, from the cache, tells the same"
    findings = json.loads(runs[0].out)["findings"]
    assert (", ".join(found["kind"] for found in findings), runs[0].code) == (kind, code), findings
    assert all(any("odd" in path or "__MACOSX" in path for path in found["paths"]) for found in findings)


def test_many_are_counted_and_the_first_shown(photos: Path, run: Run) -> None:
    for i in range(8):
        (photos / "duck" / f"odd{i}.jpg").touch()
    short, whole = run(photos), run(photos, "--all")
    assert "refused: files with the name of a picture that are not pictures: 8\n" in short.out
    assert short.out.count("odd") == 5 and "  and 3 more; --all lists them\n" in short.out
    assert whole.out.count("odd") == 8 and "more;" not in whole.out
    assert short.out.endswith("\n8 findings that training refuses, 0 that spoil the measurement.\n")


def test_one_class_and_classes_that_do_not_agree(photos: Path, run: Run) -> None:
    (photos / "one/duck").mkdir(parents=True)
    for i in range(5):
        noise(i).save(photos / f"one/duck/{i}.png")
    ran = run(photos / "one")
    assert ran.code == 1 and "holds one class only, duck" in ran.out
    (photos / "split").mkdir()
    for name in ("duck", "lion"):
        (photos / name).rename(photos / "split" / name)
    (photos / "split").rename(photos / "train")
    (photos / "one").rename(photos / "test")
    ran = run(photos)
    assert ran.code == 1 and "there is no folder for the class 'lion'" in ran.out
    assert ran.out.index("spoils: LEAK") < ran.out.index("refused: ") and "train/duck/0.png = " in ran.out


def test_a_name_of_odd_bytes(photos: Path, run: Run) -> None:
    odd = os.fsdecode(os.fsencode(photos / "duck") + b"/odd\xff\n.jpg")
    Path(odd).touch()
    (found,) = json.loads(run(photos, "--json").out)["findings"]
    assert found["paths"] == [odd]
    assert "odd\\xff\\n.jpg: is not a picture" in run(photos).out


@pytest.mark.parametrize("arguments", [["nowhere"], ["photos", "--size", "1"], ["photos", "--size", "big"], []])
def test_wrong_use(arguments: list[str], photos: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    ran = run(*arguments)
    assert ran.code == 2 and ran.err and not ran.out and "Traceback" not in ran.err


@pytest.mark.slow
def test_the_script_needs_neither_lightning_nor_hydra(photos: Path) -> None:
    code = (
        "import sys; from hillstart.cli.audit import main\n"
        "try: main()\n"
        "finally: assert not {'lightning', 'hydra', 'omegaconf'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code, str(photos)], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (0, "") and shown.stdout.endswith("All is well.\n")
