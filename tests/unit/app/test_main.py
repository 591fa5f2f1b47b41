"""The routes, answered by a model trained in the test."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from penguins.inference import load_model
from penguins.registry import Registry
from penguins.schema import EXAMPLE, FEATURES, MISSING, NUMBERS, TARGET, Number

VERSIONS = ("", "/versions/{version}")
CSV = Path(__file__).parents[3] / "dags" / "penguins_size.csv"


def csv_records() -> Iterator[tuple[str, dict[str, Any]]]:
    with CSV.open(newline="") as file:
        for row in csv.DictReader(file):
            yield (
                row[TARGET.name],
                {
                    c.name: None
                    if row[c.name] in MISSING
                    else (float(row[c.name]) if isinstance(c, Number) else row[c.name])
                    for c in FEATURES
                },
            )


def errors_of(response: Any) -> dict[str, dict[str, Any]]:
    """Return the entries of a 422's detail by the last part of their `loc`."""
    assert response.status_code == 422, response.text
    return {str(entry["loc"][-1]): entry for entry in response.json()["detail"]}


def test_predict_names_species_probabilities_and_version(serving: TestClient) -> None:
    answer = serving.post("/predict", json=EXAMPLE)
    assert answer.status_code == 200
    body = answer.json()
    assert body["species"] == "Gentoo"
    assert set(body["probabilities"]) == set(TARGET.values)
    assert sum(body["probabilities"].values()) == pytest.approx(1)
    assert body["model_version"] == serving.get("/model-info").json()["version"]


def test_every_row_of_the_csv_is_predicted_and_nearly_all_rightly(serving: TestClient) -> None:
    rows, right, refused = 0, 0, 0
    for species, record in csv_records():
        answer = serving.post("/predict", json=record)
        if all(record[c.name] is None for c in NUMBERS):
            assert answer.status_code == 422
            refused += 1
            continue
        rows += 1
        right += answer.json()["species"] == species
    assert (rows, refused) == (342, 2)
    assert right / rows >= 0.99


def test_a_batch_answers_in_order_as_record_by_record_and_as_the_published_pickle(
    serving: TestClient, registry: Registry
) -> None:
    records = [record for _, record in csv_records() if record["body_mass_g"] is not None][::7]
    one_by_one = [serving.post("/predict", json=record).json() for record in records]
    batch = serving.post("/predict/batch", json={"records": records}).json()
    assert batch["model_version"] == one_by_one[0]["model_version"]
    assert [p["species"] for p in batch["predictions"]] == [p["species"] for p in one_by_one]
    assert [p["probabilities"] for p in batch["predictions"]] == [p["probabilities"] for p in one_by_one]
    assert len({p["species"] for p in one_by_one}) == 3
    manifest, pickled = registry.read(registry.current())
    published = load_model(pickled, manifest).predict(records)
    assert [p["probabilities"] for p in batch["predictions"]] == [p.probabilities for p in published]


def test_a_batch_takes_10000_records_and_no_more(serving: TestClient) -> None:
    assert len(serving.post("/predict/batch", json={"records": [EXAMPLE] * 10_000}).json()["predictions"]) == 10_000
    too_many = errors_of(serving.post("/predict/batch", json={"records": [EXAMPLE] * 10_001}))
    assert "10000" in too_many["records"]["msg"]
    assert "records" in errors_of(serving.post("/predict/batch", json={"records": []}))


def test_a_batch_error_names_the_record(serving: TestClient) -> None:
    answer = serving.post("/predict/batch", json={"records": [EXAMPLE, {**EXAMPLE, "island": "Mars"}]})
    assert errors_of(answer)["island"]["loc"] == ["body", "records", 1, "island"]


def test_any_feature_may_be_null_or_left_out_but_the_island(serving: TestClient) -> None:
    for column in FEATURES:
        answer = serving.post("/predict", json={**EXAMPLE, column.name: None})
        assert answer.status_code == (422 if column.required else 200), column.name
        without = serving.post("/predict", json={n: value for n, value in EXAMPLE.items() if n != column.name})
        if column.required:
            assert errors_of(without)[column.name]["type"] == "missing"
        else:
            assert without.json() == answer.json(), column.name
    error = errors_of(serving.post("/predict", json={**EXAMPLE, "island": None}))["island"]
    assert error["input"] is None
    assert "Torgersen" in error["msg"]


