"""A run folder, a model file and a checkpoint that 0.1.0 wrote are read as before, and the run goes on.

Made at that version by `train.py data.train=120 data.test=40 data.size=8 network.hidden=[6] trainer.max_epochs=3
descent.schedule=constant starts=3 descent.momentum=0.9`, `answers.json` by its `predict.py --json`.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

import hillstart
from hillstart.cli import report, train
from made import rows

OLD = Path(__file__).parent / "run_of_0.1.0"
ANSWERS = json.loads((OLD / "answers.json").read_text())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@pytest.mark.parametrize("model", ANSWERS)
def test_predictions_are_the_same(model: str, folder: Path) -> None:
    found = hillstart.load(folder / model).predict(list(ANSWERS[model]))
    for answer, expected in zip(found, ANSWERS[model].values(), strict=True):
        assert answer.probabilities == pytest.approx(expected, abs=2e-6)  # written with six digits


def test_the_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "run/history.csv").read_text().splitlines()
    monkeypatch.setattr(sys, "argv", ["train.py", "resume=run", "trainer.max_epochs=5", "report=false"])
    train.train()
    after = (folder / "run/history.csv").read_text().splitlines()
    assert len(after) == 1 + 3 * 5 and set(before) <= set(after)
    assert [row["epochs"] for row in rows(folder / "run/starts.csv")] == ["5"] * 3


def test_it_has_a_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", "run"])
    report.main()
    assert (folder / "run/report.html").stat().st_size > 100_000
