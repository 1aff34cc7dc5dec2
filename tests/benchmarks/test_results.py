"""`make results`: the recipes run, their table written, and what they and the README state compared with it."""

import re
import sys
from pathlib import Path

import pytest

from benchmarks import results
from hillstart.config.conf import conf_folder

ROOT = Path(__file__).parents[2]
SMALL = ["data.train=60", "data.test=20", "network.hidden=[3]", "report=false"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["results.py", *arguments])
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
    _, sizes, starts, val, stated, test, vote, training, whole = found["lion_duck"]
    assert (sizes, starts) == ("[784, 3, 2]", "3")
    assert re.fullmatch(r"0\.\d{4} \(0\.\d{4} to 0\.\d{4}\)", val)
    assert stated == "{:.3f} to {:.3f}".format(*results.stated_range("lion_duck"))
    assert re.fullmatch(r"0\.\d{4} ± 0\.\d{4}", test)
    assert re.fullmatch(r"0\.\d{4}", vote)
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
        assert cells[4] == f"{low:.3f} to {high:.3f}", name
        assert low <= float(cells[3].split()[0]) <= high, name


def test_the_readme_says_what_the_table_says() -> None:
    found, told = (rows((ROOT / file).read_text()) for file in ("docs/results.md", "README.md"))
    told = {name: cells for name, cells in told.items() if name in found}
    assert set(told) == set(found)
    for name, (about, chosen, vote, *_) in told.items():
        _, sizes, starts, _, _, test, by_vote, *_ = found[name]
        assert sizes in about, name
        assert f"{starts} starts" in about, name
        assert [chosen, vote] == [f"{float(figure.split()[0]):.3f}" for figure in (test, by_vote)], name
