"""Predictions and the networks that make them are shown at a prompt and in a notebook."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd

from hillstart.inference.prediction import MOST_SHOWN, Opinion, Prediction, Predictions
from stored import whole

OPINIONS = (Opinion(3, "lion", 0.9), Opinion(1, "lion", 0.8), Opinion(2, "duck", 0.6), Opinion(0, "lion", 0.7))
SURE = Prediction("a.png", "lion", 0.75, {"lion": 0.75, "duck": 0.25}, 0.75, False, OPINIONS)
HOSTILE = "<script>alert('x')</script>&\n"


class Cells(HTMLParser):
    """The text of each cell, and the tags."""

    def __init__(self, text: str):
        super().__init__()
        self.cells, self.tags = list[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def test_a_prediction_is_one_line() -> None:
    assert repr(SURE) == "Prediction('a.png', 'lion' 0.750, 3 of 4 starts agree)"
    alone = SURE._replace(path=None, opinions=OPINIONS[:1], agreement=1.0, unsure=True, calibrated=False)
    assert repr(alone) == "Prediction('lion' 0.750, 1 of 1 start agree, unsure, not calibrated)"
    assert repr(SURE._replace(path=HOSTILE)).isprintable()


def test_a_notebook_shows_bars_of_the_classes_and_of_the_pictures() -> None:
    shown = SURE._repr_html_()
    assert Cells(shown).cells == ["class", "probability", "lion", "0.750", "duck", "0.250"]
    assert re.findall(r"width: (\d+)%", shown) == ["75", "25"]
    many = Predictions([SURE, SURE._replace(path=None)])
    of_one = ["lion", "0.750", "3 of 4 starts agree"]
    assert Cells(many._repr_html_()).cells[4:] == ["a.png", *of_one, "number 1", *of_one]
    assert len(Cells(Predictions([SURE] * (MOST_SHOWN + 5))._repr_html_()).cells) == 4 * (MOST_SHOWN + 1)
    assert "and 5 more" in Predictions([SURE] * (MOST_SHOWN + 5))._repr_html_()


def test_names_of_strangers_are_text() -> None:
    hostile = SURE._replace(path=HOSTILE, label=HOSTILE, probabilities={HOSTILE: 1.0})
    names = (HOSTILE, "b", "c")
    for shown in (hostile, Predictions([hostile]), replace(whole(), classes=names)):
        found = Cells(shown._repr_html_())
        assert not found.tags & {"script"} and any(HOSTILE in cell for cell in found.cells)


def test_predictions_are_rows_of_a_data_frame() -> None:
    assert pd.DataFrame(Predictions([SURE]))["label"].tolist() == ["lion"]


def test_a_classifier_tells_its_starts_classes_and_accuracy() -> None:
    for part in (
        "Network(3 starts of [36, 5, 3]",
        "classes a, b, c;",
        "6 x 6 pixels in grey",
        "accuracy 0.9 for the best",
    ):
        assert part in repr(whole())
    assert Cells(whole()._repr_html_()).cells[-1] == "0.9 for the best start, median 0.9"
    assert "validation accuracy 0.8)" in repr(whole().only(10**9 + 1))
    assert "accuracy" not in repr(replace(whole(), val_accuracies=None))
