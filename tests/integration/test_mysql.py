"""The warehouse on a real MySQL or MariaDB."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.mysql.hooks.mysql import MySqlHook

from penguins.schema import COLUMNS, TABLE
from penguins.source import Source, check_source, sha256_of
from penguins.warehouse import DatabaseLostError, LoadError, Warehouse, WarehouseError, open_warehouse
from support import connection_of, free_port

CSV = Path(__file__).parents[2] / "dags" / "penguins_size.csv"


def warehouse_on(connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setenv("AIRFLOW_CONN_MYSQL_DEFAULT", json.dumps(connection))
    return open_warehouse(MySqlHook(mysql_conn_id="mysql_default"))


@pytest.fixture
def warehouse(mysql_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warehouse]:
    warehouse = warehouse_on(connection_of(mysql_url), monkeypatch)
    warehouse.drop_schema(drop_foreign=True)
    yield warehouse
    warehouse.drop_schema(drop_foreign=True)


def query(warehouse: Warehouse, sql: str) -> list[tuple[Any, ...]]:
    with warehouse.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def source_of(path: Path, rows: int, line_ending: str = "\n") -> Source:
    """A source that claims to be checked, to see what the load itself catches."""
    return Source(str(path), rows, sha256_of(path), line_ending, {})


def test_what_was_loaded_is_what_the_file_says(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    source = check_source(CSV, test_size=0.2)
    assert warehouse.load(source) == 344
    table = warehouse.read()
    assert table.column_names == [c.name for c in COLUMNS]
    lines = CSV.read_text().splitlines()[1:]
    for line, row in zip(lines, table.to_pylist(), strict=True):
        assert [row["species"], row["island"], row["sex"]] == [line.split(",")[i] for i in (0, 1, 6)]
        numbers = [None if v == "NA" else float(v) for v in line.split(",")[2:6]]
        assert list(row.values())[2:6] == numbers


def test_a_file_with_bom_and_crlf_is_loaded_alike(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.create_raw_table()
    warehouse.load(check_source(CSV, test_size=0.2))
    expected = warehouse.read()
    windows = tmp_path / "windows.csv"
    windows.write_bytes(b"\xef\xbb\xbf" + CSV.read_bytes().replace(b"\n", b"\r\n"))
    warehouse.load(check_source(windows, test_size=0.2))
    assert warehouse.read().equals(expected)


def test_a_file_with_quotes_and_no_last_line_end_is_loaded_alike(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.create_raw_table()
    warehouse.load(check_source(CSV, test_size=0.2))
    expected = warehouse.read()
    quoted = tmp_path / "quoted.csv"
    header, *lines = CSV.read_text().splitlines()
    quoted.write_text("\n".join([header, *(",".join(f'"{v}"' for v in line.split(",")) for line in lines)]))
    warehouse.load(check_source(quoted, test_size=0.2))
    assert warehouse.read().equals(expected)


def test_a_second_load_replaces_the_first(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    source = check_source(CSV, test_size=0.2)
    warehouse.load(source)
    assert warehouse.load(source) == 344


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Adelie,Torgersen,abc,18.7,181,3750,MALE", "culmen_length_mm"),
        ("Adelie,Torgersen,39.1,18.7,181,3750,MALE-OR-NOT", "sex"),
        ("Adelie,Torgersen,39.1,18.7,181", "3"),
        ("Adelie,Torgersen,39.1,18.7,181,3750,MALE,extra", "3"),
    ],
)
def test_a_warning_of_mysql_fails_the_load_and_keeps_what_was_there(
    warehouse: Warehouse, tmp_path: Path, line: str, said: str
) -> None:
    warehouse.create_raw_table()
    warehouse.load(check_source(CSV, test_size=0.2))
    bad = tmp_path / "bad.csv"
    header, first = CSV.read_text().splitlines()[:2]
    bad.write_text("\n".join([header, first, first, line, ""]))
    with pytest.raises(LoadError, match=f"(?s)MySQL gave 1 warnings.*{said}"):
        warehouse.load(source_of(bad, rows=3))
    assert query(warehouse, f"SELECT COUNT(*) FROM {TABLE}") == [(344,)]


def test_a_row_count_that_differs_fails_the_load(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    source = dataclasses.replace(check_source(CSV, test_size=0.2), rows=345)
    with pytest.raises(LoadError, match="would hold 344 rows and the file has 345"):
        warehouse.load(source)
    assert query(warehouse, f"SELECT COUNT(*) FROM {TABLE}") == [(0,)]


def test_foreign_tables_and_views_are_listed_and_kept(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    query(warehouse, "CREATE TABLE payroll (id INT)")
    query(warehouse, f"CREATE VIEW seen AS SELECT species FROM {TABLE}")
    with pytest.raises(WarehouseError, match="payroll, seen"):
        warehouse.drop_schema(drop_foreign=False)
    assert {name for (name,) in query(warehouse, "SHOW TABLES")} == {TABLE, "payroll", "seen"}
    warehouse.drop_schema(drop_foreign=True)
    assert query(warehouse, "SHOW TABLES") == []


def test_own_tables_are_dropped_without_a_question(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    warehouse.drop_schema(drop_foreign=False)
    assert query(warehouse, "SHOW TABLES") == []


def test_a_schema_that_is_gone_is_made_again(warehouse: Warehouse, mysql_url: str) -> None:
    schema = connection_of(mysql_url)["schema"]
    query(warehouse, f"DROP SCHEMA {schema}")
    assert warehouse.drop_schema(drop_foreign=False) == schema
    warehouse.create_raw_table()
    assert query(warehouse, "SHOW TABLES") == [(TABLE,)]


@pytest.mark.parametrize("schema", ["mysql", "INFORMATION_SCHEMA", "performance_schema", "sys", "", "a`b"])
def test_system_schemas_and_bad_names_are_refused(mysql_url: str, monkeypatch: pytest.MonkeyPatch, schema: str) -> None:
    warehouse = warehouse_on({**connection_of(mysql_url), "schema": schema}, monkeypatch)
    with pytest.raises(WarehouseError, match="accepted"):
        warehouse.drop_schema(drop_foreign=True)


def test_a_server_that_is_not_there_is_a_lost_database(mysql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = warehouse_on({**connection_of(mysql_url), "port": free_port()}, monkeypatch)
    with pytest.raises(DatabaseLostError, match="cannot be reached"):
        warehouse.drop_schema(drop_foreign=False)


def test_a_wrong_password_is_no_lost_database(mysql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = warehouse_on({**connection_of(mysql_url), "password": "wrong"}, monkeypatch)
    with pytest.raises(Exception, match="Access denied") as caught:
        warehouse.drop_schema(drop_foreign=False)
    assert not isinstance(caught.value, DatabaseLostError)


def test_a_connection_that_is_cut_in_a_load_is_a_lost_database_and_nothing_is_committed(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    with pytest.raises(DatabaseLostError), warehouse.cursor() as cursor:
        cursor.execute("INSERT INTO penguins_raw (species, island) VALUES ('Gentoo', 'Biscoe')")
        cursor.execute("SELECT CONNECTION_ID()")
        (own,) = cursor.fetchone()
        with warehouse.cursor() as other:
            other.execute(f"KILL {own}")
        cursor.execute("SELECT 1")
    assert query(warehouse, f"SELECT COUNT(*) FROM {TABLE}") == [(0,)]
