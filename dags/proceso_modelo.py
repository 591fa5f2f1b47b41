"""Train the model from the raw CSV and publish it for the API.

| task | does |
|---|---|
| `check_source` | validates the CSV against the schema and the serving version's data, before anything is dropped |
| `drop_schema` | proves that the table can be made, then drops and recreates the schema of `mysql_default` |
| `create_raw_table` | creates the raw table, empty |
| `load_raw_data` | loads the CSV in one transaction and checks the row count |
| `preprocess` | reads the rows, which must be those of the CSV, cleans them and splits them, stratified by the target |
| `train` | fits one scikit-learn pipeline: imputation, one-hot, standard scaling, random forest |
| `validate` | scores the model on rows it was not trained on, and compares it with the serving model |
| `publish` | signs the `.pkl`, writes it to the shared volume and, if `activate` is on, makes it the serving version |

An invalid file, a lower accuracy or a lost database leaves the serving model as it is.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import (
    DAG,
    Asset,
    BaseHook,
    BaseOperatorLink,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
)

from penguins.schema import ASSET, NAME, TABLE
from penguins.training.params import PARAMS

if TYPE_CHECKING:
    from penguins.data.warehouse import Warehouse
    from penguins.registry import Registry
    from penguins.registry.run_files import RunFiles

CONNECTION_ID = "mysql_default"
# Airflow has one asset of a URI, also where a database knows the penguins' from before. Theirs is as it always was, for
# the DAGs that wait for it.
MODEL = Asset(name=ASSET, uri="file://models/current" + ("" if NAME == "modelo_penguin" else f"/{NAME}"))

# A lost database may come back. Any other error would only repeat itself.
RETRY_LOST_DATABASE = ExceptionRetryPolicy(
    rules=[
        RetryRule("penguins.data.warehouse.DatabaseLostError", RetryAction.RETRY, reason="the database was lost"),
        RetryRule(Exception, RetryAction.FAIL, reason="not a lost database: a retry would fail the same way"),
    ]
)

# What each task does, from the table above.
DOCS = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", __doc__, re.MULTILINE))

log = logging.getLogger(__name__)


class ReportLink(BaseOperatorLink):
    """The button in `publish`'s details that opens the version's report. plugins/model_report.py serves the page."""

    name = "Model report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        from airflow.sdk.execution_time.xcom import XCom

        published = XCom.get_value(ti_key=ti_key, key="return_value")  # None if the task failed
        return f"/plugin/model-report/model-report/{published['version']}" if published else ""


def _warehouse() -> Warehouse:
    from penguins.data.databases import open_warehouse

    return open_warehouse(BaseHook.get_connection(CONNECTION_ID).get_hook())


def _registry() -> Registry:
    from penguins.registry import Registry

    return Registry.from_environment()


def _files(run_id: str, sums: dict[str, str] | None = None) -> RunFiles:
    """Return the run's files. `sums` are the sha256 that the task before has handed on."""
    from penguins.registry.run_files import RunFiles, run_folder

    return RunFiles(run_folder(_registry().root, run_id), sums)


def _serving_manifest(params: dict[str, Any]) -> dict[str, Any] | None:
    from penguins.evaluation.comparison import serving_manifest

    manifest, baseline = serving_manifest(_registry(), ignore_untrusted=params["ignore_untrusted_serving"])
    if manifest is None:
        log.warning(f"no comparison: {baseline.note}")
    return manifest


def check_source(params: dict[str, Any], dag_run: Any) -> dict[str, Any]:
    from dataclasses import asdict

    from penguins.data.changes import check_data
    from penguins.data.folders import file_below
    from penguins.data.source import check_source as check
    from penguins.registry.run_files import remove_run_folders

    if unknown := sorted(set(dag_run.conf or {}) - set(dag.params)):
        raise ValueError(f"unknown params: {', '.join(unknown)}. Known: {', '.join(dag.params)}. Nothing was dropped")
    registry = _registry()
    remove_run_folders(registry.root)
    path = file_below(params["csv_path"], Path(__file__).parent, registry.root / "incoming")
    source = check(path, test_size=params["test_size"])
    log.info(f"{source.path}: {source.rows} rows match the schema; by class, with a measurement: {source.class_counts}")
    if serving := _serving_manifest(params):
        check_data(source, serving, min_rows_share=params["min_rows_share"])
    return asdict(source)


def drop_schema(params: dict[str, Any]) -> None:
    emptied = _warehouse().drop_schema(drop_foreign=params["drop_foreign_tables"])
    log.info(f"dropped and recreated {emptied}")


def create_raw_table() -> None:
    _warehouse().create_raw_table()
    log.info(f"created {TABLE}")


def load_raw_data(ti: Any) -> int:
    from penguins.data.source import Source

    rows = _warehouse().load(Source(**ti.xcom_pull(task_ids="check_source")))
    log.info(f"loaded {rows} rows into {TABLE}, as many as the file has")
    return rows


def preprocess(params: dict[str, Any], run_id: str, ti: Any) -> dict[str, Any]:
    from penguins.data.cleaning import clean
    from penguins.data.drift import drift_of
    from penguins.data.source import Source
    from penguins.training.pipeline import split

    source = Source(**ti.xcom_pull(task_ids="check_source"))
    raw = _warehouse().read(source)
    cleaned = clean(raw)
    train, test = split(cleaned, test_size=params["test_size"], random_state=params["random_state"])
    files = _files(run_id)
    files.write_table("train.parquet", train)
    files.write_table("test.parquet", test)
    rows = {"raw": raw.num_rows, "clean": cleaned.num_rows, "train": train.num_rows, "test": test.num_rows}
    data = {"sha256": source.sha256, "rows": source.rows, "class_counts": source.class_counts}
    data["missing"] = {name: raw[name].null_count for name in raw.column_names}
    log.info(f"rows: {rows}; missing values: {data['missing']}")
    drift = drift_of(train, serving) if (serving := _serving_manifest(params)) else None
    log.info(f"drift of the training rows: {drift}")
    return {"rows": rows, "data": data, "drift": drift, "files": files.sums}


