"""The model's life cycle. `refresh` is what the watching thread calls; here it is called by hand."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient

import app.fast.loader
import app.main
import app.serving
from app.errors import ModelNotReadyError
from app.fast import loader
from app.fast.graph import CompileError
from app.fast.loader import load
from app.serving.model_server import ModelServer
from penguins.compatibility import ModelError
from penguins.registry import Registry, store
from penguins.registry.pointer import move_pointer
from penguins.schema import EXAMPLE

Publish = Callable[[], dict[str, Any]]


@pytest.fixture
def server(registry: Registry) -> ModelServer:
    return ModelServer(registry, loader, poll_seconds=1, retry_seconds=0.001)


def spoil(registry: Registry, version: str) -> None:
    path = registry.root / version / "model.pkl"
    path.write_bytes(path.read_bytes()[:-1])


def test_without_a_model_the_reason_is_given(server: ModelServer) -> None:
    server.refresh()
    with pytest.raises(ModelNotReadyError, match="trigger the DAG modelo_penguin"):
        server.require()


@pytest.fixture
def said(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a request is told during each load."""
    told: list[str] = []
    load = app.fast.loader.load

    def asked(pickled: bytes, manifest: dict[str, Any]) -> Any:
        with pytest.raises(ModelNotReadyError) as error:
            server.require()
        told.append(str(error.value))
        return load(pickled, manifest)

    monkeypatch.setattr(app.fast.loader, "load", asked)
    return told


def test_while_the_first_version_loads_its_name_and_since_when_are_given(
    server: ModelServer, publish: Publish, said: list[str]
) -> None:
    server.refresh()
    before = datetime.now(UTC).replace(microsecond=0)
    version = publish()["version"]
    server.refresh()
    (text,) = said
    found = re.fullmatch(rf"version {version} was published, and has been loading since (\S+Z): ask again", text)
    assert found, text
    assert before <= datetime.fromisoformat(found[1]) <= datetime.now(UTC)
    assert server.require().version == version


