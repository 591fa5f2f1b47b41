"""What /metrics says of requests that were really answered."""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

import app.monitoring.counts
import app.monitoring.metrics
from app import SHARED_FOLDER
from app.main import create_app
from app.settings import Settings
from penguins.registry import Registry
from penguins.schema import CATEGORIES, EXAMPLE, FEATURES, NUMBERS, TARGET

JSON, ORDINARY = ({"content-type": kind} for kind in ("application/json", "application/json; charset=utf-8"))
SHIFTED = NUMBERS[-1]
Publish = Callable[[], dict[str, Any]]


class Scrape:
    """What /metrics said at one time."""

    def __init__(self, client: TestClient) -> None:
        families = text_string_to_metric_families(client.get("/metrics").text)
        self.samples = [sample for family in families for sample in family.samples]

    def by(self, name: str, *labels: str) -> dict[Any, float]:
        """Return the values by their label values. A single label is the key itself, not a tuple."""
        found = {tuple(s.labels[n] for n in labels): s.value for s in self.samples if s.name in (f"model_{name}", name)}
        return {key[0]: value for key, value in found.items()} if len(labels) == 1 else found

    def __getitem__(self, name: str) -> float:
        return self.by(name)[()]

    @property
    def requests(self) -> dict[Any, float]:
        return self.by("requests_total", "endpoint", "status")

    @property
    def drift(self) -> dict[str, float]:
        return self.by("drift_psi", "feature")


def post(client: TestClient, records: list[dict[str, Any]], headers: dict[str, str] = JSON) -> Any:
    return client.post("/predict/batch", content=json.dumps({"records": records}).encode(), headers=headers)


