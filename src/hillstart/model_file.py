"""The self-describing file of the kept starts: what a prediction needs, as plain tensors and JSON, without pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hillstart.errors import InputError
from hillstart.files import replacing
from hillstart.network import Network

FORMAT = 1


def save(path: Path, network: Network, about: Mapping[str, Any]) -> None:
    """Write `network` with `w1`, `b1`, `w2` ... as tensors of axis 0 S, and all about it as JSON.

    Args:
        about: plain data, beside what `network` knows of itself: seeds, classes, preprocessing ...
    """
    described = {
        "format": FORMAT,
        "sizes": network.sizes,
        "activation": network.activation,
        "cost": network.cost,
        **about,
    }
    tensors = {f"w{l}": w.cpu().contiguous() for l, w in enumerate(network.w, 1)}
    tensors |= {f"b{l}": b.cpu().contiguous() for l, b in enumerate(network.b, 1)}
    with replacing(path) as new:
        save_file(tensors, new, {"hillstart": json.dumps(described)})


def load(path: Path) -> tuple[Network, dict[str, Any]]:
    """The network and what `save` was told about it.

    Raises:
        InputError: the file is missing, damaged, or none that `save` wrote.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["hillstart"])
            layers = range(1, len(about["sizes"]))
            w, b = [file.get_tensor(f"w{l}") for l in layers], [file.get_tensor(f"b{l}") for l in layers]
            network = Network(w, b, about["activation"], about["cost"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a whole file of networks; give one that a run wrote.") from error
    return network, about
