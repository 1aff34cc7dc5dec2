"""Cuts through the loss landscape are the costs of real networks, and the page shows them and rolls the ball."""

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from browser import console
from hillstart.data.batches import Sample
from hillstart.inference.classifier import Classifier
from hillstart.network import Network
from hillstart.report.hill import BALLS, FRAMES, section_of
from hillstart.report.landscape import HIGHEST, Landscape, flat, locate, plane_of_path, plane_through, square
from hillstart.report.paths import Paths, retrain
from launching import BOUND
from made import blobs
from report.conftest import Show
from report.test_paths import run_spec

HOSTILE = '"><script>alert(1)</script>'


def hill(sizes: list[int], cost: str = "quadratic", activation: str = "sigmoid") -> tuple[Landscape, Network]:
    """A landscape over made-up pictures, and four of its points as networks."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.rand(40, sizes[0], generator=g), torch.eye(sizes[-1])[torch.arange(40) % sizes[-1]]
    network = Network.start(sizes, range(4), activation, cost)
    return Landscape(network, x, y), network


def by_hand(of: Landscape, points: torch.Tensor) -> torch.Tensor:
    """The costs of flat points, each by a network of its own, in float64."""
    costs = []
    for point in points.double():
        w, b, first = [], [], 0
        shapes = list(itertools.pairwise(of.sizes))
        for shape in shapes:
            w.append(point[first : first + math.prod(shape)].view(1, *shape))
            first += math.prod(shape)
        for _, m in shapes:
            b.append(point[first : first + m].view(1, m))
            first += m
        assert first == len(point)
        costs.append(Network(w, b, of.activation, of.cost).evaluate(of.x.double(), of.y.double())[0].mean())
    return torch.stack(costs)


KINDS = [
    ([9, 4, 3], "quadratic", "sigmoid"),
    ([9, 3], "log_likelihood", "sigmoid"),
    ([9, 5, 4, 3, 2], "cross_entropy", "tanh"),
    ([9, 6, 4, 3], "log_likelihood", "relu"),
]


@pytest.mark.parametrize(("sizes", "cost", "activation"), KINDS)
def test_a_cut_has_the_costs_of_networks_there(sizes: list[int], cost: str, activation: str) -> None:
    of, network = hill(sizes, cost, activation)
    points = flat(network)
    torch.testing.assert_close(of.costs(points).double(), by_hand(of, points), rtol=1e-5, atol=1e-6)
    plane = plane_through(*points[:3])
    assert plane is not None
    grid = square((-3.0, -2.0), 9.0, 13)
    chosen = torch.randperm(len(grid), generator=torch.Generator().manual_seed(2))[:12]
    there = plane.origin + grid[chosen] @ plane.axes
    cut = plane.costs(of, grid)
    torch.testing.assert_close(cut[chosen].double(), by_hand(of, there), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("sizes", "cost", "activation"), KINDS)
def test_along_one_weight_all_others_stay(sizes: list[int], cost: str, activation: str) -> None:
    of, network = hill(sizes, cost, activation)
    points = flat(network)[:2]
    P = points.shape[1]
    indices = [0, 7, P - 1, P - sizes[-1], P - sum(sizes[1:]), P - sum(sizes[1:]) - 1, P // 2]
    values = torch.linspace(-4, 4, 5).repeat(len(indices), 1)
    costs = of.along(points, indices, values)
    for s, point in enumerate(points):
        for k, index in enumerate(indices):
            moved = point.repeat(5, 1)
            moved[:, index] = values[k]
            torch.testing.assert_close(costs[s, k].double(), by_hand(of, moved), rtol=1e-4, atol=1e-5)


def test_every_index_finds_its_weight() -> None:
    network = Network.start([4, 3, 2], [5])
    for index, value in enumerate(flat(network)[0]):
        l, i, j = locate(network.sizes, index)
        assert value == (network.b[l][0, j] if i is None else network.w[l][0, i, j])
    with pytest.raises(IndexError):
        locate(network.sizes, index + 1)


def test_three_ends_lie_in_their_plane_at_their_costs() -> None:
    of, network = hill([9, 4, 3])
    points = flat(network)
    plane = plane_through(*points[:3])
    assert plane is not None
    torch.testing.assert_close(plane.axes @ plane.axes.T, torch.eye(2), rtol=0, atol=1e-6)
    at = plane.coordinates(points)
    assert at[0].tolist() == [0, 0] and abs(at[1, 1]) < 1e-5 and at[1, 0] > 0 and at[2, 1] > 0
    off = plane.distance(points)
    assert off[:3].max() < 1e-5
    torch.testing.assert_close(plane.costs(of, at[:3]), of.costs(points[:3]), rtol=1e-5, atol=1e-6)
    # Pythagoras: a point, its shadow and the origin.
    torch.testing.assert_close(off[3] ** 2 + at[3].norm() ** 2, (points[3] - points[0]).norm() ** 2)
    assert plane_through(points[0], points[1], 2 * points[1] - points[0]) is None
    assert plane_through(points[0], points[0], points[1]) is None


def test_the_plane_along_a_path_holds_what_it_says() -> None:
    _, network = hill([9, 4, 3])
    u, v, w, end = flat(network)
    t = torch.linspace(1, 0, 9)[:, None]
    path = end + 3 * t * u + t**2 * v
    found = plane_of_path(path, end)
    assert found is not None and found[1] == pytest.approx(1, abs=1e-6)
    plane = found[0]
    assert plane.distance(path).max() < 1e-4 and plane.coordinates(path)[0].max() < 0 and path.shape == (9, len(end))
    third = path + 2 * t**3 * w
    found = plane_of_path(third, end)
    assert found is not None
    left = found[0].distance(third).square().sum() / (third - end).square().sum()
    assert 1 - found[1] == pytest.approx(left.item(), rel=1e-3) and left > 1e-5
    assert plane_of_path(end + t * u, end) is None and plane_of_path(end[None], end) is None


def test_the_feeling_is_the_mean_of_squared_slopes() -> None:
    of, network = hill([9, 4, 3], "cross_entropy")
    one = network.pick([2])
    slopes = []
    for x, y in zip(of.x, of.y, strict=True):
        w, b = one.gradient(x[None], y[None])
        slopes.append(torch.cat([t.flatten() for t in (*w, *b)]))
    expected = torch.stack(slopes).square().mean(0)
    torch.testing.assert_close(of.fisher_diagonal(flat(one)[0]), expected, rtol=1e-4, atol=1e-9)


def test_a_cost_beyond_all_measure_is_still_a_number() -> None:
    of, network = hill([9, 4, 3], "log_likelihood", "relu")
    point = flat(network)[0]
    costs = of.mixtures(torch.stack([point, point * 1e30]), torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1e30]]))
    assert costs.isfinite().all() and costs[2] == HIGHEST
    assert costs[0] == pytest.approx(of.costs(point[None]).item())


# ---------------------------------------------------------------- the section


@pytest.fixture(scope="module")
def made() -> tuple[Classifier, Paths]:
    of = run_spec(4)
    paths = retrain(of, of.starts, of.starts, 12)
    like = Landscape(of.begin([0]), torch.zeros(1, 36), torch.zeros(1, 3))
    classes = ("a", HOSTILE, "c")
    return Classifier(like.network(paths.best_weights), tuple(of.starts), classes, of.data.preprocessing), paths


def test_the_section_shows_true_costs(made: tuple[Classifier, Paths]) -> None:
    classifier, paths = made
    data = blobs()
    built = section_of(classifier, paths, data)
    shown: Any = built.data
    assert len(json.dumps(shown, allow_nan=False)) < 250_000
    x, y = next(Sample(data.train, 3, data.preprocessing, torch.device("cpu"), limit=1000).batches())
    of = Landscape(classifier.network, x, y)
    assert [int(epoch) for epoch in shown["epochs"]] == list(range(13))
    for s in range(BALLS):
        torch.testing.assert_close(torch.tensor(shown["costs"][s]), of.costs(paths.weights[:, s]), rtol=1e-4, atol=0)
    assert [view["name"] for view in shown["views"]] == ["Path of seed 0", "Three valleys"]
    assert len({weight["name"] for weight in shown["weights"]}) == len(shown["weights"]) >= 5
    assert built.values["drift"] == 0.0


def test_what_is_not_there_is_not_shown(made: tuple[Classifier, Paths]) -> None:
    classifier, paths = made
    one = replace(classifier, network=classifier.network.pick([0]), origins=classifier.origins[:1])
    diverged = replace(paths, weights=paths.weights * math.nan)
    for of, known, views in (
        (classifier, None, ["Three valleys"]),
        (one, paths, ["Path of seed 0"]),
        (one, None, []),
        (classifier, diverged, ["Three valleys"]),
    ):
        built = section_of(of, known, blobs(), "It would take too long.")
        assert [view["name"] for view in built.data["views"]] == views
        assert built.values["moving"] == (known is paths)


def test_a_long_training_is_thinned_but_keeps_its_ends_and_best(made: tuple[Classifier, Paths]) -> None:
    classifier, paths = made
    weights = paths.weights[torch.linspace(0, 12, 301).long()]
    long = replace(paths, weights=weights, epochs=tuple(range(301)), best=(211, 300, 17, 300), last=(300, 300, 40, 300))
    shown = section_of(classifier, long, blobs()).data
    epochs = [int(epoch) for epoch in shown["epochs"]]
    assert len(epochs) <= FRAMES + BALLS and epochs[:4] == [0, 1, 2, 3] and epochs[-1] == 300
    assert [epochs[k] for k in shown["best"]] == [211, 300, 17]


# ---------------------------------------------------------------- in a browser


@pytest.fixture
def page(show: Show, made: tuple[Classifier, Paths]) -> WebDriver:
    """The page after the ball, which rolls by itself when it is first seen, has come to its end."""
    page = show(section_of(*made, blobs()))
    wait_for_end(page)
    return page


def wait_for_end(page: WebDriver) -> None:
    slider, button = page.find_element(By.ID, "hill-epoch"), page.find_element(By.ID, "hill-play")
    WebDriverWait(page, BOUND, 0.05).until(lambda _: slider.get_attribute("value") == "12" and button.text == "Play")


def ball(page: WebDriver, of: str) -> tuple[float, float]:
    mark = page.find_element(By.CSS_SELECTOR, f"#hill-{of} .hill-ball")
    return float(mark.get_attribute("cx") or "nan"), float(mark.get_attribute("cy") or "nan")


@pytest.mark.slow
def test_the_ball_rolls_when_played_and_stops_at_the_end(page: WebDriver) -> None:
    end = ball(page, "curve"), ball(page, "plane")
    button, slider = page.find_element(By.ID, "hill-play"), page.find_element(By.ID, "hill-epoch")
    clock = "window.requestAnimationFrame = (step) => { window.step = step; return 1; }"  # the test's own
    page.execute_script(clock)
    button.send_keys(Keys.SPACE)
    assert button.text == "Pause"
    page.execute_script("step(0); step(700)")
    assert 2 <= int(slider.get_attribute("value") or 0) < 12
    assert ball(page, "curve") != end[0] and ball(page, "plane") != end[1]
    button.send_keys(Keys.SPACE)
    still = ball(page, "plane")
    page.execute_script("step(1400)")
    assert button.text == "Play" and ball(page, "plane") == still
    button.send_keys(Keys.SPACE)
    page.execute_script("step(0); step(60000)")
    wait_for_end(page)
    assert (ball(page, "curve"), ball(page, "plane")) == end
    assert console(page) == []


@pytest.mark.slow
def test_the_keys_move_the_balls_and_words_follow(page: WebDriver, made: tuple[Classifier, Paths]) -> None:
    slider = page.find_element(By.ID, "hill-epoch")
    points = {(ball(page, "curve"), ball(page, "plane"))}
    for _ in range(3):
        slider.send_keys(Keys.ARROW_LEFT)
        points.add((ball(page, "curve"), ball(page, "plane")))
    assert len(points) == 4
    slider.send_keys(Keys.HOME)
    shown: Any = section_of(*made, blobs()).data
    assert page.find_element(By.ID, "hill-now").text == "epoch 0 of 12"
    assert page.find_element(By.CSS_SELECTOR, "#hill-balls td").text == f"{shown['costs'][0][0]:.3g}"
    assert slider.get_attribute("aria-valuetext") == f"epoch 0 of 12, cost {shown['costs'][0][0]:.3g}"


@pytest.mark.slow
def test_another_weight_is_another_line_with_the_ball_on_it(page: WebDriver) -> None:
    curves = set()
    choice = Select(page.find_element(By.ID, "hill-weight"))
    page.find_element(By.ID, "hill-epoch").send_keys(Keys.HOME)
    assert any(HOSTILE in option.text for option in choice.options)  # a class name, shown and never run
    for option in range(len(choice.options)):
        choice.select_by_index(option)
        points = page.find_element(By.CSS_SELECTOR, ".hill-curve").get_attribute("points") or ""
        curves.add(points)
        line = [tuple(map(float, point.split(","))) for point in points.split(" ")]
        x, y = ball(page, "curve")
        (x0, y0), (x1, y1) = next((a, b) for a, b in itertools.pairwise(line) if a[0] <= x <= b[0])
        assert y == pytest.approx(y0 + (y1 - y0) * (x - x0) / (x1 - x0), abs=1.5)
    assert len(curves) == len(choice.options)


@pytest.mark.slow
def test_the_other_plane_has_three_balls(page: WebDriver) -> None:
    picture = "return document.querySelector('#hill-plane canvas').toDataURL()"
    first = page.execute_script(picture)
    buttons = page.find_elements(By.CSS_SELECTOR, "[data-view]")
    buttons[1].send_keys(Keys.ENTER)
    assert [b.get_attribute("aria-pressed") for b in buttons] == ["false", "true"]
    assert len(page.find_elements(By.CSS_SELECTOR, "#hill-plane .hill-ball")) == BALLS
    assert page.execute_script(picture) != first
    assert "Half-way" in page.find_element(By.ID, "hill-words").text


@pytest.mark.slow
def test_narrow_screens_hold_it_and_who_wants_no_motion_gets_none(page: WebDriver) -> None:
    reduced = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": reduced})
    view = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
    page.refresh()
    page.execute_script("hillstart.open('hill')")
    button, slider = page.find_element(By.ID, "hill-play"), page.find_element(By.ID, "hill-epoch")
    for _ in range(5):
        assert (button.text, slider.get_attribute("value")) == ("Play", "12")
        page.execute_async_script("setTimeout(arguments[0], 60)")
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
def test_without_paths_the_page_says_why(show: Show, made: tuple[Classifier, Paths]) -> None:
    page = show(section_of(made[0], None, blobs(), "It <would> take too long."))
    assert "It <would> take too long." in page.find_element(By.ID, "hill").text
    assert page.find_elements(By.ID, "hill-play") == []
    assert len(page.find_elements(By.CSS_SELECTOR, "#hill-plane .hill-ball")) == BALLS
