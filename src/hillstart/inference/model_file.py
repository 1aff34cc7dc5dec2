"""The model file of a run: the kept starts and all that a prediction needs, as plain data.

`network.safetensors` holds the tensors w1, b1, w2 ... with axis 0 S, and under the metadata key `hillstart` the rest as
JSON, the description. A Lightning checkpoint of a training holds the same for all its starts, uncalibrated.

Both are untrusted input. Loading runs no code from the file, and gives either consistent networks or an InputError that
repeats nothing long or unprintable from it. Beside the tensors it takes at most 160 MiB: the description is at most
`untrusted.MAX_DESCRIPTION_BYTES` long, and its Python objects take at most `untrusted.MAX_OBJECT_BYTES`.
"""

import itertools
import json
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from hillstart.data.preprocessing import Preprocessing, Standardisation
from hillstart.engine.starts import HYPERPARAMETERS, STATUS, VOTERS, History, Hyperparameters, Start
from hillstart.inference.classifier import Classifier, index_of
from hillstart.inference.voting import Calibration
from hillstart.network import ACTIVATIONS, COSTS, Network
from hillstart.system import untrusted
from hillstart.system.errors import InputError
from hillstart.system.files import replacing
from hillstart.system.untrusted import refusal

FORMAT = 1


def save(path: Path, classifier: Classifier) -> None:
    """Write a model file, replacing an earlier one only when the new one is complete.

    Raises:
        InputError: `load` would refuse an entry.
        WritingError: the file cannot be written.
    """
    network, calibration = classifier.network, classifier.calibration
    about = {
        "format": FORMAT,
        "sizes": network.sizes,
        "activation": network.activation,
        "cost": network.cost,
        "seeds": [start.seed for start in classifier.origins],
        "rolls": [list(astuple(start.hyperparameters)) for start in classifier.origins],  # as version 0.1 calls them
        "classes": list(classifier.classes),
        "preprocessing": classifier.preprocessing.as_dict(),
        "calibration": calibration and {"vote": calibration.vote, "starts": list(calibration.starts)},
        "trained_on": classifier.trained_on and dict(classifier.trained_on),
        "versions": classifier.versions and dict(classifier.versions),
        "val_accuracies": classifier.val_accuracies and list(classifier.val_accuracies),
    }
    _check_description(path, about)  # so that `load` reads what is written here
    tensors = {f"w{l}": w.cpu().contiguous() for l, w in enumerate(network.w, 1)}
    tensors |= {f"b{l}": b.cpu().contiguous() for l, b in enumerate(network.b, 1)}
    with replacing(path) as new:
        # `save_file` would make it readable by its owner alone, and hide the number of an error of the system.
        new.write_bytes(serialize(tensors, {"hillstart": json.dumps(about, allow_nan=False)}))


def load(path: Path, seed: int | None = None) -> Classifier:
    """Read a model file that `save` wrote.

    Args:
        seed: read the weights of the start with this seed alone, as `Classifier.only` gives it; None: of all.

    Raises:
        InputError: the file is missing, damaged, of a newer format, or inconsistent; or has no start with this seed.
    """
    about = description(path)
    try:
        with safe_open(path, "pt") as file:
            return _finite(path, _classifier(path, about, file.keys(), file.get_slice, seed))
    except (OSError, SafetensorError) as error:
        raise refusal(path, "its tensors do not match its description") from error


def description(path: Path) -> dict[str, Any]:
    """The entries of a model file beside its tensors, such as `sizes`; no weight is read.

    Raises:
        InputError: as `load`.
    """
    metadata = untrusted.header(path).get("__metadata__")
    text = metadata.get("hillstart") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise InputError(f"{path} holds tensors, but no networks of hillstart; give a file that a run wrote.")
    plain = untrusted.parsed(path, text)
    if _dict_with(format=_integer(FORMAT + 1))(plain):
        raise InputError(f"{path} has a newer format than {FORMAT}, the newest that can be read; update hillstart.")
    return _with_checked_entries(path, plain)


