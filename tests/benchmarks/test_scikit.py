"""The comparison with scikit-learn: both learn the same rows, and are scored on the same others."""

import numpy as np
import pytest
import torch

from benchmarks import scikit
from hillstart.api.estimator import StartsClassifier

CPU = torch.device("cpu")


def test_both_learn_the_same_rows_and_their_scores_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[StartsClassifier] = []
    fit = StartsClassifier.fit

    def spy(self: StartsClassifier, X: np.ndarray, y: np.ndarray) -> StartsClassifier:
        models.append(fit(self, X, y))
        return models[-1]

    monkeypatch.setattr(StartsClassifier, "fit", spy)
    monkeypatch.setattr(scikit, "EPOCHS", {"digits": 20})
    (part,) = scikit.measure(CPU, starts=3, repeats=2)
    data = scikit.arrays("digits", None)
    assert data is not None and not set(data.train.tolist()) & set(data.val.tolist())
    assert len(data.train) + len(data.val) == len(data.all_y)
    # The columns are standardised by the rows that are learned.
    scaler, _ = scikit.fitted(0, data, 1)
    assert models[-1].classifier_.preprocessing.mean == pytest.approx(scaler.mean_, abs=1e-5)
    ours, theirs, by_core = part.rows
    assert theirs["test"] == by_core["test"], "the same fits, in other processes"
    for row in part.rows:
        assert row["n"] == 2 and 0 < row["low"] <= row["seconds"] <= row["high"]
        assert 0.85 < row["test_low"] <= row["test"] <= row["test_high"] <= 1 and row["vote"] > 0.9
        assert row["ratio"] == pytest.approx(row["seconds"] / ours["seconds"], rel=0.05)
    assert abs(ours["test"] - theirs["test"]) < 0.03
    assert (part.figures["train"], part.figures["classes"]) == (len(data.train), 10)


def test_few_rows_and_a_data_set_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setitem(scikit.idx.DEBIAN, "fashion_mnist", tmp_path)
    assert scikit.arrays("fashion_mnist", None) is None
    data = scikit.arrays("breast_cancer", 50)
    assert data is not None and len(data.all_y) == 50 and len(data.test_y) == 50
