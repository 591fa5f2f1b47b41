"""The Open Inference Protocol, spoken by a client that others wrote, and by hand where that client cannot err."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from app.inference_protocol.tensors import InferenceError, RequestInput, records_of
from app.main import create_app
from app.schemas import MAX_RECORDS
from penguins.registry import Registry
from penguins.schema import CATEGORIES, EXAMPLE, FEATURES, NUMBERS, TARGET, Category, Number
from support import free_port

MODEL = "modelo_penguin"
INFER = f"/v2/models/{MODEL}/infer"
HEADER = "inference-header-content-length"


@pytest.fixture(scope="module")
def service(published: Registry) -> Iterator[TestClient]:
    with TestClient(create_app(registry=published), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def triton(service: TestClient) -> Iterator[InferenceServerClient]:
    """NVIDIA's own client, of the same service on a port."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(service.app, port=port, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        with InferenceServerClient(f"127.0.0.1:{port}") as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def records(penguins_frames: Any) -> list[dict[str, Any]]:
    """Rows of the CSV, with what is missing there as None."""
    test = penguins_frames[1][[c.name for c in FEATURES]]
    rows = test.astype(object).where(test.notna(), None).to_dict("records")
    rows = [{k: float(str(v)) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    assert any(row[c.name] is None for row in rows for c in CATEGORIES)
    rows[0] = {**rows[0], NUMBERS[0].name: None}
    return rows


def tensors(
    records: list[dict[str, Any]], *, binary: bool = True, column_shape: bool = False, dtype: Any = np.float64
) -> list[InferInput]:
    found = []
    for column in FEATURES:
        values = [record[column.name] for record in records]
        if isinstance(column, Number):
            array = np.array([np.nan if v is None else v for v in values], dtype)
        else:
            array = np.array(["" if v is None else v for v in values], object)
        array = array.reshape(-1, 1) if column_shape else array
        found.append(InferInput(column.name, list(array.shape), np_to_triton_dtype(array.dtype)))
        found[-1].set_data_from_numpy(array, binary_data=binary)
    return found


def expected(service: TestClient, records: list[dict[str, Any]]) -> tuple[list[str], list[list[float]]]:
    answer = service.post("/predict/batch", json={"records": records}).json()["predictions"]
    return [p[TARGET.name] for p in answer], [list(p["probabilities"].values()) for p in answer]


WAYS: dict[str, tuple[dict[str, Any], bool | None]] = {
    # how the inputs are sent, and whether the outputs are asked for as bytes; None: without being asked for
    "bytes both ways, as the client does by itself": ({}, None),
    "JSON both ways": ({"binary": False}, False),
    "JSON there, bytes back": ({"binary": False, "column_shape": True}, True),
    "bytes there, JSON back": ({"column_shape": True}, False),
}


@pytest.mark.parametrize("way", WAYS)
def test_tritons_client_is_answered_as_predict_answers(
    service: TestClient, triton: InferenceServerClient, records: list[dict[str, Any]], way: str
) -> None:
    labels, probabilities = expected(service, records)
    sent, binary = WAYS[way]
    asked = [InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", TARGET.name)]
    before = counted(service)
    result = triton.infer(
        MODEL,
        tensors(records, **sent),
        outputs=None if binary is None else asked,
        request_id="a-1",
        parameters={"origin": "ship"},
    )
    found = result.as_numpy(TARGET.name)
    assert [v.decode() if isinstance(v, bytes) else v for v in found.tolist()] == labels
    assert result.as_numpy("probabilities").tolist() == probabilities
    assert len(set(labels)) == len(TARGET.values)

    answer = result.get_response()
    assert (answer["id"], answer["model_name"]) == ("a-1", MODEL)
    assert answer["parameters"]["origin"] == "ship"
    assert answer["model_version"] == service.get("/model-info").json()["version"]
    assert all(("data" in output) == (binary is False) for output in answer["outputs"])
    grown = {name: value - before.get(name, 0) for name, value in counted(service).items()}
    requests = 'model_requests_total{endpoint="/v2/models/modelo_penguin/infer",model="modelo_penguin",status="200"}'
    assert grown[requests] == 1
    assert grown['model_drift_rows{model="modelo_penguin"}'] == len(records)
    for label in TARGET.values:
        assert grown[f'model_predictions_total{{class="{label}",model="modelo_penguin"}}'] == labels.count(label)


def counted(service: TestClient) -> dict[str, float]:
    lines = service.get("/metrics").text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}


def predicted(service: TestClient) -> dict[str, float]:
    return {name: value for name, value in counted(service).items() if "predictions" in name or "drift" in name}


def test_other_numbers_become_fp64_and_many_rows_are_answered_in_order(
    service: TestClient, triton: InferenceServerClient, records: list[dict[str, Any]]
) -> None:
    whole = [{**r, **{c.name: round(r[c.name] or c.example) for c in NUMBERS}} for r in records]
    labels, probabilities = expected(service, whole)
    for dtype in (np.float32, np.int16, np.uint64, np.int64):
        for binary in (True, False):
            result = triton.infer(MODEL, tensors(whole, dtype=dtype, binary=binary))
            assert result.as_numpy("probabilities").tolist() == probabilities, dtype
    many = (whole * (MAX_RECORDS // len(whole) + 1))[:MAX_RECORDS]
    found = triton.infer(MODEL, tensors(many)).as_numpy(TARGET.name).tolist()
    assert [v.decode() for v in found] == (labels * (MAX_RECORDS // len(whole) + 1))[:MAX_RECORDS]


def test_health_metadata_and_the_version_in_the_path(
    service: TestClient, triton: InferenceServerClient, records: list[dict[str, Any]]
) -> None:
    version = service.get("/model-info").json()["version"]
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata() == {"name": MODEL, "version": "1", "extensions": ["binary_tensor_data"]}
    for asked in ("", version):
        assert triton.is_model_ready(MODEL, asked)
        metadata = triton.get_model_metadata(MODEL, asked)
        assert metadata["versions"] == [version]
        assert [(t["name"], t["datatype"], t["shape"]) for t in metadata["inputs"]] == [
            (c.name, "FP64" if isinstance(c, Number) else "BYTES", [-1]) for c in FEATURES
        ]
        assert metadata["outputs"][1]["parameters"]["classes"] == list(TARGET.values)
        triton.infer(MODEL, tensors(records[:1]), model_version=asked)
    for name, asked, said in ((MODEL, "7", f"'7' of {MODEL} does not serve; {version} does"), ("m", "", "there is no")):
        assert not triton.is_model_ready(name, asked)
        with pytest.raises(InferenceServerException, match=said):
            triton.get_model_metadata(name, asked)
        with pytest.raises(InferenceServerException, match=said):
            triton.infer(name, tensors(records[:1]), model_version=asked)
    with pytest.raises(InferenceServerException, match="the body is compressed"):
        triton.infer(MODEL, tensors(records[:1]), request_compression_algorithm="gzip")
    with pytest.raises(InferenceServerException, match="there is no classification here"):
        triton.infer(MODEL, tensors(records[:1]), outputs=[InferRequestedOutput(TARGET.name, class_count=2)])


# Responses of the protocol, from its published OpenAPI: names, types, and what must be there.
TEXT, TEXTS, WHOLE = ({"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "integer"})


def published(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


TENSOR = published(
    ["name", "datatype", "shape"], name=TEXT, datatype=TEXT, shape={"type": "array", "items": WHOLE}, parameters={}
)
DATA = {"type": "array", "items": {"type": ["array", "number", "string", "boolean"]}}
OUTPUT = {**TENSOR, "properties": {**TENSOR["properties"], "data": DATA}, "required": [*TENSOR["required"], "data"]}
PUBLISHED = {
    "/v2": published(["name", "version", "extensions"], name=TEXT, version=TEXT, extensions=TEXTS),
    f"/v2/models/{MODEL}": published(
        ["name", "platform"],
        name=TEXT,
        platform=TEXT,
        versions=TEXTS,
        inputs={"type": "array", "items": TENSOR},
        outputs={"type": "array", "items": TENSOR},
    ),
    INFER: published(
        ["model_name", "outputs"],
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        parameters={"type": "object"},
        outputs={"type": "array", "items": OUTPUT},
    ),
}


def request(**changed: Any) -> dict[str, Any]:
    """Return a request for the example, with other fields in the tensor of the first number."""
    inputs: list[dict[str, Any]] = [
        {
            "name": c.name,
            "shape": [1],
            "datatype": "FP64" if isinstance(c, Number) else "BYTES",
            "data": [EXAMPLE[c.name]],
        }
        for c in FEATURES
    ]
    place = [c.name for c in FEATURES].index(NUMBERS[0].name)
    inputs[place] = {k: v for k, v in {**inputs[place], **changed}.items() if v is not ...}
    return {"inputs": inputs}


def test_answers_are_as_the_protocols_openapi_has_them(service: TestClient) -> None:
    for path, schema in PUBLISHED.items():
        answer = service.post(path, json=request()) if path == INFER else service.get(path)
        assert answer.status_code == 200, answer.text
        jsonschema.validate(answer.json(), schema)
        if path == INFER:
            assert set(answer.json()) == {"model_name", "model_version", "outputs"}  # nothing that was not asked for


ISLAND, NUMBER = CATEGORIES[0], NUMBERS[0]
WITHOUT = {"inputs": request()["inputs"][1:]}
TWICE = {"inputs": [*request()["inputs"], request()["inputs"][0]]}
ALL_MISSING = {"inputs": [{**t, "data": [None]} if t["datatype"] == "FP64" else t for t in request()["inputs"]]}
REQUIRED_MISSING = {"inputs": [{**t, "data": [""]} if t["name"] == ISLAND.name else t for t in request()["inputs"]]}
NUMBER_FOR_ISLAND = {"inputs": [{**t, "data": [1]} if t["name"] == ISLAND.name else t for t in request()["inputs"]]}
NAN_FOR_SEX = {
    "inputs": [{**t, "data": [float("nan")]} if t["name"] == CATEGORIES[-1].name else t for t in request()["inputs"]]
}
MANY_WRONG = {"inputs": [{**t, "shape": [200], "data": t["data"] * 200} for t in REQUIRED_MISSING["inputs"]]}
BAD: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "body.1: JSON decode error, Expecting property name"),
    "nothing": (b"", "body.0: JSON decode error, Expecting value"),
    "half a character": (b'"\xff"', "There was an error parsing the body"),
    "no object": ([], "the request: Input should be a valid dictionary"),
    "no inputs": ({}, "inputs: Field required"),
    "inputs of no shape": ({"inputs": [{"name": "a"}]}, "inputs.0.shape: Field required"),
    "a column less": (WITHOUT, f"no input {ISLAND.name}"),
    "a column twice": (TWICE, "there are two of it"),
    "no such column": (request(name="year"), "'year': there is no such input. The inputs are island"),
    "a scalar": (request(shape=[]), "it must be [n] or [n, 1]"),
    "no rows": (request(shape=[0], data=[]), "it must be [n] or [n, 1]"),
    "two columns": (request(shape=[1, 2], data=[1, 2]), "it must be [n] or [n, 1]"),
    "too many rows": (request(shape=[MAX_RECORDS + 1]), "n from 1 to 10000"),
    "other rows than the rest": (request(shape=[2], data=[1, 2]), "has 2 rows, the inputs before it 1"),
    "other rows than it says": (request(data=[46.1, 46.2]), "has the shape [1], but 2 values"),
    "a text for a number": (request(data=["46.1"]), "row 0, culmen_length_mm: Input should be a valid number"),
    "a number of 5,000 digits": (request(data=[10**4000]), "row 0, culmen_length_mm"),
    "infinity": (b'{"inputs": %s}' % json.dumps(request(data=[float("inf")])["inputs"]).encode(), "finite number"),
    "out of range": (request(data=[5]), "Accepted: a number from 10 to 100 mm, or null, not 5"),
    "half a number as a whole one": (request(datatype="INT64"), "is INT64, but holds 46.1"),
    "text as a datatype": (request(datatype="BYTES"), "has the datatype 'BYTES'; accepted: FP16, FP32, FP64"),
    "a datatype that is none": (request(datatype="FP63"), "accepted: FP16, FP32, FP64"),
    "no data": (request(data=...), "needs either data or the parameter binary_data_size"),
    "bytes that are not there": (request(data=..., parameters={"binary_data_size": 8}), "Length, which says"),
    "shared memory": (request(parameters={"shared_memory_region": "x"}), "there is no shared memory here"),
    "no measurement": (ALL_MISSING, "row 0: Value error, at least one of culmen_length_mm"),
    "a number for a category": (NUMBER_FOR_ISLAND, "'Torgersen'. Accepted: a string, in quotes, not 1"),
    "NaN for a category": (NAN_FOR_SEX, f"row 0, {CATEGORIES[-1].name}: Input should be"),
    "no island": (REQUIRED_MISSING, "row 0, island: Input should be"),
    "more wrong rows than are shown": (MANY_WRONG, "and 190 or more others"),
    "no such output": ({**request(), "outputs": [{"name": "a"}]}, "The outputs are species, probabilities"),
    "an output twice": ({**request(), "outputs": [{"name": TARGET.name}] * 2}, "it is asked for twice"),
}


@pytest.mark.parametrize("bad", BAD)
def test_an_error_says_what_came_and_what_is_accepted_and_counts_no_prediction(service: TestClient, bad: str) -> None:
    body, said = BAD[bad]
    before = predicted(service)
    answer = service.post(INFER, content=body if isinstance(body, bytes) else json.dumps(body))
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    assert said in answer.json()["error"]
    assert predicted(service) == before


def tensor(data: Any, datatype: str, *, binary: bool) -> tuple[RequestInput, bytes]:
    array = np.array(data, triton_to_np_dtype(datatype))
    found = InferInput("senior", list(array.shape), datatype)
    found.set_data_from_numpy(array, binary_data=binary)
    return RequestInput(**found._get_tensor()), found._get_binary_data() or b""


@pytest.mark.parametrize("binary", [False, True], ids=["JSON", "bytes"])
def test_a_category_like_numbers_comes_as_numbers_or_booleans_too(
    monkeypatch: pytest.MonkeyPatch, binary: bool
) -> None:
    like_numbers, ordinary = (
        Category(name="senior", description="", values=values, example=values[0]) for values in (("0", "1"), ("S", "M"))
    )
    monkeypatch.setattr("app.inference_protocol.tensors._COLUMNS", {"senior": like_numbers})
    accepted: dict[str, list[Any]] = {
        "INT64": [0, 1],
        "UINT8": [0, 1],
        "BOOL": [False, True],
        "FP64": [0.0, 1.0, float("nan")],
        "FP32": [0.0, 1.0],
        "BYTES": [b"0", b"1", b""],
    }
    for datatype, data in accepted.items():
        sent, behind = tensor(data, datatype, binary=binary)
        values = [row["senior"] for row in records_of([sent], memoryview(behind) if binary else None)]
        assert [like_numbers.meanings.get(v, v) for v in values] == ["0", "1", None][: len(data)], datatype
    monkeypatch.setattr("app.inference_protocol.tensors._COLUMNS", {"senior": ordinary})
    sent, behind = tensor([0], "INT64", binary=binary)
    with pytest.raises(InferenceError, match=r"has the datatype 'INT64'; accepted: BYTES$"):
        records_of([sent], memoryview(behind))


def test_errors_that_other_parts_make_have_the_protocols_form_as_well(service: TestClient, client: TestClient) -> None:
    for answer, status, said in (
        (service.get("/v2/models/other"), 404, f"the model is /v2/models/{MODEL}"),
        (service.get(INFER), 405, "Not Allowed"),
        (service.post(INFER, content=b" " * 5 * 2**20), 413, "4194304 bytes"),
        (service.post(INFER, content=(b" " * 2**20 for _ in range(5))), 413, "4194304 bytes"),
        (client.get("/v2/health/ready"), 503, "trigger the DAG"),
        (client.post(INFER, json=request()), 503, "trigger the DAG"),
    ):
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
        assert said in answer.json()["error"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert "detail" in service.get("/nothing").json()


def test_nested_data_null_and_an_empty_text_are_read_and_unknown_fields_are_not(service: TestClient) -> None:
    records = [{**EXAMPLE, NUMBER.name: None}, {**EXAMPLE, CATEGORIES[-1].name: None}]
    inputs = [
        {
            "name": c.name,
            "shape": [2, 1],
            "datatype": "FP64" if isinstance(c, Number) else "BYTES",
            "data": [["" if r[c.name] is None and not isinstance(c, Number) else r[c.name]] for r in records],
            "parameters": {"content_type": "pd"},
        }
        for c in reversed(FEATURES)
    ]
    asked = {"inputs": inputs, "id": None, "model_name": MODEL, "outputs": [{"name": "probabilities"}]}
    answer = service.post(INFER, json=asked)
    (found,) = answer.json()["outputs"]
    _, probabilities = expected(service, records)
    assert found["shape"] == [2, len(TARGET.values)]
    assert found["data"] == [value for row in probabilities for value in row]
    nan = json.dumps(asked).replace("null", "NaN", 1 + json.dumps(asked).count('"id": null'))
    assert service.post(INFER, content=nan.replace('"id": NaN', '"id": null')).json() == answer.json()
    assert service.post(INFER, json=request(parameters=None)).status_code == 200
    echoed = service.post(INFER, content=json.dumps({**request(), "parameters": {"a": float("nan"), "b": [1]}}))
    assert json.loads(echoed.text, parse_constant=pytest.fail)["parameters"] == {"a": None, "b": [1]}


def in_bytes() -> tuple[bytes, bytes]:
    """Return the JSON of a request for the example, and the bytes behind it."""
    inputs, behind = [], b""
    for c in FEATURES:
        value = EXAMPLE[c.name]
        text = struct.pack("<d", value) if isinstance(c, Number) else struct.pack("<I", len(value)) + value.encode()
        behind += text
        datatype = "FP64" if isinstance(c, Number) else "BYTES"
        size = {"binary_data_size": len(text)}
        inputs.append({"name": c.name, "shape": [1], "datatype": datatype, "parameters": size})
    return json.dumps({"inputs": inputs}).encode(), behind


JSON_PART, BEHIND = in_bytes()


@pytest.mark.parametrize(
    ("header", "behind", "said"),
    [
        ("x", BEHIND, "it must be the length of the JSON"),
        ("-1", BEHIND, "it must be the length of the JSON"),
        ("9" * 30, BEHIND, "it must be the length of the JSON"),
        (str(len(JSON_PART) - 1), BEHIND, "JSON decode error"),
        (str(len(JSON_PART)), BEHIND[:-1], "has the binary_data_size"),
        (str(len(JSON_PART)), BEHIND + b"0", "1 bytes more"),
        (str(len(JSON_PART)), b"\xff" + BEHIND[1:], "not 1 texts in UTF-8"),
        (str(len(JSON_PART)), BEHIND[:4] + b"\xff" + BEHIND[5:], "not 1 texts in UTF-8"),
        (str(len(JSON_PART)), b"\x01" + BEHIND[1:], "not 1 texts in UTF-8"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(service: TestClient, header: str, behind: bytes, said: str) -> None:
    answer = service.post(INFER, content=JSON_PART + behind, headers={HEADER: header})
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    whole = service.post(INFER, content=JSON_PART + BEHIND, headers={HEADER: str(len(JSON_PART))})
    assert whole.json()["outputs"][0]["data"] == [TARGET.example]


SIZES = st.none() | st.integers() | st.floats() | st.booleans() | st.text(max_size=3)


@given(
    size=SIZES,
    datatype=st.sampled_from(["FP64", "FP16", "INT8", "BYTES", ""]),
    rows=st.integers(-1, 3),
    behind=st.binary(max_size=40),
)
@settings(max_examples=150, deadline=None)
def test_no_bytes_give_a_500(service: TestClient, size: Any, datatype: str, rows: int, behind: bytes) -> None:
    tensor = {"shape": [rows], "datatype": datatype, "parameters": {"binary_data_size": size}}
    inputs = [{**tensor, "name": c.name} for c in FEATURES]
    text = json.dumps({"inputs": inputs}).encode()
    answer = service.post(INFER, content=text + behind, headers={HEADER: str(len(text))})
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
