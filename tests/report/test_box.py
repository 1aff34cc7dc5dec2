"""The sections that open the network: the page computes what Python does, for any picture, and shows names as text."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from browser import browser as browser
from browser import console
from hillstart.data.augment import Augment
from hillstart.data.dataset import PictureSet, Split
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference.classifier import Classifier
from hillstart.inference.explain import ForwardPass
from hillstart.inference.voting import Calibration, probabilities
from hillstart.network import Network
from hillstart.report import box
from inference.test_classifier import noise
from launching import BOUND
from report.conftest import Show

HOSTILE = ("<script>window.run = 1</script>", '"><img src=x onerror="window.run = 1">', "lion", "a duck, " * 12)
SIZE = 8
KINDS = {
    "sigmoid": {"hidden": [40], "activation": "sigmoid", "cost": "cross_entropy", "channels": 1},
    "tanh": {"hidden": [9, 6], "activation": "tanh", "cost": "log_likelihood", "channels": 3},
    "relu": {"hidden": [7], "activation": "relu", "cost": "quadratic", "channels": 1},
    "none": {"hidden": [], "activation": "sigmoid", "cost": "log_likelihood", "channels": 1},
}
ETA = 0.3
Page = Callable[[str], tuple[WebDriver, Classifier, PictureSet]]


def made(kind: str, classes: int = 3) -> tuple[Classifier, PictureSet]:
    """Two untrained starts, and pictures of noise."""
    about: dict[str, Any] = dict(KINDS[kind])
    hidden, C = about.pop("hidden"), about.pop("channels")
    preprocessing = Preprocessing(SIZE, C, background=40, mean=(0.4,) * C, std=(0.3,) * C)
    network = Network.start([C * SIZE**2, *hidden, classes], range(2), start="scaled_normal", **about)
    starts = tuple(Start(s, Hyperparameters(ETA)) for s in range(2))
    x = torch.from_numpy(noise(3, 120, C, SIZE, SIZE))
    split = Split(x, torch.arange(120) % classes)
    names = HOSTILE[:classes]
    data = PictureSet(split, split, split, names, preprocessing, Augment.preset("none", SIZE), "made up")
    return Classifier(network, starts, names, preprocessing, Calibration(0.5, (0.7, 0.9))), data


@pytest.fixture
def page(show: Show) -> Page:
    """The page of a kind of network, open."""

    def page(kind: str, **view: int) -> tuple[WebDriver, Classifier, PictureSet]:
        classifier, data = made(kind)
        return show(*box.sections(classifier, data), **view), classifier, data

    return page


def way(classifier: Classifier, pixels: torch.Tensor) -> ForwardPass:
    return ForwardPass(replace(classifier, network=classifier.network.pick([0])), pixels)


def seen(browser: WebDriver) -> torch.Tensor:
    """The pixels that the page shows now."""
    pixels = browser.execute_script("return [...hillstart.box().seen]")
    return torch.tensor(pixels, dtype=torch.uint8).view(-1, SIZE, SIZE)


def texts(browser: WebDriver, selector: str) -> list[str]:
    """The text of these elements, whether in view or not."""
    script = "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)"
    return browser.execute_script(script, selector)


def in_thousandths(shown: str) -> int:
    return round(1000 * float(shown.replace("−", "-")))


# ---------------------------------------------------------------- which pictures


def test_pictures_are_spread_over_the_classes_and_over_each(monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.tensor([2] * 50 + [0] * 3 + [1] * 50)
    chosen = box.spread(y, 13)
    assert y[chosen].tolist() == [0, 1, 2] * 3 + [1, 2] * 2
    assert chosen[y[chosen] == 2].tolist() == [0, 10, 20, 30, 40]
    assert sorted(box.spread(y, 500).tolist()) == list(range(103))
    classifier, data = made("tanh")
    monkeypatch.setattr(box, "PICTURE_BYTES", 10 * 3 * SIZE**2 + 5)
    own = [("<b>.png", torch.zeros(3, SIZE, SIZE, dtype=torch.uint8))]
    found = box.sections(classifier, data, own)[0].data["shown_pictures"]
    assert [(shown["name"], shown["label"]) for shown in found[:2]] == [("<b>.png", None), ("Test picture 1", 0)]
    assert len(found) == 1 + 10


def test_one_draws_on_what_the_borders_are() -> None:
    x = torch.zeros(2, 1, 6, 6, dtype=torch.uint8)
    x[..., 1:-1, 1:-1] = 255
    assert (box.paper(x), box.paper(255 - x)) == (0, 255)


# ---------------------------------------------------------------- the same numbers as in Python


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_goes_through_the_network_as_python_does(page: Page, kind: str) -> None:
    driver, classifier, data = page(kind)
    outputs, shares = driver.execute_script(
        "const box = hillstart.box(); const found = [];"
        "box.shown_pictures.forEach((_, k) => { box.show(box.pixels(k), { name: 'x', label: null });"
        "  found.push([box.run.a.slice(1).map((a) => [...a]), box.probabilities]); });"
        "return [found.map(([a]) => a), found.map(([, p]) => p)];"
    )
    x = data.test.x[box.spread(data.test.y, 100)]
    a = classifier.network.pick([0]).forward(classifier.preprocessing.normalise(x))
    assert len(outputs) == 100
    for l in range(len(KINDS[kind]["hidden"]) + 1):
        of_layer = torch.tensor([of_picture[l] for of_picture in outputs])
        assert (of_layer - a[l + 1][0]).abs().max() < 1e-5
    assert (torch.tensor(shares) - probabilities(a[-1][0], 0.7)).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_and_its_steps_are_those_of_python(page: Page, kind: str) -> None:
    driver, classifier, data = page(kind)
    script = (
        "const box = hillstart.box(), m = hillstart.maths; box.show(box.pixels(4), { name: 'x', label: 2 });"
        "const layers = box.net.w.map((w, l) => Array.from(w, (_, k) => m.gradient(box.run, box.delta,"
        "  { l, i: Math.floor(k / box.net.sizes[l + 1]), j: k % box.net.sizes[l + 1] })));"
        "const edge = { l: 0, i: 5, j: 1 };"
        "return { layers, delta: box.delta.map((d) => [...d]), cost: m.cost(box.net, box.run, box.y),"
        "  with: m.costWith(box.net, box.run, box.y, edge, 0.25),"
        "  same: m.costWith(box.net, box.run, box.y, edge, box.weight(edge)),"
        "  after: m.costAfter(box.net, box.run, box.delta, box.y, arguments[0]) };"
    )
    found = driver.execute_script(script, ETA)
    pixels = data.test.x[box.spread(data.test.y, 100)][4]
    network = way(classifier, pixels).network
    x = classifier.preprocessing.normalise(pixels.unsqueeze(0)).double()
    y = torch.tensor([[0.0, 0, 1]], dtype=torch.float64)
    nabla_w, nabla_b = network.gradient(x, y)
    for l, (w, b) in enumerate(zip(nabla_w, nabla_b, strict=True)):
        assert torch.allclose(torch.tensor(found["layers"][l]).double(), w.flatten(), rtol=1e-6, atol=1e-12)
        assert torch.allclose(torch.tensor(found["delta"][l]).double(), b.flatten(), rtol=1e-6, atol=1e-12)
    cost = float(network.evaluate(x, y)[0])
    assert (found["cost"], found["same"]) == (pytest.approx(cost, rel=1e-12), pytest.approx(cost, rel=1e-12))
    changed = network.pick([0])
    changed.w[0][0, 5, 1] = 0.25
    assert found["with"] == pytest.approx(float(changed.evaluate(x, y)[0]), rel=1e-12)
    network.descend(x, y, ETA)
    assert found["after"] == pytest.approx(float(network.evaluate(x, y)[0]), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_arithmetic_reads_as_in_the_terminal(page: Page, kind: str) -> None:
    driver, classifier, data = page(kind)
    driver.execute_script("const box = hillstart.box(); box.show(box.pixels(7), { name: 'x', label: 1 });")
    of_picture = way(classifier, data.test.x[box.spread(data.test.y, 100)][7])
    for l in range(len(of_picture.z)):
        for j in (0, len(of_picture.z[l]) - 1):
            driver.execute_script("hillstart.box().chooseNode(...arguments)", l, j)
            assert texts(driver, "#node-name") == [of_picture.name(l, j)]
            assert texts(driver, "#node-lines .line") == of_picture.lines_of(l, j)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
def test_each_page_of_products_adds_up(page: Page, kind: str) -> None:
    driver, classifier, _ = page(kind)
    driver.execute_script("hillstart.box().chooseNode(0, 2)")
    inputs, products = classifier.network.sizes[0], list[int]()
    while True:
        of_page = [in_thousandths(shown) for shown in texts(driver, "#terms tbody td:nth-child(3)")]
        *parts, whole = [in_thousandths(shown) for shown in texts(driver, "#terms tfoot td.number")]
        assert sum(parts) == whole and parts[0] == sum(of_page)
        products += of_page
        after = driver.find_element(By.ID, "terms-after")
        if not after.is_enabled():
            break
        driver.execute_script("arguments[0].click()", after)
    assert len(products) == inputs
    assert abs(sum(products) - whole) <= 0.5 * (inputs + 2)


# ---------------------------------------------------------------- pictures of one's own


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_a_file_becomes_the_pixels_that_python_reads(page: Page, tmp_path: Path, kind: str) -> None:
    """Pictures that must be cut, made smaller, made larger, or neither; one that is clear and one that is turned."""
    driver, classifier, _ = page(kind)
    shapes = {"wide": (40, 91, 3), "high": (53, 30), "small": (5, 6, 3), "same": (SIZE, SIZE), "strip": (SIZE, 31, 3)}
    for name, shape in (shapes | {"clear": (20, 24, 4)}).items():
        Image.fromarray(noise(len(name), *shape)).save(tmp_path / f"{name}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = np.kron(noise(9, 3, 4, 3), np.ones((16, 16, 1), dtype=np.uint8))
    Image.fromarray(photo).save(tmp_path / "turned.png", exif=exif)
    for path in tmp_path.glob("*.png"):
        driver.execute_script("window.before = hillstart.box().seen")
        driver.find_element(By.ID, "own-file").send_keys(str(path))
        wait(driver, "return hillstart.box().seen !== window.before")
        difference = (seen(driver).int() - read_picture(path, classifier.preprocessing).int()).abs().max()
        assert difference <= (2 if path.stem == "clear" else 1), path.name
        assert texts(driver, "#answer")[0].startswith(f"{path.name}: the network says ")
    assert console(driver) == []


def wait(driver: WebDriver, script: str) -> None:
    WebDriverWait(driver, BOUND, 0.02).until(lambda driver: driver.execute_script(script))


@pytest.mark.slow
def test_a_dropped_picture_changes_every_section(page: Page, tmp_path: Path) -> None:
    driver, _, _ = page("relu")
    everything = ("#answer", "#node-lines", "#cost-lines", "#edge-lines", "#steps")
    before = [texts(driver, selector) for selector in everything]
    drop = (
        "const move = new DataTransfer(); move.items.add(new File([new Uint8Array(arguments[1])], arguments[0]));"
        "document.querySelector('#circles').dispatchEvent("
        "  new DragEvent('drop', { dataTransfer: move, bubbles: true, cancelable: true }));"
    )
    Image.fromarray(noise(21, 30, 20)).save(tmp_path / "a.png")
    driver.execute_script(drop, "<img>.png", list((tmp_path / "a.png").read_bytes()))
    wait(driver, "return hillstart.box().shown.name === '<img>.png'")
    after = [texts(driver, selector) for selector in everything]
    assert all(one != other for one, other in zip(before, after, strict=True))
    driver.execute_script(drop, "notes.txt", [1, 2, 3])
    wait(driver, "return !document.querySelector('#no-picture').hidden")
    assert texts(driver, "#no-picture") == [
        "notes.txt: this browser cannot read it as a picture; choose a PNG or JPEG."
    ]
    assert [texts(driver, selector) for selector in everything] == after


@pytest.mark.slow
def test_a_drawing_is_answered_stroke_by_stroke_and_can_be_cleared(page: Page) -> None:
    driver, classifier, data = page("sigmoid")
    driver.find_element(By.ID, "draw").click()
    canvas = driver.find_element(By.ID, "canvas")
    ActionChains(driver, 20).move_to_element(canvas).click_and_hold().move_by_offset(80, 60).release().perform()
    wait(driver, "return hillstart.box().shown.name === 'Your drawing'")
    ink = 255 - box.paper(data.test.x)
    drawn = seen(driver)
    assert abs(int(drawn[0, SIZE // 2, SIZE // 2]) - ink) < 128
    assert int(drawn[0, 0, 0]) == 255 - ink
    a = classifier.network.pick([0]).forward(classifier.preprocessing.normalise(drawn.unsqueeze(0)))[-1]
    assert texts(driver, "#answer strong") == [classifier.classes[int(a.argmax())]]
    driver.find_element(By.ID, "clear").click()
    assert seen(driver).unique().tolist() == [255 - ink]


@pytest.mark.slow
def test_a_picture_is_taken_and_the_camera_is_off_at_once(page: Page) -> None:
    driver, _, _ = page("sigmoid")
    before, press = seen(driver), "document.querySelector(arguments[0]).click()"
    for button, stays in (("#camera-cancel", True), ("#camera", True), ("#camera-take", False)):
        driver.execute_script(press, "#camera")
        wait(driver, "return document.activeElement.id === 'camera-take'")
        driver.execute_script("window.stream = document.querySelector('#camera-video').srcObject")
        assert driver.execute_script("return window.stream.active")
        driver.execute_script(press, button)
        ended = (
            "return [window.stream.active, document.querySelector('#camera-view').hidden, document.activeElement.id]"
        )
        assert driver.execute_script(ended) == [False, True, "camera"]
        assert torch.equal(seen(driver), before) == stays
    assert texts(driver, "#answer")[0].startswith("Your picture: the network says ")
    assert console(driver) == []


@pytest.mark.slow
@pytest.mark.parametrize(("error", "told"), [("NotAllowedError", "does not let"), ("NotFoundError", "No camera")])
def test_without_a_camera_the_page_says_why(page: Page, error: str, told: str) -> None:
    driver, _, _ = page("sigmoid")
    refuse = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', arguments[0]))"
    driver.execute_script(f"{refuse}; document.querySelector('#camera').click()", error)
    wait(driver, "return !document.querySelector('#no-picture').hidden")
    assert told in texts(driver, "#no-picture")[0]
    assert driver.execute_script("return document.querySelector('#camera-view').hidden")


@pytest.mark.slow
def test_where_no_page_may_use_a_camera_none_is_offered(page: Page, browser: WebDriver) -> None:
    hide = {"source": "Object.defineProperty(navigator, 'mediaDevices', { value: undefined })"}
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", hide)
    driver, _, _ = page("sigmoid")
    assert not driver.find_element(By.ID, "camera").is_displayed()
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


# ---------------------------------------------------------------- a reader


@pytest.mark.slow
def test_hostile_names_are_shown_and_never_run(page: Page) -> None:
    driver, _, _ = page("tanh")
    for k, name in enumerate(HOSTILE[:3]):
        driver.execute_script(
            "const box = hillstart.box(); box.want(arguments[0]); box.chooseNode(box.last, arguments[0])", k
        )
        assert texts(driver, "#node-name") == [f"output.{name}"]
    edge = driver.execute_script("return hillstart.box().edge.j")
    assert f"δ of output.{HOSTILE[edge]}" in texts(driver, "#edge-lines .line")[0]
    assert set(HOSTILE[:3]) <= set(texts(driver, "#circles title"))
    assert texts(driver, "#wanted option") == list(HOSTILE[:3])
    assert driver.execute_script("return window.run") is None
    assert driver.execute_script("return document.querySelectorAll('main img, main script').length") == 0
    assert console(driver) == []


@pytest.mark.slow
def test_the_keyboard_alone_reaches_and_opens_a_node(page: Page) -> None:
    driver, _, _ = page("sigmoid")
    keys = lambda *pressed: ActionChains(driver, 0).send_keys(*pressed).perform()  # noqa: E731
    focus = "return document.activeElement.dataset.node ?? document.activeElement.id"
    driver.execute_script("document.querySelector('#camera').focus()")
    keys(Keys.TAB)
    start = driver.execute_script(focus)
    assert start == driver.execute_script("const { l, j } = hillstart.box().node; return `${l}.${j}`")
    # Of 40 nodes 16 are drawn; the arrow keys reach every one of them.
    met = {start}
    for _ in range(39):
        keys(Keys.ARROW_DOWN)
        met.add(driver.execute_script(focus))
    assert met == {f"0.{j}" for j in range(40)}
    keys(Keys.ARROW_RIGHT)
    assert driver.execute_script(focus).startswith("1.")
    name = texts(driver, "#node-name")
    keys(Keys.ENTER)
    assert driver.execute_script(focus) == "node-name"
    assert name[0].startswith("output.")
    driver.execute_script("document.querySelector('.thumb[tabindex=\"0\"]').focus()")
    keys(Keys.ARROW_RIGHT)
    assert driver.execute_script("return [hillstart.box().shown.place, document.activeElement.ariaPressed]") == [
        1,
        "true",
    ]


@pytest.mark.slow
def test_a_line_that_is_clicked_is_the_weight_whose_gradient_is_shown(page: Page) -> None:
    driver, classifier, _ = page("relu")
    driver.execute_script("hillstart.box().chooseNode(1, 2)")
    click = (
        "const line = document.querySelector('[data-edge^=\"1.\"]');"
        "line.dispatchEvent(new MouseEvent('click', { bubbles: true })); return line.dataset.edge"
    )
    l, i, j = map(int, driver.execute_script(click).split("."))
    w = float(classifier.network.w[l][0, i, j])
    said = texts(driver, "#edge-name")[0]
    assert said.startswith(f"From hidden1.{i + 1} to output.{HOSTILE[j]}: w = ")
    assert float(said.split(" = ")[-1].replace("−", "-")) == pytest.approx(w, rel=1e-5)
    # The nudge agrees with backpropagation at a middling h, and with none at all once w + h is w.
    for k, least, most in ((0, 1e-9, 1), (5, 0, 1e-9), (16, 1e-9, 1)):
        driver.execute_script(
            "const h = document.querySelector('#h'); h.value = arguments[0]; h.dispatchEvent(new Event('input'))", k
        )
        shown = texts(driver, "#they-differ")[0].replace("−", "-")
        assert least <= float(shown) <= most, k


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_it_fits_a_phone(page: Page, kind: str) -> None:
    driver, _, _ = page(kind, width=390)
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    circles = len(texts(driver, "[data-node^='0.']"))
    assert circles == 8 or circles == KINDS[kind]["hidden"][0] <= 10
