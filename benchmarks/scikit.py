"""StartsClassifier with 16 starts in one fit against scikit-learn's MLPClassifier, one fit for each of 16 seeds.

Both learn the same rows in the same mini-batches of 32 for as many epochs: standardised float32 columns, 30 sigmoid
nodes, softmax (MLPClassifier has one sigmoid for two classes), plain gradient descent, no decay. Each draws its own
starting points and order. Theirs by core: a process with one thread on each core. The scores are accuracies, medians
over the seeds; vote: of the mean of all outputs. Fashion-MNIST is left out where it is not installed (Debian:
dataset-fashion-mnist).
"""

import os
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.timing import Part, Row, in_turns, seconds, spread
from hillstart.api.estimator import StartsClassifier
from hillstart.data import idx
from hillstart.data.dataset import Split, stratified

HIDDEN, BATCH, ETA, VAL_FRACTION = 30, 32, 0.1, 1 / 6
EPOCHS = {"digits": 30, "breast_cancer": 30, "fashion_mnist": 5}
QUICK = {"starts": 2, "repeats": 1, "rows": 300}


class Rows(NamedTuple):
    """Arrays to learn from, to choose by and to test with; `all_x` and `all_y` are the first two together."""

    all_x: np.ndarray
    all_y: np.ndarray
    train: np.ndarray
    val: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def measure(device: torch.device, starts: int = 16, repeats: int = 3, rows: int | None = None) -> Iterator[Part]:
    """Seconds and scores of both, data set by data set.

    Args:
        starts: in one fit of ours, and fits of theirs.
        rows: to learn from, to choose by and to test with at most, each; None: all.
    """
    for name, epochs in EPOCHS.items():
        data = arrays(name, rows)
        if data is not None:
            yield side_by_side(name, data, epochs, starts, repeats, device)


def side_by_side(name: str, data: Rows, epochs: int, starts: int, repeats: int, device: torch.device) -> Part:
    """The part of one data set."""
    seeds, of = range(starts), len(data.train)
    found: dict[str, Any] = {}

    def ours(epochs: int = epochs) -> None:
        options: dict[str, Any] = {"hidden": (HIDDEN,), "starts": starts, "cost": "log_likelihood", "start": "glorot"}
        options |= {"eta": ETA, "momentum": 0.0, "lmbda": 0.0, "schedule": "constant", "batch_size": BATCH}
        model = StartsClassifier(**options, epochs=epochs, val_fraction=VAL_FRACTION, keep="all", device=device.type)
        found["ours"] = model.fit(data.all_x, data.all_y)

    def theirs() -> None:
        found["theirs"] = [fitted(seed, data, epochs) for seed in seeds]

    def by_core() -> None:
        found["by core"] = pool(joblib.delayed(fitted)(seed, data, epochs, 1) for seed in seeds)

    with joblib.Parallel(os.cpu_count()) as pool:
        pool(joblib.delayed(fitted)(seed, data, 1, 1) for seed in seeds[: os.cpu_count()])  # the processes start here
        fitted(0, data, 1)
        ours(1)
        contestants = {"ours": ours, "theirs": theirs, "by core": by_core}
        taken = in_turns({key: partial(seconds, run, device) for key, run in contestants.items()}, repeats)
    labels = {"ours": "ours", "theirs": "theirs", "by core": "theirs, by core"}
    mine = np.median(taken["ours"])
    rows: list[Row] = []
    for key, label in labels.items():
        row: Row = {"contestant": label, "n": repeats} | rounded(spread(taken[key], "seconds"), 3)
        row["ratio"] = round(float(np.median(taken[key]) / mine), 2)
        of_key = scores_of_ours(found[key], data) if key == "ours" else scores_of_theirs(found[key], data)
        rows.append(row | rounded(of_key, 4))
    figures = {"train": of, "val": len(data.val), "test": len(data.test_y), "columns": data.all_x.shape[1]}
    return Part(name, rows, figures | {"classes": len(np.unique(data.all_y)), "epochs": epochs})


def rounded(row: Row, digits: int) -> Row:
    return {key: round(value, digits) for key, value in row.items()}


def fitted(seed: int, data: Rows, epochs: int, threads: int | None = None) -> Any:
    """A pair of the scaler and one MLPClassifier of theirs."""
    with warnings.catch_warnings(), threadpool_limits(threads):
        warnings.simplefilter("ignore", ConvergenceWarning)  # all epochs are trained, as ours are
        scaler = StandardScaler().fit(data.all_x[data.train])
        model = MLPClassifier(
            (HIDDEN,),
            activation="logistic",
            solver="sgd",
            alpha=0.0,
            batch_size=BATCH,
            learning_rate_init=ETA,
            momentum=0.0,
            max_iter=epochs,
            n_iter_no_change=epochs + 1,
            random_state=seed,
        )
        return scaler, model.fit(scaler.transform(data.all_x[data.train]), data.all_y[data.train])


def scores_of_ours(model: StartsClassifier, data: Rows) -> Row:
    outputs = model.classifier_.outputs(torch.from_numpy(data.test_x)).cpu().numpy()  # (S, B, classes)
    return scores(model.starts_["val_accuracy"].to_numpy(), outputs, model.classes_, data)


def scores_of_theirs(models: list[Any], data: Rows) -> Row:
    val_x, val_y = data.all_x[data.val], data.all_y[data.val]
    val = np.array([model.score(scaler.transform(val_x), val_y) for scaler, model in models])
    outputs = np.stack([model.predict_proba(scaler.transform(data.test_x)) for scaler, model in models])
    return scores(val, outputs, models[0][1].classes_, data)


def scores(val: np.ndarray, outputs: np.ndarray, classes: np.ndarray, data: Rows) -> Row:
    """The spread of the seeds, and the test accuracy of the mean of their outputs."""
    test = (classes[outputs.argmax(-1)] == data.test_y).mean(1)
    vote = float((classes[outputs.mean(0).argmax(-1)] == data.test_y).mean())
    of_val, of_test = spread(val.tolist(), "val"), spread(test.tolist(), "test")
    names = {"low": "test_low", "high": "test_high"}
    return {"val": of_val["val"]} | {names.get(key, key): value for key, value in of_test.items()} | {"vote": vote}


def arrays(name: str, rows: int | None) -> Rows | None:
    """A data set as arrays; None if it is not installed."""
    if name == "fashion_mnist":
        if not any(idx.DEBIAN[name].glob(f"{idx.FILES[0]}*")):
            return None
        data = idx.load(root=idx.DEBIAN[name], val_fraction=VAL_FRACTION)
        both = Split(torch.cat([data.train.x, data.val.x]), torch.cat([data.train.y, data.val.y]))
        test = data.test
    else:
        x, y = {"digits": load_digits, "breast_cancer": load_breast_cancer}[name](return_X_y=True)
        whole = Split(torch.from_numpy(x), torch.from_numpy(y).long())
        rest, part = stratified(whole.y, 0.25, 0)
        both, test = whole.take(rest), whole.take(part)
    if rows is not None:
        both, test = both.take(torch.arange(len(both.y))[:rows]), test.take(torch.arange(len(test.y))[:rows])
    train, val = stratified(both.y, VAL_FRACTION, 0)  # as StartsClassifier does
    x, test_x = (split.x.flatten(1).float().numpy() for split in (both, test))
    return Rows(x, both.y.numpy(), train.numpy(), val.numpy(), test_x, test.y.numpy())
