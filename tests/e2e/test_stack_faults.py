"""Faults in the running stack: what was lost comes back, or the run is red and says why; the model serves on."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from penguins.schema import CSV_NAME, EXAMPLE
from stack import Stack

ROWS = 344 * 3000


@pytest.fixture(scope="module")
def large(stack: Stack) -> str:
    """A file that takes seconds to load: the penguins, 3,000 times."""
    header, _, rows = (stack.folder / "dags" / CSV_NAME).read_text().partition("\n")
    (stack.folder / "dags" / "large.csv").write_text(f"{header}\n{rows * 3000}")
    return "large.csv"


def is_running(stack: Stack, statement: str) -> bool:
    return any(line.split("\t")[-1].startswith(statement) for line in stack.mysql("SHOW FULL PROCESSLIST").splitlines())


def test_mysql_killed_during_the_load_is_waited_for_and_nothing_half_loaded_is_taken_for_whole(
    stack: Stack, large: str
) -> None:
    run_id = stack.trigger(csv_path=large, n_estimators=5)
    stack.wait_until("LOAD DATA", lambda: is_running(stack, "LOAD DATA"))
    assert_a_killed_mysql_is_waited_for(stack, run_id, "load_raw_data", rows_kept=0)


def test_mysql_killed_during_the_read_is_waited_for(stack: Stack, large: str) -> None:
    run_id = stack.trigger(csv_path=large, n_estimators=5)
    stack.wait_until("LOAD DATA", lambda: is_running(stack, "LOAD DATA"))
    # A read of a second or two is hard to hit. This lock is given as soon as the load commits, and makes the read wait.
    lock = "LOCK TABLES mydatabase.penguins_raw WRITE; SELECT SLEEP(300)"
    with ThreadPoolExecutor(1) as other:
        other.submit(stack.mysql, lock)
        stack.wait_until("the read", lambda: is_running(stack, "SELECT MIN(row_id)"))
        assert_a_killed_mysql_is_waited_for(stack, run_id, "preprocess", rows_kept=ROWS)


def assert_a_killed_mysql_is_waited_for(stack: Stack, run_id: str, task: str, *, rows_kept: int) -> None:
    started = stack.crash("mysql")
    stack.wait_healthy("mysql", started)
    assert stack.raw_rows() == rows_kept
    assert stack.wait_for_run(run_id, seconds=400) == "success"
    assert stack.task(run_id, task)["try_number"] == 2
    assert "DatabaseLostError" in stack.task_log(run_id, task, attempt=1)
    assert stack.raw_rows() == ROWS
    assert stack.wait_served(run_id)["data"]["rows"] == ROWS


def test_mysql_that_stays_away_ends_the_run_with_a_clear_message_and_the_model_serves_on(stack: Stack) -> None:
    serving = stack.api.get("/model-info").json()
    stack.compose("stop", "mysql")
    try:
        # The serving version has a thousand times the rows of the file.
        run_id = stack.trigger(min_rows_share=0)
        assert stack.wait_for_run(run_id) == "failed"
        task = stack.task(run_id, "drop_schema")
        assert (task["state"], task["try_number"]) == ("failed", 4)
        assert "the database went away or cannot be reached" in stack.task_log(run_id, "drop_schema", attempt=4)
        assert stack.api.get("/model-info").json() == serving
    finally:
        stack.compose("up", "--detach", "--wait")


def test_a_scheduler_killed_during_train_takes_the_run_up_again(stack: Stack) -> None:
    run_id = stack.trigger(n_estimators=2000, min_rows_share=0)
    stack.wait_until("train", lambda: stack.task(run_id, "train")["state"] == "running")
    started = stack.crash("airflow-scheduler")
    stack.wait_healthy("airflow-scheduler", started)
    assert stack.wait_for_run(run_id, seconds=400) == "success"
    assert stack.wait_served(run_id)["params"]["n_estimators"] == 2000


def test_an_api_server_that_is_away_while_tasks_run_ends_none_of_them(stack: Stack) -> None:
    run_id = stack.trigger(n_estimators=2000, min_rows_share=0)
    stack.wait_until("train", lambda: stack.task(run_id, "train")["state"] == "running")
    stack.compose("stop", "airflow-apiserver")
    time.sleep(15)  # and as long again until it answers
    stack.compose("up", "--detach", "--wait")
    assert stack.wait_for_run(run_id, seconds=400) == "success"
    tasks = stack.airflow().get(f"dags/modelo_penguin/dagRuns/{run_id}/taskInstances").json()["task_instances"]
    assert {task["task_id"]: task["try_number"] for task in tasks if task["try_number"] > 1} == {}


def test_postgres_killed_during_a_run_does_not_fail_it(stack: Stack) -> None:
    run_id = stack.trigger(n_estimators=500)
    stack.wait_until("load_raw_data", lambda: stack.task(run_id, "load_raw_data")["state"] in ("running", "success"))
    stack.wait_healthy("postgres", stack.crash("postgres"))
    stack.compose("up", "--detach", "--wait")  # the others lost their database, and must all have found it again
    assert stack.wait_for_run(run_id, seconds=400) == "success"
    stack.wait_served(run_id)


def test_the_api_killed_under_load_comes_back_with_the_same_model(stack: Stack) -> None:
    serving = stack.api.get("/model-info").json()["version"]
    refused, versions, stop = [], set(), threading.Event()

    def load() -> None:
        while not stop.is_set():
            try:
                answer = httpx2.post(f"{stack.api_url}/predict", json=EXAMPLE, headers=stack.api.headers, timeout=10)
            except httpx2.TransportError:
                continue  # nobody is there for a moment
            if answer.status_code == 200:
                versions.add(answer.json()["model_version"])
            else:
                refused.append(answer.text)

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        stack.wait_healthy("api", stack.crash("api"))
    finally:
        stop.set()
        for client in clients:
            client.join(timeout=30)
    assert refused == []
    assert versions == {serving}
    assert stack.api.get("/model-info").json()["version"] == serving


def test_a_rotated_key_signs_the_next_model_and_the_older_ones_stay_valid(stack: Stack) -> None:
    in_init = ("run", "--rm", "--no-deps", "--entrypoint", "python", "airflow-init", "-m", "penguins.registry")
    assert "is new, and its public key the first line" in stack.compose(*in_init, "rotate-key")
    run_id = stack.trigger()
    assert stack.wait_for_run(run_id) == "success"
    info = stack.wait_served(run_id)
    assert info["rejected"] is None
    verified = stack.compose("exec", "-T", "airflow-scheduler", "python", "-m", "penguins.registry", "verify")
    assert f"* {info['version']}" in verified
    assert "BAD" not in verified
    older = verified.splitlines()[1].split()[0]
    stack.compose("exec", "-T", "airflow-scheduler", "python", "-m", "penguins.registry", "activate", older)
    stack.wait_until("the rollback", lambda: stack.api.get("/model-info").json()["version"] == older)
