"""Sigmoid networks as explicit tensor operations, trained from many random starts at once."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hillstart.api.estimator import StartsClassifier as StartsClassifier
    from hillstart.api.opened import OpenedRun as OpenedRun
    from hillstart.api.opened import open_run as open_run
    from hillstart.api.train import train as train
    from hillstart.inference.classifier import Classifier as Classifier
    from hillstart.inference.loading import load as load
    from hillstart.inference.prediction import Prediction as Prediction
    from hillstart.network import Network as Network
    from hillstart.system.errors import InputError as InputError

# Imported on first access, so that a command catches signals before torch is imported.
_HOMES = {
    "train": "api.train",
    "open_run": "api.opened",
    "OpenedRun": "api.opened",
    "load": "inference.loading",
    "Classifier": "inference.classifier",
    "Prediction": "inference.prediction",
    "Network": "network",
    "StartsClassifier": "api.estimator",
    "InputError": "system.errors",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("hillstart")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"hillstart.{name} needs more packages: pip install 'hillstart[sklearn]'.") from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
