"""The whole DAG, run by Airflow on SQLite and on a real MySQL or MariaDB."""

from __future__ import annotations

import html
import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from penguins.registry import Registry
from penguins.schema import CSV_NAME, TABLE
from support import ROOT, AirflowForTests, connection_of

CSV = ROOT / "dags" / CSV_NAME
TASKS = (
    *("check_source", "drop_schema", "create_raw_table", "load_raw_data"),
    *("preprocess", "train", "validate", "publish"),
)


@pytest.fixture(scope="module", params=["sqlite", "mysql"])
def connection(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if request.param == "mysql":
        return connection_of(request.getfixturevalue("mysql_url"))
    return sqlite_in(tmp_path_factory.mktemp("sqlite"))


def sqlite_in(folder: Path) -> dict[str, Any]:
    return {"conn_type": "sqlite", "host": str(folder / "warehouse.db")}


@pytest.fixture(scope="module")
def first_version(airflow: AirflowForTests, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The version of a run with the DAG's defaults, on a database of its own."""
    run = airflow.run_dag(sqlite_in(tmp_path_factory.mktemp("first")))
    assert run.returncode == 0, run.stdout
    return registry_of(airflow).current()


@pytest.fixture(scope="module")
def second_run(airflow: AirflowForTests, first_version: str, connection: dict[str, Any]) -> str:
    """What a run with the same data and seed printed, on each kind of database."""
    registry_of(airflow).activate(first_version)
    run = airflow.run_dag(connection)
    assert run.returncode == 0, run.stdout
    return run.stdout


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
    return Registry(airflow.models, airflow.keys)


def test_a_run_loads_trains_and_publishes_the_same_bytes_each_time(
    airflow: AirflowForTests, connection: dict[str, Any], first_version: str, second_run: str
) -> None:
    registry = registry_of(airflow)
    for task in TASKS:
        assert f"end task task_id={task}" in second_run
    rows = rows_of(connection)
    assert len(rows) == 344
    assert rows[0][1:] == ("Adelie", "Torgersen", 39.1, 18.7, 181, 3750, "MALE")
    assert rows[3][3:7] == (None,) * 4
    assert rows[336][-1] == "."
    assert registry.current() > first_version
    (first, pickled), (second, pickled_again) = (registry.read(v) for v in (first_version, registry.current()))
    assert pickled == pickled_again
    assert first["metrics"]["accuracy"] == second["metrics"]["accuracy"] >= 0.95
    gate = second["metrics"]["gate"]
    assert (gate["outcome"], gate["serving_version"]) == ("not worse", first_version)
    assert (gate["comparison"]["rows"], gate["comparison"]["difference"]) == (342, 0)
    assert second["drift"] == {"version": first_version, "psi": dict.fromkeys(first["histograms"], pytest.approx(0))}
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
    for said in (first_version, second["version"], second["sha256"], second["dag_run_id"], "</html>"):
        assert said in html.unescape(report)
    assert not {"points", "predictions"} & second.keys()
    assert first["importance"] == second["importance"]
    assert list((airflow.models / "runs").iterdir()) == []


@pytest.mark.parametrize("connection", ["mysql"], indirect=True)
def test_a_bad_file_leaves_the_table_and_the_model(
    airflow: AirflowForTests, connection: dict[str, Any], second_run: str, tmp_path: Path
) -> None:
    rows, serving = rows_of(connection), registry_of(airflow).current()
    bad = tmp_path / "bad.csv"
    lines = CSV.read_text().splitlines()
    bad.write_text("\n".join([*lines[:9], lines[9].replace("Adelie", "Dodo"), *lines[10:]]) + "\n")
    run = airflow.run_dag(connection, csv_path=str(bad))
    assert run.returncode != 0
    assert "line 10, column species: 'Dodo'; the rule is one of Adelie, Chinstrap, Gentoo" in run.stdout
    assert "task_id=drop_schema" not in run.stdout
    assert rows_of(connection) == rows
    assert registry_of(airflow).current() == serving


def test_a_misspelt_param_fails_the_run_at_its_first_task(
    airflow: AirflowForTests, first_version: str, tmp_path: Path
) -> None:
    run = airflow.run_dag(sqlite_in(tmp_path), csvpath="new.csv")
    assert run.returncode != 0
    assert "unknown params: csvpath. Known: csv_path, " in run.stdout
    assert "task_id=drop_schema" not in run.stdout
    assert registry_of(airflow).versions()[-1] == first_version


def test_damaged_pointers_fail_a_run_before_anything_is_dropped_unless_that_is_ignored(
    airflow: AirflowForTests, first_version: str, tmp_path: Path
) -> None:
    pointers = [airflow.models / name for name in ("current", ".last-pointer")]
    kept, published = [path.read_bytes() for path in pointers], registry_of(airflow).versions()
    for path in pointers:
        path.write_text("x\n")
    refused = airflow.run_dag(sqlite_in(tmp_path))
    assert refused.returncode != 0
    assert "what serves cannot be trusted, so nothing can be compared with it" in refused.stdout
    assert "task_id=drop_schema" not in refused.stdout
    assert registry_of(airflow).versions() == published
    ignored = airflow.run_dag(sqlite_in(tmp_path), ignore_untrusted_serving=True)
    assert ignored.returncode == 0, ignored.stdout
    assert "no comparison: the serving version cannot be trusted" in ignored.stdout
    assert registry_of(airflow).current() not in published
    for path, content in zip(pointers, kept, strict=True):  # as the other tests here expect
        path.write_bytes(content)


def test_a_file_that_lost_most_rows_and_a_class_is_refused_before_anything_is_dropped(
    airflow: AirflowForTests, first_version: str, tmp_path: Path
) -> None:
    registry_of(airflow).activate(first_version)
    few = tmp_path / "few.csv"
    lines = CSV.read_text().splitlines()
    few.write_text("\n".join([*lines[:41], *lines[-40:]]) + "\n")
    run = airflow.run_dag(sqlite_in(tmp_path), csv_path=str(few))
    assert run.returncode != 0
    assert (
        f"it has 80 rows, but {first_version} was trained on a file of 344: less than min_rows_share 0.5" in run.stdout
    )
    assert f"no row has the species Chinstrap, but {first_version} was trained on 68 of them" in run.stdout
    assert "task_id=drop_schema" not in run.stdout
    assert not (tmp_path / "warehouse.db").exists()
    assert registry_of(airflow).current() == first_version


def test_a_model_under_the_bar_is_not_published(airflow: AirflowForTests, tmp_path: Path) -> None:
    versions = registry_of(airflow).versions()
    run = airflow.run_dag(sqlite_in(tmp_path), min_accuracy=1.0, n_estimators=1, test_size=0.5)
    assert run.returncode != 0
    assert "is below min_accuracy 1" in run.stdout
    assert "task_id=publish" not in run.stdout
    assert registry_of(airflow).versions() == versions


def test_a_model_worse_than_the_serving_one_is_not_published_and_the_verdict_says_both_figures(
    airflow: AirflowForTests, first_version: str, tmp_path: Path
) -> None:
    registry_of(airflow).activate(first_version)
    run = airflow.run_dag(sqlite_in(tmp_path), n_estimators=1, max_samples=10, min_accuracy=0)
    assert run.returncode != 0
    verdict = re.search(
        rf"GateError: worse than the serving version {first_version}: on 342 rows that neither was trained on, the new "
        rf"model is right on (\d+) and the serving version {first_version} on (\d+)",
        run.stdout,
    )
    assert verdict
    assert int(verdict[1]) < int(verdict[2])
    assert "more than max_accuracy_drop 0.02 allows" in run.stdout
    assert '"passed": false' in run.stdout
    assert registry_of(airflow).current() == first_version


def test_a_serving_model_that_cannot_be_read_fails_the_run_unless_that_is_ignored(
    airflow: AirflowForTests, first_version: str, tmp_path: Path
) -> None:
    """The last of those that need the first version: it is spoilt here."""
    registry = registry_of(airflow)
    registry.activate(first_version)
    (registry.root / first_version / "predictions.parquet").write_bytes(b"")
    refused = airflow.run_dag(sqlite_in(tmp_path))
    assert refused.returncode != 0
    assert "what serves cannot be trusted, so nothing can be compared with it" in refused.stdout
    assert registry.current() == first_version
    run = airflow.run_dag(sqlite_in(tmp_path), ignore_untrusted_serving=True)
    assert run.returncode == 0, run.stdout
    gate = registry.manifest(registry.current())["metrics"]["gate"]
    assert gate["passed"] is True
    assert gate["serving_version"] == first_version
    assert gate["serving_accuracy"] is None
    assert "the serving version cannot be trusted" in gate["reason"]
    assert gate["reason"] in run.stdout
    shutil.rmtree(registry.root / first_version)


def test_airflow_loads_the_plugin_and_no_other_file(airflow: AirflowForTests) -> None:
    listed = airflow.run("plugins", "--output", "json")
    assert listed.returncode == 0, listed.stdout
    (plugin,) = [p for p in json.loads(listed.stdout[listed.stdout.index("[") :]) if "model_report" in p["name"]]
    assert plugin["source"].endswith("model_report.py")
    assert "penguins" not in listed.stdout.replace(str(ROOT), "")


def test_params_out_of_bounds_are_refused_before_anything_runs(airflow: AirflowForTests, tmp_path: Path) -> None:
    run = airflow.run_dag(sqlite_in(tmp_path), test_size=0.9)
    assert run.returncode != 0
    assert "0.9 is greater than the maximum of 0.5" in run.stdout
    assert not (tmp_path / "warehouse.db").exists()
    assert json.dumps(0.9) in run.stdout
