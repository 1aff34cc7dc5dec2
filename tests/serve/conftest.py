"""A small model, and the port of a server that answers with it."""

from collections.abc import Iterator
from typing import Any

import pytest

from hillstart.inference.classifier import Classifier
from hillstart.inference.loading import load
from hillstart.serve.batching import Service
from serving import Held, running, write_model


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return load(write_model(tmp_path_factory.mktemp("served") / "network.safetensors"))


@pytest.fixture(scope="session")
def port(classifier: Classifier) -> Iterator[int]:
    with running(Service(classifier, max_bytes=100_000, max_pixels=1_000_000)) as (port, _):
        yield port


@pytest.fixture
def held(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(classifier, monkeypatch)


@pytest.fixture
def served(classifier: Classifier) -> Iterator[tuple[int, Any]]:
    """The port and the uvicorn server of a service with the usual limits."""
    with running(Service(classifier)) as served:
        yield served
