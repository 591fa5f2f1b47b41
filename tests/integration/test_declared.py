"""What `schema.py` declares, whatever it is: its file is trained on, and the service answers for each column."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from forks import Fork, Start, check_service

from penguins.data.source import check_source
from penguins.schema import CSV_NAME, TARGET
from support import ROOT, AirflowForTests


@pytest.fixture
def here(tmp_path: Path, airflow: AirflowForTests, start_process: Start) -> Fork:
    """This checkout, with models of its own."""
    of_tests = airflow.of_copy(ROOT)
    of_tests.models = airflow.models.with_name("declared")
    of_tests.env["MODELS_DIR"] = str(of_tests.models)
    return Fork(ROOT, of_tests, start_process, tmp_path)


def test_the_declared_table_is_trained_on_and_served(here: Fork, tmp_path: Path) -> None:
    source = check_source(ROOT / "dags" / CSV_NAME, test_size=0.2)
    assert set(source.class_counts) <= set(TARGET.values)
    here.train({"conn_type": "sqlite", "host": str(tmp_path / "warehouse.db")}, n_estimators=20)
    with here.service() as service:
        check_service(here, service)
        assert service.info()["data"]["rows"] == source.rows


def test_the_declaration_is_as_make_lint_wants_it() -> None:
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "plugins/penguins/schema.py"],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
