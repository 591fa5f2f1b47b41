"""What the scheduler and Celery workers import for their tasks. Each case is a Python of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support import ROOT

SCRIPT = """
import json, sys
sys.argv = json.loads(sys.argv[1])
import airflow_local_settings
print(json.dumps([*sys.modules]))
"""


def modules_after(*argv: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(["airflow", *argv])],
        env={"PYTHONPATH": str(ROOT / "config")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("command", [("scheduler", "--skip-serve-logs"), ("celery", "worker")])
def test_what_forks_tasks_imports_what_they_need(command: tuple[str, ...]) -> None:
    modules = modules_after(*command)
    assert {"pandas", "pyarrow.parquet", "sklearn.ensemble"} <= modules
    assert not any(name.split(".")[0] == "penguins" for name in modules)


@pytest.mark.parametrize("command", [("api-server",), ("dag-processor",), ("triggerer",), ("celery", "flower"), ()])
def test_other_components_stay_small(command: tuple[str, ...]) -> None:
    assert not {"pandas", "sklearn"} & modules_after(*command)
