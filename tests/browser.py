"""Pages in a real browser: headless Chromium, in which whatever reaches the console fails the test."""

import base64
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pypdfium2 import PdfDocument
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver

from launching import BOUND

AXE = Path(sys.prefix, "node_modules/axe-core/axe.min.js")
CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")

CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
"""A camera that shows a moving pattern, and a user who lets every page use it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    """Headless Chromium with a mouse and a camera; skipped with a reason where there is none."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium with its chromedriver on this machine (Debian: chromium, chromium-driver)")
    with started() as driver:
        yield driver


@contextmanager
def started() -> Iterator[WebDriver]:
    """The same outside of a test."""
    assert CHROMIUM and DRIVER
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--force-device-scale-factor=1", *CAMERA):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def opened(browser: WebDriver, path: Path, width: int = 1400, height: int = 900, dark: bool = False) -> WebDriver:
    """The browser with a page open, all of whose sections have started."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    console(browser)
    browser.get(path.absolute().as_uri())
    browser.execute_script("document.querySelectorAll('section').forEach((s) => hillstart.open(s.id))")
    assert console(browser) == []
    return browser


def console(browser: WebDriver) -> list[str]:
    """What the page has written to the console, or was refused, since this was last asked."""
    return [entry["message"] for entry in browser.get_log("browser")]


def on_paper(browser: WebDriver) -> PdfDocument:
    """The page as printed on A4."""
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    return PdfDocument(base64.b64decode(printed["data"]))


def barriers(browser: WebDriver) -> list[tuple[str, list[str]]]:
    """The rules of axe-core that the page breaks now, each with the elements; skips where there is no axe-core."""
    if not AXE.is_file():
        pytest.skip("no axe-core (npm install --no-save --prefix .venv axe-core)")
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    browser.set_script_timeout(BOUND)
    return browser.execute_async_script(
        "const [done] = arguments;"
        "axe.run().then(({ violations }) => done(violations.map(({ id, nodes }) => [id, nodes.map((of) => of.html)])))"
    )


def photograph(browser: WebDriver, path: Path, of: str = "html") -> None:
    """The first element of this selector, however long, as a PNG with a margin of 20 pixels left and right."""
    clip = browser.execute_script(
        "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return {x: r.x + scrollX - 20, y: r.y + scrollY, width: r.width + 40, height: r.height, scale: 1}",
        of,
    )
    asked = {"captureBeyondViewport": True, "format": "png", "clip": clip}
    path.write_bytes(base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", asked)["data"]))
