"""The environment that `make run` gives its processes."""

from __future__ import annotations

from pathlib import Path

import yaml

from launcher.environment import environment, shared_settings
from support import ROOT


def test_make_run_and_the_stack_read_one_file_and_repeat_none_of_it(tmp_path: Path) -> None:
    shared = shared_settings()
    assert shared["AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME"] == "0.15"
    here = environment(8080, 8989, tmp_path)
    assert {name: here[name] for name in shared} == shared
    stack = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
    assert stack["x-airflow-common"]["env_file"] == "config/airflow.env"
    for service in stack["services"].values():
        assert not set(service.get("environment", {})) & set(shared)


def test_secrets_are_made_once_in_the_state_folder(tmp_path: Path) -> None:
    first = environment(8080, 8989, tmp_path)
    assert first["AIRFLOW_HOME"] == str(tmp_path / "airflow")
    assert (tmp_path / "fernet_key").stat().st_mode & 0o777 == 0o600
    assert environment(8080, 8989, tmp_path) == first
