"""Bodies that were sent with other headers than they should, in another form, or that would take the service down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.testclient import TestClient

from app.errors import ERRORS_SHOWN
from app.guards.bodies import MAX_FIELDS, MAX_VALUES, PIECE_ROWS, batch_of
from app.main import create_app
from penguins.registry import Registry
from penguins.schema import EXAMPLE, FEATURES

INFER = "/v2/models/modelo_penguin/infer"
FORM = "application/x-www-form-urlencoded"
PAGE = {"origin": "http://elsewhere"}


@pytest.fixture(scope="module")
def service(published: Registry) -> Iterator[TestClient]:
    with TestClient(create_app(registry=published), raise_server_exceptions=False) as client:
        yield client


def post(service: TestClient, path: str, body: Any, **headers: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = service.build_request("POST", path, content=content)
    request.headers.pop("content-type", None)
    request.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return service.send(request)


@pytest.mark.parametrize("content_type", [None, FORM, "text/plain", "multipart/form-data; boundary=x"])
def test_json_is_taken_without_its_content_type_but_not_from_a_page(
    service: TestClient, content_type: str | None
) -> None:
    headers = {"content_type": content_type} if content_type else {}
    for path, body in (("/predict", EXAMPLE), ("/predict/batch", {"records": [EXAMPLE]})):
        assert post(service, path, body, **headers).status_code == 200
        for page in (PAGE, {"sec-fetch-site": "cross-site"}):
            refused = post(service, path, body, **headers, **page)
            assert refused.status_code == 415
            assert "Content-Type: application/json" in refused.json()["detail"]
    refused = post(service, INFER, {}, **headers, **PAGE)
    assert (refused.status_code, refused.json().keys()) == (415, {"error"})


def test_what_is_no_json_is_told_so(service: TestClient) -> None:
    for path in ("/predict", "/predict/batch"):
        answer = post(service, path, b"island=Biscoe&sex=MALE", content_type=FORM)
        assert answer.status_code == 422
        assert "Expecting value. Accepted: JSON" in answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/feedback", INFER])
def test_a_compressed_body_is_refused_with_the_reason(service: TestClient, path: str) -> None:
    answer = post(service, path, b"\x1f\x8b", content_type="application/json", content_encoding="gzip")
    assert answer.status_code == 415
    assert "compressed (gzip); send it as it is" in answer.text
    assert post(service, "/predict", EXAMPLE, content_encoding="identity").status_code == 200


@pytest.mark.parametrize(
    "body", [[EXAMPLE], {}, {"record": [EXAMPLE]}, EXAMPLE, None, {"records": EXAMPLE}, {"records": []}]
)
def test_a_batch_in_another_form_is_told_the_right_one(service: TestClient, body: Any) -> None:
    detail = post(service, "/predict/batch", body).json()["detail"]
    assert all('Accepted: {"records": [...]}, with 1 to 10000 records' in fault["msg"] for fault in detail)
    assert all(fault["msg"].count("Accepted") == 1 and "_Envelope" not in fault["msg"] for fault in detail)


def test_several_records_to_predict_are_told_where_they_go(service: TestClient) -> None:
    for body in ([EXAMPLE], {"records": [EXAMPLE]}, 5):
        detail = post(service, "/predict", body).json()["detail"]
        assert any("go to /predict/batch" in fault["msg"] for fault in detail), body


def faults_of(body: bytes) -> Any:
    with pytest.raises(RequestValidationError) as refused:
        batch_of(body)
    return refused.value.errors()


def test_a_body_of_too_many_values_is_not_even_parsed() -> None:
    for value in (b"[]", b"{}", b"1", b'{"":0}', b"[[]]", b"[" * 9):
        (fault,) = faults_of(b'{"records":[' + b",".join([value] * (MAX_VALUES + 1)))  # which is no JSON
        assert fault["type"] == "too_many_values"
    with pytest.raises(HTTPException):  # as deep as Python's parser does not go
        batch_of(b"[" * MAX_VALUES)


def test_checking_ends_when_there_are_more_faults_than_are_shown() -> None:
    faults = faults_of(json.dumps({"records": [{}] * 10_000}).encode())
    assert ERRORS_SHOWN < len(faults) <= ERRORS_SHOWN + PIECE_ROWS * len(FEATURES)
    assert faults[0]["loc"] == ("body", "records", 0, FEATURES[0].name)


def test_the_place_of_a_fault_is_that_in_the_whole_batch() -> None:
    records = [EXAMPLE] * (2 * PIECE_ROWS + 1) + [{**EXAMPLE, "island": "Mars"}]
    assert [fault["loc"] for fault in faults_of(json.dumps({"records": records}).encode())] == [
        ("body", "records", 2 * PIECE_ROWS + 1, "island")
    ]


def test_a_record_or_a_batch_of_too_many_fields_is_not_listed_field_by_field() -> None:
    fields = {f"field_{number}": 0 for number in range(100_000)}
    (fault,) = faults_of(json.dumps({"records": [EXAMPLE, fields]}).encode())
    assert (fault["type"], fault["loc"]) == ("too_many_fields", ("body", "records", 1))
    assert "it has 100000 fields. Accepted: island" in fault["msg"]
    assert len(faults_of(json.dumps({"records": [EXAMPLE], **fields}).encode())) <= MAX_FIELDS
