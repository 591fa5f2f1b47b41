"""What browsers and proxies ask for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.main import create_app
from app.settings import Settings
from penguins.registry import Registry
from penguins.schema import EXAMPLE

PAGES = ("/", "/try", "/metrics", "/health/live", "/health/ready", "/model-info", "/models", "/v2/health/ready")
ORIGIN = "https://page.example"


def test_head_is_answered_as_get(serving: TestClient) -> None:
    for path in (*PAGES, "/report", "/nowhere", "/static-offline-docs/swagger-ui.css", "/try/form.css"):
        head, get = serving.head(path), serving.get(path)
        assert (head.status_code, head.headers["content-type"]) == (get.status_code, get.headers["content-type"]), path
        assert head.content == b""
    assert serving.head("/predict").status_code == 405


@pytest.fixture
def service_with(published: Registry) -> Callable[..., TestClient]:
    return lambda **settings: TestClient(create_app(Settings(**settings), published))


def test_pages_of_other_origins_may_ask_if_they_are_named(service_with: Callable[..., TestClient]) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    with service_with() as closed:
        assert "access-control-allow-origin" not in closed.post("/predict", json=EXAMPLE, headers=asked).headers
        assert closed.options("/predict", headers=asked).status_code == 405
    with service_with(cors_origins=f"{ORIGIN}, https://other.example") as opened:
        for answer in (
            opened.options("/predict", headers=asked),
            opened.post("/predict", json=EXAMPLE, headers=asked),
            opened.post("/predict", json={}, headers=asked),
            opened.get("/health/ready", headers=asked),
        ):
            assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert opened.options("/predict", headers={**asked, "Origin": "https://foe.example"}).status_code == 400
    with service_with(cors_origins="*") as anybody:
        assert anybody.get("/model-info", headers=asked).headers["access-control-allow-origin"] == "*"


def test_origins_and_prefixes_that_are_none_are_refused_at_the_start() -> None:
    for origins in ("page.example", "https://page.example/path", "https://a.example,,"):
        with pytest.raises(ValidationError, match="cors_origins"):
            Settings(cors_origins=origins)
    for prefix in ("penguins", "/penguins/", "/a?b"):
        with pytest.raises(ValidationError, match="root_path"):
            Settings(root_path=prefix)


def test_behind_a_prefix_all_is_as_without(service_with: Callable[..., TestClient]) -> None:
    with service_with() as plain, service_with(root_path="/birds") as service:
        for prefix in ("/birds", ""):  # as it is, and as a proxy that takes it off sends it
            assert service.post(f"{prefix}/predict", json=EXAMPLE).json() == plain.post("/predict", json=EXAMPLE).json()
            for path in (*PAGES, "/static-offline-docs/swagger-ui.css", "/try/form.css"):
                assert service.get(f"{prefix}{path}").status_code == 200, prefix + path
        page = service.get("/birds/").text
        assert "url: '/birds/openapi.json'" in page
        assert 'src="/birds/static-offline-docs/swagger-ui-bundle.js"' in page
        assert service.get("/birds/openapi.json").json()["servers"] == [{"url": "/birds"}]
        counted = service.get("/metrics").text
        assert 'model_requests_total{endpoint="/predict",model="modelo_penguin",status="200"} 2.0' in counted
        assert "/birds" not in counted
        assert service.get("/birdsong/health/live").status_code == 404
