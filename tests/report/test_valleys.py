"""The cost along straight lines, verdicts whose answer is known, and the section on the valleys in a real browser."""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from browser import console
from hillstart.data.batches import Sample
from hillstart.data.dataset import PictureSet, Split
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference.classifier import Classifier
from hillstart.network import ACTIVATIONS, COSTS, Momentum, Network
from hillstart.report import valleys
from hillstart.report.landscape import Landscape
from hillstart.report.matching import shuffled
from hillstart.report.page import render
from hillstart.report.valleys import ANOTHER, RENUMBERED, SAME, Lines, barriers, cost_of_guessing, lines
from made import blobs
from report.conftest import Show

DATA = blobs()
SIZES = {1: [36, 3], 2: [36, 6, 3], 3: [36, 6, 5, 3]}


def landscape(network: Network, data: PictureSet = DATA) -> Landscape:
    sample = Sample(data.train, len(data.classes), data.preprocessing, torch.device("cpu"))
    return Landscape(network, *next(sample.batches()))


# ---------------------------------------------------------------- the cost along a line


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("layers", SIZES)
def test_the_cost_along_a_line_is_that_of_the_networks_on_it(layers: int, cost: str, activation: str) -> None:
    here, there = (
        Network.start(SIZES[layers], [seed], activation, cost, "scaled_normal", dtype=torch.float64) for seed in (0, 1)
    )
    of = landscape(here)
    of.x, of.y = of.x.double(), of.y.double()
    (found,) = lines(here, [there], of, 6).as_is
    for k, t in enumerate(torch.linspace(0, 1, 6).double()):
        w, b = (
            [(1 - t) * p + t * q for p, q in zip(*ends, strict=True)] for ends in ((here.w, there.w), (here.b, there.b))
        )
        wanted = Network(w, b, activation, cost).evaluate(of.x, of.y)[0].mean()
        torch.testing.assert_close(found[k], wanted, rtol=1e-6, atol=0)


def test_a_barrier_is_the_height_above_the_interpolation_of_the_ends() -> None:
    inf = math.inf
    costs = torch.tensor([[1, 2, 3.0], [1, 3.5, 3], [2, 1, 0.5], [0, 5, 2], [1, inf, 1], [1, 1, inf], [inf, inf, inf]])
    assert barriers(costs.double()).tolist() == [0, 1.5, 0, 4, inf, inf, inf]


