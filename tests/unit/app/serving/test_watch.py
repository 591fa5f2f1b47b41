"""The watch of a registry that hangs or lies: it goes on, and says so."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.serving import watch
from app.serving.model_server import ModelServer
from app.serving.watch import MAX_STUCK, GivenUpError, Look, Looks
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
    """Let the service's opening of files of this name hang, as it does on a network volume whose server is gone.

    Only then is a step given up soon: on a busy machine, one that works may take long as well. Yields the looks that
    hang.
    """
    opened = os.open
    hanging: dict[str, tuple[threading.Event, list[threading.Thread]]] = {}

    def opening(path: Any, *arguments: Any, **named: Any) -> int:
        if isinstance(look := threading.current_thread(), Look) and (hangs := hanging.get(Path(path).name)):
            answers, looks = hangs
            looks.append(look)
            answers.wait(60)
        return opened(path, *arguments, **named)

    monkeypatch.setattr(os, "open", opening)

    @contextmanager
    def hang(name: str) -> Iterator[list[threading.Thread]]:
        answers, looks = hanging[name] = threading.Event(), list[threading.Thread]()
        try:
            with monkeypatch.context() as patched:
                patched.setattr(watch, "SECONDS_PER_STEP", 0.1)
                patched.setattr(watch, "BYTES_PER_SECOND", 2**30)
                yield looks
        finally:
            del hanging[name]
            answers.set()

    return hang


@pytest.mark.parametrize("name", ["current", "key.pub", "manifest.json", "manifest.sig", "model.pkl"])
def test_a_look_that_hangs_is_given_up_counted_and_said_and_the_next_one_is_made(
    registry: Registry, publish: Publish, hang: Callable[[str], Any], name: str
) -> None:
    good = publish()["version"]
    with TestClient(create_app(Settings(poll_seconds=0.01, retry_seconds=0.01), registry)) as client:

        def metric(of: str) -> float:
            lines = client.get("/metrics").text.splitlines()
            return float(next(line for line in lines if line.startswith(f"modelo_penguin_registry_{of} ")).split()[1])

        def ready() -> dict[str, Any]:
            answer = client.get("/health/ready")
            assert answer.status_code == 200
            return answer.json()

        wait_until(lambda: ready() == {"status": "ready"})
        before = metric("looks_given_up_total")
        with hang(name) as hanging:
            new = publish()["version"]
            wait_until(lambda: len(hanging) == MAX_STUCK and metric("looks_given_up_total") >= before + MAX_STUCK)
            seen = metric("seen_timestamp_seconds")
            assert ready()["registry"].startswith(f"{registry.root} does not answer: looking at it took more than")
            assert client.post("/predict", json=EXAMPLE).json()["model_version"] == good
            assert metric("seen_timestamp_seconds") == seen > time.time() - 600
        wait_until(lambda: client.get("/model-info").json()["version"] == new)
        wait_until(lambda: ready() == {"status": "ready"})
        assert metric("seen_timestamp_seconds") > seen


def test_what_was_given_up_changes_nothing_and_only_a_few_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SECONDS_PER_STEP", 0.02)
    answers, said = threading.Event(), list[str]()

    def work(look: Look) -> None:
        answers.wait(60)
        try:
            look.allow()
        except GivenUpError:
            said.append("late")
            raise
        said.append("changed something")

    looks = Looks(work, tmp_path, given_up=lambda: said.append("given up"))
    for _ in range(MAX_STUCK + 3):
        looks.look()
    assert said == ["given up"] * MAX_STUCK
    answers.set()
    wait_until(lambda: said[MAX_STUCK:] == ["late"] * MAX_STUCK)
    wait_until(lambda: not [thread for thread in threading.enumerate() if isinstance(thread, Look)])
    monkeypatch.setattr(watch, "SECONDS_PER_STEP", 60)
    looks.look()
    assert said[2 * MAX_STUCK :] == ["changed something"]


def test_what_waits_for_no_volume_is_not_given_up_however_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(look: Look) -> None:
        monkeypatch.setattr(watch, "SECONDS_PER_STEP", 0.01)
        look.no_more_reading()
        time.sleep(0.1)  # compiles
        looks.saw(None)

    given_up = list[str]()
    looks = Looks(work, tmp_path, given_up=lambda: given_up.append("given up"))
    looks.look()
    assert given_up == []
    assert looks.seen > 0


def test_an_older_or_unsigned_pointer_is_refused_by_name_also_by_a_service_that_has_just_started(
    registry: Registry, publish: Publish
) -> None:
    pointer, last = registry.root / "current", registry.root / ".last-pointer"
    first = publish()["version"]
    saved = pointer.read_bytes()
    second = publish()["version"]
    server = ModelServer(registry, poll_seconds=1, retry_seconds=0.001)
    server.refresh()
    kept = last.read_bytes()
    for content, said in (
        (saved, "an older pointer was put back"),
        (f"{first}\n".encode(), "its signature does not match"),
    ):
        pointer.write_bytes(content)
        for reader, remains in ((server, saved), (ModelServer(registry, poll_seconds=1, retry_seconds=0.001), kept)):
            last.write_bytes(remains)  # who goes on remembers, even where both were put back
            reader.refresh()
            assert reader.require().version == second
            assert reader.refused is not None
            assert reader.refused.version == "current"
            assert f"{pointer} names version {first}" in reader.refused.reason
            assert said in reader.refused.reason
            assert reader.looks.problem == reader.refused.reason
    registry.activate(first)
    server.refresh()
    assert (server.require().version, server.refused, server.looks.problem) == (first, None, None)


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
