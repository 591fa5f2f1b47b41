"""Each query of the dashboard, answered by a real Prometheus that scrapes a real service under load."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from prometheus_client import CollectorRegistry, Summary, start_http_server

from penguins.evaluation.accuracy import wilson
from penguins.registry import Registry
from penguins.schema import EXAMPLE, TARGET
from support import ROOT, Service, dashboard_queries, free_port

GOOD, BAD, UNKNOWN, MORE = 40, 10, 5, 3  # requests: predictions, refused ones, to no endpoint, and of each kind before
WINDOW = "10m"  # longer than the test: what Grafana would fill in
SECONDS = {"success": [20.0, 30.0], "failed": [5.0]}  # that DAG runs took

Start = Callable[..., Any]


@pytest.fixture
def others() -> Iterator[int]:
    """The port of an exporter of DAG runs."""
    registry = CollectorRegistry()
    for state, seconds in SECONDS.items():
        runs = Summary(f"airflow_dagrun_duration_{state}", "runs", ["dag_id", "run_type"], registry=registry)
        for one in seconds:
            runs.labels("modelo_penguin", "manual").observe(one)
    port = free_port()
    server, thread = start_http_server(port, "127.0.0.1", registry)
    yield port
    server.shutdown()
    server.server_close()
    thread.join(timeout=60)


@pytest.fixture
def watched(
    registry: Registry, publish: Callable[[], Any], start_process: Start, tmp_path: Path, others: int
) -> tuple[Service, httpx2.Client]:
    """A service, and a client of the Prometheus that scrapes it, with the stack's configuration."""
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not installed (Debian: the package prometheus)")
    publish()
    port, own = free_port(), free_port()
    models = {"MODELS_DIR": str(registry.root), "MODEL_PUBLIC_KEYS_FILE": str(registry.keys.public)}
    env = os.environ | models | {"PYTHONPATH": str(ROOT / "plugins"), "API_PORT": str(port)}
    env["API_JOURNAL_URL"] = f"sqlite:///{tmp_path}/journal.db"
    service = Service(start_process(sys.executable, "-m", "app", cwd=ROOT, env=env), port)

    config = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "250ms", "evaluation_interval": "250ms"}
    config["rule_files"] = [str(ROOT / "docs" / "prometheus-rules.yml")]
    for job, target in zip(config["scrape_configs"], (port, others), strict=True):
        del job["dns_sd_configs" if "dns_sd_configs" in job else "static_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    start_process(
        "prometheus",
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{own}",
        "--log.level=error",
    )
    service.wait(lambda: service.client.get("/health/ready").is_success)
    return service, httpx2.Client(base_url=f"http://127.0.0.1:{own}", timeout=60)


