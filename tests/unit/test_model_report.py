"""The plugin's pages. That only those who are logged in see them is tested on a running Airflow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi.core_api.security import get_user
from fastapi.testclient import TestClient

import model_report
from model_report import PREFIX, ModelReportPlugin, create_app
from penguins.registry import Registry

Trained = tuple[bytes, dict[str, Any]]
Publish = Callable[[], dict[str, Any]]
ABSENT = "20260101T000000Z-0123abcd"


@pytest.fixture
def client(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv("MODELS_DIR", str(registry.root))
    monkeypatch.setenv("MODEL_PUBLIC_KEYS_FILE", str(registry.keys.public))
    app = create_app()
    app.dependency_overrides[get_user] = lambda: None
    return TestClient(app, raise_server_exceptions=False)


def publish_with_report(registry: Registry, trained: Trained, report: bytes) -> str:
    return registry.publish(*trained, make_report=lambda _: report)["version"]


def test_before_the_first_model_the_page_says_what_to_do(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "Trigger the DAG modelo_penguin" in answer.text


def test_the_page_is_the_serving_models_and_each_version_has_its_own(
    client: TestClient, registry: Registry, trained: Trained
) -> None:
    first = publish_with_report(registry, trained, b"<p>first</p>")
    assert client.get("/").content == b"<p>first</p>"
    second = publish_with_report(registry, trained, b"<p>second</p>")
    assert client.get("/").content == b"<p>second</p>"
    registry.activate(first)
    assert client.get("/").content == b"<p>first</p>"
    assert client.get(f"/{second}").content == b"<p>second</p>"
    assert "frame-ancestors 'self'" in client.get("/").headers["content-security-policy"]


def test_a_version_that_waits_is_shown_until_it_serves(
    client: TestClient, registry: Registry, trained: Trained
) -> None:
    report = b"<html><body><p>report</p></body></html>"

    def waits(path: str) -> bool:
        page = client.get(path).text
        assert page.replace("<body>", "", 1).count("<p>report</p>") == 1
        said = f"Version {waiting} waits to be activated" in page
        assert said == (f"<code>python -m penguins.registry activate {waiting}</code> makes it serve" in page)
        return said

    serving = publish_with_report(registry, trained, report)
    waiting = registry.publish(*trained, make_report=lambda _: report, activate=False)["version"]
    assert [waits(path) for path in ("/", f"/{waiting}", f"/{serving}")] == [True, True, False]
    registry.activate(waiting)
    assert client.get("/").content == client.get(f"/{waiting}").content == report


def test_a_first_version_that_waits_is_named(client: TestClient, registry: Registry, trained: Trained) -> None:
    waiting = registry.publish(*trained, activate=False)["version"]
    answer = client.get("/")
    assert answer.status_code == 200
    assert f"python -m penguins.registry activate {waiting}" in answer.text


def test_a_model_without_a_report_says_what_to_do(client: TestClient, registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    answer = client.get("/")
    assert answer.status_code == 404
    assert f"version {version} has no report" in answer.text
    assert "Trigger the DAG modelo_penguin" in answer.text


def test_a_spoilt_report_is_not_shown(client: TestClient, registry: Registry, trained: Trained) -> None:
    version = publish_with_report(registry, trained, b"<p>report of the model</p>")
    (registry.root / version / "report.html").write_bytes(b"<script>forged</script>   ")
    answer = client.get("/")
    assert answer.status_code == 404
    assert "It was changed after publishing" in answer.text
    assert "forged" not in answer.text


def test_what_is_no_version_has_no_report_and_is_escaped(client: TestClient, publish: Publish) -> None:
    publish()
    for version in (ABSENT, "<script>", "..", "%2e%2e%2fkey", "x" * 1000):
        answer = client.get(f"/{version}")
        assert answer.status_code == 404, version
        assert "<script>" not in answer.text


def test_without_a_user_nothing_is_shown(registry: Registry, publish: Publish) -> None:
    publish()
    for path in ("/", f"/{registry.current()}"):
        assert TestClient(create_app()).get(path).status_code == 401


def test_both_views_lead_to_the_served_page() -> None:
    plugin = ModelReportPlugin()
    (served,) = plugin.fastapi_apps
    assert served["url_prefix"] == PREFIX
    framed = [view for view in plugin.external_views if "url_route" in view]
    assert {view["destination"]: view["href"] for view in framed} == {"nav": f"{PREFIX}/", "dag": f"{PREFIX}/"}
    assert len({view["url_route"] for view in framed}) == 2


def test_the_form_is_at_the_apis_port_and_a_frame_which_may_not_go_there_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (link,) = (view for view in ModelReportPlugin().external_views if "url_route" not in view)
    path = link["href"].removeprefix(PREFIX)
    client = TestClient(create_app(), base_url="http://box:8080", follow_redirects=False)
    for port, expected in ((None, 8989), ("8990", 8990)):
        monkeypatch.setenv("API_PORT", port) if port else monkeypatch.delenv("API_PORT", raising=False)
        opened = client.get(path, headers={"sec-fetch-dest": "document"})
        assert (opened.status_code, opened.headers["location"]) == (307, f"http://box:{expected}/try")
        framed = client.get(path, headers={"sec-fetch-dest": "iframe"})
        assert framed.status_code == 200
        assert f"http://box:{expected}/try" in framed.text
        assert "<a" not in framed.text


def test_loading_the_plugin_imports_nothing_that_tasks_would_wait_for() -> None:
    """Every task's process loads it, with Airflow's own modules there already."""
    code = (
        "import sys, airflow.plugins_manager; before = set(sys.modules); "
        "import model_report; model_report.ModelReportPlugin(); print(sorted(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(Path(model_report.__file__).parent), "PATH": ""},
    )
    assert run.stdout.splitlines()[-1] == "['model_report', 'penguins', 'penguins.column_types', 'penguins.schema']"