def load_checkpoint(path: Path) -> Classifier:
    """Read the best `starts.VOTERS` starts, each as in its best epoch, of a Lightning checkpoint that a training wrote.

    Raises:
        InputError: the file is missing, damaged, or not from such a training; or it holds no usable start.
    """
    with untrusted.opened(path) as file:
        try:
            untrusted.check_checkpoint(path, file)
            # Mapped into memory, so that tensors that are not read, such as an optimiser's state, take none.
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except InputError:
            raise
        except Exception as error:  # zipfile, pickletools and torch raise many classes for damaged files
            raise InputError(f"{path} is not a whole checkpoint; give one that a run wrote.") from error
    parts = ("hillstart", "state_dict")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(part), dict) for part in parts):
        raise InputError(f"{path} is a checkpoint, but not from hillstart; give one that a run wrote.")
    plain, state = (checkpoint[part] for part in parts)
    tensors = {name[5:]: t for name, t in state.items() if isinstance(name, str) and name.startswith("best.")}
    described = dict.fromkeys(("calibration", "trained_on", "versions")) | plain | {"format": FORMAT}
    described = _with_checked_entries(path, described)
    classifier = _classifier(path, described, tensors, tensors.get)
    S, history, figures = len(classifier.origins), History(classifier.origins), plain.get("history")
    epochs = len(figures) if isinstance(figures, Tensor) and figures.dim() else 0
    history.figures = _tensor(path, "history", figures, torch.float64, [epochs, S, 3])
    history.epochs = _tensor(path, "epochs", plain.get("epochs"), torch.int64, [S])
    history.status = _tensor(path, "status", plain.get("status"), torch.int64, [S])
    _check_bytes(path, (history.figures, history.epochs, history.status))
    if not set(history.status.tolist()) <= set(range(len(STATUS))):
        raise refusal(path, "status holds an unknown number")
    rows = history.rows()
    best = [s for s in history.ranking() if not rows[s].diverged and math.isfinite(rows[s].val_cost)][:VOTERS]
    if not best:
        raise InputError(f"{path}: every start diverged or was not validated yet; give the checkpoint of another run.")
    origins, accuracies = tuple(classifier.origins[s] for s in best), tuple(rows[s].val_accuracy for s in best)
    network = classifier.network.pick(best)
    return _finite(path, replace(classifier, network=network, origins=origins, val_accuracies=accuracies))


# ---------------------------------------------------------------- validation
#
# Predicates in plain Python: pydantic would add 0.07 s to the start of every prediction, beside 1.5 s for torch.


def _integer(least: int) -> Callable[[Any], bool]:
    return lambda v: type(v) is int and least <= v < 2**64


def _number(least: float) -> Callable[[Any], bool]:
    # In the range of float32: a divisor of 1e-50 would become 0.
    return lambda v: type(v) in (int, float) and least <= v <= 1e30


def _list_of(fits: Callable[[Any], bool], least: int = 1, most: int | None = None) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, list) and least <= len(v) <= (most or len(v)) and all(map(fits, v))


def _dict_with(**entries: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, dict) and all(key in v and fits(v[key]) for key, fits in entries.items())


def _or_null(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: v is None or fits(v)


_text, _any_number, _positive = (lambda v: isinstance(v, str)), _number(-1e30), _number(1e-30)

_ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "format": ("an integer above 0", _integer(1)),
    "sizes": ("two or more numbers of nodes", _list_of(_integer(1), 2)),
    "activation": (f"one of {', '.join(ACTIVATIONS)}", lambda v: _text(v) and v in ACTIVATIONS),
    "cost": (f"one of {', '.join(COSTS)}", lambda v: _text(v) and v in COSTS),
    "seeds": ("a list of integers, 0 or more", _list_of(_integer(0))),
    # Files of version 0.1 hold three; those added since have their defaults there.
    "rolls": (
        f"a list of {', '.join(HYPERPARAMETERS)} of each start",
        _list_of(_list_of(_any_number, 3, len(HYPERPARAMETERS))),
    ),
    "classes": ("two or more different names", lambda v: _list_of(_text, 2)(v) and len(set(v)) == len(v)),
    # `Preprocessing` checks its other bounds.
    "preprocessing": ("one with valid mean and std", _dict_with(mean=_list_of(_any_number), std=_list_of(_positive))),
    "calibration": (
        "null, or positive temperatures of the vote and of the starts",
        _or_null(_dict_with(vote=_positive, starts=_list_of(_positive))),
    ),
    "trained_on": ("null or an object", _or_null(_dict_with())),
    "versions": ("null or an object of texts", _or_null(lambda v: isinstance(v, dict) and all(map(_text, v.values())))),
    "val_accuracies": (
        "null or a share from 0 to 1 of each start",
        _or_null(_list_of(lambda v: _any_number(v) and 0 <= v <= 1)),
    ),
}
"""The value that the description must hold under each key, in words and as a predicate."""


