"""Bodies that nobody thought of: every response is one that the OpenAPI documents, and never a 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.main import create_app
from penguins.registry import Registry
from penguins.schema import EXAMPLE, FEATURES, NUMBERS, Number

JSON = {"content-type": "application/json"}
NAMES = st.sampled_from([c.name for c in FEATURES] + ["records", "year", ""])
ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=8),
    max_leaves=20,
)
RECORDS = st.fixed_dictionaries(
    {
        c.name: (
            st.floats(c.minimum, c.maximum) | st.integers(int(c.minimum), int(c.maximum))
            if isinstance(c, Number)
            else st.sampled_from(c.values)
        )
        | (st.nothing() if c.required else st.none())
        for c in FEATURES
    }
).filter(lambda record: any(record[c.name] is not None for c in NUMBERS))


@pytest.fixture(scope="module")
def service(published: Registry) -> Iterator[TestClient]:
    with TestClient(create_app(registry=published), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def openapi(service: TestClient) -> Any:
    app = create_app(registry=service.app.state.model_server.registry)  # type: ignore[attr-defined]
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def answer_to(service: TestClient, path: str, body: bytes, headers: dict[str, str] = JSON) -> Any:
    answer = service.post(path, content=body, headers=headers)
    assert answer.status_code in (200, 400, 413, 422), (answer.status_code, answer.text, body)
    return answer.status_code, json.loads(answer.text, parse_constant=pytest.fail)


@given(body=ANY_JSON)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_is_answered(service: TestClient, body: Any) -> None:
    for path in ("/predict", "/predict/batch"):
        answer_to(service, path, json.dumps(body).encode())


@given(body=st.binary(max_size=300), content_type=st.sampled_from(["application/json", "text/plain", "a/b+json", ";;"]))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_answered(service: TestClient, body: bytes, content_type: str) -> None:
    answer_to(service, "/predict", body, {"content-type": content_type})


@given(name=NAMES, value=ANY_JSON)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_in_any_field_is_answered(service: TestClient, name: str, value: Any) -> None:
    status, answer = answer_to(service, "/predict", json.dumps({**EXAMPLE, name: value}).encode())
    if status == 422:
        assert any(name in entry["loc"] for entry in answer["detail"])


@given(record=RECORDS)
@settings(max_examples=100, deadline=None)
def test_any_valid_record_is_predicted(service: TestClient, record: dict[str, Any]) -> None:
    status, answer = answer_to(service, "/predict", json.dumps(record).encode())
    assert status == 200, answer
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["probabilities"][answer["species"]] == max(answer["probabilities"].values())


def test_of_a_key_given_twice_the_last_one_counts(service: TestClient) -> None:
    body = json.dumps(EXAMPLE)[:-1].encode() + b', "island": "Mars"}'
    status, answer = answer_to(service, "/predict", body)
    assert (status, answer["detail"][0]["input"]) == (422, "Mars")


def test_every_answer_is_as_the_openapi_says(openapi: Any) -> None:
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    operations = [found.ok() for found in openapi.get_all_operations()]
    assert len(operations) >= 9
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
        def answers_as_documented(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=checks)

        answers_as_documented()
