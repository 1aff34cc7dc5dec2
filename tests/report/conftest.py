"""Fixtures of the tests of the page."""

from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.webdriver.chrome.webdriver import WebDriver

from browser import browser, opened  # noqa: F401 - a fixture
from hillstart.report.page import Section, render

Show = Callable[..., WebDriver]
"""Opens a page of the given sections."""


@pytest.fixture
def show(browser: WebDriver, tmp_path: Path) -> Show:  # noqa: F811
    def show(*sections: Section, **view: int) -> WebDriver:
        path = tmp_path / "report.html"
        path.write_text(render(sections, "a page"), encoding="utf-8")
        return opened(browser, path, **view)

    return show
