"""Shapes and types of public functions are checked while tests run; `gpu` tests skip with a reason without CUDA."""

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("hillstart", "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
