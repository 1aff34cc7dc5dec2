"""Rows of csv files, predicted and evaluated: columns are matched by name, and what cannot be used is named."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import hillstart
from hillstart.cli import evaluate, explain, predict, serve
from hillstart.data.preprocessing import Standardisation
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.network import Network
from hillstart.system.errors import InputError
from launching import Ran, ran

Run = Callable[..., Ran]
NUMBERS = np.random.default_rng(0).normal(3, 2, (9, 2))


@pytest.fixture
def classifier(tmp_path: Path) -> Classifier:
    """Four starts that learned from the columns a and b, stored in the folder."""
    made = Classifier(
        Network.start([2, 5, 2], range(4), cost="log_likelihood"),
        tuple(Start(s, Hyperparameters(0.1)) for s in range(4)),
        ("x", "y"),
        Standardisation(("a", "b"), (3.0, 3.0), (2.0, 2.0), label="kind"),
    )
    model_file.save(tmp_path / "network.safetensors", made)
    return made


@pytest.fixture
def rows(tmp_path: Path, classifier: Classifier) -> Path:
    """The numbers with the columns in another order, one more, and the labels x and y in turn."""
    lines = [f"{b},no {k},{'xy'[k % 2]},{a}" for k, (a, b) in enumerate(NUMBERS.tolist())]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["b,id,kind,a", *lines]))
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda command, *arguments: ran(command.main, monkeypatch, capsys, tmp_path, *arguments)


def test_columns_are_matched_by_name(run: Run, rows: Path, classifier: Classifier) -> None:
    answers = [json.loads(line) for line in run(predict, rows, "--json").out.splitlines()]
    z = classifier.network.forward(((torch.from_numpy(NUMBERS) - 3) / 2).float())[-1].mean(0)
    assert [answer["label"] for answer in answers] == ["xy"[k] for k in z.argmax(-1).tolist()]
    assert [answer["path"] for answer in answers] == [f"{rows}:{n}" for n in range(1, 10)]
    shown = run(predict, rows)
    assert shown.code == 0 and "picture" not in shown.out + shown.err and len(shown.out.splitlines()) == 10
    assert "passed over id;" in shown.err and run(predict, rows, "--csv").out.splitlines()[1].startswith(f"{rows}:1,")


@pytest.mark.parametrize(
    ("change", "lines", "wrong"),
    [
        (("id,kind,a", "id,kind,c"), 1, "lacks the column a"),
        (("no 2,x,", "no 2,x,many"), 9, "row 3, column a: 'many"),
        (("no 2,x,", "no 2,x,inf\n0,no,x,"), 10, "row 3, column a: 'inf' is not a finite number"),
    ],
)
def test_what_cannot_be_used_is_named(run: Run, rows: Path, change: tuple[str, str], lines: int, wrong: str) -> None:
    rows.write_text(rows.read_text().replace(*change))
    found = run(predict, rows)
    assert found.code == 1 and f"{rows}: {wrong}" in found.err and len(found.out.splitlines()) == lines
    assert len([line for line in found.err.splitlines() if wrong in line]) == 1


def test_rows_are_evaluated_by_their_labels(run: Run, rows: Path) -> None:
    answers = [json.loads(line)["label"] for line in run(predict, rows, "--json").out.splitlines()]
    found = json.loads(run(evaluate, rows, "--json", "--csv", rows.with_name("answers.csv")).out)
    right = [answer == "xy"[k % 2] for k, answer in enumerate(answers)]
    assert found["accuracy"] == pytest.approx(sum(right) / 9) and np.sum(found["confusion"]) == 9
    table = pd.read_csv(rows.with_name("answers.csv"))
    assert list(table["predicted_label"]) == answers and table["file"][0] == f"{rows}:1"
    rows.write_text(rows.read_text().replace(",y,", ",z,"))
    shown = run(evaluate, rows)
    assert "left out 4 rows whose label is no class of the network: z" in shown.err and "no row of y" in shown.err
    assert "5 rows of" in shown.out and "picture" not in shown.out + shown.err


def test_python_takes_records_frames_and_arrays(rows: Path) -> None:
    loaded = hillstart.load(rows.parent)
    expected = loaded.predict(NUMBERS)
    assert len(expected) == 9 and loaded.predict(torch.from_numpy(NUMBERS)) == expected
    assert loaded.predict(pd.read_csv(rows)) == expected
    for one in (NUMBERS[0], {"b": NUMBERS[0, 1], "a": NUMBERS[0, 0]}):
        assert loaded.predict(one).probabilities == pytest.approx(expected[0].probabilities)
    for wrong, named in (({"a": 1}, "column b"), (NUMBERS[0, :1], "is not 2 numbers"), ([[5]], "is not 2 numbers")):
        with pytest.raises(InputError, match=named):
            loaded.predict(wrong)


def test_a_row_is_explained_by_the_names_of_its_columns(
    rows: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["explain.py", str(rows.parent), str(rows), "--row", "3", "--node", "hidden1.2"])
    explain.main()
    lines = capsys.readouterr().out.splitlines()
    z = ((NUMBERS[2] - 3) / 2) @ classifier.network.w[0][0, :, 1].numpy() + float(classifier.network.b[0][0, 1])
    assert lines[0] == f"hidden1.2, for {rows}:3:" and lines[-1] == "the products are those of a, b, standardised"
    assert float(lines[2].split(" = ")[1].replace("−", "-")) == pytest.approx(z, abs=2e-3)


@pytest.mark.parametrize(("options", "wrong"), [([], "--row N takes one"), (["--row", "10"], "no row 10")])
def test_the_row_to_explain_must_be_named(run: Run, rows: Path, options: list[str], wrong: str) -> None:
    found = run(explain, rows, *options)
    assert found.code == 1 and not found.out and wrong in found.err


def test_what_needs_pictures_refuses_before_it_prints(
    run: Run, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ran(serve.main, monkeypatch, capsys, rows.parent, "--port", 0)
    assert found.code == 2 and not found.out and "not pictures" in found.err
    found = run(predict, rows, "--invert")
    assert found.code == 2 and not found.out and "--invert" in found.err
