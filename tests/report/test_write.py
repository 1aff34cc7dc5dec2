"""The page as a user gets it: after a run, written again, for a sweep; and what is refused."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pypdfium2 import PdfTextPage
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

import made
from browser import barriers, console, on_paper, opened
from hillstart.cli import report as command
from hillstart.inference import model_file
from hillstart.report import learning, run
from hillstart.report.lesson import write_lesson
from hillstart.system.errors import InputError
from launching import BOUND, refused
from launching import train_in as train
from made import rows

SMALL = [*made.SMALL[:-1], "logger=none"]  # with a page
HOSTILE = '"><img src=x onerror="window.run=1">'
PAGES = ["doodles", "shots", "sweep", "lesson"]
SECTIONS = ["network", "node", "gradient", "hill", "live", "valleys", "learning", "quality", "run"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs and a sweep: doodles in two packs with starts that diverge, photos with hostile names, four jobs; and
    the page for a class, of the doodles."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder, *SMALL, "starts=3", "descent.eta=[0.1,1e30]", "pack=2", "hydra.run.dir=doodles")
    (folder / "lesson").mkdir()
    write_lesson(folder / "doodles", folder / "lesson" / "report.html")
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
@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (390, True)])
def test_the_page_opens_without_a_word_and_shuts_nobody_out(
    browser: WebDriver, runs: Path, name: str, width: int, dark: bool
) -> None:
    page = runs / name / "report.html"
    opened(browser, page, width, dark=dark)
    ids = [section.get_attribute("id") for section in browser.find_elements("tag name", "section")]
    assert ids == (["neuron", *SECTIONS[:-1]] if name == "lesson" else SECTIONS)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return window.run !== 1"), "a number would be the hostile name's doing"
    assert browser.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    assert page.stat().st_size < 3_000_000
    assert console(browser) == []
    assert barriers(browser) == []
    browser.execute_script("document.querySelectorAll('details').forEach((of) => (of.open = true))")
    for button in ("#draw", "#live-epoch", "#live-table button"):
        browser.execute_script("document.querySelector(arguments[0]).click()", button)
    learned = (
        "return !document.querySelector('#network .opened').hidden && !document.querySelector('#live-epoch').disabled"
    )
    WebDriverWait(browser, BOUND).until(lambda _: browser.execute_script(learned))
    assert barriers(browser) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width"), [*zip(PAGES, (1400, 390, 390, 1400), strict=True)])
def test_on_paper_no_text_is_cut_off_or_printed_across_another(
    browser: WebDriver, runs: Path, name: str, width: int
) -> None:
    opened(browser, runs / name / "report.html", width)
    assert "Let it learn" not in " ".join(page.get_textpage().get_text_bounded() for page in on_paper(browser))
    browser.execute_script("document.querySelector('#live-epoch').click()")
    WebDriverWait(browser, BOUND).until(
        lambda _: browser.execute_script("return document.querySelector('#live.learned #live-epoch:enabled')")
    )
    classes = browser.execute_script("return hillstart.box().classes")
    pages = [page.get_textpage() for page in on_paper(browser)]
    words = [" ".join(page.get_text_bounded().split()) for page in pages]
    assert all(words), "an empty page"
    assert all(title in " ".join(words) for title in browser.execute_script(TITLES))
    drawing = next(of for of in words if "hidden1" in of)
    assert all(name[:3] in drawing.rsplit("output", 1)[1] for name in classes), "the output column is cut off"
    for page in pages:
        letters, boxes = letters_of(page)
        assert boxes[:, 0].min() > PAPER[0] and boxes[:, 2].max() < PAPER[1]
        assert covering(letters, boxes) == []


TITLES = "return [...document.querySelectorAll('h2')].map((title) => title.textContent)"
PAPER = (25, 570)  # between the margins of A4, in points


def letters_of(page: PdfTextPage) -> tuple[str, np.ndarray]:
    """The letters on a printed page, and the left, bottom, right and top of each in points."""
    letters = page.get_text_range(errors="replace")
    kept = [k for k, letter in enumerate(letters) if letter.strip()]
    return "".join(letters[k] for k in kept), np.array([page.get_charbox(k) for k in kept])


def covering(letters: str, boxes: np.ndarray) -> list[str]:
    """Pairs of letters that are printed across each other; of an outlined text, which is drawn twice, none."""
    low, high = boxes[:, :2], boxes[:, 2:]
    sides = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    area = (high - low).prod(1)
    shared = sides.clip(0).prod(2) > 0.4 * np.minimum(area[:, None], area)
    return [letters[i] + letters[j] for i, j in np.argwhere(np.triu(shared, 1)) if letters[i] != letters[j]]


@pytest.mark.slow
def test_names_of_classes_and_all_starts_of_a_sweep_are_shown(browser: WebDriver, runs: Path) -> None:
    opened(browser, runs / "shots" / "report.html")
    assert browser.title == f"{', '.join(sorted((HOSTILE, 'duck')))} or lion?"
    assert HOSTILE in browser.execute_script("return document.querySelector('.confusion').textContent")
    assert [path.parent.name for path in (runs / "sweep").rglob("report.html")] == ["sweep"]
    opened(browser, runs / "sweep" / "report.html")
    assert "4 in 4 jobs" in browser.execute_script("return document.querySelector('.facts').textContent")
    tables = "return [...document.querySelectorAll('#learning details tbody')].map(table => table.rows.length)"
    assert browser.execute_script(tables) == [2, 4]  # the settings, and every start


def test_what_was_read_back_is_what_was_written(runs: Path) -> None:
    of = run.read(runs / "doodles")
    assert [row.rank for row in of.rows] == list(range(1, 7))
    assert (len(of.sound), len(of.diverged)) == (3, 3)
    written = rows(runs / "doodles" / "history.csv")
    for row, history in zip(of.rows, of.history, strict=True):
        epochs = [of for of in written if all(of[key] == row.cells[key] for key in ("seed", "eta"))]
        expected = [[float(of[key]) for key in ("train_cost", "val_cost", "val_accuracy")] for of in epochs]
        assert len(epochs) == row.result.epochs
        assert np.array_equal(history[: len(epochs)], expected, equal_nan=True)
        assert np.isnan(history[len(epochs) :]).all()
    assert [start.seed for start in of.classifier.origins] == [row.result.start.seed for row in of.sound]
    learned = learning.section(of)  # a grid: not only the seeds differ
    assert "eta" in learned.look and "only the random numbers" not in learned.look
    assert learned.values["settings"] == ["eta"]


def test_a_sweep_compares_starts_of_one_shape_only(runs: Path) -> None:
    of = run.read(runs / "sweep")
    assert of.compared.network.sizes == of.classifier.network.sizes
    assert (of.compared.network.starts, of.jobs) == (2, 4)
    assert of.compared.origins[0] == of.classifier.origins[0]


def test_written_again_it_is_the_same_page(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: (copy / name).read_bytes() for name in ("report.html", "summary.json")}
    (copy / "report.html").unlink()
    report(copy)
    assert capsys.readouterr().out.strip() == str(copy / "report.html")
    assert before == {name: (copy / name).read_bytes() for name in before}


def report(*arguments: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
        command.main()


@pytest.mark.slow
def test_a_picture_of_one_s_own(copy: Path, tmp_path: Path, browser: WebDriver) -> None:
    Image.new("RGB", (50, 40), (200, 30, 30)).save(tmp_path / "my <i>red.png")
    report(copy, "--image", tmp_path / "my <i>red.png")
    opened(browser, copy / "report.html")
    assert "my <i>red.png" in browser.execute_script("return document.querySelector('#network').textContent")


@pytest.mark.slow
def test_one_start_one_epoch_has_a_page_too(tmp_path: Path, browser: WebDriver) -> None:
    train(tmp_path, *SMALL, "starts=1", "trainer.max_epochs=1", "hydra.run.dir=run")
    opened(browser, tmp_path / "run" / "report.html")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("summary.json", None),
        ("summary.json", "[1]"),
        ("summary.json", '{"best_seed": 3}'),
        ("starts.csv", "seed,eta\n1,2\n"),
        ("history.csv", "seed,epoch\n99,1\n"),
        (".hydra/config.yaml", "- a\n"),
        (".hydra/config.yaml", "a: {b: ["),
        ("network.safetensors", ""),
    ],
)
def test_a_damaged_run_is_refused_by_the_name_of_the_file(copy: Path, name: str, text: str | None) -> None:
    before = (copy / "report.html").read_bytes()
    (copy / name).unlink() if text is None else (copy / name).write_text(text)
    assert name in refused(report, copy)
    assert (copy / "report.html").read_bytes() == before


def test_networks_of_another_run_are_refused(copy: Path) -> None:
    model = model_file.load(copy / "network.safetensors")
    others = tuple(replace(start, seed=start.seed + 50) for start in model.origins)
    model_file.save(copy / "network.safetensors", replace(model, origins=others))
    assert "holds starts that its options do not" in refused(report, copy)


def test_other_pictures_than_those_trained_on_are_refused(runs: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(runs, tmp_path / "runs")
    (next((copy / "photos" / "lion").glob("*.png"))).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        assert "was trained on other pictures" in refused(report, "shots")


def test_a_sweep_of_different_costs_shows_those_of_one_kind(tmp_path: Path) -> None:
    costs = "network.cost=quadratic,log_likelihood"
    train(tmp_path, "-m", *SMALL, costs, "starts=2", "report=false", "hydra.sweep.dir=sweep")
    of = run.read(tmp_path / "sweep")
    assert {row.cells["network.cost"] for row in of.rows} == {of.classifier.network.cost}
    assert (len(of.rows), of.omitted, of.jobs) == (2, 2, 1)
    learned = learning.section(of).look
    assert "only the random numbers" in learned
    summary = json.loads((tmp_path / "sweep/summary.json").read_text())
    del summary["best_job"]
    (tmp_path / "sweep/summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"sweep: its jobs were validated on different pictures"):
        run.read(tmp_path / "sweep")