def train(params: dict[str, Any], run_id: str, ti: Any) -> dict[str, Any]:
    from penguins.training.pipeline import build_pipeline, fit

    files = _files(run_id, ti.xcom_pull(task_ids="preprocess")["files"])
    rows = files.read_table("train.parquet")
    pipeline = build_pipeline(
        n_estimators=params["n_estimators"],
        max_samples=params["max_samples"],
        random_state=params["random_state"],
        rows=rows.num_rows,
    )
    pickled = fit(pipeline, rows)
    files.write("model.pkl", pickled)
    log.info(f"trained {params['n_estimators']} trees on {rows.num_rows} rows; the pickle has {len(pickled)} bytes")
    return {"sha256": files.sums["model.pkl"], "size_bytes": len(pickled), "files": files.sums}


def validate(params: dict[str, Any], run_id: str, ti: Any) -> dict[str, Any]:
    import json

    from penguins.evaluation.evaluate import evaluate
    from penguins.evaluation.gate import GateError

    files = _files(run_id, ti.xcom_pull(task_ids="train")["files"])
    facts = evaluate(
        files.read("model.pkl"),
        files.read_table("train.parquet"),
        files.read_table("test.parquet"),
        registry=_registry(),
        min_accuracy=params["min_accuracy"],
        max_accuracy_drop=params["max_accuracy_drop"],
        random_state=params["random_state"],
        ignore_untrusted=params["ignore_untrusted_serving"],
    )
    files.write("predictions.parquet", facts.pop("predictions"))
    files.write_json("facts.json", facts)
    ti.xcom_push(key="files", value=files.sums)
    metrics, gate = facts["metrics"], facts["metrics"]["gate"]
    for warning in metrics["warnings"]:
        log.warning(warning)
    log.info(f"metrics: {json.dumps(metrics, indent=2)}")
    ti.xcom_push(key="gate", value=gate)
    if not gate["passed"]:
        raise GateError(f"{gate['reason']}. The serving model stays as it is.")
    log.info(f"gate: {gate['reason']}")
    if gate["comparison"] and gate["note"]:
        log.warning(gate["note"])
    return metrics


def publish(params: dict[str, Any], run_id: str, ti: Any, outlet_events: Any) -> dict[str, Any]:
    from functools import partial

    from penguins.registry.run_files import published_before
    from penguins.report.page import accuracies, render

    registry = _registry()
    files = _files(run_id, ti.xcom_pull(task_ids="validate", key="files"))
    # An earlier attempt may have been killed after it had published.
    manifest = published_before(registry, run_id, files.sums["model.pkl"], activate=params["activate"])
    if manifest is None:
        facts, preprocessed = files.read_json("facts.json"), ti.xcom_pull(task_ids="preprocess")
        points = facts.pop("points")  # only for the report
        manifest = registry.publish(
            files.read("model.pkl"),
            {
                **facts,
                "dag_run_id": run_id,
                "params": dict(params),
                "data": preprocessed["data"],
                "drift": preprocessed["drift"],
            },
            make_report=partial(render, points=points, earlier=accuracies(registry)),
            predictions=files.read("predictions.parquet"),
            activate=params["activate"],
        )
    files.remove()
    event = {"version": manifest["version"], "accuracy": manifest["metrics"]["accuracy"], "sha256": manifest["sha256"]}
    outlet_events[MODEL].extra = event
    log.info(f"published {event}")
    if not params["activate"]:
        ti.task.outlets = []  # no event, because no other model serves
        log.info(f"it waits: `python -m penguins.registry activate {event['version']}` makes it serve")
    return event


with DAG(
    dag_id=NAME,
    description=__doc__.partition(".")[0],
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["training"],
    default_args={
        "retries": 3,
        "retry_delay": timedelta(seconds=20),
        "retry_policy": RETRY_LOST_DATABASE,
        "execution_timeout": timedelta(hours=6),  # ten million rows take minutes
    },
    params={name: Param(**schema) for name, schema in PARAMS.items()},
) as dag:
    check_source_task = PythonOperator(task_id="check_source", python_callable=check_source)
    drop_schema_task = PythonOperator(task_id="drop_schema", python_callable=drop_schema)
    create_raw_table_task = PythonOperator(task_id="create_raw_table", python_callable=create_raw_table)
    load_raw_data_task = PythonOperator(task_id="load_raw_data", python_callable=load_raw_data)
    preprocess_task = PythonOperator(task_id="preprocess", python_callable=preprocess)
    train_task = PythonOperator(task_id="train", python_callable=train)
    validate_task = PythonOperator(task_id="validate", python_callable=validate)
    publish_task = PythonOperator(task_id="publish", python_callable=publish, outlets=[MODEL])
    publish_task.operator_extra_links = (ReportLink(),)
    for task in dag.tasks:
        task.doc_md = DOCS[task.task_id]  # type: ignore[misc] # only a mapped task's cannot be set

    (
        check_source_task
        >> drop_schema_task
        >> create_raw_table_task
        >> load_raw_data_task
        >> preprocess_task
        >> train_task
        >> validate_task
        >> publish_task
    )