def ask(prometheus: httpx2.Client, query: str) -> dict[str, float]:
    """Return the value of each series, by its labels' values."""
    answer = prometheus.post("/api/v1/query", data={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    series = answer["data"]["result"]
    return {" ".join(value for _, value in sorted(one["metric"].items())): float(one["value"][1]) for one in series}


def load(service: Service, good: int, bad: int, unknown: int) -> str:
    """Send this many requests of each kind, and return the class that was predicted."""
    refused = EXAMPLE | {"island": 1}
    answers = [service.client.post("/predict", json=EXAMPLE, headers={"X-Request-ID": str(i)}) for i in range(good)]
    assert {answer.status_code for answer in answers} == {200}
    assert {service.client.post("/predict", json=refused).status_code for _ in range(bad)} == {422}
    assert {service.client.get("/nowhere").status_code for _ in range(unknown)} == {404}
    return answers[0].json()[TARGET.name]


def test_every_query_of_the_dashboard_gives_the_right_series(watched: tuple[Service, httpx2.Client]) -> None:
    service, prometheus = watched

    def wait_until(query: str, expected: Mapping[str, float]) -> None:
        for _ in range(600):
            try:
                if (found := ask(prometheus, query)) == expected:
                    return
            except httpx2.TransportError:
                found = {}  # not listening yet
            time.sleep(0.1)
        raise AssertionError((query, found))

    answered = "sum by (endpoint, status) (model_requests_total)"
    version = service.info()["version"]
    once = {"/model-info 200": 1, "/feedback 200": 1}
    before = {"/predict 200": MORE, "/predict 422": MORE, "other 404": MORE} | once
    predicted = load(service, MORE, MORE, MORE)  # a rate needs a first count
    missed = next(label for label in TARGET.values if label != predicted)
    truths = [predicted] * (MORE - 1) + [missed]
    told = service.client.post("/feedback", json=[{"id": str(i), TARGET.name: t} for i, t in enumerate(truths)])
    assert [result["outcome"] for result in told.json()["results"]] == ["new"] * MORE
    wait_until(answered, before)
    load(service, GOOD, BAD, UNKNOWN)
    after = {"/predict 200": MORE + GOOD, "/predict 422": MORE + BAD, "other 404": MORE + UNKNOWN} | once
    wait_until(answered, after)
    wait_until("sum by (job) (up)", {"airflow": 1, "model": 1})
    # A rate takes its slope to hold for up to 1.6 scrapes beyond those seen: with five, 40 % more than was counted.
    wait_until("min(count_over_time(model_requests_total[10m])) > bool 4", {"": 1})

    metrics = service.client.get("/metrics").text
    drift = dict(re.findall(r'^model_drift_psi\{feature="(\w+)",.*\} (\S+)$', metrics, re.MULTILINE))
    accuracy = service.metric("model_validation_accuracy")
    lower, upper = wilson(MORE - 1, MORE)
    exact: dict[tuple[str, str], dict[str, float]] = {
        ("Replicas", "serve {{version}}"): {version: 1},
        ("Replicas", "answer Prometheus"): {"": 1},
        ("Replicas", "have a model"): {"": 1},
        ("Replicas", "refuse the newest version"): {"": 0},
        ("Drift by feature", "{{feature}}"): {feature: float(index) for feature, index in drift.items()},
        ("Accuracy in the wild", "in the wild"): {"": (MORE - 1) / MORE},
        ("Accuracy in the wild", "at least"): {"": lower},
        ("Accuracy in the wild", "at most"): {"": upper},
        ("Accuracy in the wild", "in validation"): {"": accuracy},
        ("Accuracy in the wild by true class", "{{class}}"): {predicted: 1.0, missed: 0.0},
        ("Labels that came back", "{{class}}"): dict.fromkeys(TARGET.values, 0.0) | {predicted: MORE - 1, missed: 1},
        ("Labels that came back", "all"): {"": MORE},
        ("Labels that came back", "of other versions"): {"": 0},
        ("Labels that came back", "rows lost by the journal"): {"": 0},
        ("DAG runs that ended", "{{dag_id}} success"): {"modelo_penguin": 2},
        ("DAG runs that ended", "{{dag_id}} failed"): {"modelo_penguin": 1},
        ("How long DAG runs took", "{{dag_id}} success"): {"modelo_penguin": 25},
        ("How long DAG runs took", "{{dag_id}} failed"): {"modelo_penguin": 5},
    }
    counted = {
        ("Requests", "{{endpoint}}"): {"/predict": GOOD + BAD, "other": UNKNOWN, "/model-info": 0, "/feedback": 0},
        ("Errors", "{{endpoint}} {{status}}"): {"/predict 422": BAD, "other 404": UNKNOWN},
        ("Predictions by class", "{{class}}"): dict.fromkeys(TARGET.values, 0) | {predicted: GOOD},
    }
    latencies = [("Latency of /predict", legend) for legend in ("p50", "p95", "p99")]

    asked = {name: ask(prometheus, query) for name, query in dashboard_queries(WINDOW).items()}
    assert asked.keys() == {*exact, *counted, *latencies}
    for name, expected in exact.items():
        assert asked[name] == expected, name
    for name, counts in counted.items():
        rates = {series: rate * 600 for series, rate in asked[name].items()}
        assert rates.keys() == counts.keys(), name
        for series, count in counts.items():
            assert count * 0.999 <= rates[series] <= count * 1.5, (name, series)
    median, high, highest = (asked[name][""] for name in latencies)
    assert 0 < median <= high <= highest <= 2.5

    rules = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    assert {r["name"] for g in rules for r in g["rules"]} == set(
        re.findall(r"alert: (\w+)", (ROOT / "docs" / "prometheus-rules.yml").read_text())
    )
