"""The page's frame: one file in a real browser, names that are no code, data that arrives as it was."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from selenium.webdriver.chrome.webdriver import WebDriver

from browser import console, opened
from hillstart.report import charts, page
from hillstart.report.page import Section, data_bytes, floats, render

HOSTILE = '</script><script>window.run = 1</script><img src=x onerror="window.run = 1">'


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The frame, beside templates of two sections made for these tests."""
    for path in page.PARTS.glob("page.*"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "first.html").write_text('<p class="said">{{ said }}</p><p class="heard"></p><p class="numbers"></p>')
    (tmp_path / "first.js").write_text(
        "const said = 1;"
        "hillstart.section('first', (root, data) => {"
        "  root.querySelector('.heard').append(hillstart.html('b', { title: data.said }, data.said));"
        "  root.querySelector('.numbers').append([...hillstart.floats(data.floats)].join(), ' ', "
        "    [...hillstart.bytes(data.bytes)].join(), ' ', hillstart.number(-0.00001234, 2));"
        "});"
    )
    (tmp_path / "second.html").write_text("{{ chart }}<p style='height: 200vh'></p>")
    (tmp_path / "second.js").write_text("const said = 2; hillstart.section('second', () => (window.beganAs = said));")
    monkeypatch.setattr(page, "PARTS", tmp_path)
    return tmp_path


def sections(said: str = HOSTILE) -> list[Section]:
    numbers = {
        "floats": floats(torch.tensor([[1.5, -2.0], [0.25, 3e-8]]).T),
        "bytes": data_bytes(np.array([0, 7, 255])),
    }
    figure, (axes,) = charts.figure(3, 2)
    axes.plot([0, 1], color=charts.CHOSEN)
    axes.set_title(said)
    drawn = charts.svg(figure, said)
    return [
        Section("first", said, said, {"said": said}, {"said": said, **numbers}),
        Section("second", "The second", "Look.", {"chart": drawn}, []),
    ]


@pytest.mark.slow
def test_names_are_shown_and_never_run_and_numbers_arrive_as_they_were(browser: WebDriver, parts: Path) -> None:
    path = parts / "page of a <b> run?.html"
    path.write_text(render(sections(), HOSTILE, HOSTILE))
    opened(browser, path)
    text = lambda selector: browser.find_element("css selector", selector).get_attribute("textContent")  # noqa: E731
    assert browser.execute_script("return window.run") is None
    assert browser.title == HOSTILE
    for selector in ("h1", ".lead", "h2", ".look", ".said", ".heard"):
        assert text(selector) == HOSTILE
    assert browser.find_element("css selector", "#second svg").get_attribute("aria-label") == HOSTILE
    assert HOSTILE in (text("#second svg") or "")
    assert browser.find_elements("css selector", "img, main script") == []
    floats_, bytes_, number = (text("#first .numbers") or "").split(" ")
    assert np.float32(floats_.split(",")).tolist() == np.float32([1.5, 0.25, -2, 3e-8]).tolist()
    assert (bytes_, number) == ("0,7,255", "−1.2e−5")


@pytest.mark.slow
def test_a_section_far_from_the_view_starts_by_itself(browser: WebDriver, parts: Path) -> None:
    far = '<p style="height: 500vh"></p><section id="second"'
    (parts / "far.html").write_text(render(sections(""), "far").replace('<section id="second"', far))
    browser.get((parts / "far.html").as_uri())
    started = "const done = arguments[0]; setTimeout(() => done(window.beganAs), 500)"
    assert browser.execute_async_script(started) == 2
    assert browser.execute_script("return scrollY") == 0
    assert console(browser) == []


@pytest.mark.slow
def test_another_script_is_not_run(browser: WebDriver, parts: Path) -> None:
    text = render(sections(), "x").replace("</main>", "<script>window.run = 1</script></main>")
    (parts / "forged.html").write_text(text)
    browser.get((parts / "forged.html").as_uri())
    assert browser.execute_script("return window.run") is None
    assert any("Content Security Policy" in line for line in console(browser))


def test_what_is_no_number_is_no_data(parts: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        render([Section("first", "a", "b", {"said": ""}, {"cost": math.nan})], "x")


def test_charts_have_the_colours_of_the_page_or_their_own() -> None:
    def line() -> Figure:
        figure, (axes,) = charts.figure(3, 2)
        axes.plot([0, 1], color=charts.CHOSEN)
        return figure

    drawn = charts.svg(line(), "a line")
    assert "var(--ball)" in drawn and not [colour for colour in charts.COLOURS if colour in drawn]
    assert charts.svg(line(), "a line") == drawn
    alone = charts.alone(line())
    assert "var(" not in alone and charts.COLOURS[charts.CHOSEN][1] in alone
