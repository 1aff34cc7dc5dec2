"""Networks as tables for a spreadsheet, so that a prediction can be redone by hand."""

import csv
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from hillstart.inference.classifier import Classifier
from hillstart.inference.voting import SMALLEST
from hillstart.network import COSTS
from hillstart.system.errors import InputError
from hillstart.system.files import writing
from hillstart.system.machine import versions

OUR_TABLES = re.compile(r"about\.csv|start\d+-seed\d+-layer\d+\.csv")
FORMULA_SIGNS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # and their full-width forms
FORMULAS = {
    "sigmoid": "1 / (1 + exp(-z))",
    "tanh": "tanh(z)",
    "relu": "z where z is above 0, else 0",
    "softmax": "exp(z) divided by the sum of exp(z) over the layer",
}
BY_NAME = "the function of this name"
PREDICTION = (
    "The inputs are (pixel / 255 - mean) / std. z of a node is the sum of the values of the layer before, each times "
    "its weight, plus the bias; the node's value is the activation of z. m of a class is the mean of its values in the "
    "last layer over all starts, but no less than the smallest m. The probability of a class is m^(1/T) divided by the "
    "sum of m^(1/T) over all classes; T is the temperature of the vote."
)


def write(classifier: Classifier, folder: Path) -> str:
    """Write about.csv, and a table for each start and layer.

    A table has a row for each node of the layer before and one for the biases, and a column for each node.

    Raises:
        InputError: what was written does not read back as the same numbers.
    """
    network = classifier.network
    names = [classifier.pictures.input_names]
    names += [[classifier.node_name(l, j) for j in range(n)] for l, n in enumerate(network.sizes[1:])]
    for s, seed in enumerate(classifier.seeds):
        for l, (before, here) in enumerate(pairwise(names)):
            path = folder / f"start{s + 1}-seed{seed}-layer{l + 1}.csv"
            table = torch.cat([network.w[l][s], network.b[l][s].unsqueeze(0)]).numpy()
            rows = zip([*before, "bias"], table, strict=True)
            # numpy writes the fewest digits that lead back to the same float32.
            _write(path, [["from", *here], *([name, *map(str, row)] for name, row in rows)])
            with path.open(newline="", encoding="utf-8-sig") as file:
                again = [row[1:] for row in csv.reader(file)][1:]
            if not np.array_equal(np.array(again, np.float32), table):
                raise InputError(f"{path.name}: its numbers do not read back as the same; take another --to.")
    _write(folder / "about.csv", _about(classifier))
    return "every weight and bias read back, the same to the last bit"


def _about(classifier: Classifier) -> Iterator[tuple[str, object]]:
    network, p, T = classifier.network, classifier.pictures, classifier.temperatures
    last = "softmax" if COSTS[network.cost].is_softmax else "sigmoid"
    yield from [("key", "value"), ("hillstart", versions()["hillstart"]), ("how a prediction is computed", PREDICTION)]
    yield from [("starts", network.starts), ("sizes", " ".join(map(str, network.sizes))), ("cost", network.cost)]
    yield "activation of the hidden layers", f"{network.activation}: {FORMULAS.get(network.activation, BY_NAME)}"
    yield "activation of the last layer", f"{last}: {FORMULAS[last]}"
    yield from ((f"class {k}", _as_text(name)) for k, name in enumerate(classifier.classes, 1))
    yield "pictures", f"{decoded(classifier)}, {resized(classifier)}"
    for colour, mean, std in zip(_colours(classifier), p.mean, p.std, strict=True):
        yield from [(f"mean {colour}", mean), (f"std {colour}", std)]
    yield from [("calibrated", "yes" if classifier.calibrated else "no"), ("temperature of the vote", T.vote)]
    yield from ((f"temperature of start {s}, if it predicts alone", t) for s, t in enumerate(T.starts, 1))
    yield "smallest m", SMALLEST


def _write(path: Path, rows: Iterable[Sequence[object]]) -> None:
    # Excel needs the byte-order mark to read UTF-8. Classes are named by folders, whose names may not be UTF-8.
    with path.open("w", newline="", encoding="utf-8-sig", errors="backslashreplace") as file:
        csv.writer(file).writerows(rows)


def _as_text(name: str) -> str:
    """The name as a cell that a spreadsheet shows and does not run as a formula."""
    return f"'{name}" if name.lstrip().startswith(FORMULA_SIGNS) or name[:1].isspace() else name


def _colours(classifier: Classifier) -> tuple[str, ...]:
    return ("grey",) if classifier.pictures.channels == 1 else ("red", "green", "blue")


def decoded(classifier: Classifier) -> str:
    """Describe in words the steps before the size of a picture is changed."""
    background = classifier.pictures.background
    return (
        f"{' '.join(_colours(classifier))} from 0 to 255 of pictures already decoded, turned upright, laid on grey "
        f"level {background} where transparent"
    )


def resized(classifier: Classifier) -> str:
    """Describe in words the change of a picture's size."""
    size = classifier.pictures.size
    return (
        f"cut to the centre square and resized to {size} x {size} with an antialiased bicubic filter, as "
        f"PIL.ImageOps.fit(picture, ({size}, {size}), PIL.Image.Resampling.BICUBIC) does"
    )


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Replace a folder of tables as a whole, as `files.replacing` does a file; only earlier tables are replaced.

    Raises:
        InputError: it holds something else.
        WritingError: the disk is full, the folder may not be written to, and the like.
    """
    folder = folder.resolve()
    if folder.exists() and not (folder.is_dir() and all(OUR_TABLES.fullmatch(path.name) for path in folder.iterdir())):
        raise InputError(f"{folder}: holds something else than exported tables; give --output a new folder.")
    new, old = (folder.with_name(f".{folder.name}.{which}.{os.getpid()}") for which in ("new", "old"))
    try:
        with writing(folder):
            new.mkdir()
            yield new
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for temporary in (new, old):
            shutil.rmtree(temporary, ignore_errors=True)
