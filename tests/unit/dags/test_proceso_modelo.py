"""The DAG as Airflow sees it: imports, structure, params."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import ParamValidationError

DAGS = Path(__file__).parents[3] / "dags"
CHAIN = [
    *("check_source", "drop_schema", "create_raw_table", "load_raw_data"),
    *("preprocess", "train", "validate", "publish"),
]


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(dag_folder=DAGS)


@pytest.fixture
def dag(bag: DagBag) -> Any:
    return bag.dags["modelo_penguin"]


def test_the_folder_imports_without_errors_or_warnings(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert bag.captured_warnings == {}
    assert list(bag.dags) == ["modelo_penguin"]


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); "
        "print([m for m in ('pandas', 'sklearn', 'pyarrow', 'numpy', 'connectorx') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(DAGS / "proceso_modelo.py")],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(DAGS.parent / "plugins"), "PATH": ""},
    )
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_tasks_are_one_chain_of_python_operators(dag: Any) -> None:
    assert [task.task_id for task in dag.topological_sort()] == CHAIN
    for task, following in zip(CHAIN, [*CHAIN[1:], None], strict=True):
        assert dag.task_dict[task].downstream_task_ids == ({following} if following else set())
        assert type(dag.task_dict[task]).__name__ == "PythonOperator"


def test_it_runs_only_when_asked_and_one_run_at_a_time(dag: Any) -> None:
    assert dag.schedule is None
    assert dag.catchup is False
    assert dag.max_active_runs == 1
    assert dag.start_date.tzinfo is not None


def test_every_task_has_its_line_of_the_docs(dag: Any) -> None:
    assert dag.description == "Train the model from the raw CSV and publish it for the API"
    for task in CHAIN:
        assert f"| `{task}` | {dag.task_dict[task].doc_md} |" in dag.doc_md


def test_only_a_lost_database_is_retried(dag: Any) -> None:
    from penguins.data.warehouse import DatabaseLostError, LoadError

    for task in dag.tasks:
        assert task.retries > 0
        decide = task.retry_policy.evaluate
        assert decide(DatabaseLostError("gone"), try_number=1, max_tries=3).action.value == "retry"
        for error in (LoadError("short"), ValueError("bad"), KeyError("x"), OSError("disk full")):
            assert decide(error, try_number=1, max_tries=3).action.value == "fail"


def test_publish_emits_the_models_asset_and_has_a_button_for_its_report(dag: Any) -> None:
    assert [asset.name for asset in dag.task_dict["publish"].outlets] == ["penguin_model"]
    assert [(task.task_id, link.name) for task in dag.tasks for link in task.operator_extra_links] == [
        ("publish", "Model report")
    ]


def test_the_trigger_form_describes_every_param(dag: Any) -> None:
    assert {name: dag.params[name] for name in dag.params} == {
        "csv_path": "penguins_size.csv",
        "drop_foreign_tables": False,
        "test_size": 0.2,
        "random_state": 42,
        "n_estimators": 100,
        "max_samples": 100_000,
        "min_accuracy": 0.9,
        "max_accuracy_drop": 0.02,
        "min_rows_share": 0.5,
        "ignore_untrusted_serving": False,
        "activate": True,
    }
    for name in dag.params:
        schema = dag.params.get_param(name).schema
        assert schema.keys() >= {"type", "title", "section"}
        assert dag.params.get_param(name).description


def test_a_param_out_of_its_bounds_is_refused(dag: Any) -> None:
    for name, value in (
        ("csv_path", ""),
        *(("drop_foreign_tables", "yes"), ("activate", 0)),
        *(("test_size", 0), ("test_size", 0.6)),
        ("random_state", -1),
        *(("n_estimators", 0), ("n_estimators", 1.5)),
        ("max_samples", 1),
        ("min_accuracy", 1.1),
        *(("max_accuracy_drop", -0.1), ("max_accuracy_drop", "little")),
    ):
        with pytest.raises(ParamValidationError, match=re.escape(repr(value))):
            dag.params.get_param(name).resolve(value)
