"""What a run leaves for inference: the kept starts and all that a prediction needs, without any code in it.

`network.safetensors` holds the tensors w1, b1, w2 ... with axis 0 S, and under the metadata key `hillstart` the rest as
JSON. A Lightning checkpoint of a training holds the same of all its starts, uncalibrated. Either may come from a
stranger: whatever its bytes are, loading runs no code of it and gives networks that fit together or one sentence, which
repeats nothing long or odd that the file says. Beside its tensors it takes 160 MiB at most, for all that it says of
them is at most `untrusted.MAX_DESCRIPTION_BYTES` long, and as Python objects `untrusted.MAX_ROOM` large.
"""

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hillstart.data.preprocessing import Preprocessing
from hillstart.engine.starts import HYPERPARAMETERS, STATUS, VOTERS, History, Hyperparameters, Start
from hillstart.inference.voting import Calibration
from hillstart.network import ACTIVATIONS, COSTS, Network
from hillstart.system import untrusted
from hillstart.system.errors import InputError
from hillstart.system.files import replacing
from hillstart.system.untrusted import refusal

FORMAT = 1


@dataclass(frozen=True)
class Model:
    """Networks, best first, and what a prediction with them needs.

    Attributes:
        network: the starts.
        origins: from which seed each began, and how it rolled.
        classes: names in the order of the outputs.
        calibration: None where no temperatures were fitted.
        trained_on: `pictures`, and `files` and `sha256` of the list of files they came from; None where not known.
        versions: of what the networks were trained with.
    """

    network: Network
    origins: tuple[Start, ...]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    calibration: Calibration | None = None
    trained_on: Mapping[str, Any] | None = None
    versions: Mapping[str, str] | None = None


def save(path: Path, model: Model) -> None:
    """Write `model` whole, or leave what was there.

    Raises:
        InputError: an entry is none that `load` would take.
        WritingError: it cannot be written.
    """
    network, calibration = model.network, model.calibration
    about = {
        "format": FORMAT,
        "sizes": network.sizes,
        "activation": network.activation,
        "cost": network.cost,
        "seeds": [start.seed for start in model.origins],
        "rolls": [list(astuple(start.hyperparameters)) for start in model.origins],
        "classes": list(model.classes),
        "preprocessing": model.preprocessing.as_dict(),
        "calibration": calibration and {"vote": calibration.vote, "starts": list(calibration.starts)},
        "trained_on": model.trained_on and dict(model.trained_on),
        "versions": model.versions and dict(model.versions),
    }
    _check_entries(path, about)  # what is written is to be read back
    tensors = {f"w{l}": w.cpu().contiguous() for l, w in enumerate(network.w, 1)}
    tensors |= {f"b{l}": b.cpu().contiguous() for l, b in enumerate(network.b, 1)}
    with replacing(path) as new:
        new.touch()
        mode = new.stat().st_mode
        try:
            save_file(tensors, new, {"hillstart": json.dumps(about, allow_nan=False)})
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            raise OSError(*((int(found[1]), os.strerror(int(found[1]))) if found else (str(error),))) from error
        new.chmod(mode)  # safetensors 0.8 leaves it to its owner alone, whatever the umask


def load(path: Path) -> Model:
    """What `save` wrote.

    Raises:
        InputError: the file is missing, damaged, of a newer format, or does not fit together.
    """
    metadata = untrusted.header(path).get("__metadata__")
    text = metadata.get("hillstart") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise InputError(f"{path} holds tensors, but no networks of hillstart; give a file that a run wrote.")
    try:
        with safe_open(path, "pt") as file:
            # The file is mapped into memory: but for the copies, whatever is written over it later would be weights.
            copied = _model(path, untrusted.parsed(path, text), file.keys(), lambda name: file.get_tensor(name).clone())
    except (OSError, SafetensorError) as error:
        raise refusal(path, "its tensors are not what it says of them") from error
    return _finite(path, copied)


def load_checkpoint(path: Path) -> Model:
    """The best `starts.VOTERS` starts of a Lightning checkpoint that a training wrote, each as in its best epoch.

    Raises:
        InputError: the file is missing, damaged, or none of such a training; or it holds no sound start.
    """
    with untrusted.opened(path) as file:
        try:
            untrusted.check_checkpoint(path, file)
            # Mapped too: what is not asked for, such as an optimiser's state, takes no memory.
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except InputError:
            raise
        except Exception as error:  # zipfile, pickletools and torch raise whatever the damage leads to
            raise InputError(f"{path} is not a whole checkpoint; give one that a run wrote.") from error
    parts = ("hillstart", "state_dict")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(part), dict) for part in parts):
        raise InputError(f"{path} is a checkpoint, but of no training by hillstart; give one that a run wrote.")
    plain, state = (checkpoint[part] for part in parts)
    tensors = {name[5:]: t for name, t in state.items() if isinstance(name, str) and name.startswith("best.")}
    described = dict.fromkeys(("calibration", "trained_on", "versions")) | plain | {"format": FORMAT}
    model = _model(path, described, tensors, tensors.get)
    S, history, figures = len(model.origins), History(model.origins), plain.get("history")
    epochs = len(figures) if isinstance(figures, Tensor) and figures.dim() else 0
    history.figures = _tensor(path, "history", figures, torch.float64, [epochs, S, 3])
    history.epochs = _tensor(path, "epochs", plain.get("epochs"), torch.int64, [S])
    history.status = _tensor(path, "status", plain.get("status"), torch.int64, [S])
    _check_bytes(path, (history.figures, history.epochs, history.status))
    if not set(history.status.tolist()) <= set(range(len(STATUS))):
        raise refusal(path, "it does not say how each start ended")
    rows = history.rows()
    best = [s for s in history.ranking() if not rows[s].diverged and math.isfinite(rows[s].val_cost)][:VOTERS]
    if not best:
        raise InputError(f"{path} holds no start that was measured and did not diverge; give that of a sounder run.")
    origins = tuple(model.origins[s] for s in best)
    return _finite(path, replace(model, network=model.network.pick(best), origins=origins))


