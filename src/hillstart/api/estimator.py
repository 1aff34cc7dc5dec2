"""`StartsClassifier`: many random starts on arrays, as an estimator of scikit-learn."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, no_type_check

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from hillstart.config.build import trainer_maker
from hillstart.config.options import MOST_STARTS, NetworkOptions, Seeds, TrainerOptions, seeds_of_starts
from hillstart.data.dataset import Split, assemble, stratified
from hillstart.data.preprocessing import Standardisation
from hillstart.engine.starts import FIGURES, History, Start, StartResult, ranking_key
from hillstart.inference import model_file
from hillstart.inference.classifier import Classifier
from hillstart.inference.voting import probabilities, vote
from hillstart.network import Network
from hillstart.runs.results import RunResult, evaluate
from hillstart.system.console import silent_libraries
from hillstart.system.errors import InputError
from hillstart.system.files import as_path
from hillstart.system.schema import Share, check, one_of, whole
from hillstart.training.optimizer import SGDConfig
from hillstart.training.packs import RunSpec, train
from hillstart.training.stopping import EarlyStopping


@dataclass(frozen=True)
class _Options(NetworkOptions):
    """The options that no other object checks."""

    starts: Annotated[int | None, *whole(1, MOST_STARTS, of="None, or a whole number")]
    epochs: Annotated[int, *whole(1)]
    batch_size: Annotated[int, *whole(1)]
    val_fraction: Share
    keep: Annotated[int | None, *whole(1, of="None, all, or a whole number")]
    seed: Seeds
    device: Annotated[str, *one_of(("cpu", "cuda"))]


class StartsClassifier(ClassifierMixin, BaseEstimator):
    """A sigmoid network trained from many random starts at once; the best starts by validation vote.

    It is trained as `scripts/train.py` trains: explicit backpropagation over all starts as one tensor program, on
    columns that are standardised by the training rows. A part of the rows is held out to choose the starts and to
    calibrate their vote.

    Args:
        hidden: nodes of each hidden layer; () for none.
        starts: number of random starts, with the seeds `seed`, `seed` + 1, ...; None: 16, or one for each of a list of
            seeds.
        activation: of the hidden layers: sigmoid, tanh or relu.
        cost: cross_entropy, quadratic or log_likelihood.
        start: distribution of the initial weights: scaled_normal, unit_normal or glorot.
        eta: learning rate; a list of values for it, for `momentum` or `lmbda` trains every start with each.
        momentum: mu, from 0 to below 1.
        nesterov: use Nesterov's momentum.
        lmbda: strength of the L2 term lmbda/(2n) sum w^2.
        batch_size: rows in a mini-batch; fewer if there are fewer rows.
        epochs: passes over the training rows.
        schedule: of eta over the epochs: constant, linear or cosine.
        patience: end a start after so many epochs without a lower validation cost; None: never.
        race: after so many epochs the better half of the starts goes on, and so on (successive halving); None: no race.
        val_fraction: share of the rows of each class that is held out to choose and to calibrate.
        keep: number of the best starts that vote; None: all, but at most 16; "all": every start.
        seed: of the first start, or a list of different seeds, one start each, such as [3, 7, 11]. The smallest also
            draws the held-out rows and the order of the rows.
        device: cpu or cuda.

    Attributes:
        classes_: the labels, sorted.
        n_features_in_: number of columns.
        feature_names_in_: their names, if X had any.
        network_: the kept starts, the best first, as an `hillstart.Network`.
        best_: the result of the chosen start.
        starts_: data frame with a row per start, ranked: seed, hyperparameters, costs, validation accuracy.
        history_: data frame with a row per start and epoch.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> model = StartsClassifier(hidden=(8,), starts=4, epochs=50).fit(X, y)
        >>> model.score(X, y) > 0.9
        True
    """

    @no_type_check  # scikit-learn wants values to be checked in `fit`
    def __init__(
        self,
        hidden: Sequence[int] = (30,),
        *,
        starts: int | None = None,
        activation: str = "sigmoid",
        cost: str = "cross_entropy",
        start: str = "scaled_normal",
        eta: float | Sequence[float] = 0.1,
        momentum: float | Sequence[float] = 0.9,
        nesterov: bool = False,
        lmbda: float | Sequence[float] = 1.0,
        batch_size: int = 32,
        epochs: int = 30,
        schedule: str = "linear",
        patience: int | None = None,
        race: int | None = None,
        val_fraction: float = 0.2,
        keep: int | str | None = None,
        seed: int | Sequence[int] = 0,
        device: str = "cpu",
    ):
        """The arguments are those of the class; `fit` checks them."""
        self.hidden = hidden
        self.starts = starts
        self.activation = activation
        self.cost = cost
        self.start = start
        self.eta = eta
        self.momentum = momentum
        self.nesterov = nesterov
        self.lmbda = lmbda
        self.batch_size = batch_size
        self.epochs = epochs
        self.schedule = schedule
        self.patience = patience
        self.race = race
        self.val_fraction = val_fraction
        self.keep = keep
        self.seed = seed
        self.device = device

    def fit(self, X: Any, y: Any) -> "StartsClassifier":
        """Train on rows X (N, D) of finite numbers and their labels y (N,): strings, whole numbers or booleans.

        Raises:
            ValueError: X or y cannot be used, or an option is out of its range; the message names it.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32, np.uint8], order="C")
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class, {self.classes_[0]!r}; give at least two to tell apart.")
        given = SimpleNamespace(**self.get_params())
        given.hidden, given.seed = (list(v) if isinstance(v, Sequence) else v for v in (given.hidden, given.seed))
        keep_all = given.keep == "all"
        given.keep = None if keep_all else given.keep
        check("", _Options, {field.name: getattr(given, field.name) for field in fields(_Options)})
        of_trainer = TrainerOptions(given.epochs, -1, given.device, 1, 1, "highest", enable_progress_bar=False)
        try:
            spec = self._spec(given, torch.tensor(X), torch.tensor(codes))
            make_trainer = trainer_maker(of_trainer, Path(), checkpoints=False)
        except InputError as error:  # it names a key of conf
            own_name = re.sub(r"^(descent|stop)\.", "", str(error)).replace("trainer.accelerator", "device", 1)
            raise InputError(own_name) from error
        result, histories = RunResult(len(spec.starts) if keep_all else given.keep), list[History]()
        with silent_libraries():
            device = make_trainer().strategy.root_device
            for trained in train(spec, make_trainer, spec.packs(device)):
                result.add(trained, range(len(trained.rows)))
                histories.append(trained.history)
        if result.network is None:
            raise InputError(f"eta={given.eta}: every start diverged; give a smaller eta.")
        evaluate([result], spec.data, device)
        classifier = result.classifier(spec.data)
        trained_on = {**(classifier.trained_on or {}), "labels": str(self.classes_.dtype)}
        self._set(replace(classifier, trained_on=trained_on), self.classes_)
        self.best_ = result.kept[0]
        self.starts_ = pd.DataFrame(map(_flat, sorted(result.rows, key=ranking_key)))
        self.history_ = pd.concat(map(_epochs, histories), ignore_index=True)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class for rows X (N, D), in the order of `classes_`: the calibrated vote, (N, classes).

        Raises:
            ValueError: X cannot be used.
            NotFittedError: neither `fit` nor `load` was called.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32, np.uint8], order="C", reset=False)
        # In float32 the last digits of a row depend on the rows beside it.
        exact = replace(self.classifier_, network=self.classifier_.network.map(Tensor.double))
        outputs = exact.outputs(torch.tensor(X))
        p: np.ndarray = probabilities(vote(outputs), self.classifier_.temperatures.vote).cpu().numpy()
        return p

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row of X (N, D); raises as `predict_proba`."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def save(self, path: str | Path) -> None:
        """Write the kept starts as a model file, which `load` reads; it runs no code when it is read.

        Raises:
            ValueError: the file cannot be written.
        """
        check_is_fitted(self)
        model_file.save(as_path(path, "the file to write"), self.classifier_)

    @classmethod
    def load(cls, path: str | Path) -> "StartsClassifier":
        """A fitted classifier from a file that `save` wrote; it has no `starts_` and `history_`.

        Raises:
            ValueError: the file is missing, damaged, or holds networks of pictures.
        """
        classifier = model_file.load(as_path(path, "a file that `save` wrote"))
        if not isinstance(classifier.preprocessing, Standardisation):
            raise InputError(f"{path}: its networks classify pictures; open it with hillstart.load.")
        network, names = classifier.network, np.array(classifier.classes)
        kind = str((classifier.trained_on or {}).get("labels"))
        if kind == "bool":
            names = names == "True"
        elif re.fullmatch(r"u?int(8|16|32|64)|float(32|64)", kind):
            names = names.astype(kind)
        made = cls(tuple(network.sizes[1:-1]), starts=network.starts, activation=network.activation, cost=network.cost)
        made._set(classifier, names)
        return made

    def _set(self, classifier: Classifier, classes: np.ndarray) -> None:
        self.classifier_, self.classes_, self.network_ = classifier, classes, classifier.network
        self.n_features_in_ = classifier.preprocessing.inputs

    def _spec(self, given: SimpleNamespace, X: Tensor, codes: Tensor) -> RunSpec:
        """The starts, and the rows that they learn."""
        names = tuple(map(str, self.classes_))
        sizes, seeds = [X.shape[1], *given.hidden, len(names)], seeds_of_starts(given.seed, given.starts)
        rows, held_out = Split(X, codes), _held_out(codes, given.val_fraction, seeds[0])
        rest = torch.ones(len(codes), dtype=torch.bool).index_fill_(0, held_out, False).nonzero().flatten()
        val, learned = rows.take(held_out), rows.take(rest) if len(rest) else rows
        columns = [str(name) for name in getattr(self, "feature_names_in_", range(X.shape[1]))]
        data = assemble(
            train=learned,
            val=val,
            test=val,
            classes=names,
            preprocessing=Standardisation(tuple(columns)),
            source="arrays",
        )
        of_step = (given.schedule, given.momentum, given.lmbda, given.nesterov, seeds[0])
        descent = SGDConfig(given.eta, min(given.batch_size, len(learned.y)), *of_step)
        return RunSpec(
            partial(Network.start, sizes, activation=given.activation, cost=given.cost, start=given.start),
            sizes,
            data,
            descent,
            EarlyStopping(given.patience, given.race),
            [Start(seed, point) for point in descent.grid() for seed in seeds],
        )


def _held_out(codes: Tensor, fraction: float, seed: int) -> Tensor:
    """Indices of the rows that validate: a part of each class that has several rows, or all rows if none has."""
    several = (codes.bincount()[codes] > 1).nonzero().flatten()
    if not len(several):
        return torch.arange(len(codes))
    return several[stratified(codes[several], fraction, seed, "val_fraction")[1]]


def _flat(row: StartResult) -> dict[str, Any]:
    cells = asdict(row)
    start = cells.pop("start")
    return {"seed": start["seed"], **start["hyperparameters"], **cells}


def _epochs(history: History) -> pd.DataFrame:
    """A row per start and epoch that it was trained."""
    figures = history.figures.transpose(0, 1)  # (S, epochs, 3)
    parts = []
    for start, epochs, of in zip(history.starts, history.epochs.tolist(), figures, strict=True):
        part = pd.DataFrame(of[:epochs].numpy(), columns=list(FIGURES))
        part.insert(0, "epoch", range(1, epochs + 1))
        parts.append(part.assign(seed=start.seed, **asdict(start.hyperparameters)))
    return pd.concat(parts, ignore_index=True)
