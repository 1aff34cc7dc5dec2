"""What a run leaves for inference: the kept starts and all that a prediction needs, without any code in it.

`network.safetensors` holds the tensors w1, b1, w2 ... with axis 0 S, and under the metadata key `hillstart` the rest as
JSON. A Lightning checkpoint of a training holds the same of all its starts, uncalibrated.
"""

import itertools
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hillstart.descent import Hyperparameters
from hillstart.errors import InputError
from hillstart.files import replacing
from hillstart.images import Preprocessing
from hillstart.network import ACTIVATIONS, COSTS, Network
from hillstart.starts import VOTERS, Record, Start
from hillstart.voting import Calibration

FORMAT = 1
# Of the JSON in a model file: 16 starts take a few kilobytes, ten thousand about a megabyte.
MAX_HEADER_BYTES = 16 << 20

AS_WRITTEN = "give a file as a run wrote it."


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
    """Write `model` whole, or leave what was there."""
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
        "trained_on": model.trained_on,
        "versions": model.versions,
    }
    tensors = {f"w{l}": w.cpu().contiguous() for l, w in enumerate(network.w, 1)}
    tensors |= {f"b{l}": b.cpu().contiguous() for l, b in enumerate(network.b, 1)}
    with replacing(path) as new:
        save_file(tensors, new, {"hillstart": json.dumps(about)})


