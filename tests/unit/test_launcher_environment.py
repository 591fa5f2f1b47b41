"""The environment that `make run` gives to what it starts."""

from __future__ import annotations

from pathlib import Path

import yaml

from launcher import environment
from support import ROOT

# What decides how fast a DAG runs, and how fast a fault is found.
SHARED = (
    "AIRFLOW__CORE__PARALLELISM",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL",
)


def test_make_run_and_the_stack_are_tuned_alike(tmp_path: Path) -> None:
    stack = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["x-airflow-common"]["environment"]
    here = environment(8080, 8989, tmp_path)
    assert {name: here[name] for name in SHARED} == {name: str(stack[name]) for name in SHARED}


def test_secrets_are_made_once_in_the_state_folder(tmp_path: Path) -> None:
    first = environment(8080, 8989, tmp_path)
    assert first["AIRFLOW_HOME"] == str(tmp_path / "airflow")
    assert (tmp_path / "model_signing.key").stat().st_mode & 0o777 == 0o600
    assert environment(8080, 8989, tmp_path) == first
