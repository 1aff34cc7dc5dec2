"""The page as a user gets it: after a run, made anew, for a sweep; and what is refused."""

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.chrome.webdriver import WebDriver

from browser import browser, console, opened  # noqa: F401 - a fixture
from hillstart.cli import report as command
from hillstart.cli import train as commands
from hillstart.report import finished_run, learning
from hillstart.system.errors import InputError

SMALL = ["data.train=120", "data.test=40", "network.hidden=[6]", "trainer.max_epochs=2", "logger=none"]
HOSTILE = '"><img src=x onerror="window.run=1">'
SECTIONS = ["network", "node", "gradient", "hill", "valleys", "learning", "quality", "run"]


def train(folder: Path, *options: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PWD", str(folder))
        patch.setattr(sys, "argv", ["train.py", *options])
        commands.train()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs and a sweep: doodles in two packs with starts that diverge, photos with hostile names, four jobs."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder, *SMALL, "starts=3", "descent.eta=[0.1,1e30]", "pack=2", "hydra.run.dir=doodles")
    g = np.random.default_rng(0)
    for k, name in enumerate(("lion", HOSTILE, "duck")):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = g.integers(60 * k, 60 * k + 80, (9, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"<b>{i}.png")
    photos = ["data=folder", "data.root=photos", "data.size=8", "network.hidden=[5,4]", "starts=2", "logger=none"]
    photos += ["descent.batch_size=5", "network.activation=tanh", "network.cost=log_likelihood", "trainer.max_epochs=2"]
    train(folder, *photos, "hydra.run.dir=shots")
    train(folder, "-m", *SMALL, "seed=range(0,2)", "network.hidden=[6],[4]", "hydra.sweep.dir=sweep")
    return folder


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    """A copy of the run on doodles, to be damaged."""
    return Path(shutil.copytree(runs / "doodles", tmp_path / "doodles"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["doodles", "shots", "sweep"])
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (390, True)])
def test_the_page_opens_without_a_word(browser: WebDriver, runs: Path, name: str, width: int, dark: bool) -> None:  # noqa: F811
    page = runs / name / "report.html"
    opened(browser, page, width, dark=dark)
    assert [section.get_attribute("id") for section in browser.find_elements("tag name", "section")] == SECTIONS
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return window.run instanceof Element"), "a number would be the hostile name's doing"
    assert browser.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    assert page.stat().st_size < 3_000_000
    assert console(browser) == []


@pytest.mark.slow
def test_names_of_classes_are_shown_as_they_are(browser: WebDriver, runs: Path) -> None:  # noqa: F811
    opened(browser, runs / "shots" / "report.html")
    assert browser.title == f"{', '.join(sorted((HOSTILE, 'duck')))} or lion?"
    assert HOSTILE in browser.execute_script("return document.querySelector('.confusion').textContent")


@pytest.mark.slow
def test_a_sweep_has_one_page_over_all_its_starts(browser: WebDriver, runs: Path) -> None:  # noqa: F811
    assert [path.parent.name for path in (runs / "sweep").rglob("report.html")] == ["sweep"]
    opened(browser, runs / "sweep" / "report.html")
    facts = browser.execute_script("return document.querySelector('.facts').textContent")
    assert "4 in 4 jobs" in facts
    rows = browser.execute_script("return document.querySelectorAll('#learning details tbody tr').length")
    assert rows == 4


def test_what_was_read_back_is_what_was_written(runs: Path) -> None:
    run = finished_run.read(runs / "doodles")
    assert [row.rank for row in run.rows] == list(range(1, 7))
    assert len(run.sound) == 3
    assert len(run.diverged) == 3
    with (runs / "doodles" / "history.csv").open() as file:
        lines = list(csv.DictReader(file))
    for s, row in enumerate(run.rows):
        of = [line for line in lines if (line["seed"], line["eta"]) == (row.cells["seed"], row.cells["eta"])]
        assert len(of) == row.result.epochs
        expected = [[float(line[k]) for k in ("train_cost", "val_cost", "val_accuracy")] for line in of]
        assert np.array_equal(run.history[s, : len(of)], expected, equal_nan=True)
        assert np.isnan(run.history[s, len(of) :]).all()
    assert [start.seed for start in run.model.origins] == [row.result.start.seed for row in run.sound]


def test_a_sweep_compares_starts_of_one_shape_only(runs: Path) -> None:
    run = finished_run.read(runs / "sweep")
    assert run.compared.network.sizes == run.model.network.sizes
    assert run.compared.network.starts == 2
    assert run.compared.origins[0] == run.model.origins[0]
    assert run.jobs == 4


def test_made_anew_it_is_the_same_page(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = (copy / "report.html").read_text()
    (copy / "report.html").unlink()
    report(copy)
    assert capsys.readouterr().out.strip() == str(copy / "report.html")
    assert (copy / "report.html").read_text() == first


def report(*arguments: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
        command.main()


@pytest.mark.slow
def test_a_picture_of_one_s_own(copy: Path, tmp_path: Path, browser: WebDriver) -> None:  # noqa: F811
    Image.new("RGB", (50, 40), (200, 30, 30)).save(tmp_path / "my <i>red.png")
    report(copy, "--image", tmp_path / "my <i>red.png")
    opened(browser, copy / "report.html")
    assert "my <i>red.png" in browser.execute_script("return document.querySelector('#network').textContent")


def test_no_page_where_none_is_asked_for(tmp_path: Path) -> None:
    train(tmp_path, *SMALL, "starts=1", "report=false", "hydra.run.dir=run")
    assert not (tmp_path / "run" / "report.html").exists()
    with pytest.raises(SystemExit) as end:
        train(tmp_path, *SMALL, "report=perhaps")
    assert "report is 'perhaps'; it must be true or false" in str(end.value.code)


@pytest.mark.slow
def test_one_start_one_epoch_has_a_page_too(tmp_path: Path, browser: WebDriver) -> None:  # noqa: F811
    train(tmp_path, *SMALL, "starts=1", "trainer.max_epochs=1", "hydra.run.dir=run")
    opened(browser, tmp_path / "run" / "report.html")


def refused(*arguments: Any) -> str:
    with pytest.raises(SystemExit) as end:
        report(*arguments)
    assert isinstance(end.value.code, str), "a sentence as exit code prints it and exits with 1"
    assert "\n" not in end.value.code
    return end.value.code


def test_a_run_that_has_not_ended_is_refused(copy: Path) -> None:
    (copy / "summary.json").unlink()
    assert "summary.json: there is none; give the folder of a run that has ended" in refused(copy)
    assert "nowhere" in refused(copy / "nowhere")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("summary.json", "[1]", "summary.json"),
        ("summary.json", '{"best_seed": 3}', "summary.json"),
        ("starts.csv", "seed,eta\n1,2\n", "starts.csv"),
        ("history.csv", "seed,epoch\n99,1\n", "history.csv: row 1"),
        (".hydra/config.yaml", "- a\n", "config.yaml: holds no options"),
        (".hydra/config.yaml", "a: {b: [", "config.yaml: cannot be read"),
        ("network.safetensors", "", "network.safetensors"),
    ],
)
def test_a_damaged_run_is_one_sentence(copy: Path, name: str, text: str, said: str) -> None:
    before = (copy / "report.html").read_bytes()
    (copy / name).write_text(text)
    assert said in refused(copy)
    assert (copy / "report.html").read_bytes() == before


def test_networks_of_another_run_are_refused(copy: Path, tmp_path: Path) -> None:
    train(tmp_path, *SMALL, "starts=3", "seed=50", "descent.eta=[0.1,1e30]", "report=false", "hydra.run.dir=other")
    shutil.copy(tmp_path / "other" / "network.safetensors", copy)
    assert "holds starts that its options do not" in refused(copy)


def test_other_pictures_than_those_trained_on_are_refused(runs: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(runs, tmp_path / "runs")
    (next((copy / "photos" / "lion").glob("*.png"))).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        assert "was trained on other pictures" in refused("shots")


def test_the_summary_stays_as_it_was(runs: Path, copy: Path) -> None:
    report(copy)
    assert json.loads((copy / "summary.json").read_text()) == json.loads((runs / "doodles/summary.json").read_text())


def test_a_sweep_of_different_costs_shows_those_of_one_kind(tmp_path: Path) -> None:
    costs = "network.cost=quadratic,log_likelihood"
    train(tmp_path, "-m", *SMALL, costs, "starts=2", "report=false", "hydra.sweep.dir=sweep")
    run = finished_run.read(tmp_path / "sweep")
    assert {row.cells["network.cost"] for row in run.rows} == {run.model.network.cost}
    assert (len(run.rows), run.left_out, run.jobs) == (2, 2, 1)
    learned = learning.section(run).look
    assert "only the random numbers" in learned
    summary = json.loads((tmp_path / "sweep/summary.json").read_text())
    del summary["best_job"]
    (tmp_path / "sweep/summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"sweep: its jobs were validated on different pictures"):
        finished_run.read(tmp_path / "sweep")


def test_a_grid_is_not_told_as_luck_alone(runs: Path) -> None:
    section = learning.section(finished_run.read(runs / "doodles"))
    assert "eta" in section.look and "only the random numbers" not in section.look
    assert section.values["settings"] == ["eta"]
