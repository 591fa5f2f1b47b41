"""The watch of a registry that hangs or lies: it goes on, and says so."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.fast import loader
from app.main import create_app
from app.serving import model_server
from app.serving.model_server import ModelServer
from app.settings import Settings
from penguins.registry import Registry
from penguins.schema import EXAMPLE

Publish = Callable[[], dict[str, Any]]


def wait_until(true: Callable[[], Any]) -> None:
    for _ in range(2000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come true")


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Let the watch's opening of files of this name hang, as it does on a network volume whose server is gone.

    Only then is that said soon: on a busy machine, a look that works may take long as well.
    """
    opened = os.open
    hanging: dict[str, threading.Event] = {}

    def opening(path: Any, *arguments: Any, **named: Any) -> int:
        if threading.current_thread().name == "model-watch" and (answers := hanging.get(Path(path).name)):
            answers.wait(60)
        return opened(path, *arguments, **named)

    monkeypatch.setattr(os, "open", opening)

    @contextmanager
    def hang(name: str) -> Iterator[None]:
        answers = hanging[name] = threading.Event()
        try:
            with monkeypatch.context() as patched:
                patched.setattr(model_server, "SECONDS_FOR_A_LOOK", 0.1)
                yield
        finally:
            del hanging[name]
            answers.set()

    return hang


@pytest.mark.parametrize("name", ["current", "key.pub", "manifest.json", "manifest.sig", "model.pkl"])
def test_a_volume_that_hangs_is_said_and_looked_at_again_when_it_answers(
    registry: Registry, publish: Publish, hang: Callable[[str], Any], name: str
) -> None:
    good = publish()["version"]
    with TestClient(create_app(Settings(poll_seconds=0.01, retry_seconds=0.01), registry)) as client:

        def seen() -> float:
            found = re.search(r"^model_registry_seen_timestamp_seconds{.*} (\S+)", client.get("/metrics").text, re.M)
            assert found
            return float(found[1])

        def ready() -> dict[str, Any]:
            answer = client.get("/health/ready")
            assert answer.status_code == 200
            return answer.json()

        wait_until(lambda: ready() == {"status": "ready"})
        with hang(name):
            new = publish()["version"]
            wait_until(lambda: "registry" in ready())
            before = seen()
            assert ready()["registry"].startswith(f"{registry.root} does not answer: looking at it takes more than")
            assert client.post("/predict", json=EXAMPLE).json()["model_version"] == good
            assert seen() == before > time.time() - 600
        wait_until(lambda: client.get("/model-info").json()["version"] == new)
        wait_until(lambda: ready() == {"status": "ready"})
        assert seen() > before


def test_an_older_or_unsigned_pointer_is_refused_by_name_also_by_a_service_that_has_just_started(
    registry: Registry, publish: Publish
) -> None:
    pointer, last = registry.root / "current", registry.root / ".last-pointer"
    first = publish()["version"]
    saved = pointer.read_bytes()
    second = publish()["version"]
    server = ModelServer(registry, loader, poll_seconds=1, retry_seconds=0.001)
    server.refresh()
    kept = last.read_bytes()
    for content, said in (
        (saved, "an older pointer was put back"),
        (f"{first}\n".encode(), "its signature does not match"),
    ):
        pointer.write_bytes(content)
        for reader, remains in (
            (server, saved),
            (ModelServer(registry, loader, poll_seconds=1, retry_seconds=0.001), kept),
        ):
            last.write_bytes(remains)  # who goes on remembers, even where both were put back
            reader.refresh()
            assert reader.require().version == second
            assert reader.refused is not None
            assert reader.refused.version == "current"
            assert f"{pointer} names version {first}" in reader.refused.reason
            assert said in reader.refused.reason
            assert reader.problem == reader.refused.reason
    registry.activate(first)
    server.refresh()
    assert (server.require().version, server.refused, server.problem) == (first, None, None)


def test_a_damaged_pointer_undoes_no_rollback_and_a_folder_that_cannot_be_listed_ends_no_look(
    registry: Registry, publish: Publish
) -> None:
    first = publish()["version"]
    publish()
    registry.activate(first)
    (registry.root / "current").write_text("x\n")
    with TestClient(create_app(Settings(), registry)) as client:
        info = client.get("/model-info").json()
        assert (info["version"], info["rejected"]["version"]) == (first, "current")
        assert "is not a version" in client.get("/health/ready").json()["registry"]
        registry.root.rename(registry.root.with_name("away"))
        registry.root.touch()
        client.app.state.model_server.refresh()  # type: ignore[attr-defined]
        answer = client.get("/models")
        assert (answer.status_code, answer.json()["detail"]) == (
            503,
            f"{registry.root} cannot be read: Not a directory",
        )
        assert client.get("/model-info").json()["version"] == first


def test_a_volume_that_hangs_from_the_start_is_said_instead_of_a_model(
    registry: Registry, publish: Publish, hang: Callable[[str], Any]
) -> None:
    publish()
    with hang("current"), TestClient(create_app(Settings(), registry)) as client:
        answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith(f"{registry.root} does not answer")