def _classifier(
    path: Path, plain: Any, names: Collection[str], get: Callable[[str], Any], seed: int | None = None
) -> Classifier:
    """The classifier that a valid description and its tensors make, if all of them agree.

    Args:
        names: of all tensors.
        get: returns a tensor, or a slice of safetensors that reads one, by its name.
        seed: of the only start to read; None: all.
    """
    try:
        kind = Standardisation if "columns" in plain["preprocessing"] else Preprocessing
        preprocessing = kind.from_dict(plain["preprocessing"])
    except InputError as error:
        raise refusal(path, "the entry preprocessing is not valid") from error
    seeds, sizes, classes, calibration = (plain[key] for key in ("seeds", "sizes", "classes", "calibration"))
    S, points = len(seeds), [Hyperparameters(*map(float, point)) for point in plain["rolls"]]
    per_start = (points, plain["val_accuracies"], calibration and calibration["starts"])
    if any(values is not None and len(values) != S for values in per_start):
        raise refusal(path, "its seeds, rolls, accuracies and temperatures are not of the same starts")
    if (sizes[0], sizes[-1]) != (preprocessing.inputs, len(classes)):
        raise refusal(path, "its sizes do not match its inputs and classes")
    if len(names) != 2 * (len(sizes) - 1):
        raise refusal(path, "it does not hold two tensors for each of its layers")
    shapes = {f"w{l}": [S, *shape] for l, shape in enumerate(itertools.pairwise(sizes), 1)}
    shapes |= {f"b{l}": [S, n] for l, n in enumerate(sizes[1:], 1)}
    found = [_tensor(path, name, get(name), torch.float32, shape) for name, shape in shapes.items()]
    s = None if seed is None else index_of(seed, seeds)
    rows = slice(None) if s is None else slice(s, s + 1)
    # Slices are copied: the file is mapped into memory, so overwriting it would change the weights.
    weights = [each[rows] if isinstance(each, Tensor) else each[rows].clone() for each in found]
    _check_bytes(path, weights)
    temperatures = tuple(map(float, calibration["starts"]))[rows] if calibration else ()
    return Classifier(
        Network(weights[: len(sizes) - 1], weights[len(sizes) - 1 :], plain["activation"], plain["cost"]),
        tuple(map(Start, seeds[rows], points[rows])),
        tuple(classes),
        preprocessing,
        calibration and Calibration(temperatures[0] if s is not None else float(calibration["vote"]), temperatures),
        plain["trained_on"],
        plain["versions"],
        plain["val_accuracies"] and tuple(map(float, plain["val_accuracies"][rows])),
    )


def _with_checked_entries(path: Path, plain: Any) -> dict[str, Any]:
    """The description of a file, with an entry that files of version 0.1 lack."""
    found: dict[str, Any] = {"val_accuracies": None} | plain if isinstance(plain, dict) else plain
    _check_description(path, found)
    return found


def _check_description(path: Path, plain: Any) -> None:
    for key, (what, fits) in _ENTRIES.items():
        if not isinstance(plain, dict) or key not in plain:
            raise refusal(path, f"the entry {key} is missing")
        if not fits(plain[key]):
            raise refusal(path, f"the entry {key} is not {what}")


def _tensor(path: Path, name: str, found: Any, dtype: torch.dtype, shape: list[int]) -> Any:
    """A tensor, or a slice of safetensors that reads one, if it is of this type and shape."""
    if isinstance(found, Tensor):
        if found.dtype == dtype and list(found.shape) == shape and not found.requires_grad:
            return found
    elif hasattr(found, "get_shape") and found.get_dtype() == "F32" and found.get_shape() == shape:
        return found
    raise refusal(path, f"tensor {name} is not {str(dtype).removeprefix('torch.')} of shape {shape}")


def _check_bytes(path: Path, tensors: Iterable[Tensor]) -> None:
    """Refuse tensors that repeat what is stored once (stride 0): copying them could take any amount of memory."""
    if sum(t.nbytes for t in tensors) > path.stat().st_size:
        raise refusal(path, "its tensors claim to be larger than the file")


def _finite(path: Path, classifier: Classifier) -> Classifier:
    # A tensor is finite if its extremes are; computing these takes no memory, while `isfinite` would.
    if not all(math.isfinite(extreme) for t in classifier.network.parameters for extreme in (t.amin(), t.amax())):
        raise refusal(path, "a weight or bias is not a finite number")
    return classifier