@pytest.mark.parametrize("cost", COSTS)
def test_no_other_constant_answer_costs_less_than_guessing(cost: str) -> None:
    y = torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 0, 1, 1, 2]), 3).float()
    z = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS([z], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        descent.zero_grad()
        value = COSTS[cost].value(z.expand(7, -1), y.double()).mean()
        value.backward()
        return value

    descent.step(closure)
    assert cost_of_guessing(y, cost) == pytest.approx(closure().item(), rel=1e-6)
    assert 0 <= cost_of_guessing(y[:4], cost) < 1e-6, "of one class there is nothing to guess"


# ---------------------------------------------------------------- verdicts whose answer is known


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layers", [2, 3])
def test_a_start_after_a_few_steps_and_one_shuffled_are_in_the_same_valley(layers: int, activation: str) -> None:
    network = Network.start(SIZES[layers], [0], activation, "cross_entropy", "scaled_normal")
    of, step = landscape(network), Momentum(network, 0.9)
    for _ in range(200):
        network.descend(of.x, of.y, 0.2, step=step)
    later = network.pick([0])
    for _ in range(5):
        later.descend(of.x[:50], of.y[:50], 0.1)
    found = lines(network, [later, shuffled(network, torch.Generator().manual_seed(0))], of, 21)
    assert found.own < 0.5 * found.guess
    assert found.verdicts() == [SAME, RENUMBERED]
    before, after = found.barriers
    assert before[1] > found.limit and after[1] == 0


def test_two_ways_to_see_xor_are_two_valleys() -> None:
    """Either but not both; or one without the other, twice. On the line a node sees one input alone, and none can."""
    g = torch.Generator().manual_seed(0)
    x = torch.zeros(200, 1, 6, 6, dtype=torch.uint8)
    x[:, 0, 0, :2] = 255 * torch.randint(2, (200, 2), generator=g, dtype=torch.uint8)
    xor = replace(DATA, train=Split(x, (x[:, 0, 0, 0] == x[:, 0, 0, 1]).long()), classes=("one", "both or none"))

    def seeing(nodes: list[list[float]], leaving: list[float]) -> Network:
        w = [torch.zeros(1, 36, 2), torch.tensor([leaving]).float().T * torch.tensor([[1.0, -1.0]])]
        w[0][0, :2] = torch.tensor(nodes).float()[:, :2].T
        b = [torch.tensor(nodes).float()[:, 2].unsqueeze(0), torch.tensor([[-5.0, 5.0]])]
        return Network([w[0], w[1].unsqueeze(0)], b, "sigmoid", "cross_entropy")

    either_not_both = seeing([[10, 10, -5], [10, 10, -15]], [10, -10])
    one_without_the_other = seeing([[10, -10, -5], [-10, 10, -5]], [10, 10])
    swapped = seeing([[-10, 10, -5], [10, -10, -5]], [10, 10])
    found = lines(one_without_the_other, [either_not_both, swapped], landscape(swapped, xor), 21)
    assert found.own < 0.05 and found.as_is[0, -1] < 0.05
    assert found.verdicts() == [ANOTHER, RENUMBERED]
    assert found.barriers[1][0] > 0.5 * found.guess


def test_the_limit_is_a_share_of_the_difference_to_guessing() -> None:
    costs = torch.tensor([[0.0, 0.4, 0.0]]).double()
    found = Lines(costs, costs / 2, guess=4.0)
    assert [found.verdicts(times) for times in (0.5, 1.5, 2.5)] == [[ANOTHER], [RENUMBERED], [SAME]]
    assert Lines(costs + 5, costs + 5, guess=4.0).limit == 0, "worse than guessing there is no valley"
    assert Lines(costs * math.inf, costs, guess=4.0).limit == 0


# ---------------------------------------------------------------- the section


def classifier(S: int, sizes: Sequence[int] = (36, 6, 3), steps: int = 0, etas: Sequence[float] = (0.5,)) -> Classifier:
    network = Network.start(sizes, list(range(S)), cost="cross_entropy", start="scaled_normal")
    of = landscape(network)
    for _ in range(steps):
        network.descend(of.x, of.y, 0.5)
    origins = tuple(Start(s + 7, Hyperparameters(etas[s % len(etas)])) for s in range(S))
    return Classifier(network, origins, DATA.classes, DATA.preprocessing)


def section_of(made: Classifier, diverged: int = 0) -> Any:
    return valleys.section(made, [0.2 + 0.01 * s for s in range(made.network.starts)], diverged, DATA)


def strict(data: Any) -> str:
    return json.dumps(data, allow_nan=False, separators=(",", ":"))


def with_overflow(made: Classifier, start: int) -> Classifier:
    for p in made.network.parameters:
        p[start] = p[start].sign() * 3e38
    return made


def test_the_section_compares_all_kept_starts() -> None:
    made = classifier(5, steps=60, etas=(0.5, 0.25))
    found = section_of(made, diverged=2)
    control, *rows = found.data["starts"]
    assert control[0] == "seed 7, eta 0.5 itself, shuffled"
    assert control[2] > found.data["limit"] and control[3:] == [0, RENUMBERED] and found.values["check"][1] == "0"
    names = [row[0] for row in rows]
    assert sorted(names) == ["seed 10, eta 0.25", "seed 11, eta 0.5", "seed 8, eta 0.25", "seed 9, eta 0.5"]
    assert [row[3] for row in rows] == sorted(row[3] for row in rows)
    counts = [count for _, count in found.values["counts"]]
    assert counts == [[row[4] for row in rows].count(verdict) for verdict in (SAME, RENUMBERED, ANOTHER)]
    # The curves are in the order of the rows.
    s = int(names[1].split(",")[0].removeprefix("seed ")) - 7
    curves = np.frombuffer(base64.b64decode(found.data["curves"]), "<f4").reshape(5, 2, 19)
    wanted = lines(made.network.pick([0]), [made.network.pick([s])], landscape(made.network), 21)
    np.testing.assert_allclose(curves[2], torch.cat([wanted.as_is, wanted.renumbered])[:, 1:-1], rtol=1e-6)
    assert rows[1][1] == pytest.approx(float(wanted.as_is[0, -1]), rel=1e-3)


def test_one_start_alone_and_one_without_hidden_nodes() -> None:
    alone = section_of(classifier(1, steps=60), diverged=3)
    assert alone.values["histogram"] is None and len(alone.data["starts"]) == 1
    page = render([alone], "one")
    assert "One start alone" in page and "another 3 diverged" in page and "Only one start was kept" in page
    bare = section_of(classifier(1, sizes=(36, 3)))
    assert bare.data is None and "Is there a hill" not in render([bare], "none")
    flat = section_of(classifier(3, sizes=(36, 3), steps=60))
    assert [row[4] for row in flat.data["starts"]] == [SAME, SAME], "without hidden layers the hill has one valley"
    assert "no hidden nodes" in render([flat], "flat")


def test_a_start_whose_cost_overflows_makes_no_nan() -> None:
    made = with_overflow(classifier(4, steps=60), 2)
    found = section_of(made)
    rows = {row[0]: row for row in found.data["starts"]}
    assert rows["seed 9"][1:] == [None, None, None, ANOTHER]
    assert "nan" not in strict(found.data).lower()
    assert rows["seed 8"][2] is not None
    worst = section_of(with_overflow(made, 0))
    assert {row[4] for row in worst.data["starts"]} == {ANOTHER} and not worst.values["learned"]
    assert "no better than guessing" in render([worst], "worst")


@pytest.mark.parametrize("costs", [[1.0, 1.0], [0.1, 1e30, math.inf], [0.0, 0.0], [1e-30, 1e-3], [0.2] + [0.3] * 9999])
def test_the_histogram_is_drawn_for_any_costs(costs: list[float]) -> None:
    drawn = valleys.section(classifier(1), costs, 0, DATA).values["histogram"]
    assert f"chosen: {valleys.short(costs[0])}" in drawn


def test_many_starts_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their lines have fewer points, and starts beyond OTHERS are left out; here of fewer than in a page."""
    monkeypatch.setattr(valleys, "OTHERS", 60)
    monkeypatch.setattr(valleys, "FINE_OTHERS", 30)
    found = section_of(classifier(71, sizes=(36, 3, 3))).data
    assert (len(found["starts"]), found["points"]) == (60 + found["control"], valleys.COARSE)
    assert len(strict(found)) < 160 * 61


# ---------------------------------------------------------------- the page, in a browser


@pytest.fixture(scope="module")
def nine() -> Any:
    return section_of(classifier(9, steps=60), diverged=1)


def click(page: Any, element: Any) -> None:
    page.execute_script("arguments[0].scrollIntoView({ block: 'center', behavior: 'instant' })", element)
    element.click()


@pytest.mark.slow
def test_another_start_can_be_chosen_by_mouse_and_keyboard(show: Show, nine: Any) -> None:
    page = show(nine)
    find = lambda selector: page.find_elements("css selector", selector)  # noqa: E731
    said = lambda: page.find_element("id", "valley-said").text  # noqa: E731

    def curve(which: int) -> list[float]:
        drawn = find(f"#valley-chart svg .curve.w{which}")[0].get_attribute("d")
        return [float(point.split()[1]) for point in drawn[1:].split("L")]

    rows = find("#valley-list tbody tr")
    assert len(rows) == 9 and find("tr.shown") == [rows[1]], "another start, not the control"
    assert find("tr.control") == [rows[0]]
    click(page, rows[0])
    assert said().startswith("seed 7 itself, shuffled: as it is, a hill of ")
    assert "renumbered, no hill (0)." in said()
    assert np.ptp(curve(1)) < 0.5, "the shuffled copy, renumbered: level ground"
    before = curve(0)
    assert np.ptp(before) > 20

    click(page, rows[4])
    assert said().startswith(rows[4].find_element("tag name", "bdi").text + ": ")
    assert curve(0) != before and len(curve(0)) == 21
    assert find("#valley-list tr.shown td")[1].text in said()

    ActionChains(page).send_keys(Keys.ARROW_DOWN).perform()
    assert find("tr.shown") == [rows[5]] and page.switch_to.active_element.get_attribute("value") == "5"
    ActionChains(page).send_keys(Keys.ARROW_UP, Keys.ARROW_UP).perform()
    assert find("tr.shown") == [rows[3]]
    assert said().startswith(rows[3].find_element("tag name", "bdi").text + ": ")
    assert console(page) == []


@pytest.mark.slow
def test_the_slider_reads_costs_and_the_histogram_marks_the_chosen_one(show: Show, nine: Any) -> None:
    page = show(nine)
    slider, here, own = (
        page.find_element("id", "valley-place"),
        page.find_element("id", "valley-here"),
        nine.data["own"],
    )
    slider.send_keys(Keys.HOME)
    assert here.text == f"100 % chosen, 0 % the other: cost {own:g}, renumbered {own:g}."
    slider.send_keys(Keys.ARROW_RIGHT)
    assert here.text.startswith("95 % chosen, 5 % the other: cost ") and f"cost {own:g}," not in here.text
    assert "chosen: 0.2" in page.find_element("css selector", ".valley-histogram svg").text
    text = page.find_element("id", "valleys").text
    assert "All 9 starts" in text and "Another 1 diverged" in text


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390, 1400])
def test_it_fits_a_phone(show: Show, nine: Any, width: int) -> None:
    page = show(nine, width=width, dark=width == 390)
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert 200 < page.find_element("css selector", "#valley-chart svg").size["width"] < width


@pytest.mark.slow
def test_rows_fade_at_the_lower_edge_while_there_are_more_below(show: Show) -> None:
    page = show(section_of(classifier(24, steps=1)))
    place = (
        "const list = document.querySelector('#valley-list'), last = list.querySelector('tbody tr:last-child');"
        "const fade = parseFloat(getComputedStyle(list, '::after').height), { bottom } = list.getBoundingClientRect();"
        "list.scrollTo(0, arguments[0]); return last.getBoundingClientRect().bottom - (bottom - fade)"
    )
    assert page.execute_script(place, 0) > 100, "rows below the fade"
    assert page.execute_script(place, 1e6) <= 1, "the last row is above it"


@pytest.mark.slow
def test_an_overflow_is_shown_as_infinite(show: Show) -> None:
    page = show(section_of(with_overflow(classifier(4, steps=60), 2)))
    for row in page.find_elements("css selector", "#valley-list tbody tr"):
        click(page, row)
        chart = page.find_element("css selector", "#valley-chart")
        assert "NaN" not in (chart.get_attribute("innerHTML") or "NaN")
    assert "a hill of ∞" in page.find_element("id", "valley-said").text
    assert console(page) == []
