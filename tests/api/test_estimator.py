"""The estimator follows scikit-learn's rules, and trains as the commands do."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import hillstart
from hillstart import StartsClassifier
from hillstart.api import estimator
from hillstart.data.preprocessing import Standardisation
from hillstart.inference.loading import load
from hillstart.network import Network

QUICK = {"hidden": (8,), "starts": 3, "epochs": 10}


@pytest.fixture(scope="module")
def iris() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_iris(return_X_y=True)
    return X, y


@pytest.mark.slow
@parametrize_with_checks([StartsClassifier(hidden=(8,), starts=2, epochs=20)])
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
def test_search_validation_and_pipeline_over_processes(iris: tuple[np.ndarray, np.ndarray]) -> None:
    model = StartsClassifier(hidden=(8,), starts=4, epochs=40)
    assert cross_val_score(make_pipeline(MinMaxScaler(), model), *iris, cv=3, n_jobs=2).mean() > 0.9
    search = GridSearchCV(model, {"eta": [1e-6, 0.1], "hidden": [(), (8,)]}, cv=2, n_jobs=2).fit(*iris)
    assert search.best_params_["eta"] == 0.1


@pytest.mark.parametrize("labels", [["setosa", "versicolor", "virginica"], [-1, 7, 30], [False, True, True]])
def test_labels_of_any_kind_come_back_also_from_a_file(
    iris: tuple[np.ndarray, np.ndarray], labels: list[Any], tmp_path: Path
) -> None:
    X, y = iris
    y = np.array(labels)[y]
    model = StartsClassifier(**QUICK, keep=2).fit(X, y)
    assert model.classes_.dtype == y.dtype and list(model.classes_) == sorted(set(labels))
    assert model.score(X, y) > 0.6
    model.save(tmp_path / "model.safetensors")
    loaded = StartsClassifier.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert loaded.predict(X).dtype == y.dtype
    assert (loaded.predict(X) == model.predict(X)).all()
    assert loaded.network_.starts == 2
    with pytest.raises(hillstart.InputError, match="is not 4 numbers"):
        load(tmp_path / "model.safetensors").predict(torch.zeros(3, 4, 4, dtype=torch.uint8))


def test_it_trains_the_network_of_the_theory(iris: tuple[np.ndarray, np.ndarray]) -> None:
    """One start, one mini-batch of all rows an epoch: the same as `Network.descend` by hand, on standardised rows."""
    X, y = iris
    model = StartsClassifier(
        **QUICK | {"starts": 1}, momentum=0, eta=0.5, lmbda=0.1, batch_size=1000, schedule="constant", seed=5
    ).fit(X, y)
    held_out = estimator._held_out(torch.tensor(y), 0.2, 5)
    rest = [k for k in range(len(y)) if k not in held_out.tolist()]
    inputs = Standardisation(tuple("abcd")).fitted(torch.tensor(X[rest])).normalise(torch.tensor(X[rest]))
    targets = torch.nn.functional.one_hot(torch.tensor(y[rest]), 3).float()
    begin = partial(Network.start, [4, 8, 3], activation="sigmoid", cost="cross_entropy", start="scaled_normal")
    by_hand = begin([5])
    for _ in range(model.best_.epochs):
        by_hand.descend(inputs, targets, eta=0.5, lmbda=0.1, n=len(rest))
    for p, q in zip(model.network_.parameters, by_hand.parameters, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_every_start_and_epoch_is_told(iris: tuple[np.ndarray, np.ndarray]) -> None:
    model = StartsClassifier(**QUICK, eta=[0.1, 0.3], seed=4).fit(*iris)
    assert sorted(zip(model.starts_["eta"], model.starts_["seed"], strict=True)) == [
        (eta, seed) for eta in (0.1, 0.3) for seed in (4, 5, 6)
    ]
    assert model.starts_["val_cost"].is_monotonic_increasing
    assert len(model.history_) == 6 * 10
    best = model.history_.groupby(["seed", "eta"])["val_cost"].min().min()
    assert best == model.best_.val_cost == model.starts_["val_cost"][0]
    assert set(model.history_.columns) >= {"seed", "epoch", "train_cost", "val_cost", "val_accuracy", "eta"}


def test_all_starts_are_kept_if_asked_for(iris: tuple[np.ndarray, np.ndarray]) -> None:
    of = {"hidden": (2,), "epochs": 1, "starts": 9, "eta": [0.1, 0.3]}
    kept = [StartsClassifier(**of, keep=keep).fit(*iris).network_.starts for keep in (None, "all")]
    assert kept == [16, 18]


def test_a_list_of_seeds_gives_a_start_each(iris: tuple[np.ndarray, np.ndarray]) -> None:
    of = {key: value for key, value in QUICK.items() if key != "starts"}
    row, listed = (
        StartsClassifier(**of, **seeds).fit(*iris) for seeds in ({"seed": 4, "starts": 3}, {"seed": (6, 4, 5)})
    )
    pd.testing.assert_frame_equal(listed.starts_, row.starts_)
    for p, q in zip(listed.network_.parameters, row.network_.parameters, strict=True):
        assert torch.equal(p, q)
    apart = StartsClassifier(**of, seed=[11, 4]).fit(*iris)
    assert sorted(apart.starts_["seed"]) == [4, 11]
    assert apart.history_[apart.history_["seed"] == 4]["val_cost"].to_numpy() == pytest.approx(
        row.history_[row.history_["seed"] == 4]["val_cost"].to_numpy()
    )


def test_columns_of_a_data_frame_keep_their_names_and_their_scale_does_not_matter() -> None:
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    model = StartsClassifier(**QUICK).fit(X, y)
    assert model.classifier_.preprocessing.input_names == list(X.columns)
    moved = StartsClassifier(**QUICK).fit(X * 1e6 + 1e9, y)
    assert (moved.predict(X * 1e6 + 1e9) == model.predict(X)).mean() > 0.99
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X[X.columns[::-1]])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"eta": -1}, "eta is -1"),
        ({"activation": "sigmod"}, "activation is 'sigmod'"),
        ({"cost": "mse"}, "cost is 'mse'"),
        ({"hidden": (0,)}, r"hidden is \[0\]"),
        ({"epochs": 0}, "epochs is 0"),
        ({"starts": 0}, "starts is 0"),
        ({"keep": "every"}, "keep is 'every'"),
        ({"seed": [3, 3]}, r"seed is \[3, 3\]"),
        ({"seed": [3, 7]}, "starts is 3, but seed lists 2"),
        ({"val_fraction": 2}, "val_fraction is 2"),
        ({"device": "gpu7"}, "device is 'gpu7'"),
        ({"device": "cuda"}, "^device is cuda"),
        ({"eta": 1e30}, "every start diverged"),
    ],
)
def test_what_cannot_be_used_is_named(
    options: dict[str, Any], named: str, iris: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=named):
        StartsClassifier(**QUICK | options).fit(*iris)


def test_few_rows_and_a_class_of_one_row_are_trained() -> None:
    X = pd.DataFrame({"a": [0, 0, 1, 1, 5], "b": [0, 1, 0, 1, 5]})
    model = StartsClassifier(hidden=(4,), starts=2, epochs=5).fit(X, ["x", "y", "y", "x", "z"])
    assert list(model.classes_) == ["x", "y", "z"]


def test_the_answer_to_a_row_does_not_depend_on_the_others(iris: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = iris
    model = StartsClassifier(**QUICK).fit(X[::-1], y[::-1])  # torch reads no array backwards
    together = model.predict_proba(X)
    np.testing.assert_allclose(np.vstack([model.predict_proba(row[None]) for row in X]), together, rtol=1e-12)
    np.testing.assert_allclose(model.predict_proba(X[::-1])[::-1], together, rtol=1e-12)