def load(path: Path) -> Model:
    """What `save` wrote. Nothing larger than the file is ever allocated.

    Raises:
        InputError: the file is missing, damaged, of a newer format, or does not fit together.
    """
    _check_header(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("hillstart")
            if text is None:
                raise InputError(f"{path} holds tensors, but no networks of hillstart; give a file that a run wrote.")
            about = _About(path, _json(path, text))
            sizes = about.sizes()
            origins = about.origins()
            shapes = {
                f"{kind}{l}": [len(origins), n_in, n_out] if kind == "w" else [len(origins), n_out]
                for l, (n_in, n_out) in enumerate(itertools.pairwise(sizes), 1)
                for kind in "wb"
            }
            if set(file.keys()) != set(shapes):
                raise InputError(f"{path}: its tensors are not those of a network {sizes}; {AS_WRITTEN}")
            for name, shape in shapes.items():
                found = file.get_slice(name)
                if found.get_shape() != shape or found.get_dtype() != "F32":
                    raise InputError(
                        f"{path}: tensor {name} is {found.get_dtype()} {found.get_shape()}, but a network {sizes} of "
                        f"{len(origins)} starts has F32 {shape}; {AS_WRITTEN}"
                    )
            layers = range(1, len(sizes))
            w, b = [file.get_tensor(f"w{l}") for l in layers], [file.get_tensor(f"b{l}") for l in layers]
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a whole model file ({error}); give one that a run wrote.") from error
    return about.model(w, b)


def load_checkpoint(path: Path) -> Model:
    """The best `starts.VOTERS` starts of a Lightning checkpoint that a training wrote, each as in its best epoch.

    Raises:
        InputError: the file is missing, damaged, or none of such a training.
    """
    try:
        # torch unpacks what is packed, however much comes of it; its own files are stored as they are.
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise InputError(f"{path} is compressed, as no checkpoint is; give one that a training wrote.")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        plain, state = checkpoint["hillstart"], checkpoint["state_dict"]
        about = _About(path, {**plain, "format": FORMAT, "calibration": None, "trained_on": None, "versions": None})
        sizes, record = about.sizes(), Record(about.origins())
        record.history, record.epochs, record.status = (plain[key] for key in ("history", "epochs", "status"))
        rows = record.rows()
        best = [s for s in record.ranking() if not rows[s].diverged][:VOTERS]
        layers = range(1, len(sizes))
        w, b = [state[f"best.w{l}"][best] for l in layers], [state[f"best.b{l}"][best] for l in layers]
    except InputError:
        raise
    except Exception as error:  # torch raises whatever the damage leads to
        raise InputError(
            f"{path} is not a whole checkpoint of a training ({_brief(error)}); give one that a run wrote."
        ) from error
    if not best:
        raise InputError(f"{path} holds no start that did not diverge; give the checkpoint of a sounder run.")
    return about.model(w, b, best)


class _About:
    """The JSON of a model file, checked piece by piece as it is asked for."""

    def __init__(self, path: Path, plain: Any):
        self.path = path
        self._plain = plain if isinstance(plain, dict) else {}
        version = self._entry("format", lambda v: type(v) is int and v >= 1, "a whole number")
        if version > FORMAT:
            raise InputError(
                f"{path} is of format {version}, and this hillstart reads up to {FORMAT}; install a newer hillstart."
            )

    def sizes(self) -> list[int]:
        sizes = self._entry("sizes", _is_list_of(lambda n: type(n) is int and n >= 1), "a list of node counts")
        classes, preprocessing = self.classes(), self.preprocessing()
        inputs = preprocessing.channels * preprocessing.size**2
        if len(sizes) < 2 or sizes[0] != inputs or sizes[-1] != len(classes):
            raise InputError(
                f"{self.path}: sizes {sizes} do not lead from {inputs} inputs ({preprocessing.channels} channels of "
                f"{preprocessing.size} x {preprocessing.size}) to {len(classes)} classes; {AS_WRITTEN}"
            )
        return list(sizes)

    def classes(self) -> tuple[str, ...]:
        names = self._entry("classes", _is_list_of(lambda name: isinstance(name, str)), "a list of names")
        if len(names) < 2 or len(set(names)) < len(names):
            raise InputError(f"{self.path}: classes {names} are not two or more different names.")
        return tuple(names)

    def preprocessing(self) -> Preprocessing:
        try:
            return Preprocessing.from_dict(self._entry("preprocessing", lambda v: isinstance(v, dict), "named values"))
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error

    def origins(self) -> tuple[Start, ...]:
        seeds = self._entry("seeds", _is_list_of(lambda s: type(s) is int and s >= 0), "a list of seeds")
        rolls = self._entry("rolls", _is_list_of(_is_list_of(_is_number)), "a list of numbers for each seed")
        if not seeds or len(seeds) != len(rolls) or any(len(roll) != len(fields(Hyperparameters)) for roll in rolls):
            raise InputError(f"{self.path}: seeds and rolls do not tell of the same starts; {AS_WRITTEN}")
        return tuple(Start(seed, Hyperparameters(*map(float, roll))) for seed, roll in zip(seeds, rolls, strict=True))

    def model(self, w: Sequence[torch.Tensor], b: Sequence[torch.Tensor], these: Sequence[int] | None = None) -> Model:
        """With these tensors, of these starts or of all."""
        if not all(bool(t.isfinite().all()) for t in (*w, *b)):
            raise InputError(f"{self.path}: a weight or bias is not a finite number; {AS_WRITTEN}")
        activation = self._entry(
            "activation", lambda v: isinstance(v, str) and v in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}"
        )
        cost = self._entry("cost", lambda v: isinstance(v, str) and v in COSTS, f"one of {', '.join(COSTS)}")
        origins = self.origins()
        kept = origins if these is None else tuple(origins[s] for s in these)
        return Model(Network(w, b, activation, cost), kept, self.classes(), self.preprocessing(),
                     self._calibration(len(kept)), self._named("trained_on"), self._named("versions"))  # fmt: skip

    def _calibration(self, S: int) -> Calibration | None:
        def fits(v: Any) -> bool:
            return v is None or (
                isinstance(v, dict)
                and _is_temperature(v.get("vote"))
                and _is_list_of(_is_temperature)(v.get("starts"))
                and len(v["starts"]) == S
            )

        found = self._entry("calibration", fits, f"null, or a temperature for the vote and for each of {S} starts")
        return found and Calibration(float(found["vote"]), tuple(map(float, found["starts"])))

    def _one_of(self, key: str, known: Iterable[str]) -> str:
        return str(self._entry(key, lambda v: isinstance(v, str) and v in known, f"one of {', '.join(known)}"))

    def _named(self, key: str) -> dict[str, Any] | None:
        found = self._entry(key, lambda v: v is None or isinstance(v, dict), "null or named values")
        return found and dict(found)

    def _entry(self, key: str, fits: Callable[[Any], bool], what: str) -> Any:
        if key not in self._plain:
            raise InputError(f"{self.path} does not say its {key}; {AS_WRITTEN}")
        value = self._plain[key]
        if not fits(value):
            raise InputError(f"{self.path}: {key} is {_brief(value)}, not {what}; {AS_WRITTEN}")
        return value


def _check_header(path: Path) -> None:
    """The length that the header claims, before anyone allocates it."""
    try:
        with path.open("rb") as file:
            claimed = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; give a run folder, a model file or a checkpoint.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a model file that can.") from None
    if size < 8 or claimed > min(size - 8, MAX_HEADER_BYTES):
        raise InputError(f"{path} is not a whole model file (its header does not fit); give one that a run wrote.")


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: its description is no JSON ({_brief(error)}); {AS_WRITTEN}") from error


def _is_list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_temperature(value: Any) -> bool:
    return _is_number(value) and value > 0


def _brief(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
