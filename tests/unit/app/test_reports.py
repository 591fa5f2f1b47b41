"""The reports: as they were published, or a 404 that says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient

from penguins.registry import Registry

Publish = Callable[[], dict[str, Any]]
ABSENT = "20260101T000000Z-0123abcd"


def test_the_serving_models_report_is_the_published_bytes(reporting: TestClient, registry: Registry) -> None:
    version = reporting.get("/model-info").json()["version"]
    for path in ("/report", f"/models/{version}/report"):
        answer = reporting.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.content == (registry.root / version / "report.html").read_bytes()
        assert version in answer.text


def test_a_report_may_load_nothing_and_run_nothing(reporting: TestClient) -> None:
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in reporting.get("/report").headers["content-security-policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'self'",
    }
    assert reporting.get("/report").headers["x-content-type-options"] == "nosniff"


def test_the_report_of_an_older_version_stays(reporting: TestClient, registry: Registry, publish: Publish) -> None:
    older = registry.current()
    publish()
    assert older in reporting.get(f"/models/{older}/report").text


def test_before_the_first_model_the_serving_report_is_a_503_and_another_a_404(client: TestClient) -> None:
    answer = client.get("/report")
    assert answer.status_code == 503
    assert "trigger the DAG modelo_penguin" in answer.json()["detail"]
    assert client.get(f"/models/{ABSENT}/report").status_code == 404


def test_a_version_from_before_reports_says_what_to_do(serving: TestClient, registry: Registry) -> None:
    version = registry.current()
    for path in ("/report", f"/models/{version}/report"):
        answer = serving.get(path)
        assert answer.status_code == 404
        detail = answer.json()["detail"]
        assert f"version {version} has no report" in detail
        assert "Trigger the DAG modelo_penguin" in detail
        assert "GET /models says which versions there are" in detail


def test_an_unknown_version_is_named(reporting: TestClient) -> None:
    answer = reporting.get(f"/models/{ABSENT}/report")
    assert answer.status_code == 404
    assert answer.json()["detail"] == f"there is no version {ABSENT}. GET /models says which versions there are."


def test_a_spoilt_report_is_not_served(reporting: TestClient, registry: Registry) -> None:
    (registry.root / registry.current() / "report.html").write_text("<p>forged</p>")
    answer = reporting.get("/report")
    assert answer.status_code == 404
    assert "It was changed after publishing" in answer.json()["detail"]
    assert "forged" not in answer.text


def test_what_is_no_version_is_refused_by_its_form_and_told_it(reporting: TestClient) -> None:
    for version in ("current", f"{ABSENT}x", ABSENT.upper(), f"{ABSENT}%0A"):
        assert reporting.get(f"/models/{version}/report").status_code == 422, version
    # A slash makes it another path, which no route has.
    assert reporting.get("/models/%2e%2e%2f%2e%2e/report").status_code == 404
    (error,) = reporting.get("/models/latest/report").json()["detail"]
    assert error["input"] == "latest"
    assert "[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}" in error["msg"]
