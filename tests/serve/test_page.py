"""The page of the server in a browser."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from browser import browser as browser
from browser import console
from hillstart.inference.classifier import Classifier
from hillstart.inference.loading import load
from hillstart.serve.batching import Service
from serving import picture, running, until, write_model

HOSTILE = ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "10", "2")


DROP = """
const [name, type, base64] = arguments;
const data = new DataTransfer();
data.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name, { type }));
for (const kind of ["dragover", "drop"])
  document.getElementById("zone").dispatchEvent(
    new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
"""


PASTE = DROP.replace("DragEvent", "ClipboardEvent").replace("dataTransfer", "clipboardData")
PASTE = PASTE.replace('["dragover", "drop"]', '["paste"]')


class Page:
    """The page of a server, in the browser."""

    def __init__(self, browser: Any, port: int):
        self.browser = browser
        browser.get(f"http://127.0.0.1:{port}/")
        until(lambda: "networks vote" in self.text("about"))

    def text(self, element: str) -> str:
        return str(self.browser.find_element("id", element).text)

    def script(self, code: str, *arguments: object) -> Any:
        return self.browser.execute_script(code, *arguments)

    def choose(self, path: Path) -> None:
        self.browser.find_element("id", "file").send_keys(str(path))

    def give(self, script: str, content: bytes) -> None:
        self.script(script, "given.jpg", "image/jpeg", base64.b64encode(content).decode())


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[tuple[Page, Classifier]]:
    asked = load(write_model(tmp_path / "hostile.safetensors", HOSTILE, 16))
    with running(Service(asked, max_bytes=100_000)) as (port, _):
        yield Page(browser, port), asked


def pictures_by_label(asked: Classifier) -> dict[str, bytes]:
    """For each class a picture that is called so."""
    found = {asked.predict(picture(seed)).label: picture(seed) for seed in range(200)}
    assert set(found) == set(HOSTILE)
    return found


@pytest.mark.slow
def test_a_picture_that_is_chosen_dropped_or_pasted_is_answered_beside_it(
    page: tuple[Page, Classifier], tmp_path: Path
) -> None:
    shown, asked = page
    assert shown.text("about").startswith("<script>alert(1)</script>, <img src=x onerror=alert(1)>, 10 or 2?")
    ways: list[Callable[[bytes], None]] = [
        lambda content: (tmp_path / "chosen.jpg").write_bytes(content) and shown.choose(tmp_path / "chosen.jpg"),
        lambda content: shown.give(DROP, content),
        lambda content: shown.give(PASTE, content),
        lambda content: shown.give(DROP, content),
    ]
    for give, (label, content) in zip(ways, pictures_by_label(asked).items(), strict=True):
        give(content)
        until(lambda label=label: shown.text("label") == label)
        expected = asked.predict(content)
        count = round(16 * expected.agreement)
        assert shown.text("probability") == f"{100 * expected.probability:.1f}%"
        assert shown.text("agreement") == f"{count} of 16 networks say {label}."
        assert len(shown.browser.find_elements("css selector", "#dots .agrees")) == count
        bars = [row.text.split("\n")[0] for row in shown.browser.find_elements("css selector", "#classes li")]
        assert bars == list(expected.probabilities)
        assert bool(shown.text("unsure")) == expected.unsure
        assert shown.text("uncalibrated").startswith("Not calibrated")
        until(lambda: shown.script("return document.getElementById('shown').naturalWidth") == 64)
        assert label in shown.script("return document.getElementById('spoken').textContent")
    assert shown.script("return document.querySelectorAll('#answer script, #answer img').length") == 0
    assert console(shown.browser) == []


@pytest.mark.slow
def test_a_picture_that_is_taken_is_answered(page: tuple[Page, Classifier]) -> None:
    shown, _ = page
    shown.script("document.getElementById('camera').click()")
    until(lambda: shown.script("return document.activeElement.id") == "camera-take")
    shown.script("window.stream = document.getElementById('camera-video').srcObject")
    shown.script("document.getElementById('camera-take').click()")
    until(lambda: shown.text("label") in HOSTILE)
    assert not shown.script("return window.stream.active")
    assert console(shown.browser) == []


@pytest.mark.slow
def test_the_page_says_what_is_wrong(page: tuple[Page, Classifier], tmp_path: Path) -> None:
    shown, asked = page
    (tmp_path / "notes.txt").write_text("no picture")
    shown.choose(tmp_path / "notes.txt")
    until(lambda: shown.text("error") == "notes.txt: is not a picture; give a file such as PNG, JPEG or WebP.")
    until(lambda: shown.text("invited") == "This browser cannot show that file.")
    shown.give(DROP, bytes(100_001))
    until(lambda: shown.text("error") == "given.jpg: the file is too large; choose one of at most 0.1 MB.")
    (label, content), *_ = pictures_by_label(asked).items()
    shown.give(DROP, content)
    until(lambda: shown.text("label") == label and not shown.text("error"))
    assert all("400 (Bad Request)" in message for message in console(shown.browser)), "the browser's own messages"


@pytest.mark.slow
def test_the_page_can_be_used_by_keyboard_and_on_a_phone(page: tuple[Page, Classifier]) -> None:
    shown, asked = page
    shown.script("document.body.focus()")
    webdriver.ActionChains(shown.browser).send_keys(Keys.TAB).perform()
    assert shown.script("return document.activeElement.id") == "file"
    assert shown.script("return getComputedStyle(document.getElementById('zone')).outlineStyle") == "solid"
    for width in (320, 390, 1400):
        shown.browser.set_window_size(width, 800)
        shown.give(DROP, picture(1))
        until(lambda: shown.text("label") == asked.predict(picture(1)).label)
        assert shown.script("return document.documentElement.scrollWidth <= innerWidth")
