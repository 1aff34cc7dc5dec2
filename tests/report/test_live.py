"""The section in which networks learn: starting points and steps are those of Python; what it refuses, it names."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from browser import console
from hillstart.data.dataset import PictureSet
from hillstart.engine.starts import Start
from hillstart.inference.classifier import Classifier
from hillstart.network import ACTIVATIONS, COSTS, INITIALIZERS, Network
from hillstart.report import box, live
from hillstart.report.page import Section, floats
from hillstart.training.optimizer import SGDConfig
from hillstart.training.packs import RunSpec
from hillstart.training.stopping import EarlyStopping
from launching import BOUND
from made import blobs
from report.conftest import Show

SIZES = [36, 17, 3]
DATA = blobs()
HOSTILE = ("<script>window.run = 1</script>", '"><img src=x onerror="window.run = 1">', "lion")


def spec(data: PictureSet = DATA, sizes: Any = SIZES, **options: Any) -> RunSpec:
    """A run of two starts, seeds 7 and 4 in the order of their ranks."""
    kinds = {name: options.pop(name) for name in ("activation", "cost", "start") if name in options}
    descent = SGDConfig(**({"eta": 0.3, "batch_size": 10} | options))
    starts = [Start(seed, point) for seed in (7, 4) for point in descent.grid()]
    return RunSpec(partial(Network.start, sizes, **kinds), sizes, data, descent, EarlyStopping(), starts)


def sections(of: RunSpec) -> list[Section]:
    network = of.begin([start.seed for start in of.starts])
    classifier = Classifier(network, tuple(of.starts), of.data.classes, of.data.preprocessing, None)
    return [*box.sections(classifier, of.data), *live.sections(of, of.starts)]


# ---------------------------------------------------------------- what is in the page


def test_pictures_of_both_splits_are_there_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    (section,) = live.sections(spec(), spec().starts)
    train, val = section.data["pictures"]
    assert (len(train["y"]), len(val["y"])) == (103, 40)
    assert (section.values["eta"], section.values["batch_size"], section.data["seeds"]) == ("0.3", 10, [7, 4])
    assert {torch.tensor(train["y"]).bincount().max().item()} == {35}
    monkeypatch.setattr(live, "BYTES", 60 * 36)
    (section,) = live.sections(spec(), spec().starts)
    assert [len(of["y"]) for of in section.data["pictures"]] == [40, 20]
    monkeypatch.setattr(live, "BYTES", 29 * 36)
    assert live.sections(spec(), spec().starts) == [], "fewer than 20 training pictures"
    monkeypatch.undo()
    monkeypatch.setattr(live, "ROOM", 4 * 17 * 39 + 60 * 36)
    (section,) = live.sections(spec(), spec().starts)
    assert [len(of["y"]) for of in section.data["pictures"]] == [40, 20]
    assert live.sections(spec(sizes=[36, 170, 3]), spec().starts) == [], "a network that leaves no room"


def test_large_networks_begin_with_fewer_hidden_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WEIGHTS", 400)
    (section,) = live.sections(spec(), spec().starts)
    assert section.data["sizes"] == [36, 8, 3] and section.values["fewer"]
    assert section.data["most_weights"] == 17 * 39
    (section,) = live.sections(spec(sizes=[36, 3]), spec().starts)
    assert section.data["sizes"] == [36, 3] and not section.values["fewer"]


def test_an_optimiser_s_rate_is_not_taken_for_plain_descent() -> None:
    adam = spec(eta=0.001, optimiser=torch.optim.Adam)
    (section,) = live.sections(adam, adam.starts)
    assert section.values["eta"] == "0.1" and not section.values["plain"]


# ---------------------------------------------------------------- the same numbers as in Python


@pytest.fixture
def page(show: Show) -> Iterator[WebDriver]:
    page = show(*sections(spec()))
    yield page
    assert console(page) == []


def weights_of(net: dict[str, Any], sizes: list[int]) -> list[torch.Tensor]:
    w = [torch.tensor(of).view(n_in, -1) for of, n_in in zip(net["w"], sizes, strict=False)]
    return [*w, *map(torch.tensor, net["b"])]


def furthest(found: list[torch.Tensor], network: Network) -> float:
    """The largest difference of a weight or bias from those of the first start."""
    pairs = zip(found, network.parameters, strict=True)
    return max(float((here - there[0]).abs().max()) for here, there in pairs)


PLAIN = "const plain = ({ w, b }) => ({ w: w.map((l) => [...l]), b: b.map((l) => [...l]) });"


@pytest.mark.slow
def test_a_seed_begins_with_the_weights_that_it_has_in_python(page: WebDriver) -> None:
    several = [36, 17, 3], [4, 3, 5, 2], [30, 2]  # more and fewer than 16 numbers at a time
    for start, sizes, seed in product(INITIALIZERS, several, (0, 12345678901)):
        like = {"sizes": sizes, "start": start, "activation": "sigmoid", "cost": "quadratic"}
        script = f"{PLAIN} return plain(hillstart.descent.begun(...arguments))"
        found = weights_of(page.execute_script(script, like, seed), sizes)
        assert furthest(found, Network.start(sizes, [seed], start=start)) < 2e-6, (start, sizes, seed)


@pytest.mark.slow
def test_twenty_steps_are_those_of_python(page: WebDriver) -> None:
    for activation, cost in product(ACTIVATIONS, COSTS):
        check_twenty_steps(page, activation, cost)


def check_twenty_steps(page: WebDriver, activation: str, cost: str) -> None:
    sizes, B = [36, 9, 6, 3], 10
    network = Network.start(sizes, [3], activation, cost, "scaled_normal")
    x = DATA.preprocessing.fitted(DATA.train.x).normalise(DATA.train.x)
    y = torch.eye(3)[DATA.train.y]
    before = {"w": [floats(w[0]) for w in network.w], "b": [floats(b[0]) for b in network.b]}
    script = (
        PLAIN + "const [of, { w, b }, x, labels, B] = arguments;"
        "const wide = (text) => Float64Array.from(hillstart.floats(text)), wanted = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];"
        "const net = { ...of, w: w.map(wide), b: b.map(wide) }, rows = wide(x), n = of.sizes[0];"
        "const all = labels.map((label, k) => ({ label, x: rows.subarray(k * n, (k + 1) * n), y: wanted[label] }));"
        "for (let k = 0; k < 20; k++) hillstart.descent.descend(net, all.slice((k % 10) * B, (k % 10 + 1) * B), 0.5);"
        "const line = { i: 2, j: 1, values: [0.25, net.w[2][2 * 3 + 1]] };"
        "return [plain(net), hillstart.descent.measured(net, all, line)];"
    )
    like = {"sizes": sizes, "activation": activation, "cost": cost}
    net, measured = page.execute_script(script, like, before, floats(x), DATA.train.y.tolist(), B)
    first = [p.clone() for p in network.parameters]
    for k in range(20):
        batch = slice(k % 10 * B, (k % 10 + 1) * B)
        network.descend(x[batch], y[batch], 0.5)
    assert furthest(weights_of(net, sizes), network) < 1e-5
    assert max(float((p - q).abs().max()) for p, q in zip(network.parameters, first, strict=True)) > 0.1
    costs, outputs = network.evaluate(x, y)
    assert measured["cost"] == pytest.approx(float(costs.mean()), abs=1e-5)
    assert measured["right"] == float((outputs[0].argmax(-1) == DATA.train.y).double().mean())
    along = measured["along"]
    assert along[1] == pytest.approx(float(costs.mean()), abs=1e-5)
    network.w[2][0, 2, 1] = 0.25
    assert along[0] == pytest.approx(float(network.evaluate(x, y)[0].mean()), abs=1e-5)


# ---------------------------------------------------------------- the reader's hands


def put(page: WebDriver, selector: str, value: object) -> None:
    """Type into a field or choose in a list, as `change` tells the page."""
    script = (
        "const input = document.querySelector(arguments[0]); input.value = arguments[1];"
        "input.dispatchEvent(new Event('change'))"
    )
    page.execute_script(script, selector, str(value))


def click(page: WebDriver, selector: str) -> None:
    page.execute_script("document.querySelector(arguments[0]).click()", selector)


def until(page: WebDriver, condition: str) -> None:
    WebDriverWait(page, BOUND).until(lambda _: page.execute_script(f"return {condition}"))


def text(page: WebDriver, selector: str) -> str:
    return page.execute_script("return document.querySelector(arguments[0]).textContent", selector)


def is_at(page: WebDriver, epoch: str) -> None:
    until(page, f"document.querySelector('#live-now').textContent === 'epoch {epoch}'")


@pytest.mark.slow
def test_steps_of_all_pictures_and_the_start_opened_above_are_those_of_python(page: WebDriver) -> None:
    is_at(page, "0")
    put(page, "#live-batch", 103)
    for epoch in "123":
        click(page, "#live-step")
        is_at(page, epoch)
    x, y = DATA.preprocessing.normalise(DATA.train.x), torch.eye(3)[DATA.train.y]
    network = Network.start(SIZES, [4])
    for _ in range(3):
        network.descend(x, y, 0.3)
    row = "#live-table tbody tr:nth-child(2)"
    assert float(text(page, f"{row} [data-cell=cost]")) == pytest.approx(
        float(network.evaluate(x, y)[0].mean()), rel=2e-3
    )
    click(page, f"{row} button")
    until(page, "!document.querySelector('#network .opened').hidden")
    script = f"{PLAIN} return plain(hillstart.box().net)"
    assert furthest(weights_of(page.execute_script(script), SIZES), network) < 1e-5
    for section in ("network", "node", "gradient"):
        assert "seed 4 of “Let it learn”, after 3 epochs" in text(page, f"#{section} .opened")
    answers = network.forward(DATA.preprocessing.normalise(DATA.test.x[box.spread(DATA.test.y, 100)]))[-1][0].argmax(-1)
    assert page.execute_script("return hillstart.box().shown_pictures.map((of) => of.answer)") == answers.tolist()
    click(page, "#network .opened button")
    chosen = Network.start(SIZES, [7])
    assert furthest(weights_of(page.execute_script(script), SIZES), chosen) < 1e-6
    assert page.execute_script("return [...document.querySelectorAll('.opened')].every((said) => said.hidden)")


@pytest.mark.slow
def test_an_epoch_takes_each_picture_once_and_play_goes_on_until_it_is_stopped(page: WebDriver) -> None:
    is_at(page, "0")
    first, second = page.execute_script(
        "const { generator, shuffled } = hillstart.descent, g = generator(0);"
        "return [shuffled(103, g), shuffled(103, g)]"
    )
    assert sorted(first) == sorted(second) == list(range(103)) and first != second
    click(page, "#live-epoch")
    is_at(page, "1")
    until(page, "!document.querySelector('#live-epoch').disabled")
    click(page, "#live-play")
    until(page, "document.querySelector('#live-play').textContent === 'Play'")
    is_at(page, "30")
    assert page.execute_script("return document.querySelectorAll('#live-costs polyline').length") == 3
    assert "Stopped at epoch 30" in text(page, "#live-said")
    assert float(text(page, "#live-table [data-cell=cost]")) < 0.2


@pytest.mark.slow
def test_other_nodes_starts_and_seeds_begin_anew(page: WebDriver) -> None:
    is_at(page, "0")
    click(page, "#live-step")
    until(page, "document.querySelector('#live-now').textContent !== 'epoch 0'")
    page.execute_script("document.querySelector('#live-costs').style.width = '300px'")  # drawn anew before it is told
    put(page, ".live-hidden", 5)
    is_at(page, "0")
    assert page.execute_script("return document.querySelectorAll('#live-tiles button').length") == 5
    put(page, "#live-starts", 4)
    put(page, "#live-table tr:nth-child(3) input[type=number]", 99)
    until(page, "document.querySelectorAll('#live-table [data-cell=cost]')[3]?.textContent !== '…'")
    seeds = "return [...document.querySelectorAll('#live-table input[type=number]')].map((input) => input.value)"
    assert page.execute_script(seeds) == ["7", "4", "99", "1"]
    click(page, "#live-table tr:nth-child(3) button")
    until(page, "!document.querySelector('#network .opened').hidden")
    found = page.execute_script(f"{PLAIN} return plain(hillstart.box().net)")
    assert furthest(weights_of(found, [36, 5, 3]), Network.start([36, 5, 3], [99])) < 1e-5
    assert page.execute_script("return document.querySelector('#node-number').length") == 5
    assert page.execute_script("return document.querySelectorAll('#circles .node').length") == 5 + 3


@pytest.mark.slow
def test_a_setting_that_cannot_be_used_is_named(page: WebDriver) -> None:
    for field, value, word in (
        ("#live-eta", "0", "η"),
        ("#live-eta", "", "η"),
        ("#live-batch", "104", "mini-batch"),
        ("#live-batch", "1.5", "mini-batch"),
        (".live-hidden", "0", "hidden"),
        (".live-hidden", "9000", "weights"),
        ("#live-table input[type=number]", "-1", "seed"),
    ):
        is_at(page, "0")
        put(page, field, value)
        assert word in text(page, "#live-wrong"), (field, value)
        click(page, "#live-play")
        assert (text(page, "#live-play"), text(page, "#live-now")) == ("Play", "epoch 0")
        put(page, field, "2")
        assert text(page, "#live-wrong") == ""


@pytest.mark.slow
def test_a_cost_that_explodes_is_told(show: Show) -> None:
    page = show(*sections(spec(activation="relu", cost="log_likelihood")))
    is_at(page, "0")
    put(page, "#live-eta", 1e9)
    click(page, "#live-epoch")
    until(page, "document.querySelector('#live-wrong').textContent.includes('smaller η')")
    assert console(page) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "width", "dark"), [([36, 3], 1400, False), ([36, 4, 5, 3], 390, True), ([36, 70, 3], 320, False)]
)
def test_names_are_text_and_it_fits_the_screen(show: Show, sizes: list[int], width: int, dark: bool) -> None:
    page = show(*sections(spec(replace(DATA, classes=HOSTILE), sizes)), width=width, dark=dark)
    click(page, "#live-epoch")
    is_at(page, "1")
    assert HOSTILE[0] in text(page, "#live-weight")
    assert page.execute_script("return window.run") is None or page.execute_script(
        "return window.run instanceof Element"
    )
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.execute_script("return document.querySelectorAll('#live-tiles button').length") == min(60, sizes[1])
    assert console(page) == []
