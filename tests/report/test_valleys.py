"""The section on the valleys: what it says of starts of any kind, and in a real browser."""

import base64
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from browser import browser, console, opened
from hillstart.data.batches import Sample
from hillstart.data.dataset import PictureSet
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference.classifier import Classifier
from hillstart.network import Network
from hillstart.report import valleys
from hillstart.report.lines import ANOTHER, RENUMBERED, SAME, lines
from hillstart.report.page import render
from made import blobs

__all__ = ["browser"]

DATA = blobs()
CPU = torch.device("cpu")


def sample(data: PictureSet = DATA) -> Sample:
    return Sample(data.train, 3, data.preprocessing, CPU)


def model(S: int, sizes: Sequence[int] = (36, 6, 3), steps: int = 0, etas: Sequence[float] = (0.5,)) -> Classifier:
    network = Network.start(sizes, list(range(S)), cost="cross_entropy", start="scaled_normal")
    for _ in range(steps):
        for x, y in sample().batches():
            network.descend(x, y, 0.5)
    origins = tuple(Start(s + 7, Hyperparameters(etas[s % len(etas)])) for s in range(S))
    return Classifier(network, origins, DATA.classes, DATA.preprocessing)


def section_of(made: Classifier, diverged: int = 0, data: PictureSet = DATA) -> Any:
    costs = [0.2 + 0.01 * s for s in range(made.network.starts)]
    return valleys.section(made, costs, diverged, data)


# ---------------------------------------------------------------- the section


def strict(data: Any) -> str:
    return json.dumps(data, allow_nan=False, separators=(",", ":"))


def test_the_section_tells_all_kept_starts_apart() -> None:
    found = section_of(model(5, steps=60, etas=(0.5, 0.25)), diverged=2)
    names = [row[0] for row in found.data["starts"]]
    assert names[0] == "seed 7, eta 0.5 itself, shuffled"
    assert sorted(names[1:]) == ["seed 10, eta 0.25", "seed 11, eta 0.5", "seed 8, eta 0.25", "seed 9, eta 0.5"]
    _, _, before, after, verdict = found.data["starts"][0]
    assert before > found.data["limit"] and (after, verdict) == (0, RENUMBERED)
    assert found.values["check"][1] == "0"
    after = [row[3] for row in found.data["starts"][1:]]
    assert after == sorted(after)
    assert sum(count for _, count in found.values["counts"]) == 4
    assert found.values["counts"][RENUMBERED][1] == [row[4] for row in found.data["starts"][1:]].count(RENUMBERED)
    # The curves lie in the order of the rows.
    made, again = model(5, steps=60, etas=(0.5, 0.25)), found.data["starts"][2]
    s = names.index(again[0]) and next(s for s in range(5) if again[0].startswith(f"seed {s + 7},"))
    curves = np.frombuffer(base64.b64decode(found.data["curves"]), "<f4").reshape(5, 2, 19)
    wanted = lines(made.network.pick([0]), [made.network.pick([s])], sample(), 21)
    np.testing.assert_allclose(curves[2], torch.cat([wanted.as_is, wanted.renumbered])[:, 1:-1], rtol=1e-6)
    assert again[1] == pytest.approx(float(wanted.as_is[0, -1]), rel=1e-3)


def test_one_start_alone_and_one_without_hidden_nodes() -> None:
    alone = section_of(model(1, steps=60), diverged=3)
    assert alone.values["histogram"] is None and len(alone.data["starts"]) == 1
    page = render([alone], "one")
    assert "One start alone" in page and "another 3 diverged" in page and "Only one start was kept" in page
    bare = section_of(model(1, sizes=(36, 3)))
    assert bare.data is None and "Is there a hill" not in render([bare], "none")
    flat = section_of(model(3, sizes=(36, 3), steps=60))
    assert [row[4] for row in flat.data["starts"]] == [SAME, SAME], "without hidden layers the hill has one valley"
    assert "no hidden nodes" in render([flat], "flat")


def test_a_start_whose_cost_overflows_is_told_of_and_makes_no_nan() -> None:
    made = model(4, steps=60)
    for p in made.network.parameters:
        p[2] = p[2].sign() * 3e38
    found = section_of(made)
    rows = {row[0]: row for row in found.data["starts"]}
    assert rows["seed 9"][1:] == [None, None, None, ANOTHER]
    assert "NaN" not in strict(found.data) and "nan" not in strict(found.data)
    assert rows["seed 8"][2] is not None
    for p in made.network.parameters:
        p[0] = p[0].sign() * 3e38
    worst = section_of(made)
    assert {row[4] for row in worst.data["starts"]} == {ANOTHER} and not worst.values["learned"]
    assert "no better than guessing" in render([worst], "worst")