def test_at_least_one_measurement_is_needed(serving: TestClient) -> None:
    answer = serving.post("/predict", json={**EXAMPLE, **{c.name: None for c in NUMBERS}})
    error = errors_of(answer)["body"]
    for column in NUMBERS:
        assert column.name in error["msg"]


def test_a_number_out_of_range_is_refused_with_what_came_and_what_is_accepted(serving: TestClient) -> None:
    for column in NUMBERS:
        for value in (column.minimum - 0.1, column.maximum + 0.1):
            error = errors_of(serving.post("/predict", json={**EXAMPLE, column.name: value}))[column.name]
            assert error["input"] == value, column.name
            assert column.rule in error["msg"]
        for value in (column.minimum, column.maximum):
            answer = serving.post("/predict", json={**EXAMPLE, column.name: value})
            assert answer.status_code == 200, (column.name, value)


def test_a_wrong_type_and_a_number_that_is_not_finite_are_refused(serving: TestClient) -> None:
    body = json.dumps(EXAMPLE)
    for value in ('"46.1"', "true", "[46.1]", "{}"):
        error = errors_of(post_text(serving, body.replace("46.1", value)))["culmen_length_mm"]
        assert "a number from 10 to 100 mm, or null" in error["msg"], value
    for value, shown in {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf", "1e999": "inf"}.items():
        error = errors_of(post_text(serving, body.replace("46.1", value)))["culmen_length_mm"]
        assert error["input"] == shown, value


def test_an_unknown_category_is_refused_with_the_known_ones(serving: TestClient) -> None:
    error = errors_of(serving.post("/predict", json={**EXAMPLE, "sex": "male"}))["sex"]
    assert error["input"] == "male"
    assert "'FEMALE' or 'MALE'" in error["msg"]


def test_an_extra_field_is_refused_with_the_accepted_ones(serving: TestClient) -> None:
    error = errors_of(serving.post("/predict", json={**EXAMPLE, "year": 2007}))["year"]
    assert error["input"] == 2007
    assert "culmen_length_mm" in error["msg"]


NO_RECORDS = (
    [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"island": "\\ud800"}', b'{"\\ud800": 1}', b"[" * 100_000]
    # Python's own parser gives up at about a thousand.
    + [b"[" * depth + b"]" * depth for depth in (50, 900, 990)]
    + [b'{"a":' * depth + b"1" + b"}" * depth for depth in (50, 900, 990)]
    + [
        b'{"culmen_length_mm": ' + b"9" * 5000 + b"}",
        b'{"a": ' + b"9" * 4000 + b"}",
        b'{"a": "' + b"x" * 50_000 + b'"}',
        b"[" * 60_000,
    ]
)


def test_no_body_gives_a_500(serving: TestClient) -> None:
    for body in NO_RECORDS:
        answer = serving.post("/predict", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 413, 422), (body[:12], len(body))
        assert "detail" in json.loads(answer.text)
        assert len(answer.text) < 20_000, (body[:12], len(body))


def test_many_errors_are_counted_and_not_all_listed(serving: TestClient) -> None:
    answer = serving.post("/predict/batch", json={"records": [{}] * 1000})
    detail = answer.json()["detail"]
    assert len(detail) == 101
    assert re.fullmatch(r"and \d+ or more other errors", detail[-1]["msg"])


@pytest.mark.parametrize(("path", "limit"), [("/predict/batch", 4194304), ("/predict", 65536), ("/nowhere", 65536)])
def test_a_body_too_large_gives_413_whether_declared_or_not(serving: TestClient, path: str, limit: int) -> None:
    answers = [serving.post(path, content=b"x" * (limit + 1), headers={"content-type": "application/json"})]
    if path != "/nowhere":  # where no body is read
        pieces = (b" " * 2**15 for _ in range(limit // 2**15 + 1))
        answers.append(serving.post(path, content=pieces, headers={"content-type": "application/json"}))
    for answer in answers:
        assert answer.status_code == 413
        assert f"{limit} bytes" in answer.json()["detail"]


def test_before_the_first_model_503_says_what_to_do(client: TestClient) -> None:
    answers = [
        client.post("/predict", json=EXAMPLE),
        client.post("/predict/batch", json={"records": [EXAMPLE]}),
        client.get("/model-info"),
        client.get("/health/ready"),
    ]
    for answer in answers:
        assert answer.status_code == 503, answer.url
        assert "trigger the DAG modelo_penguin" in answer.json()["detail"]
    assert client.get("/health/live").status_code == 200
    assert client.get("/models").json() == []


def test_ready_once_a_model_is_proven(serving: TestClient) -> None:
    assert serving.get("/health/ready").json() == {"status": "ready"}


def test_model_info_gives_the_manifests_facts(serving: TestClient, registry: Registry) -> None:
    manifest = registry.manifest(registry.current())
    info = serving.get("/model-info").json()
    for name in ("version", "created_at", "metrics", "classes", "params", "sha256", "dag_run_id", "data", "rows"):
        assert info[name] == manifest[name]
    assert info["accuracy"] == manifest["metrics"]["accuracy"]
    assert [f["name"] for f in info["features"]] == [c.name for c in FEATURES]
    assert (info["predictor"], info["fallback"]) == ("onnx", None)
    assert info["rejected"] is None


def test_models_lists_newest_first_and_which_one_serves(serving: TestClient, registry: Registry, publish: Any) -> None:
    first = registry.current()
    newer = [publish()["version"], publish()["version"]]
    (registry.root / newer[0] / "manifest.json").write_text("{}")
    listed = serving.get("/models").json()
    assert [v["version"] for v in listed] == sorted([first, *newer], reverse=True)
    by_version = {v["version"]: v for v in listed}
    assert by_version[newer[0]]["accuracy"] is None
    assert "signature" in by_version[newer[0]]["problem"]
    assert by_version[newer[1]]["accuracy"] is not None


def test_models_says_which_version_waits(
    client: TestClient, registry: Registry, trained: tuple[bytes, dict[str, Any]]
) -> None:
    waiting = registry.publish(*trained, activate=False)["version"]
    listed = [(v["version"], v["serving"], v["waiting"]) for v in client.get("/models").json()]
    assert listed == [(waiting, False, True)]
    registry.activate(waiting)
    assert client.get("/models").json()[0]["waiting"] is False


def test_swagger_asks_no_other_server(serving: TestClient) -> None:
    page = serving.get("/").text
    own = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
    assert len(own) >= 3
    for address in own:
        assert address.startswith("/")
        assert serving.get(address).status_code == 200
    assert not re.search(r"(?:src|href|url)\s*[=:]\s*[\"']https?:", page)


def test_openapi_documents_each_status_and_the_schemas_example(serving: TestClient) -> None:
    api = serving.get("/openapi.json").json()
    assert set(api["paths"]) == {
        "/model-info",
        "/models",
        "/models/{version}/report",
        "/report",
        "/predict",
        "/predict/batch",
        "/feedback",
        "/try",
        "/metrics",
        "/health/live",
        "/health/ready",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        *(f"/v2/models/modelo_penguin{version}{what}" for version in VERSIONS for what in ("", "/ready", "/infer")),
    }
    for path in ("/predict", "/predict/batch"):
        assert set(api["paths"][path]["post"]["responses"]) == {"200", "400", "413", "415", "422", "503"}
    for path, codes in (("/report", {"200", "404", "503"}), ("/models/{version}/report", {"200", "404", "422"})):
        responses = api["paths"][path]["get"]["responses"]
        assert set(responses) == codes
        for code, response in responses.items():
            assert list(response["content"]) == ["text/html" if code == "200" else "application/json"]
    record = api["components"]["schemas"]["Record"]
    body = api["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert list(body["examples"]["a record"]["value"].items()) == list(EXAMPLE.items())
    assert record["required"] == [c.name for c in FEATURES if c.required]


def post_text(client: TestClient, body: str) -> Any:
    return client.post("/predict", content=body, headers={"content-type": "application/json"})
