"""The page for a class: the command writes it whole; the numbers of its neuron are those of a calculator."""

import re
import sys
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from hillstart.cli import page as command
from hillstart.report import lesson
from report.conftest import Show
from report.test_box import texts
from report.test_write import SECTIONS, SMALL


def test_the_command_trains_and_writes_one_file(
    empty_folder: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "TRAINING", [*SMALL, "starts=3"])
    monkeypatch.setattr(sys, "argv", ["page.py"])
    command.main()
    assert capsys.readouterr().out.splitlines()[-1] == "docs/index.html"
    (page,) = (path for path in tmp_path.rglob("*") if path.is_file())
    content = page.read_text()
    assert re.findall('<section id="([^"]+)"', content) == ["neuron", *SECTIONS[:-1]]
    assert content.count('class="story"') == len(SECTIONS)


def test_a_page_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["page.py", str(tmp_path / "file" / "index.html")])
    monkeypatch.setattr(command, "run", None)
    with pytest.raises(SystemExit, match="file"):
        command.main()


@pytest.mark.slow
def test_one_neuron_computes_as_a_calculator_does(show: Show) -> None:
    driver = show(lesson.neuron())
    first = ["0.5 × 2 + 0.9 × 0.2 + 0.1 × 1 = 1.28", "1.28 + 1 = 2.28", "σ(2.28) = 1 / (1 + e^−2.28) = 0.907"]
    assert texts(driver, "#neuron-lines .line") == first
    assert texts(driver, "#neuron-drawing .out") == ["0.907"]
    field = driver.find_element(By.ID, "neuron-w2")
    for typed, shown in (("-0.25", "-0.25"), ("", "0.2"), ("99", "5"), ("-1.236", "-1.24")):
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(typed or Keys.BACKSPACE, Keys.TAB)
        assert field.get_property("value") == shown
    driver.execute_script("document.querySelector('#neuron-b').previousElementSibling.focus()")
    ActionChains(driver, 0).send_keys(Keys.HOME).perform()
    below = ["0.5 × 2 + 0.9 × (−1.24) + 0.1 × 1 = −0.016", "−0.016 − 5 = −5.016"]
    assert texts(driver, "#neuron-lines .line") == [*below, "σ(−5.016) = 1 / (1 + e^5.016) = 0.007"]
    assert driver.find_element(By.ID, "neuron-b").get_property("value") == "-5"
    assert len(texts(driver, "#neuron-drawing line.minus")) == 2
    driver.find_element(By.ID, "neuron-again").click()
    assert texts(driver, "#neuron-lines .line") == first
