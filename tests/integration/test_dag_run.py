"""The whole DAG, run by Airflow on SQLite and on a real MySQL or MariaDB."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from penguins.registry import Registry
from penguins.schema import TABLE
from support import ROOT, AirflowForTests, connection_of

TASKS = (
    *("check_source", "drop_schema", "create_raw_table", "load_raw_data"),
    *("preprocess", "train", "validate", "publish"),
)


@pytest.fixture(params=["sqlite", "mysql"])
def connection(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if request.param == "mysql":
        return connection_of(request.getfixturevalue("mysql_url"))
    return {"conn_type": "sqlite", "host": str(tmp_path_factory.mktemp("sqlite") / "warehouse.db")}


def rows_of(connection: dict[str, Any]) -> Any:
    query = f"SELECT * FROM {TABLE} ORDER BY row_id"
    if connection["conn_type"] == "sqlite":
        with sqlite3.connect(connection["host"]) as database:
            return database.execute(query).fetchall()
    import mysql.connector

    with mysql.connector.connect(
        host=connection["host"],
        port=connection["port"],
        user=connection["login"],
        password=connection["password"],
        database=connection["schema"],
    ) as database:
        cursor = database.cursor()
        cursor.execute(query)
        return cursor.fetchall()


def registry_of(airflow: AirflowForTests) -> Registry:
    return Registry(airflow.models, airflow.key_file)


def test_a_run_loads_trains_and_publishes_the_same_bytes_each_time(
    airflow: AirflowForTests, connection: dict[str, Any]
) -> None:
    registry = registry_of(airflow)
    before = set(registry.versions())
    for _ in range(2):
        run = airflow.run_dag(connection)
        assert run.returncode == 0, run.stdout
        for task in TASKS:
            assert f"end task task_id={task}" in run.stdout
    rows = rows_of(connection)
    assert len(rows) == 344
    assert rows[0][1:] == ("Adelie", "Torgersen", 39.1, 18.7, 181, 3750, "MALE")
    assert rows[3][3:7] == (None,) * 4
    assert rows[336][-1] == "."
    made = [registry.read(version) for version in sorted(set(registry.versions()) - before)]
    assert len(made) == 2
    assert made[0][1] == made[1][1]
    first, second = made[0][0], made[1][0]
    assert first["metrics"]["accuracy"] == second["metrics"]["accuracy"] >= 0.95
    gate = second["metrics"]["gate"]
    assert (gate["outcome"], gate["serving_version"]) == ("not worse", first["version"])
    assert (gate["comparison"]["rows"], gate["comparison"]["difference"]) == (342, 0)
    assert second["drift"] == {"version": first["version"], "psi": dict.fromkeys(first["histograms"], pytest.approx(0))}
    assert second["data"] == {
        "sha256": "aa728597b2228a2637e39c6f08e40a80971f4cdac7faf7bc21ff4481ee3e3ae9",
        "rows": 344,
        "class_counts": {"Adelie": 151, "Chinstrap": 68, "Gentoo": 123},
        "missing": {
            **dict.fromkeys(("species", "island"), 0),
            "sex": 11,
            **dict.fromkeys(("culmen_length_mm", "culmen_depth_mm", "flipper_length_mm", "body_mass_g"), 2),
        },
    }
    report = registry.report(second["version"]).decode()
    for said in (first["version"], second["version"], second["sha256"], second["dag_run_id"], "</html>"):
        assert said in html.unescape(report)
    assert not {"points", "predictions"} & second.keys()
    assert first["importance"] == second["importance"]
    assert registry.current() == second["version"]
    assert list((airflow.models / "runs").iterdir()) == []


def test_both_databases_train_the_same_model(airflow: AirflowForTests, mysql_url: str, tmp_path: Path) -> None:
    registry = registry_of(airflow)
    hashes = set()
    for connection in (connection_of(mysql_url), {"conn_type": "sqlite", "host": str(tmp_path / "w.db")}):
        run = airflow.run_dag(connection, n_estimators=5, random_state=7)
        assert run.returncode == 0, run.stdout
        hashes.add(hashlib.sha256(registry.read(registry.current())[1]).hexdigest())
    assert len(hashes) == 1


def test_a_bad_file_leaves_the_table_and_the_model(
    airflow: AirflowForTests, connection: dict[str, Any], tmp_path: Path
) -> None:
    good = airflow.run_dag(connection, n_estimators=5)
    assert good.returncode == 0, good.stdout
    rows, serving = rows_of(connection), registry_of(airflow).current()
    bad = tmp_path / "bad.csv"
    lines = Path("dags/penguins_size.csv").read_text().splitlines()
    bad.write_text("\n".join([*lines[:9], lines[9].replace("Adelie", "Dodo"), *lines[10:]]) + "\n")
    run = airflow.run_dag(connection, csv_path=str(bad))
    assert run.returncode != 0
    assert "line 10, column species: 'Dodo'; the rule is one of Adelie, Chinstrap, Gentoo" in run.stdout
    assert "task_id=drop_schema" not in run.stdout
    assert rows_of(connection) == rows
    assert registry_of(airflow).current() == serving


def test_a_model_under_the_bar_is_not_published(airflow: AirflowForTests, tmp_path: Path) -> None:
    connection = {"conn_type": "sqlite", "host": str(tmp_path / "w.db")}
    versions = registry_of(airflow).versions()
    run = airflow.run_dag(connection, min_accuracy=1.0, n_estimators=1, test_size=0.5)
    assert run.returncode != 0
    assert "is below min_accuracy 1" in run.stdout
    assert "task_id=publish" not in run.stdout
    assert registry_of(airflow).versions() == versions


def test_a_model_worse_than_the_serving_one_is_not_published_and_the_verdict_says_both_figures(
    airflow: AirflowForTests, tmp_path: Path
) -> None:
    connection = {"conn_type": "sqlite", "host": str(tmp_path / "w.db")}
    assert airflow.run_dag(connection).returncode == 0
    serving = registry_of(airflow).current()
    run = airflow.run_dag(connection, n_estimators=1, max_samples=10, min_accuracy=0)
    assert run.returncode != 0
    verdict = re.search(
        rf"GateError: worse than the serving version {serving}: on 342 rows that neither was trained on, the new model "
        rf"is right on (\d+) and the serving version {serving} on (\d+)",
        run.stdout,
    )
    assert verdict
    assert int(verdict[1]) < int(verdict[2])
    assert "more than max_accuracy_drop 0.02 allows" in run.stdout
    assert '"passed": false' in run.stdout
    assert registry_of(airflow).current() == serving


def test_a_file_that_lost_most_rows_and_a_class_is_refused_before_anything_is_dropped(
    airflow: AirflowForTests, tmp_path: Path
) -> None:
    connection = {"conn_type": "sqlite", "host": str(tmp_path / "w.db")}
    assert airflow.run_dag(connection, n_estimators=5, max_accuracy_drop=1).returncode == 0
    rows, serving = rows_of(connection), registry_of(airflow).current()
    few = tmp_path / "few.csv"
    lines = Path("dags/penguins_size.csv").read_text().splitlines()
    few.write_text("\n".join([*lines[:41], *lines[-40:]]) + "\n")
    run = airflow.run_dag(connection, csv_path=str(few))
    assert run.returncode != 0
    assert f"it has 80 rows, but {serving} was trained on a file of 344: less than min_rows_share 0.5" in run.stdout
    assert f"no row has the species Chinstrap, but {serving} was trained on 68 of them" in run.stdout
    assert "task_id=drop_schema" not in run.stdout
    assert rows_of(connection) == rows
    assert registry_of(airflow).current() == serving


def test_a_serving_model_that_cannot_be_read_is_said_and_does_not_block(
    airflow: AirflowForTests, tmp_path: Path
) -> None:
    connection = {"conn_type": "sqlite", "host": str(tmp_path / "w.db")}
    registry = registry_of(airflow)
    if not registry.versions():
        assert airflow.run_dag(connection, n_estimators=5).returncode == 0
    broken = registry.current()
    (registry.root / broken / "predictions.parquet").write_bytes(b"")
    run = airflow.run_dag(connection)
    assert run.returncode == 0, run.stdout
    gate = registry.manifest(registry.current())["metrics"]["gate"]
    assert gate["passed"] is True
    assert gate["serving_version"] == broken
    assert gate["serving_accuracy"] is None
    assert "the serving version cannot be compared" in gate["reason"]
    assert gate["reason"] in run.stdout
    shutil.rmtree(registry.root / broken)


def test_airflow_loads_the_plugin_and_no_other_file(airflow: AirflowForTests) -> None:
    listed = airflow.run("plugins", "--output", "json")
    assert listed.returncode == 0, listed.stdout
    (plugin,) = [p for p in json.loads(listed.stdout[listed.stdout.index("[") :]) if "model_report" in p["name"]]
    assert plugin["source"].endswith("model_report.py")
    assert "penguins" not in listed.stdout.replace(str(ROOT), "")


def test_params_out_of_bounds_are_refused_before_anything_runs(airflow: AirflowForTests, tmp_path: Path) -> None:
    run = airflow.run_dag({"conn_type": "sqlite", "host": str(tmp_path / "w.db")}, test_size=0.9)
    assert run.returncode != 0
    assert "0.9 is greater than the maximum of 0.5" in run.stdout
    assert not (tmp_path / "w.db").exists()
    assert json.dumps(0.9) in run.stdout
