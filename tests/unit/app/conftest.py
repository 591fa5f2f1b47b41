from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from fastapi.testclient import TestClient

import app.fast.loader
import app.serving.model_server
from app.fast.graph import CompileError
from app.fast.loader import Answer, _compile_apart, load
from app.main import create_app
from app.settings import Settings
from penguins.compatibility import ModelError
from penguins.inference import load_model
from penguins.registry import Registry
from penguins.report.page import render
from support import empty_registry


@pytest.fixture(scope="module", autouse=True)
def compile_once() -> Iterator[None]:
    """Compile each model once for all tests, and in this process, because another one takes seconds to start.

    Of module scope, so that it comes before a module's own service as well.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.fast.loader, "_compile_apart", _compile_here)
        patch.setattr(app.fast.loader, "load", _load)
        patch.setattr(app.fast.loader, "warm_up", lambda: None)
        yield


@pytest.fixture
def compile_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile in a process of its own after all, as the service does."""
    monkeypatch.setattr(app.fast.loader, "_compile_apart", _compile_apart)


def _compile_here(pickled: bytes, manifest: Mapping[str, Any]) -> Answer:
    from app.fast.compiler import compile_model

    try:
        return compile_model(load_model(pickled, manifest), manifest["golden"])
    except (CompileError, ModelError) as error:
        return error


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


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, trained: tuple[bytes, dict[str, Any]]) -> Registry:
    """A registry with one model and a report, for tests that change neither."""
    registry = empty_registry(tmp_path_factory.mktemp("published"))
    registry.publish(*trained, make_report=lambda _: b"<p>report</p>")
    return registry


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
