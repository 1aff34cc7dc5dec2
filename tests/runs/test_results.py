"""The test pictures: what is measured on them, and that no choice depends on it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hillstart
from hillstart.report import quality
from hillstart.runs.reader import RunRecord
from hillstart.runs.tables import TEST
from hillstart.system.errors import InputError
from hillstart.system.statistics import quantiles
from runs.test_writer import go_on, interrupted, saving_often  # noqa: F401 - a fixture
from training.test_packs import run, run_spec, table


def test_figures_of_every_start_on_the_test_pictures_change_nothing_else(tmp_path: Path) -> None:
    spec = run_spec(6)
    run(tmp_path / "chosen", spec, pack=4)
    summary = run(tmp_path / "all", replace(spec, test_all=True), pack=4)
    rows, without = table(tmp_path / "all"), table(tmp_path / "chosen")
    assert [{name: cell for name, cell in row.items() if name not in TEST} for row in rows] == without
    for name in ("history.csv", "network.safetensors"):
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "chosen" / name).read_bytes()
    classifier, data = hillstart.load(tmp_path / "all"), spec.data
    y = torch.eye(3)[data.test.y]
    costs, outputs = classifier.network.evaluate(data.preprocessing.normalise(data.test.x), y)
    accuracies = (outputs.argmax(-1) == data.test.y).double().mean(1)
    assert [float(row["test_cost"]) for row in rows] == pytest.approx(costs.mean(1).tolist(), rel=1e-5)
    assert [float(row["test_accuracy"]) for row in rows] == pytest.approx(accuracies.tolist())
    assert float(rows[0]["test_accuracy"]) == pytest.approx(summary["test_accuracy"])
    assert summary["test_accuracy_of_starts"] == quantiles([float(row["test_accuracy"]) for row in rows])
    assert not {f"{name}_of_starts" for name in TEST} & RunRecord(tmp_path / "chosen").summary.keys()


def test_they_survive_an_interruption_and_cannot_be_asked_for_in_between(tmp_path: Path) -> None:
    spec = replace(run_spec(6), test_all=True)
    run(tmp_path / "whole", spec, pack=2)
    interrupted(tmp_path / "half", spec, 6, pack=2)  # in the second pack
    with pytest.raises(InputError, match="test"):
        go_on(tmp_path / "half", replace(spec, test_all=False), pack=2)
    go_on(tmp_path / "half", spec, pack=2)
    assert (tmp_path / "half/starts.csv").read_bytes() == (tmp_path / "whole/starts.csv").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(folder, run_spec(3))
    return folder


def test_the_run_and_its_page_count_the_same_answers(finished: Path) -> None:
    summary, data = RunRecord(finished).summary, run_spec(3).data
    of = summary["vote_test"]
    assert of["confusion"] == quality.section(hillstart.load(finished), data, summary).values["counts"]
    right = sum(row[k] for k, row in enumerate(of["confusion"]))
    assert right / 50 == pytest.approx(summary["vote_test_accuracy"])
    assert [one["pictures"] for one in of["by_class"].values()] == [17, 17, 16]
    assert [one["accuracy"] * one["pictures"] for one in of["by_class"].values()] == pytest.approx(
        [row[k] for k, row in enumerate(of["confusion"])]
    )
    assert of["majority"] == {"class": "a", "accuracy": 17 / 50}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vote_test", []),
        ("vote_test", {"confusion": [[1, 2], [3, 4]]}),
        ("test_cost_of_starts", {"n": 3, "median": "low"}),
    ],
)
def test_a_damaged_summary_is_refused_and_one_of_an_earlier_version_read(
    finished: Path, tmp_path: Path, key: str, value: Any
) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps(summary | {key: value}))
    with pytest.raises(InputError, match=rf"summary\.json.*{key}"):
        _ = RunRecord(tmp_path).summary
    del summary["vote_test"]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert RunRecord(tmp_path).summary == summary
