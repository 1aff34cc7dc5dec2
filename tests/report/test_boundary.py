"""The page of a run that learned from a table: no pictures, and the decision boundary of two columns."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hillstart.data import points, sklearn_tables
from hillstart.data.dataset import PictureSet
from hillstart.engine.starts import Hyperparameters, Start
from hillstart.inference.classifier import Classifier
from hillstart.network import Network
from hillstart.report import boundary
from hillstart.report.page import render

SMALL = ["starts=2", "trainer.max_epochs=1", "logger=none", "hydra.run.dir=run"]


def of(data: PictureSet, starts: int, hidden: tuple[int, ...] = (4,)) -> Classifier:
    network = Network.start([data.train.x.shape[1], *hidden, len(data.classes)], range(starts))
    origins = tuple(Start(s, Hyperparameters(0.1)) for s in range(starts))
    return Classifier(network, origins, data.classes, data.preprocessing)


@pytest.mark.parametrize(("starts", "hidden", "charts"), [(3, (4,), 5), (1, (4, 3), 2), (2, (), 3)])
def test_a_chart_for_the_chosen_start_the_vote_a_node_and_each_other_start(
    starts: int, hidden: tuple[int, ...], charts: int
) -> None:
    data = points.load(name="xor", rows=100)
    page = render(boundary.sections(of(data, starts, hidden), data), "a page", noun="row")
    assert page.count("<svg role") == charts
    assert ("Node hidden1." in page) == bool(hidden) and ("Vote of the" in page) == (starts > 1)


def test_the_node_with_the_largest_weights_of_those_that_cross_the_plane() -> None:
    z = torch.tensor([[-1.0, -1.0, 1.0], [1.0, 1.0, 2.0]])
    assert boundary._boldest(z, torch.tensor([[1.0, 1.0], [-2.0, 1.0], [9.0, 9.0]])) == 1


def test_other_inputs_than_two_columns_have_no_boundary() -> None:
    data = sklearn_tables.load(name="iris")
    assert boundary.sections(of(data, 2), data) == []
    two = sklearn_tables.load(name="iris", columns=["petal_length", "petal_width"])
    level = replace(two.train, x=two.train.x * torch.tensor([1.0, 0.0]))
    assert boundary.sections(of(two, 2), replace(two, train=level))


def test_training_on_a_table_writes_a_page_that_speaks_of_rows(train: Callable[..., None], tmp_path: Path) -> None:
    train("data=moons", "data.rows=60", *SMALL)
    page = (tmp_path / "run/report.html").read_text()
    assert re.findall(r'<section id="(\w+)"', page) == ["boundary", "hill", "valleys", "learning", "quality", "run"]
    text = re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]+>", "", page, flags=re.DOTALL)
    assert "picture" not in text and "learned from 38 rows" in text and "validation rows" in text
