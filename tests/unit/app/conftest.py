from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from penguins.registry import Registry


@pytest.fixture
def client(registry: Registry) -> Iterator[TestClient]:
    """The service around an empty registry. `raise_server_exceptions` off: a 500 must be seen as a user sees it."""
    app = create_app(Settings(poll_seconds=0.02, retry_seconds=0.05), registry)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def serving(publish: Callable[[], dict[str, Any]], registry: Registry) -> Iterator[TestClient]:
    """The service around a registry with one published model."""
    publish()
    with TestClient(create_app(Settings(), registry), raise_server_exceptions=False) as client:
        yield client
