"""How good it is: the matrix, the pictures behind it, the mistakes; and how the starts learned."""

import base64
import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from selenium.webdriver.common.keys import Keys

from browser import console
from hillstart.data.dataset import PictureSet
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference.calibration import before_and_after
from hillstart.inference.classifier import Classifier
from hillstart.inference.voting import Calibration
from hillstart.network import Network
from hillstart.report import box, learning, quality
from hillstart.report.page import render
from hillstart.system.statistics import accuracy_interval
from made import blobs
from report.conftest import Show

HOSTILE = "<b onclick=alert(1)>"


@pytest.fixture(scope="module")
def data() -> PictureSet:
    return replace(blobs(), classes=("a", HOSTILE, "c"))


@pytest.fixture(scope="module")
def classifier(data: PictureSet) -> Classifier:
    network = Network.start([36, 5, 3], range(4), start="scaled_normal")
    origins = tuple(Start(seed, Hyperparameters(0.5)) for seed in range(4))
    return Classifier(network, origins, data.classes, data.preprocessing, Calibration(0.7, (0.7,) * 4))


@pytest.fixture(scope="module")
def summary(classifier: Classifier, data: PictureSet) -> dict[str, Any]:
    outputs = classifier.network.forward(data.preprocessing.normalise(data.test.x))[-1]
    calibration = before_and_after(outputs, data.test.y, 0.7)
    return {
        "test_accuracy": 0.5,
        "vote_test_accuracy": 0.6,
        "test_standard_error": 0.07,
        "calibration": {"temperature": 0.7, "val": calibration, "test": calibration},
    }


def test_counts_and_pictures_are_those_of_the_vote(
    classifier: Classifier, data: PictureSet, summary: dict[str, Any]
) -> None:
    section = quality.section(classifier, data, summary)
    m = (
        sum(classifier.network.pick([s]).forward(data.preprocessing.normalise(data.test.x))[-1][0] for s in range(4))
        / 4
    )
    answers, p = m.argmax(-1), (m ** (1 / 0.7)) / (m ** (1 / 0.7)).sum(-1, keepdim=True)
    counts = [[int(((data.test.y == a) & (answers == b)).sum()) for b in range(3)] for a in range(3)]
    assert section.values["counts"] == counts
    assert sum(map(sum, counts)) == len(data.test.y)
    sheet = np.array(Image.open(io.BytesIO(base64.b64decode(section.values["sheet"].split(",")[1]))))
    shown = 0
    for cell, cards in section.data["cells"].items():
        a, b = map(int, cell.split(","))
        members = ((data.test.y == a) & (answers == b)).nonzero().flatten()
        order = members[p.max(-1).values[members].argsort(descending=True, stable=True)]
        assert len(cards) == min(counts[a][b], quality.PICTURES_OF_CELL)
        for card, i in zip(cards, order.tolist(), strict=False):
            picture = sheet[6 * card["y"] : 6 * card["y"] + 6, 6 * card["x"] : 6 * card["x"] + 6]
            assert np.array_equal(picture, data.test.x[i, 0].numpy())
            assert (card["truth"], card["answer"]) == (data.classes[a], data.classes[b])
            assert card["sure"] == pytest.approx(float(p[i].max()), abs=1e-4)
            shown += 1
    assert shown > 20
    mistakes = section.values["mistakes"]
    wrong = (answers != data.test.y).nonzero().flatten()
    assert [card["sure"] for card in mistakes] == pytest.approx(
        sorted(p.max(-1).values[wrong].tolist(), reverse=True)[: quality.MISTAKES], abs=1e-4
    )


def test_colour_pictures_come_out_as_they_are(data: PictureSet) -> None:
    x = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    sheet = np.array(Image.open(io.BytesIO(quality._sheet(x))))
    assert sheet.shape == (4, 4 * quality.COLUMNS, 3)
    for k in range(5):
        assert np.array_equal(sheet[:, 4 * k : 4 * k + 4], x[k].permute(1, 2, 0).numpy())


@pytest.mark.slow
def test_a_cell_shows_its_pictures(
    show: Show, classifier: Classifier, data: PictureSet, summary: dict[str, Any]
) -> None:
    section = quality.section(classifier, data, summary)
    page = show(section)
    cells, counts = page.find_elements("css selector", ".cell"), section.values["counts"]
    assert [int(cell.text) for cell in cells] == [n for row in counts for n in row if n]
    for cell in cells:
        page.execute_script("arguments[0].focus()", cell)
        cell.send_keys(Keys.ENTER)
        a, b = map(int, (cell.get_attribute("data-cell") or "").split(","))
        shown = page.find_elements("css selector", "#behind .sprite")
        assert len(shown) == min(counts[a][b], quality.PICTURES_OF_CELL)
        heading = page.find_element("css selector", "#behind h4").text
        assert heading.startswith(f"{counts[a][b]} picture") and data.classes[a] in heading
        assert cell.get_attribute("aria-pressed") == "true"
    assert console(page) == []


def test_curves_of_starts_that_ended_keep_their_last_figures() -> None:
    curves = np.array([[3.0, 2, 1], [5, 4, np.nan], [7, np.nan, np.nan]])
    assert learning.fill_forward(curves).tolist() == [[3, 2, 1], [5, 4, 4], [7, 7, 7]]


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (0.5, 0.1, "makes the outputs more truthful"),
        (0.1, 0.5, "makes the outputs less truthful"),
        (0.142, 0.180, "it cannot be told"),
        (0.180, 0.142, "it cannot be told"),
    ],
)
def test_a_sentence_on_the_temperature_follows_its_figures(
    classifier: Classifier, data: PictureSet, summary: dict[str, Any], before: float, after: float, sentence: str
) -> None:
    test = {
        when: summary["calibration"]["test"][when] | {"expected_calibration_error": error}
        for when, error in (("before", before), ("after", after))
    }
    changed = summary | {"calibration": summary["calibration"] | {"test": test}}
    page = render([quality.section(classifier, data, changed)], "quality")
    others = ("makes the outputs more truthful", "makes the outputs less truthful", "it cannot be told")
    assert [other for other in others if other in page] == [sentence]


def test_the_text_names_the_vote_only_if_there_is_one(
    classifier: Classifier, data: PictureSet, summary: dict[str, Any]
) -> None:
    page = render([quality.section(classifier, data, summary), *box.sections(classifier, data)[:1]], "quality")
    assert "answers of the vote were wrong" in page and "the chosen start, is wrong" in page
    labels = re.findall(r'<svg role="img" aria-label="([^"]+)"', page)
    assert len(labels) == len(set(labels)) == 2
    alone = replace(classifier, network=classifier.network.pick([0]), origins=classifier.origins[:1])
    page = render([quality.section(alone, data, summary), *box.sections(alone, data)[:1]], "quality")
    assert "vote" not in page.partition("</style>")[2].partition("<script")[0]


def test_an_accuracy_of_1_has_an_interval(classifier: Classifier, data: PictureSet, summary: dict[str, Any]) -> None:
    figures = quality.section(classifier, data, summary | {"test_accuracy": 1.0}).values["figures"]
    assert figures[0] == ("chosen start", 1.0, accuracy_interval(1.0, 50))
