"""`make results`: the recipes run, their table written, and what they and the README state compared with it."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results
from forking import run_forked
from hillstart.config.conf import conf_folder

ROOT = Path(__file__).parents[2]
SMALL = ["data.train=60", "data.test=20", "network.hidden=[3]", "report=false"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["results.py", *arguments])
    monkeypatch.setattr(subprocess, "run", run_forked)
    results.main()


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row of a table of results, by the recipe's name, with which the first begins."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].split("`")[1]: cells for cells in lines}


def test_a_table_of_what_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that learned nothing is far below what its recipe states: the table is written, the end is no good."""
    file = tmp_path / "results.md"
    options = [*SMALL, "trainer.max_epochs=1", "descent.eta=1e-6", "starts=3"]
    with pytest.raises(SystemExit, match="lion_duck: the median lies outside what conf/experiment states"):
        run(monkeypatch, "--only", "lion_duck", "--to", str(file), *options)
    found = rows(file.read_text())
    assert list(found) == ["lion_duck"]
    _, sizes, starts, splits, median, quartiles, ends, stated, test, vote, training, whole = found["lion_duck"]
    assert (sizes, starts, splits) == ("[784, 3, 2]", "3", "3")
    lower, upper = map(float, quartiles.split(" and "))
    least, most = map(float, ends.split(" to "))
    assert least <= lower <= float(median) <= upper <= most
    assert stated == "{:.3f} to {:.3f}".format(*results.stated_range("lion_duck"))
    for cell in (test, vote):
        accuracy, error = map(float, cell.split(" ± "))
        assert error == pytest.approx((accuracy * (1 - accuracy) / 60) ** 0.5, rel=0.1)  # 3 splits of 20 pictures
    assert int(training) <= int(whole)


def test_a_training_that_fails_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="experiment=lion_duck ended with exit code 1; nothing was written"):
        run(monkeypatch, "--only", "lion_duck", "--to", str(tmp_path / "results.md"), "starts=0")
    assert not (tmp_path / "results.md").exists()


def test_an_unknown_recipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--only", "lion")
    assert "--only: there is no lion in conf/experiment; there are fashion_best, lion_duck" in capsys.readouterr().err


def test_every_recipe_states_a_range_and_has_its_result_in_it() -> None:
    """docs/results.md as it lies here is of the recipes as they lie here, and none of them promises more than it."""
    found = rows((ROOT / "docs/results.md").read_text())
    assert set(found) == {path.stem for path in (conf_folder() / "experiment").glob("*.yaml")}
    for name, cells in found.items():
        low, high = results.stated_range(name)
        assert cells[7] == f"{low:.3f} to {high:.3f}", name
        assert low <= float(cells[4]) <= high, name


def test_the_readme_says_what_the_table_says() -> None:
    found, told = (rows((ROOT / file).read_text()) for file in ("docs/results.md", "README.md"))
    told = {name: cells for name, cells in told.items() if name in found}
    assert set(told) == set(found) - {"photos"}
    for name, (_, *figures) in told.items():
        _, sizes, starts, splits, median, _, ends, _, test, vote, *_ = found[name]
        assert figures == [sizes, f"{starts} x {splits}", f"{median} ({ends})", test, vote], name
