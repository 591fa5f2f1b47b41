"""The overlays for more than one machine's worth: trees on Dask workers, and API replicas behind one address, all of
them watched by Prometheus.

The tests build on each other, in the order of the file.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from penguins.schema import CSV_NAME, EXAMPLE, TARGET
from stack import Stack, docker, needs_root, provide_image
from support import ROOT, dashboard_queries

WORKERS = REPLICAS = 3
DASK = "tcp://dask-scheduler:8786"
# Prints how many batches of trees each worker has grown, by host name; with earlier numbers, once all have grown more.
BATCHES = """
import json, socket, sys, time
from distributed import Client

def grown(dask_worker):
    return socket.gethostname(), dask_worker.state.executed_count

client = Client("tcp://127.0.0.1:8786")
before = json.loads(sys.argv[1])
deadline = time.monotonic() + 120
while True:
    now = dict(client.run(grown).values())
    if all(now[host] > before[host] for host in before):
        break
    assert time.monotonic() < deadline, now
print(json.dumps(now))
"""
FILES = [f"--file=docker-compose{name}.yaml" for name in ("", ".dask", ".celery", ".replicas", ".monitoring")]


@pytest.fixture(scope="module")
def scaled() -> Iterator[Stack]:
    overlays = [f"docker-compose.{name}.yaml" for name in ("monitoring", "dask", "replicas", "journal")]
    stack = Stack("penguin-scaled", *overlays)
    try:
        scraping = stack.folder / "monitoring" / "prometheus.yml"
        scraping.write_text(scraping.read_text().replace("15s", "1s"))  # or the tests would wait for it
        services = stack.services()
        del services["grafana"]  # there is no stand-in for it
        for name in ("prometheus", "statsd"):
            provide_image(services[name]["image"])
        stack.up("--scale", f"api={REPLICAS}", "--scale", f"dask-worker={WORKERS}", *services)
        yield stack
    finally:
        stack.remove()


@pytest.fixture(scope="module")
def first_version(scaled: Stack) -> str:
    run_id = scaled.trigger()
    assert scaled.wait_for_run(run_id) == "success", scaled.task_log(run_id, "train", 1)
    return scaled.wait_served(run_id)["version"]


def configured(*files: str, part: str = "services") -> dict[str, dict[str, Any]]:
    """Return the services that compose makes of these files, or another part."""
    command = ["docker", "compose", "--project-name=x", *files, "config", "--format=json"]
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=180)
    return json.loads(run.stdout)[part]


def batches(stack: Stack, before: dict[str, int] | None = None) -> dict[str, int]:
    command = ("exec", "-T", "dask-scheduler", "python", "-c", BATCHES, json.dumps(before or {}))
    printed = stack.compose(*command, timeout=180).splitlines()
    return json.loads(next(line for line in printed if line.startswith("{")))  # a client may complain as it closes


def served(stack: Stack, requests: int = 30) -> dict[str, str]:
    """Return the version that each replica serves, by the name that the load balancer gives it."""
    answers = [stack.api.get("/model-info") for _ in range(requests)]
    return {a.headers["x-served-by"]: a.raise_for_status().json()["version"] for a in answers}


def wait_all_serve(stack: Stack, version: str, replicas: int = REPLICAS) -> None:
    def all_do() -> bool:
        now = served(stack)
        return len(now) == replicas and set(now.values()) == {version}

    stack.wait_until(f"{replicas} replicas serve {version}", all_do, 300)


def test_only_the_load_balancer_and_prometheus_have_a_port_and_a_dask_worker_has_no_secret(scaled: Stack) -> None:
    containers = scaled.containers()
    for service in ("api", "dask-scheduler", "dask-worker", "statsd"):
        assert not containers[service]["HostConfig"]["PortBindings"], service
    assert containers["prometheus"]["HostConfig"]["PortBindings"]["9090/tcp"][0]["HostIp"] == "127.0.0.1"
    assert containers["load-balancer"]["HostConfig"]["PortBindings"]["8989/tcp"][0]["HostIp"] == "127.0.0.1"
    for service in ("dask-scheduler", "dask-worker"):
        assert not [m for m in containers[service]["Mounts"] if m["Destination"].startswith("/opt/airflow")], service
        assert not [e for e in containers[service]["Config"]["Env"] if "SQL_ALCHEMY" in e or "_CMD=" in e], service


def test_who_grows_trees_or_balances_sees_no_secret_and_no_data(scaled: Stack) -> None:
    assert scaled.seen(["dask-scheduler", "dask-worker", "load-balancer"]) == {
        "dask-scheduler": {},
        "dask-worker": {},
        "load-balancer": {},
    }


def test_what_could_run_others_code_reaches_nothing_but_its_own(scaled: Stack) -> None:
    ports = {"postgres": 5432, "mysql": 3306, "airflow-apiserver": 8080, "dask-scheduler": 8786, "load-balancer": 8989}
    ports |= {"prometheus": 9090, "statsd": 9102}
    expected = {
        "dask-worker": {"dask-scheduler"},
        "dask-scheduler": set(),
        "api": {"load-balancer", "prometheus"},
        "load-balancer": {"api", "prometheus"},
        "airflow-scheduler": {"postgres", "mysql", "airflow-apiserver", "dask-scheduler", "statsd"},
    }
    assert scaled.reached(expected, {**ports, "api": 8989}) == expected


@needs_root
def test_none_of_them_has_a_way_out(scaled: Stack) -> None:
    services = ("dask-worker", "dask-scheduler", "api", "load-balancer", "airflow-scheduler")
    assert scaled.with_a_way_out(services) == set()


def test_with_all_overlays_no_network_has_a_way_out_and_nobody_asks_for_names_elsewhere() -> None:
    closed = {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    for name, network in configured(*FILES, part="networks").items():
        assert network.get("internal") or network["driver_opts"] == closed, name
    for name, service in configured(*FILES).items():
        assert service["dns"] == ["127.0.0.1"], name


def test_before_the_first_model_the_apis_own_hint_comes_through(scaled: Stack) -> None:
    answer = scaled.api.get("/model-info")
    assert answer.status_code == 503
    assert "trigger the DAG modelo_penguin" in answer.json()["detail"]


def test_the_trees_of_a_run_are_grown_by_more_than_one_worker(scaled: Stack, first_version: str) -> None:
    grown = batches(scaled)
    assert len(grown) == WORKERS
    assert sum(count > 0 for count in grown.values()) > 1


def test_every_replica_takes_a_version_over_and_goes_back(scaled: Stack, first_version: str) -> None:
    wait_all_serve(scaled, first_version)
    # Many rows, so that the fit is under way for long enough to kill one of its workers.
    header, *lines = (ROOT / "dags" / CSV_NAME).read_text().splitlines(keepends=True)
    (scaled.folder / "dags" / "many.csv").write_text(header + "".join(lines) * 100)
    before = batches(scaled)
    run_id = scaled.trigger(csv_path="many.csv", n_estimators=400, max_accuracy_drop=1)
    victim = next(iter(batches(scaled, before)))
    docker("kill", victim)
    assert scaled.task(run_id, "train")["state"] == "running"
    assert scaled.wait_for_run(run_id) == "success", scaled.task_log(run_id, "train", 1)
    assert scaled.task(run_id, "train")["try_number"] == 1
    version = scaled.wait_served(run_id)["version"]
    assert version != first_version
    wait_all_serve(scaled, version)
    command = ("python", "-m", "penguins.registry", "activate", first_version)
    scaled.compose("exec", "-T", "airflow-scheduler", *command)
    wait_all_serve(scaled, first_version)


def test_any_replica_is_told_the_truth_and_all_know_it(scaled: Stack, first_version: str) -> None:
    wait_all_serve(scaled, first_version)
    ids = [f"truth-{number}" for number in range(2 * REPLICAS)]
    for name in ids:  # which the load balancer deals out
        answer = scaled.api.post("/predict", json=EXAMPLE, headers={"X-Request-ID": name})
        assert answer.raise_for_status().headers["X-Request-ID"] == name
    labels = [{"id": name, TARGET.name: TARGET.example} for name in ids]

    def told() -> bool:
        results = scaled.api.post("/feedback", json=labels).raise_for_status().json()["results"]
        return "unknown" not in {result["outcome"] for result in results}

    scaled.wait_until("the replicas have written their predictions", told, 60)
    answers = [scaled.api.get("/metrics") for _ in range(30)]
    known = {a.headers["x-served-by"]: 'model_feedback_labels{model="modelo_penguin"} 6.0\n' in a.text for a in answers}
    assert list(known.values()) == [True] * REPLICAS
    # Airflow's user reads what the API's wrote, also while that is away.
    export = ("exec", "-T", "airflow-scheduler", "python", "-m", "penguins.journal", "export")
    assert f"{len(ids)} predictions whose truth is known" in scaled.compose(*export)
    assert scaled.compose(*export[:3], "stat", "-c", "%a %g", "/journal/journal.db").split() == ["660", "10001"]


def test_a_killed_replica_costs_no_answer_that_had_not_begun_and_another_number_is_picked_up(
    scaled: Stack, first_version: str
) -> None:
    answers: Counter[int | str] = Counter()
    enough = threading.Event()

    def ask() -> None:
        with httpx2.Client(base_url=scaled.api_url, timeout=30) as client:
            while not enough.is_set():
                try:
                    answers[client.post("/predict", json=EXAMPLE).status_code] += 1
                except httpx2.TransportError as error:
                    answers[repr(error)] += 1

    with ThreadPoolExecutor() as threads:
        asking = [threads.submit(ask) for _ in range(4)]
        try:
            scaled.wait_until("requests are answered", lambda: answers[200] > 200)
            victim = scaled.compose("ps", "--quiet", "api").split()[0]
            docker("kill", victim)
            wait_all_serve(scaled, first_version, replicas=REPLICAS - 1)
            scaled.compose("up", "--detach", "--no-deps", "--scale", f"api={REPLICAS + 1}", "api")
            wait_all_serve(scaled, first_version, replicas=REPLICAS + 1)
        finally:
            enough.set()
        for one in asking:
            one.result(timeout=60)
    # Nobody can answer again what was cut off in the middle of its answer: one at most for each connection.
    cut_off = sum(answers.pop(error) for error in list(answers) if "complete message body" in str(error))
    assert cut_off <= len(asking)
    assert set(answers) == {200}


def test_prometheus_sees_every_replica_the_rules_and_the_runs_that_ended(scaled: Stack, first_version: str) -> None:
    def ask(query: str) -> dict[str, float]:
        answer = prometheus.get("/api/v1/query", params={"query": query}).raise_for_status().json()
        return {" ".join(one["metric"].values()): float(one["value"][1]) for one in answer["data"]["result"]}

    queries = dashboard_queries("1h")  # longer than the stack is there
    listed = scaled.airflow().get("dags/modelo_penguin/dagRuns").raise_for_status().json()["dag_runs"]
    took = [run["duration"] for run in listed if run["state"] == "success"]
    with httpx2.Client(base_url=f"http://127.0.0.1:{scaled.prometheus_port}", timeout=60) as prometheus:
        replicas = {"": REPLICAS + 1}  # as the test before left them
        scaled.wait_until("all replicas are up", lambda: ask('count(up{job="model"} == 1)') == replicas)
        scaled.wait_until("none is down", lambda: ask('count(up{job="model"})') == replicas)
        serving = queries["Replicas", "serve {{version}}"]
        scaled.wait_until("all serve the version", lambda: ask(serving) == {first_version: REPLICAS + 1})

        ended = queries["DAG runs that ended", "{{dag_id}} success"]
        scaled.wait_until("a run has ended", lambda: bool(ask(ended)))
        assert 1 <= ask(ended)["modelo_penguin"] <= len(took)  # a datagram may get lost
        [mean] = ask(queries["How long DAG runs took", "{{dag_id}} success"]).values()
        assert min(took) - 1 <= mean <= max(took) + 1

        rules = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    alerts = re.findall(r"alert: (\w+)", (ROOT / "docs" / "prometheus-rules.yml").read_text())
    assert {rule["name"] for group in rules for rule in group["rules"]} == set(alerts)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (0, 3, 1, 4, 2), (0, 4), (0, 4, 3, 1, 2)])
def test_prometheus_meets_the_api_and_statsd_with_any_overlays(order: tuple[int, ...]) -> None:
    found = configured(*(FILES[number] for number in order))
    networks = {name: set(service["networks"]) for name, service in found.items()}
    assert networks["prometheus"] & networks["api"]
    assert networks["prometheus"] & networks["statsd"] & networks["grafana"] == {"metrics"}
    for name in ("airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"):
        assert networks[name] & networks["statsd"] == {"statsd"}
        assert not networks[name] & networks["prometheus"]
        assert found[name]["environment"]["AIRFLOW__METRICS__STATSD_HOST"] == "statsd"


def test_celery_workers_know_the_cluster_too() -> None:
    for service in ("airflow-scheduler", "airflow-worker"):
        assert configured(*FILES[:4])[service]["environment"]["TRAIN_CLUSTER"] == DASK
        assert "TRAIN_CLUSTER" not in configured(FILES[0], FILES[2])[service]["environment"]
    assert "airflow-worker" not in configured(*FILES[:2])
    with pytest.raises(subprocess.CalledProcessError) as refused:  # else no worker would start
        configured(FILES[0], *FILES[2:0:-1])
    assert b'undefined service "airflow-worker"' in refused.value.stderr