# ---------------------------------------------------------------- what a description and its tensors must be


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda v: type(v) is int and least <= v < 2**64


def _number(least: float) -> Callable[[Any], bool]:
    # Of a size that float32 computes with: dividing by 1e-50 would be dividing by 0.
    return lambda v: type(v) in (int, float) and least <= v <= 1e30


def _listed(fits: Callable[[Any], bool], least: int = 1, most: int | None = None) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, list) and least <= len(v) <= (most or len(v)) and all(map(fits, v))


def _named(**entries: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, dict) and all(key in v and fits(v[key]) for key, fits in entries.items())


def _or_null(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: v is None or fits(v)


_text, _any_number, _positive = (lambda v: isinstance(v, str)), _number(-1e30), _number(1e-30)

_ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "format": ("a whole number above 0", _whole(1)),
    "sizes": ("two or more numbers of nodes", _listed(_whole(1), 2)),
    "activation": (f"one of {', '.join(ACTIVATIONS)}", lambda v: _text(v) and v in ACTIVATIONS),
    "cost": (f"one of {', '.join(COSTS)}", lambda v: _text(v) and v in COSTS),
    "seeds": ("a list of whole numbers, 0 or more", _listed(_whole(0))),
    # Files of version 0.1 have three of them; one that was added since has its default there.
    "rolls": (
        f"a list of {', '.join(HYPERPARAMETERS)} of each start",
        _listed(_listed(_any_number, 3, len(HYPERPARAMETERS))),
    ),
    "classes": ("two or more different names", lambda v: _listed(_text, 2)(v) and len(set(v)) == len(v)),
    # Its other bounds `Preprocessing` has itself.
    "preprocessing": ("one with sound mean and std", _named(mean=_listed(_any_number), std=_listed(_positive))),
    "calibration": (
        "null, or temperatures above 0 of the vote and of the starts",
        _or_null(_named(vote=_positive, starts=_listed(_positive))),
    ),
    "trained_on": ("null or named values", _or_null(_named())),
    "versions": ("null or named texts", _or_null(lambda v: isinstance(v, dict) and all(map(_text, v.values())))),
}


def _model(path: Path, plain: Any, names: Collection[str], get: Callable[[str], Any]) -> Model:
    """What a description and the tensors beside it make together, if each entry is sound and all of them agree.

    Args:
        names: of all the tensors.
        get: one of them by its name.
    """
    if _named(format=_whole(FORMAT + 1))(plain):
        raise InputError(f"{path} is of a newer format than {FORMAT}, the last that is read; update hillstart.")
    _check_entries(path, plain)
    try:
        preprocessing = Preprocessing.from_dict(plain["preprocessing"])
    except InputError as error:
        raise refusal(path, "the entry preprocessing is not what hillstart does to a picture") from error
    seeds, sizes, classes, calibration = (plain[key] for key in ("seeds", "sizes", "classes", "calibration"))
    S, rolls = len(seeds), [Hyperparameters(*map(float, roll)) for roll in plain["rolls"]]
    if len(rolls) != S or (calibration and len(calibration["starts"]) != S):
        raise refusal(path, "its seeds, rolls and temperatures are not of the same starts")
    if (sizes[0], sizes[-1]) != (preprocessing.channels * preprocessing.size**2, len(classes)):
        raise refusal(path, "its sizes do not lead from its pictures to its classes")
    if len(names) != 2 * (len(sizes) - 1):
        raise refusal(path, "its tensors are not two for each of its layers")
    w, b = list[Tensor](), list[Tensor]()
    for l, (n_in, n_out) in enumerate(itertools.pairwise(sizes), 1):
        w.append(_tensor(path, f"w{l}", get(f"w{l}"), torch.float32, [S, n_in, n_out]))
        b.append(_tensor(path, f"b{l}", get(f"b{l}"), torch.float32, [S, n_out]))
    _check_bytes(path, [*w, *b])
    return Model(
        Network(w, b, plain["activation"], plain["cost"]),
        tuple(map(Start, seeds, rolls)),
        tuple(classes),
        preprocessing,
        calibration and Calibration(float(calibration["vote"]), tuple(map(float, calibration["starts"]))),
        plain["trained_on"],
        plain["versions"],
    )


def _check_entries(path: Path, plain: Any) -> None:
    for key, (what, fits) in _ENTRIES.items():
        if not isinstance(plain, dict) or key not in plain:
            raise refusal(path, f"the entry {key} is missing")
        if not fits(plain[key]):
            raise refusal(path, f"the entry {key} is not {what}")


def _tensor(path: Path, name: str, found: Any, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if isinstance(found, Tensor) and found.dtype == dtype and list(found.shape) == shape and not found.requires_grad:
        return found
    raise refusal(path, f"tensor {name} is not {str(dtype).removeprefix('torch.')} of shape {shape}")


def _check_bytes(path: Path, tensors: Iterable[Tensor]) -> None:
    """A tensor in a checkpoint may claim to repeat what is stored once; a copy of it would not."""
    if sum(t.nbytes for t in tensors) > path.stat().st_size:
        raise refusal(path, "its tensors claim to be larger than it is")


def _finite(path: Path, model: Model) -> Model:
    # The extremes of a tensor are finite where all of it is, and take no memory.
    if not all(math.isfinite(extreme) for t in model.network.parameters for extreme in (t.amin(), t.amax())):
        raise refusal(path, "a weight or bias in it is not a finite number")
    return model