def test_the_histogram_stands_any_costs() -> None:
    for costs in ([1.0, 1.0, 1.0], [0.1, 1e30, math.inf], [0.0, 0.0], [1e-30, 1e-3], [0.2] + [0.3] * 9999):
        drawn = valleys.section(model(1), costs, 0, DATA).values["histogram"]
        assert f"chosen: {valleys.short(costs[0])}" in drawn


def test_a_thousand_starts_stay_small() -> None:
    assert len(strict(section_of(model(1001, sizes=(36, 3, 3))).data)) < 150_000
    assert len(strict(section_of(model(301, sizes=(36, 3, 3))).data)) < 150_000


# ---------------------------------------------------------------- the page, in a browser


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "valleys.html"
    path.write_text(render([section_of(model(9, steps=60), diverged=1)], "valleys"), encoding="utf-8")
    return path


def texts(found: list[WebElement]) -> list[str]:
    return [element.text for element in found]


def click(shown: Any, element: WebElement) -> None:
    shown.execute_script("arguments[0].scrollIntoView({ block: 'center', behavior: 'instant' })", element)
    element.click()


def curve(browser: Any, which: int) -> list[float]:
    """Heights of a curve of the chart."""
    drawn = browser.find_element("css selector", f"#valley-chart svg .curve.w{which}").get_attribute("d")
    return [float(point.split()[1]) for point in drawn[1:].split("L")]


@pytest.mark.slow
def test_another_start_can_be_chosen_by_mouse_and_keyboard(browser: Any, path: Path) -> None:
    shown = opened(browser, path)
    find = lambda selector: shown.find_elements("css selector", selector)  # noqa: E731
    said = lambda: shown.find_element("id", "valley-said").text  # noqa: E731
    rows = find("#valley-list tbody tr")
    assert len(rows) == 9 and said().startswith("seed 7 itself, shuffled: as it is, a hill of ")
    assert "renumbered, no hill (0)." in said()
    assert max(curve(shown, 1)) - min(curve(shown, 1)) < 0.5, "the shuffled copy, renumbered: level ground"
    assert max(curve(shown, 0)) - min(curve(shown, 0)) > 20
    before = curve(shown, 0)

    click(shown, rows[4])
    assert said().startswith(rows[4].find_element("tag name", "bdi").text + ": ")
    assert curve(shown, 0) != before and len(curve(shown, 0)) == 21
    assert texts(find("#valley-list tr.shown td"))[1] in said()

    ActionChains(shown).send_keys(Keys.ARROW_DOWN).perform()
    assert find("tr.shown") == [rows[5]] and shown.switch_to.active_element.get_attribute("value") == "5"
    ActionChains(shown).send_keys(Keys.ARROW_UP, Keys.ARROW_UP).perform()
    assert find("tr.shown") == [rows[3]]
    assert said().startswith(rows[3].find_element("tag name", "bdi").text + ": ")
    assert console(shown) == []


@pytest.mark.slow
def test_the_slider_reads_the_cost_at_a_place(browser: Any, path: Path) -> None:
    shown = opened(browser, path)
    shown.find_element("id", "valley-place").send_keys(Keys.HOME)
    own = section_of(model(9, steps=60)).data["own"]
    here = shown.find_element("id", "valley-here")
    assert here.text == f"100 % chosen, 0 % the other: cost {own:g}, renumbered {own:g}."
    shown.find_element("id", "valley-place").send_keys(Keys.ARROW_RIGHT)
    assert here.text.startswith("95 % chosen, 5 % the other: cost ") and f"cost {own:g}," not in here.text


@pytest.mark.slow
def test_the_histogram_marks_the_chosen_one(browser: Any, path: Path) -> None:
    shown = opened(browser, path)
    drawing = shown.find_element("css selector", ".valley-histogram svg")
    assert drawing.is_displayed() and "chosen: 0.2" in drawing.text
    assert "All 9 starts" in shown.find_element("id", "valleys").text
    assert "Another 1 diverged" in shown.find_element("id", "valleys").text


@pytest.mark.slow
def test_it_fits_a_phone_and_shows_names_as_text(browser: Any, path: Path, tmp_path: Path) -> None:
    for width in (320, 390, 1400):
        shown = opened(browser, path, width=width, dark=width == 390)
        assert shown.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        chart = shown.find_element("css selector", "#valley-chart svg")
        assert 200 < chart.size["width"] < width
    made = model(4, steps=60)
    for p in made.network.parameters:
        p[2] = p[2].sign() * 3e38
    (tmp_path / "overflow.html").write_text(render([section_of(made)], "overflow"), encoding="utf-8")
    shown = opened(browser, tmp_path / "overflow.html")
    for row in shown.find_elements("css selector", "#valley-list tbody tr"):
        click(shown, row)
        assert "NaN" not in shown.find_element("css selector", "#valley-chart").get_attribute("innerHTML")
    assert "a hill of ∞" in shown.find_element("id", "valley-said").text
    assert console(shown) == []
