"""What the scheduler and Celery workers import for their tasks."""

from __future__ import annotations

import importlib
import json
import runpy
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
    """Return what a Python of its own has imported, started as that command of Airflow's."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(["airflow", *argv])],
        env={"PYTHONPATH": str(ROOT / "config")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(json.loads(done.stdout))


def test_what_forks_tasks_imports_what_they_need() -> None:
    modules = modules_after("scheduler", "--skip-serve-logs")
    assert {"pandas", "pyarrow.parquet", "sklearn.ensemble"} <= modules
    assert not any(name.split(".")[0] == "penguins" for name in modules)


def test_the_scheduler_and_celerys_workers_import_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr(importlib, "import_module", imported.append)
    for command in (["scheduler"], ["celery", "worker"]):
        imported.clear()
        monkeypatch.setattr(sys, "argv", ["airflow", *command])
        settings = runpy.run_path(str(ROOT / "config" / "airflow_local_settings.py"))
        assert tuple(imported) == settings["LIBRARIES"], command


def test_other_components_stay_small() -> None:
    for command in (["api-server"], ["dag-processor"], ["triggerer"], ["celery", "flower"], []):
        assert not {"pandas", "sklearn"} & modules_after(*command), command
