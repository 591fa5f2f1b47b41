"""The overlay with Celery workers, brought up in two steps as tutorials do."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from stack import LONG_LIVED, Stack, needs_root

WORKERS = 3


@pytest.fixture(scope="module")
def celery() -> Iterator[Stack]:
    # As a user whom the image does not know, like most who set AIRFLOW_UID on Linux.
    stack = Stack("penguin-celery", "docker-compose.celery.yaml", uid=1234)
    # The Celery provider 3.26 does not import with Celery 5.7. Airflow's own image holds an older one, and this line
    # changes nothing there; an image that was put together from the newest packages needs it.
    with (stack.folder / "Dockerfile").open("a") as dockerfile:
        dockerfile.write('RUN pip install --no-cache-dir "celery<5.7"\n')
    try:
        stack.compose("up", "--build", "airflow-init")
        assert stack.containers()["airflow-init"]["State"]["ExitCode"] == 0
        stack.compose("--profile", "flower", "up", "--detach", "--wait", "--scale", f"airflow-worker={WORKERS}")
        yield stack
    finally:
        stack.remove()


def test_every_service_is_healthy(celery: Stack) -> None:
    services = (*LONG_LIVED, "redis", "airflow-worker", "flower")
    health = celery.health()
    assert {s: health[s] for s in services} == dict.fromkeys(services, "healthy")
    assert len(celery.compose("ps", "--quiet", "airflow-worker").split()) == WORKERS
    assert httpx2.get(f"{celery.flower_url}/", timeout=60).status_code == 200


def test_the_broker_is_reached_by_who_sends_and_runs_tasks_and_reaches_neither_database(celery: Stack) -> None:
    ports = {"postgres": 5432, "mysql": 3306, "redis": 6379, "airflow-apiserver": 8080}
    expected = {
        "redis": set(),
        "api": set(),
        "airflow-triggerer": {"postgres", "airflow-apiserver"},
        "flower": {"redis", "airflow-apiserver"},
        "airflow-worker": set(ports),
    }
    assert celery.reached(expected, ports) == expected


@needs_root
def test_neither_broker_nor_workers_nor_their_page_have_a_way_out(celery: Stack) -> None:
    assert celery.with_a_way_out(["redis", "flower", "airflow-worker"]) == set()


def test_workers_see_what_tasks_need_and_their_page_nothing(celery: Stack) -> None:
    see = celery.seen(["redis", "flower", "airflow-worker", "airflow-scheduler"])
    assert see["redis"] == see["flower"] == {}
    assert see["airflow-worker"] == see["airflow-scheduler"]
    assert see["airflow-worker"]["signing key"] == "r"


def test_a_runs_tasks_go_to_more_than_one_worker(celery: Stack) -> None:
    workers = {c[:12] for c in celery.compose("ps", "--quiet", "airflow-worker").split()}
    hosts: set[str] = set()
    for _ in range(5):  # which worker takes a task is chance
        run_id = celery.trigger()
        assert celery.wait_for_run(run_id) == "success"
        instances = celery.airflow().get(f"dags/modelo_penguin/dagRuns/{run_id}/taskInstances").json()
        hosts = {task["hostname"] for task in instances["task_instances"]}
        assert hosts <= workers
        if len(hosts) > 1:
            break
    assert len(hosts) > 1
    assert celery.wait_served(run_id)["accuracy"] >= 0.95


def test_workers_that_are_stopped_finish_their_tasks_first(celery: Stack) -> None:
    run_id = celery.trigger(n_estimators=2000)  # which are scored for longer than the ten seconds before a kill
    celery.wait_until("validate", lambda: celery.task(run_id, "validate")["state"] == "running")
    celery.compose("stop", "airflow-worker")
    validate = celery.task(run_id, "validate")
    assert (validate["state"], validate["try_number"]) == ("success", 1)
    celery.compose("start", "airflow-worker")
    assert celery.wait_for_run(run_id) == "success"
