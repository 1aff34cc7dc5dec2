"""scripts/evaluate.py: the figures follow from predict's answers, and what is not measured is named."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import hillstart
from hillstart.cli import evaluate
from hillstart.data.images import read_picture
from hillstart.inference import model_file
from hillstart.inference.calibration import expected_calibration_error
from hillstart.system.statistics import Z_95, accuracy_interval
from inference.test_classifier import model, noise
from launching import Ran, ran
from made import rows

Run = Callable[..., Ran]
CLASSES = ("lion", "duck", "owl")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process, on a model of four starts and three classes."""
    model_file.save(tmp_path / "network.safetensors", replace(model(channels=3), classes=CLASSES))

    def run(*arguments: Any) -> Ran:
        return ran(evaluate.main, monkeypatch, capsys, tmp_path / "network.safetensors", *arguments)

    return run


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Unequally many pictures of two of the three classes, and a folder of another."""
    first, _, last = CLASSES
    for name, count in ((first, 9), (last, 2), ("zebra", 1)):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(noise(k + count, 9, 12, 3)).save(tmp_path / "labelled" / name / f"{k}.png")
    return tmp_path / "labelled"


@pytest.mark.parametrize("start", [None, 3])
def test_the_figures_are_those_of_the_predictions(run: Run, labelled: Path, start: int | None) -> None:
    classifier = hillstart.load(labelled.parent)
    classifier = classifier if start is None else classifier.only(start)
    paths = [path for name in classifier.classes for path in sorted((labelled / name).glob("*.png"))]
    answers, truth = classifier.predict(paths), [path.parent.name for path in paths]
    table = labelled.parent / "rows.csv"
    found = json.loads(run(labelled, "--json", "--csv", table, *([] if start is None else ["--start", start])).out)
    right = [answer.label == label for answer, label in zip(answers, truth, strict=True)]
    assert found["pictures"] == len(paths) == 11
    assert found["accuracy"] == pytest.approx(sum(right) / 11)
    assert found["interval"] == [*accuracy_interval(found["accuracy"], 11, Z_95)]
    assert found["confusion"] == [
        [sum((t, a.label) == (i, j) for t, a in zip(truth, answers, strict=True)) for j in classifier.classes]
        for i in classifier.classes
    ]
    assert found["majority"] == {"class": classifier.classes[0], "accuracy": 9 / 11}
    assert [of["pictures"] for of in found["by_class"].values()] == [9, 0, 2]
    assert found["by_class"][classifier.classes[1]]["accuracy"] is None
    p = torch.tensor([[answer.probabilities[name] for name in classifier.classes] for answer in answers])
    y = torch.tensor([classifier.classes.index(name) for name in truth])
    assert found["calibration"]["after"]["expected_calibration_error"] == pytest.approx(
        expected_calibration_error(p, y), abs=1e-6
    )
    for row, answer, label in zip(rows(table), answers, truth, strict=True):
        assert (row["file"], row["true_label"], row["predicted_label"]) == (answer.path, label, answer.label)
        assert float(row["agreement"]) == round(answer.agreement, 6)
        for name, probability in answer.probabilities.items():
            assert float(row[f"probability of {name}"]) == round(probability, 6)


def test_the_cost_of_one_start_is_that_of_its_network(run: Run, labelled: Path) -> None:
    classifier = hillstart.load(labelled.parent).only(3)
    paths = [path for name in classifier.classes for path in sorted((labelled / name).glob("*.png"))]
    x = torch.stack([read_picture(path, classifier.preprocessing) for path in paths])
    y = torch.eye(3)[[classifier.classes.index(path.parent.name) for path in paths]]
    cost = classifier.network.evaluate(classifier.preprocessing.normalise(x), y)[0].mean()
    assert json.loads(run(labelled, "--json", "--start", 3).out)["cost"] == pytest.approx(float(cost), rel=1e-5)


def test_classes_that_the_network_does_not_know_and_that_are_missing_are_named(run: Run, labelled: Path) -> None:
    told = run(labelled, "--json")
    missing = CLASSES[1]
    assert told.code == 0 and "zebra" in told.err and missing in told.err
    found = json.loads(told.out)
    assert (found["unknown_classes"], found["missing_classes"]) == (["zebra"], [missing])


def test_a_picture_that_cannot_be_used_is_named_and_left_out(run: Run, labelled: Path) -> None:
    whole = json.loads(run(labelled, "--json").out)
    (bad := labelled / CLASSES[0] / "0a.png").write_bytes(b"x")
    told = run(labelled, "--json")
    assert told.code == 1 and str(bad) in told.err
    assert json.loads(told.out) == whole | {"unusable": 1}


@pytest.mark.parametrize("name", ["nowhere", "labelled/zebra", "split"])
def test_a_folder_without_such_classes_is_named(run: Run, labelled: Path, name: str) -> None:
    (labelled.parent / "split").mkdir()
    labelled.rename(labelled.parent / "split/test") if name == "split" else None
    told = run(labelled.parent / name)
    assert told.code == 2 and str(labelled.parent / name) in told.err and not told.out
    assert (str(labelled.parent / "split/test") in told.err) == (name == "split")


def test_figures_are_told_even_if_their_table_cannot_be_written(run: Run, labelled: Path) -> None:
    told = run(labelled, "--json", "--csv", labelled / "nowhere/rows.csv")
    assert told.code == 2 and "rows.csv" in told.err and json.loads(told.out)["pictures"] == 11


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_narrow_terminal_mistakes_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, classes = [[5, 0, 2], [0, 3, 0], [4, 0, 1]], ["x" * 12, "y" * 12, "z" * 12]
    wide = list(evaluate._confusion(counts, classes))
    assert [line.split()[1:] for line in wide[2:]] == [[str(n) for n in row] for row in counts]
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    lines = list(evaluate._confusion(counts, classes))
    assert [line.split() for line in lines[1:]] == [
        ["4", classes[2], "taken", "for", classes[0]],
        ["2", classes[0], "taken", "for", classes[2]],
    ]
    assert max(map(len, lines)) <= 45
