"""The lock in front of the service: what it lets through, what it says, and that its file may change."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import app.guards.access
from app.main import create_app
from app.settings import Settings
from penguins.api_keys import KeysError, add_key, remove_key
from penguins.registry import Registry
from penguins.schema import EXAMPLE

BODY = json.dumps(EXAMPLE).encode()
FAST, ORDINARY = ({"content-type": kind} for kind in ("application/json", "application/json; charset=utf-8"))
OPEN = {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics", "/try"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "api_keys"


@pytest.fixture
def key(file: Path) -> str:
    return add_key(file, "lab")


@pytest.fixture
def locked(
    key: str, file: Path, publish: Callable[[], Any], registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    """The service with one model and one key."""
    monkeypatch.setattr(app.guards.access, "SECONDS_TO_LOOK", 0.02)
    publish()
    with TestClient(create_app(Settings(keys_file=file), registry), raise_server_exceptions=False) as client:
        yield client


def test_each_path_wants_a_key_but_health_metrics_and_the_pages(locked: TestClient, key: str) -> None:
    paths = locked.get("/openapi.json").json()["paths"]
    asked = [(method, path) for path, methods in paths.items() for method in methods]
    assert set(paths) > OPEN
    others = [("get", "/nothing"), ("trace", "/predict"), ("get", "/health"), ("post", "/predict/")]
    for method, path in asked + others:
        answer = locked.request(method, path)
        assert (answer.status_code == 401) == (path not in OPEN), (method, path)
        assert locked.request(method, path, headers={"X-API-Key": key}).status_code != 401, (method, path)
    assert locked.get("/").status_code == 200
    assert locked.get("/static-offline-docs/swagger-ui.css").status_code == 200
    assert locked.get("/static-offline-docs%2f..%2fmodels").status_code == 404


def test_openapi_names_the_scheme_where_a_key_is_needed_and_only_then(
    locked: TestClient, client: TestClient, serving: TestClient
) -> None:
    api = locked.get("/openapi.json").json()
    (name, scheme), *others = api["components"]["securitySchemes"].items()
    assert not others
    assert {k: scheme[k] for k in ("type", "in", "name")} == {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    for path, methods in api["paths"].items():
        for operation in methods.values():
            assert operation.get("security") == (None if path in OPEN else [{name: []}]), path
            assert ("401" in operation["responses"]) == (path not in OPEN)
    without = serving.get("/openapi.json").json()
    assert "securitySchemes" not in without["components"]
    assert "401" not in json.dumps(without)


@pytest.mark.parametrize("kind", [FAST, ORDINARY], ids=["shortcut", "ordinary"])
def test_a_wrong_key_is_refused_before_anything_else_and_a_hint_is_given(
    locked: TestClient, key: str, kind: dict[str, str]
) -> None:
    right = [*kind.items(), ("X-API-Key", key)]
    assert locked.post("/predict", content=BODY, headers=right).status_code == 200
    wrong = [
        [],
        [("X-API-Key", "")],
        [("X-API-Key", key[:-1])],
        [("X-API-Key", key + "=")],
        [("X-API-Key", key.swapcase())],
        [("X-API-Key", key), ("X-API-Key", key)],
        [("Authorization", f"Bearer {key}")],
    ]
    for headers in wrong:
        for body in (BODY, b"{", b" " * 5 * 2**20):
            answer = locked.post("/predict", content=body, headers=[*kind.items(), *headers])
            assert answer.status_code == 401, headers
            assert "python -m penguins.api_keys add NAME" in answer.json()["detail"]
            assert answer.headers["www-authenticate"] == "APIKey"
            assert key not in answer.text
    assert locked.post("/predict", content=b"{", headers=right).status_code == 422
    assert list(locked.get("/v2").json()) == ["error"]


def test_nothing_of_a_body_is_read_without_a_key(locked: TestClient) -> None:
    async def receive() -> Any:
        raise AssertionError("the body was read")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    for path in ("/predict", "/predict/batch"):
        headers = [(b"content-type", b"application/json"), (b"content-length", b"200"), (b"x-api-key", b"x" * 43)]
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        whole: dict[str, Any] = {**scope, "headers": headers, "app": locked.app}
        asyncio.run(locked.app(whole, receive, send))  # type: ignore[arg-type]
        assert sent[-2]["status"] == 401


def test_requests_are_counted_by_the_keys_name_and_without_keys_as_before(
    locked: TestClient, key: str, file: Path, registry: Registry
) -> None:
    for kind in (FAST, ORDINARY):
        locked.post("/predict", content=BODY, headers={**kind, "X-API-Key": key})
        locked.post("/predict", content=BODY, headers={**kind, "X-API-Key": "unknown"})
    locked.get("/model-info", headers={"X-API-Key": key})
    locked.get("/models/x/report")
    text = locked.get("/metrics").text
    assert {line for line in text.splitlines() if line.startswith("model_requests_total{")} == {
        'model_requests_total{endpoint="/predict",key="lab",model="modelo_penguin",status="200"} 2.0',
        'model_requests_total{endpoint="/predict",key="",model="modelo_penguin",status="401"} 2.0',
        'model_requests_total{endpoint="/model-info",key="lab",model="modelo_penguin",status="200"} 1.0',
        'model_requests_total{endpoint="other",key="",model="modelo_penguin",status="401"} 1.0',
    }
    with TestClient(create_app(Settings(), registry)) as free:
        free.post("/predict", content=BODY, headers={**FAST, "X-API-Key": key})
        assert (
            'model_requests_total{endpoint="/predict",model="modelo_penguin",status="200"} 1.0'
            in free.get("/metrics").text
        )
        assert "key=" not in free.get("/metrics").text


def test_the_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing(
    locked: TestClient, key: str, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def status(key: str) -> int:
        return locked.post("/predict", content=BODY, headers={**FAST, "X-API-Key": key}).status_code

    def wait(ready: Callable[[], bool]) -> None:
        for _ in range(500):
            if ready():
                return
            time.sleep(0.02)
        raise AssertionError(caplog.text)

    def logged() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]

    second = add_key(file, "ship")
    wait(lambda: status(second) == 200)
    good = file.read_text()
    beside = file.with_name("beside")
    made: list[Callable[[], object]] = [beside.touch, lambda: beside.write_text("nonsense"), lambda: os.mkfifo(beside)]
    for make in made:
        make()
        before = len(logged())
        beside.replace(file)
        wait(lambda: len(logged()) > before)  # noqa: B023 - called within the loop
    file.unlink()
    wait(lambda: len(logged()) == 4)
    assert [status(key), status(second)] == [200, 200]
    beside.write_text(good)
    beside.replace(file)
    remove_key(file, "lab")
    wait(lambda: status(key) == 401)
    assert status(second) == 200
    assert len(logged()) == 4
    assert key not in caplog.text


def test_a_file_that_could_not_be_read_is_tried_again_and_logged_once(
    file: Path, key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keys = app.guards.access.Keys(file)

    def broken(_: int) -> Any:
        raise OSError(5, "Input/output error")

    scope = {"headers": [(b"x-api-key", add_key(file, "ship").encode())]}
    with monkeypatch.context() as faulty:
        faulty.setattr("os.fstat", broken)
        keys.refresh()
        keys.refresh()
    assert keys.name_of(scope) is None
    keys.refresh()
    assert keys.name_of(scope) == "ship"
    assert [r.getMessage().count("Input/output error") for r in caplog.records if r.levelname == "ERROR"] == [1]


def test_without_the_file_there_is_no_service(file: Path, registry: Registry) -> None:
    with pytest.raises(KeysError, match="cannot be read"):
        create_app(Settings(keys_file=file), registry)
