"""The files of conf/data offer exactly the options of their `load`, with the same defaults."""

import importlib
import inspect
from pathlib import Path

import pytest
from omegaconf import OmegaConf

FILES = sorted((Path(__file__).parents[2] / "conf" / "data").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_options_and_defaults_agree(file: Path) -> None:
    options = OmegaConf.to_container(OmegaConf.load(file))
    module, load = options.pop("_target_").rsplit(".", 1)
    parameters = inspect.signature(getattr(importlib.import_module(module), load)).parameters.values()
    defaults = {p.name: None if p.default is p.empty else p.default for p in parameters}
    if file.stem == "mnist":  # shares its module with fashion_mnist, the default
        defaults["name"] = "mnist"
    assert options == {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}


def test_every_source_has_its_file() -> None:
    assert [file.stem for file in FILES] == ["cifar10", "fashion_mnist", "folder", "lion_duck", "mnist", "quickdraw"]