@pytest.fixture
def records(penguins_frames: Any) -> list[dict[str, Any]]:
    """The rows that the model was trained on, as the file has them."""
    train = penguins_frames[0][[c.name for c in FEATURES]]
    rows = train.astype(object).where(train.notna(), None).to_dict("records")
    return [{k: float(str(np.float32(v))) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


# requests and predictions


def test_requests_are_counted_by_endpoint_and_status(serving: TestClient) -> None:
    for headers in (JSON, ORDINARY):
        serving.post("/predict", json=EXAMPLE, headers=headers)
        serving.post("/predict", content=b"{}", headers=headers)
        serving.post("/predict", content=b" " * 5 * 2**20, headers=headers)
        post(serving, [EXAMPLE], headers)
        post(serving, [], headers)
    serving.get("/predict")
    serving.get("/model-info")
    assert Scrape(serving).requests == {
        ("/model-info", "200"): 1,
        ("/predict", "200"): 2,
        ("/predict", "405"): 1,
        ("/predict", "413"): 2,
        ("/predict", "422"): 2,
        ("/predict/batch", "200"): 2,
        ("/predict/batch", "422"): 2,
    }


def test_without_a_model_503_is_counted_and_nothing_is_said_of_a_model(client: TestClient) -> None:
    client.post("/predict", json=EXAMPLE)
    client.get("/model-info")
    scrape = Scrape(client)
    assert scrape.requests == {("/model-info", "503"): 1, ("/predict", "503"): 1}
    assert scrape["ready"] == 0
    assert not [s for s in scrape.samples if s.name.startswith(("model_info", "model_drift"))]
    assert set(scrape.by("predictions_total", "class").values()) == {0}


def test_unknown_paths_make_one_series_and_so_do_reports_but_health_and_metrics_none(serving: TestClient) -> None:
    version = serving.app.state.model_server.require().version  # type: ignore[attr-defined]
    for number in range(50):
        serving.get(f"/nothing/{number}")
    for path in ("/health/live", "/health/ready", "/metrics"):
        serving.get(path)
    for name in (version, "none", "another"):
        serving.get(f"/models/{name}/report")
    report = "/models/{version}/report"
    assert Scrape(serving).requests == {("other", "404"): 50, (report, "404"): 1, (report, "422"): 2}


def test_each_documented_path_has_a_series_or_is_one_of_health(serving: TestClient) -> None:
    paths = serving.get("/openapi.json").json()["paths"]
    counted = {path for path, methods in paths.items() if "health" not in next(iter(methods.values()))["tags"]}
    for path in paths:
        serving.request("TRACE", path)
    assert {endpoint for endpoint, status in Scrape(serving).requests if status == "405"} == counted
    assert {"/predict", "/predict/batch", "/models"} <= counted < set(paths)


def test_a_model_that_fails_counts_as_500_on_both_routes(serving: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no such graph")  # as ONNX Runtime's own errors, no ValueError

    monkeypatch.setattr(serving.app.state.model_server.served.model, "predict", fails)  # type: ignore[attr-defined]
    for number, headers in enumerate((JSON, ORDINARY), start=1):
        assert serving.post("/predict", json=EXAMPLE, headers=headers).status_code == 500
        assert Scrape(serving).requests == {("/predict", "500"): number}


def test_latencies_are_a_histogram_of_all_requests_with_each_bound_in_its_bin(serving: TestClient) -> None:
    for _ in range(7):
        serving.post("/predict", json=EXAMPLE)
    serving.post("/predict", content=b"{}", headers=JSON)
    for nanoseconds in (500_000, 500_001, 3 * 10**9):
        serving.app.state.metrics._recorder.answered("/models", 200, nanoseconds)  # type: ignore[attr-defined]
    scrape = Scrape(serving)
    buckets = scrape.by("request_duration_seconds_bucket", "endpoint", "le")
    total = scrape.by("request_duration_seconds_sum", "endpoint")
    counts = [buckets["/predict", bound] for bound in (*map(str, app.monitoring.counts.BOUNDS), "+Inf")]
    assert counts == sorted(counts)
    assert counts[-1] == scrape.by("request_duration_seconds_count", "endpoint")["/predict"] == 8
    assert 0 < total["/predict"] < 60
    assert [buckets["/models", bound] for bound in ("0.0005", "0.001", "2.5", "+Inf")] == [1, 2, 2, 3]
    assert total["/models"] == pytest.approx(3.001000001)


def test_counts_are_exact_under_concurrency_on_every_route(serving: TestClient, records: list[dict[str, Any]]) -> None:
    def ask(number: int) -> Counter[str]:
        found: Counter[str] = Counter()
        for headers in (JSON, ORDINARY):
            for record in records[number * 10 : number * 10 + 10]:
                found[serving.post("/predict", json=record, headers=headers).json()[TARGET.name]] += 1
            found.update(p[TARGET.name] for p in post(serving, records, headers).json()["predictions"])
        return found

    with ThreadPoolExecutor(8) as pool:
        answered = sum(pool.map(ask, range(16)), Counter())
    scrape = Scrape(serving)
    assert scrape.requests == {("/predict", "200"): 320, ("/predict/batch", "200"): 32}
    assert scrape.by("predictions_total", "class") == dict(answered)
    assert scrape["drift_rows"] == answered.total() == 320 + 32 * len(records)


def test_what_is_noted_is_counted_before_it_grows(serving: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.monitoring.counts, "CHUNK_REQUESTS", 4)
    recorder = serving.app.state.metrics._recorder  # type: ignore[attr-defined]
    for headers in (JSON, ORDINARY, JSON, ORDINARY, JSON):
        serving.post("/predict", json=EXAMPLE, headers=headers)
    assert (len(recorder._answered), len(recorder._predicted)) == (1, 1)
    assert recorder._counts.predictions.total() == 4
    assert Scrape(serving)["drift_rows"] == 5


# the model


def test_the_model_that_serves_is_named(serving: TestClient, registry: Registry) -> None:
    manifest = registry.manifest(registry.current())
    scrape = Scrape(serving)
    assert scrape.by("model_info", "version") == {manifest["version"]: 1}
    assert scrape["model_accuracy"] == manifest["metrics"]["accuracy"]
    created = np.datetime64(manifest["created_at"].replace("Z", "").replace("+00:00", ""), "us")
    assert scrape["model_created_timestamp_seconds"] == pytest.approx(created.astype(int) / 1e6)
    assert (scrape["ready"], scrape["rejected"], scrape["fallback"]) == (1, 0, 0)
    assert (scrape["model_loads_total"], scrape["model_rejections_total"]) == (1, 0)


def test_a_rejected_version_shows_until_another_takes_over(
    serving: TestClient, registry: Registry, publish: Publish
) -> None:
    server = serving.app.state.model_server  # type: ignore[attr-defined]
    server.stop()
    good, bad = registry.current(), publish()["version"]
    (registry.root / bad / "model.pkl").write_bytes(b"")
    server.refresh()
    assert (Scrape(serving)["rejected"], Scrape(serving)["model_rejections_total"]) == (1, 1)
    registry.activate(good)
    server.refresh()
    assert (Scrape(serving)["rejected"], Scrape(serving)["model_rejections_total"]) == (0, 1)


# drift


def test_nothing_is_said_of_drift_before_a_row_was_predicted(serving: TestClient) -> None:
    assert (Scrape(serving)["drift_rows"], Scrape(serving).drift) == (0, {})
    serving.post("/predict", json={**EXAMPLE, SHIFTED.name: SHIFTED.maximum + 1})
    post(serving, [EXAMPLE, {}])
    assert (Scrape(serving)["drift_rows"], Scrape(serving).drift) == (0, {})


def test_the_training_rows_do_not_drift(serving: TestClient, records: list[dict[str, Any]]) -> None:
    for record in records[:100]:
        serving.post("/predict", json=record)
    post(serving, records[100:])
    scrape = Scrape(serving)
    assert scrape["drift_rows"] == len(records)
    assert list(scrape.drift) == [c.name for c in FEATURES]
    assert max(scrape.drift.values()) == pytest.approx(0, abs=1e-9)
    for _ in range(20):
        post(serving, list(np.random.default_rng(0).choice(np.array(records, object), 400)))
    assert max(Scrape(serving).drift.values()) < 0.1


def shift_a_number(records: list[dict[str, Any]]) -> None:
    present = [record[SHIFTED.name] for record in records if record[SHIFTED.name] is not None]
    for record in records:
        if record[SHIFTED.name] is not None:
            record[SHIFTED.name] = min(record[SHIFTED.name] + 1.5 * float(np.std(present)), SHIFTED.maximum)


def shift_a_category(records: list[dict[str, Any]]) -> None:
    for record in records[::2]:
        record[CATEGORIES[0].name] = CATEGORIES[0].values[-1]


def shift_nulls(records: list[dict[str, Any]]) -> None:
    for record in records[::5]:
        record[SHIFTED.name] = None


def test_a_shift_moves_the_index_of_its_feature_and_no_other(
    serving: TestClient, records: list[dict[str, Any]], publish: Publish
) -> None:
    server = serving.app.state.model_server  # type: ignore[attr-defined]
    server.stop()
    for shift, name, singly in (
        (shift_a_number, SHIFTED.name, False),
        (shift_a_category, CATEGORIES[0].name, False),
        (shift_nulls, SHIFTED.name, False),
        (shift_nulls, SHIFTED.name, True),
    ):
        shifted = copy.deepcopy(records)
        shift(shifted)
        publish()
        server.refresh()  # which starts the drift anew
        answers = [serving.post("/predict", json=r) for r in shifted] if singly else [post(serving, shifted)]
        assert {answer.status_code for answer in answers} == {200}, (shift, singly)
        drift = Scrape(serving).drift
        assert drift.pop(name) > 0.25, (shift, singly)
        assert max(drift.values()) < 0.1, (shift, singly)


def test_drift_starts_anew_with_another_version_and_with_a_rollback(
    serving: TestClient, registry: Registry, publish: Publish
) -> None:
    server = serving.app.state.model_server  # type: ignore[attr-defined]
    server.stop()
    first = registry.current()
    post(serving, [EXAMPLE] * 3)
    assert Scrape(serving)["drift_rows"] == 3
    second = publish()["version"]
    server.refresh()
    assert (Scrape(serving)["drift_rows"], Scrape(serving).drift) == (0, {})
    post(serving, [EXAMPLE] * 4)
    registry.activate(first)
    server.refresh()
    assert Scrape(serving)["drift_rows"] == 0
    post(serving, [EXAMPLE] * 5)
    scrape = Scrape(serving)
    assert scrape["drift_rows"] == 5
    assert sum(scrape.by("predictions_total", "class").values()) == 12
    assert scrape.by("model_info", "version") == {first: 1}
    assert second not in serving.get("/metrics").text


# several workers


@pytest.fixture
def workers(
    publish: Publish, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[TestClient]]:
    """Three services that share a folder, as the workers of one do."""
    monkeypatch.setenv(SHARED_FOLDER, str(tmp_path))
    monkeypatch.setattr(app.monitoring.metrics, "SECONDS_TO_SHARE", 0.02)
    publish()
    clients = [TestClient(create_app(Settings(poll_seconds=0.02), registry)) for _ in range(3)]
    with clients[0], clients[1], clients[2]:
        yield clients


def settled(client: TestClient, **expected: float) -> Scrape:
    """Return what /metrics says once it says all this, within half a minute."""
    for _ in range(600):
        scrape = Scrape(client)
        if {name: scrape[name] for name in expected} == expected:
            return scrape
        time.sleep(0.05)
    raise AssertionError(client.get("/metrics").text)


def test_several_workers_are_summed(workers: list[TestClient], records: list[dict[str, Any]], publish: Publish) -> None:
    for number, client in enumerate(workers):
        client.post("/predict", content=b"{}", headers=JSON)
        post(client, records[number::3])
    for client in workers:
        scrape = settled(client, drift_rows=len(records), model_loads_total=3)
        assert scrape.requests[("/predict", "422")] == 3
        assert max(scrape.drift.values()) == pytest.approx(0, abs=1e-9)
        assert sum(scrape.by("predictions_total", "class").values()) == len(records)
    publish()
    for client in workers:
        scrape = settled(client, model_loads_total=6, drift_rows=0)
        assert scrape.requests == {("/predict", "422"): 3, ("/predict/batch", "200"): 3}
        assert len(scrape.by("model_info", "version")) == 1
        assert sum(scrape.by("predictions_total", "class").values()) == len(records)


def test_a_worker_that_ended_is_still_counted(workers: list[TestClient]) -> None:
    post(workers[0], [EXAMPLE] * 5)
    settled(workers[1], drift_rows=5)
    workers[0].app.state.model_server.stop()  # type: ignore[attr-defined]
    post(workers[1], [EXAMPLE] * 2)
    settled(workers[2], drift_rows=7)