def test_a_first_version_is_not_refused_between_its_own_place_and_its_pointers(
    server: ModelServer, registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    move_pointer = store.move_pointer

    def looked_at(*given: Any, **named: Any) -> None:
        server.refresh()
        with pytest.raises(ModelNotReadyError) as error:
            server.require()
        told.append(str(error.value))
        move_pointer(*given, **named)

    monkeypatch.setattr(store, "move_pointer", looked_at)
    version = publish()["version"]
    assert told == [f"version {version} is being published: ask again"]
    assert (server.rejections, server.refused) == (0, None)
    server.refresh()
    assert server.require().version == version
    (registry.root / "current").unlink()
    (registry.root / ".last-pointer").unlink()
    server.refresh()
    assert server.refused  # nobody publishes now
    assert "current is missing" in server.refused.reason


def test_while_a_refused_version_is_tried_again_or_an_older_one_instead_its_reason_is_given(
    server: ModelServer, registry: Registry, trained: tuple[bytes, dict[str, Any]], said: list[str]
) -> None:
    def publish(pickled: bytes) -> str:
        return registry.publish(pickled, trained[1])["version"]

    older, bad = publish(b"no pickle either"), publish(b"no pickle")
    server.refresh()
    time.sleep(0.005)  # longer than its retry interval
    server.refresh()
    refused = "no model can be served: the pickle does not open as a classifier"
    assert f"version {bad} was published" in said[0]
    assert len(said) == 4  # each of the two, twice
    assert all(text.startswith(refused) for text in said[1:]), said
    good = publish(trained[0])
    server.refresh()
    assert f"version {good} was published" in said[-1]
    assert server.require().version == good > older


def test_while_a_version_loads_nothing_is_said_of_a_pointer_or_a_volume_that_is_well_again(
    server: ModelServer, registry: Registry, publish: Publish, said: list[str]
) -> None:
    registry.root.mkdir()
    (registry.root / "current").write_text("no version")
    server.refresh()
    server.refresh()
    with pytest.raises(ModelNotReadyError, match="the first line of"):
        server.require()
    assert server.problem
    version = publish()["version"]
    server.refresh()
    assert f"version {version} was published" in said[-1]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions that were loaded, not counting what was taken over from before."""
    versions: list[str] = []
    load = app.fast.loader.load

    def noted(pickled: bytes, manifest: dict[str, Any]) -> Any:
        versions.append(manifest["version"])
        return load(pickled, manifest)

    monkeypatch.setattr(app.fast.loader, "load", noted)
    return versions


def test_a_new_version_is_loaded_once_and_a_rollback_to_the_previous_one_not_at_all(
    server: ModelServer, registry: Registry, publish: Publish, loads: list[str]
) -> None:
    first = publish()["version"]
    server.refresh()
    before = server.require()
    assert before.version == first
    server.refresh()
    assert server.require() is before
    second = publish()["version"]
    server.refresh()
    assert server.require().version == second
    registry.activate(first)
    server.refresh()
    assert server.require().version == first
    assert server.require().model is before.model
    assert loads == [first, second]


def test_a_bad_version_is_refused_and_the_last_good_one_goes_on(
    server: ModelServer, registry: Registry, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    good = publish()["version"]
    server.refresh()
    bad = publish()["version"]
    spoil(registry, bad)
    server.refresh()
    assert server.require().version == good
    server.refresh()
    assert server.refused is not None
    assert server.refused.version == bad
    assert "sha256" in server.refused.reason
    assert server.rejections == 1
    assert server.loads == 1
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == [
        f"version {bad} refused: {server.refused.reason}"
    ]
    registry.activate(good)
    server.refresh()
    assert server.refused is None


def test_a_signed_manifest_that_makes_no_sense_is_refused(
    server: ModelServer, registry: Registry, publish: Publish
) -> None:
    good = publish()["version"]
    server.refresh()
    bad = registry.publish(b"no pickle", {"metrics": {"accuracy": 1.0}, "dag_run_id": "x"})["version"]
    server.refresh()
    assert server.require().version == good
    assert server.refused is not None
    assert server.refused.version == bad


def test_a_refused_version_that_was_mended_is_taken(server: ModelServer, registry: Registry, publish: Publish) -> None:
    publish()
    server.refresh()
    later = publish()["version"]
    path = registry.root / later / "model.pkl"
    whole = path.read_bytes()
    path.write_bytes(b"")
    server.refresh()
    assert server.require().version != later
    path.write_bytes(whole)
    server._retry_at = 0
    server.refresh()
    assert server.require().version == later
    assert server.refused is None


def test_a_pointer_to_nothing_or_a_volume_that_is_gone_leaves_what_serves(
    server: ModelServer, registry: Registry, publish: Publish
) -> None:
    good = publish()["version"]
    server.refresh()
    for content in (b"", b"../../etc", b"\xff\xfe", b"20260101T000000Z-00000000"):
        (registry.root / "current").write_bytes(content)
        server.refresh()
        assert server.require().version == good, content
        assert server.refused is not None, content
        registry.activate(good)
        server.refresh()
        assert server.refused is None, content
    shutil.rmtree(registry.root)
    server.refresh()
    assert server.require().version == good


def test_a_start_on_a_bad_version_serves_the_newest_good_one_and_says_so(
    server: ModelServer, registry: Registry, publish: Publish
) -> None:
    oldest, older, newest = publish()["version"], publish()["version"], publish()["version"]
    spoil(registry, newest)
    server.refresh()
    assert server.require().version == older != oldest
    assert server.refused is not None
    assert server.refused.version == newest


def test_a_version_that_waits_serves_only_once_it_is_activated(
    server: ModelServer, registry: Registry, trained: tuple[bytes, dict[str, Any]]
) -> None:
    def hold_back() -> str:
        return registry.publish(*trained, activate=False)["version"]

    waiting = hold_back()
    server.refresh()
    with pytest.raises(ModelNotReadyError, match=f"registry activate {waiting}`"):
        server.require()
    bad = registry.publish(*trained)["version"]
    spoil(registry, bad)
    hold_back()
    server.refresh()
    with pytest.raises(ModelNotReadyError, match=bad):  # no other one was let serve
        server.require()
    registry.activate(waiting)
    server.refresh()
    assert server.require().version == waiting
    restarted = ModelServer(registry, loader, poll_seconds=1, retry_seconds=0.001)
    move_pointer(registry.root, registry.keys, bad)
    restarted.refresh()
    assert restarted.require().version == waiting  # it has served


def test_older_versions_are_not_tried_at_every_look(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ModelServer(registry, loader, poll_seconds=1, retry_seconds=60)
    versions = [publish()["version"] for _ in range(3)]
    tried: list[str] = []

    def bad(_: bytes, manifest: dict[str, Any]) -> Any:
        tried.append(manifest["version"])
        raise ModelError("bad")

    monkeypatch.setattr(app.fast.loader, "load", bad)
    for _ in range(5):
        server.refresh()
    assert tried == versions[::-1]


def test_where_nothing_is_good_the_reason_is_given_and_each_version_is_refused_once_however_often_tried(
    server: ModelServer, registry: Registry, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    versions = [publish()["version"]]
    spoil(registry, versions[0])
    server.refresh()
    with pytest.raises(ModelNotReadyError, match=f"{versions[0]}: the sha256 of its pickle"):
        server.require()
    for _ in range(2):
        versions.append(publish()["version"])
        spoil(registry, versions[-1])
    for _ in range(4):
        server.refresh()
        time.sleep(0.005)  # longer than its retry interval
    assert server.served is None
    assert server.refused is not None
    assert server.refused.version == registry.current()
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 3
    assert server.rejections == 3
    good = publish()["version"]
    server.refresh()
    assert server.require().version == good
    move_pointer(registry.root, registry.keys, versions[0])  # asked for anew, it is refused anew
    server.refresh()
    assert server.rejections == 4


def test_a_model_that_cannot_be_compiled_predicts_itself_counts_and_says_so(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app.fast.loader, "load", load)  # not the one that remembers
    monkeypatch.setattr(app.fast.loader, "_compile_apart", lambda *_: CompileError("no graph for this"))
    publish()
    with TestClient(app.main.create_app(registry=registry)) as client:
        info = client.get("/model-info").json()
        assert (info["predictor"], info["fallback"]) == ("pipeline", "no graph for this")
        assert client.post("/predict", json=EXAMPLE).json()["species"] == "Gentoo"
        answer = client.post("/predict/batch", json={"records": [EXAMPLE] * 3}).json()
        assert [p["species"] for p in answer["predictions"]] == ["Gentoo"] * 3
        metrics = client.get("/metrics").text.splitlines()
    of = 'model="modelo_penguin"'
    for line in (f"fallback{{{of}}} 1.0", f'predictions_total{{class="Gentoo",{of}}} 4.0', f"drift_rows{{{of}}} 4.0"):
        assert f"model_{line}" in metrics
    assert "predicting with the pipeline itself, which is slow: no graph for this" in caplog.text


def test_the_service_swaps_while_it_runs(client: TestClient, registry: Registry, publish: Publish) -> None:
    """The watching thread at work: 503, a first model, a bad one, all without a restart."""
    assert client.post("/predict", json=EXAMPLE).status_code == 503
    first = publish()["version"]
    assert version_after(client, first) == first
    bad = publish()["version"]
    manifest = registry.root / bad / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "dag_run_id": "forged"}))
    third = publish()["version"]
    assert version_after(client, third) == third
    assert client.get("/health/ready").status_code == 200


def version_after(client: TestClient, expected: str) -> str:
    for _ in range(2000):
        answer = client.post("/predict", json=EXAMPLE)
        if answer.status_code == 200 and answer.json()["model_version"] == expected:
            return expected
    return answer.text
