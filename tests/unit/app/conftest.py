from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

import app.serving
from app.main import create_app
from app.serving.compiled import load
from app.settings import Settings
from penguins.registry import Registry
from penguins.report.page import render


@pytest.fixture(autouse=True)
def compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile each model once for all tests: that takes two seconds, and there are hundreds that load the same one."""
    monkeypatch.setattr(app.serving.model_server, "load", _load)


_loaded: dict[str, Any] = {}


def _load(pickled: bytes, manifest: dict[str, Any]) -> Any:
    key = repr((hashlib.sha256(pickled).hexdigest(), *(manifest[k] for k in ("libraries", "classes", "golden"))))
    if key not in _loaded:
        try:
            _loaded[key] = load(pickled, manifest)
        except Exception as error:
            _loaded[key] = error
    if isinstance(_loaded[key], Exception):
        raise _loaded[key]
    return _loaded[key]


@pytest.fixture
def client(registry: Registry) -> Iterator[TestClient]:
    """The service around an empty registry. `raise_server_exceptions` off: a 500 must be seen as a user sees it."""
    service = create_app(Settings(poll_seconds=0.02, retry_seconds=0.05), registry)
    with TestClient(service, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def serving(publish: Callable[[], dict[str, Any]], registry: Registry) -> Iterator[TestClient]:
    """The service around a registry with one published model."""
    publish()
    with TestClient(create_app(Settings(), registry), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def reporting(registry: Registry, trained: tuple[bytes, dict[str, Any]]) -> Iterator[TestClient]:
    """The service around a registry with one model that was published with a report, as the DAG does it."""
    registry.publish(*trained, make_report=lambda manifest: render(manifest, points=None, earlier=[]))
    with TestClient(create_app(Settings(), registry), raise_server_exceptions=False) as client:
        yield client
