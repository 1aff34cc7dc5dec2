"""Shapes and types of public functions are checked while tests run; `gpu` tests skip with a reason without CUDA."""

import pytest
import torch
from jaxtyping import install_import_hook

# The tower: a whole number is a float too, as in eta=3.
install_import_hook("hillstart", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
