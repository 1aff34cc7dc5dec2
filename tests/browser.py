"""Pages in a real browser: headless Chromium, in which whatever reaches the console fails the test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    """Headless Chromium with a mouse; skipped with a reason where there is none."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with its chromedriver on this machine (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--force-device-scale-factor=1"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield started
    finally:
        started.quit()


def opened(browser: WebDriver, path: Path, width: int = 1400, height: int = 900, dark: bool = False) -> WebDriver:
    """The browser with a page open, all of whose sections have started."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    console(browser)
    browser.get(path.absolute().as_uri())
    browser.execute_script("document.querySelectorAll('section').forEach((s) => hillstart.open(s.id))")
    assert console(browser) == []
    return browser


def console(browser: WebDriver) -> list[str]:
    """What the page has written to the console, or was refused, since this was last asked."""
    return [entry["message"] for entry in browser.get_log("browser")]


def photograph(browser: WebDriver, path: Path) -> None:
    """The whole page, however long, as a PNG."""
    import base64

    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
    path.write_bytes(base64.b64decode(shot["data"]))
