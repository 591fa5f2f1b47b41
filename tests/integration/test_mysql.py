"""The warehouse on a real MySQL or MariaDB."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from time import sleep
from typing import Any

import connectorx
import pytest
from airflow.providers.mysql.hooks.mysql import MySqlHook

from penguins.data import progress
from penguins.data.databases import open_warehouse
from penguins.data.source import Source, check_source, read_records, sha256_of
from penguins.data.warehouse import DatabaseLostError, LoadError, Warehouse, WarehouseError
from penguins.schema import COLUMNS, MISSING, TABLE
from support import connection_of, free_port
from tables import (
    CHANGES,
    check_that_a_change_is_refused,
    check_that_spellings_are_read,
    digest_of,
    many_spellings,
    table_of,
)

CSV = Path(__file__).parents[2] / "dags" / "penguins_size.csv"
SOURCE = check_source(CSV, test_size=0.2)


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
        return list(cursor.fetchall()) if cursor.description else []


def source_of(path: Path, rows: int, line_ending: str = "\n") -> Source:
    """A source that claims to be checked, to see what the load itself catches."""
    digest = digest_of(line.split(",") for line in path.read_text().splitlines()[1:])
    return Source(str(path), rows, sha256_of(path), digest, line_ending, {}, {})


def test_what_was_loaded_is_what_the_file_says(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    assert warehouse.load(SOURCE) == 344
    assert warehouse.read(SOURCE).equals(table_of(read_records(SOURCE)))
    rows = query(warehouse, f"SELECT {', '.join(c.name for c in COLUMNS)} FROM {TABLE} ORDER BY row_id")
    for line, row in zip(CSV.read_text().splitlines()[1:], rows, strict=True):
        values = line.split(",")
        numbers = [None if v == "NA" else float(v) for v in values[2:6]]
        assert list(row) == [*values[:2], *numbers, values[6]]


def test_a_file_with_bom_and_crlf_is_loaded_alike(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.create_raw_table()
    warehouse.load(SOURCE)
    expected = warehouse.read(SOURCE)
    windows = tmp_path / "windows.csv"
    windows.write_bytes(b"\xef\xbb\xbf" + CSV.read_bytes().replace(b"\n", b"\r\n"))
    warehouse.load(check_source(windows, test_size=0.2))
    assert warehouse.read(SOURCE).equals(expected)


def test_a_file_with_quotes_and_no_last_line_end_is_loaded_alike(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.create_raw_table()
    warehouse.load(SOURCE)
    expected = warehouse.read(SOURCE)
    quoted = tmp_path / "quoted.csv"
    header, *lines = CSV.read_text().splitlines()
    quoted.write_text("\n".join([header, *(",".join(f'"{v}"' for v in line.split(",")) for line in lines)]))
    warehouse.load(check_source(quoted, test_size=0.2))
    assert warehouse.read(SOURCE).equals(expected)


def test_a_second_load_replaces_the_first(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    warehouse.load(SOURCE)
    first = warehouse.read(SOURCE)
    assert warehouse.load(SOURCE) == 344
    assert warehouse.read(SOURCE).equals(first)


def test_a_load_says_how_many_rows_are_done(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another transaction holds up the load until a line is logged. The file is larger than a socket's buffer."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN", 0)
    caplog.set_level(logging.INFO, progress.__name__)
    rows = 344 * 1500
    large = tmp_path / "large.csv"
    header, *lines = CSV.read_text().splitlines(keepends=True)
    large.write_text(header + "".join(lines) * 1500)
    warehouse.create_raw_table()
    held, said = Event(), []

    def hold_up() -> None:
        with warehouse.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {TABLE} WHERE row_id > 0 FOR UPDATE")
            cursor.fetchall()
            held.set()
            for _ in range(300):
                if caplog.messages:
                    break
                sleep(0.1)
            said.extend(caplog.messages)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold_up)
        assert held.wait(60)
        assert warehouse.load(source_of(large, rows)) == rows
        holding.result()
    found = re.match(r"loaded: ([0-9,]+) of 516,000 rows \([0-9]+%\), [0-9,.]+ a second, .+ left", said[0])
    assert found
    assert 0 < int(found[1].replace(",", "")) < rows
    assert caplog.messages[-1].startswith("loaded: 516,000 rows in ")


@pytest.mark.parametrize("token", MISSING)
def test_what_says_missing_is_null(warehouse: Warehouse, tmp_path: Path, token: str) -> None:
    warehouse.create_raw_table()
    file = tmp_path / "x.csv"
    file.write_text(f"{CSV.read_text().splitlines()[0]}\nGentoo,Biscoe,{token},13.2,211,{token},{token}\n")
    source = source_of(file, rows=1)
    warehouse.load(source)
    assert warehouse.read(source).equals(table_of([("Gentoo", "Biscoe", None, 13.2, 211, None, None)]))


@pytest.mark.parametrize("expected", [343, 345])
def test_another_number_of_rows_than_was_loaded_is_refused_and_both_are_named(
    warehouse: Warehouse, expected: int
) -> None:
    warehouse.create_raw_table()
    warehouse.load(SOURCE)
    with pytest.raises(WarehouseError, match=f"{TABLE} holds 344 rows, but {expected} were loaded"):
        warehouse.read(dataclasses.replace(SOURCE, rows=expected))


def test_a_table_that_was_emptied_since_the_load_is_refused(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    with pytest.raises(WarehouseError, match=f"{TABLE} holds 0 rows, but 344 were loaded"):
        warehouse.read(SOURCE)


@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_were_changed_since_the_load_are_refused(warehouse: Warehouse, change: str) -> None:
    warehouse.create_raw_table()
    warehouse.load(SOURCE)
    check_that_a_change_is_refused(warehouse, SOURCE, change)


def test_numbers_of_many_digits_are_read_as_the_check_read_them(warehouse: Warehouse, tmp_path: Path) -> None:
    check_that_spellings_are_read(warehouse, many_spellings(tmp_path / "x.csv"))


def test_an_unknown_category_is_refused_with_its_column_and_rule(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    warehouse.load(SOURCE)
    query(warehouse, f"UPDATE {TABLE} SET species = 'Dodo' WHERE row_id = 200")
    with pytest.raises(WarehouseError) as caught:
        warehouse.read(SOURCE)
    said = f"{TABLE} holds 'Dodo' in the column species; it must be one of Adelie, Chinstrap, Gentoo"
    assert said in str(caught.value)


def test_a_table_of_several_pieces_is_read_whole_and_in_order(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.create_raw_table()
    warehouse.load(SOURCE)
    at_once = warehouse.read(SOURCE)
    monkeypatch.setattr(Warehouse, "rows_per_piece", 100)
    assert warehouse.read(SOURCE).equals(at_once)


def test_gaps_in_the_row_ids_leave_nothing_out(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is wider than a piece, and one is at its start."""
    warehouse.create_raw_table()
    warehouse.load(SOURCE)
    whole = warehouse.read(SOURCE)
    query(warehouse, f"DELETE FROM {TABLE} WHERE row_id BETWEEN 51 AND 260 OR row_id < 11")
    monkeypatch.setattr(Warehouse, "rows_per_piece", 100)
    left = [*range(10, 50), *range(260, 344)]
    records = list(read_records(SOURCE))
    source = dataclasses.replace(SOURCE, rows=124, rows_sha256=digest_of(records[i] for i in left))
    assert warehouse.read(source).equals(whole.take(left))


def test_login_and_password_may_have_any_characters(
    warehouse: Warehouse, mysql_url: str, awkward_user: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.create_raw_table()
    warehouse.load(SOURCE)
    expected = warehouse.read(SOURCE)
    same = warehouse_on({**connection_of(mysql_url), **awkward_user}, monkeypatch)
    assert same.read(SOURCE).equals(expected)


@pytest.fixture
def without_connectorx(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_sql(*given: Any, **named: Any) -> None:
        raise AssertionError("ConnectorX was asked")

    monkeypatch.setattr(connectorx, "read_sql", read_sql)


@pytest.mark.parametrize("extra", [{"connection_timeout": 20}, {"ssl_disabled": True}], ids=str)
@pytest.mark.parametrize("rows_per_piece", [100, 250_000])
def test_a_connection_that_says_more_is_read_by_the_hooks_own_client(
    warehouse: Warehouse,
    mysql_url: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    extra: dict[str, Any],
    rows_per_piece: int,
) -> None:
    warehouse.create_raw_table()
    warehouse.load(SOURCE)
    expected = warehouse.read(SOURCE)
    request.getfixturevalue("without_connectorx")
    monkeypatch.setattr(Warehouse, "rows_per_piece", rows_per_piece)
    connection = connection_of(mysql_url)
    same = warehouse_on({**connection, "extra": {**connection["extra"], **extra}}, monkeypatch)
    assert same.read(SOURCE).equals(expected)


@pytest.mark.parametrize("extra", [{}, {"charset": "utf8mb4"}, {"local_infile": True}], ids=str)
def test_any_other_connection_is_read_by_connectorx(
    warehouse: Warehouse, mysql_url: str, monkeypatch: pytest.MonkeyPatch, without_connectorx: None, extra: Any
) -> None:
    warehouse.create_raw_table()
    warehouse.load(SOURCE)
    connection = connection_of(mysql_url)
    same = warehouse_on({**connection, "extra": {**connection["extra"], **extra}}, monkeypatch)
    with pytest.raises(AssertionError, match="ConnectorX was asked"):
        same.read(SOURCE)


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
    warehouse.load(SOURCE)
    bad = tmp_path / "bad.csv"
    header, first = CSV.read_text().splitlines()[:2]
    bad.write_text("\n".join([header, first, first, line, ""]))
    with pytest.raises(LoadError, match=f"(?s)MySQL gave 1 warnings.*{said}"):
        warehouse.load(source_of(bad, rows=3))
    assert query(warehouse, f"SELECT COUNT(*) FROM {TABLE}") == [(344,)]


def test_a_row_count_that_differs_fails_the_load(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    source = dataclasses.replace(SOURCE, rows=345)
    with pytest.raises(LoadError, match="would hold 344 rows, but the file has 345"):
        warehouse.load(source)
    assert query(warehouse, f"SELECT COUNT(*) FROM {TABLE}") == [(0,)]


def test_foreign_tables_and_views_are_listed_and_kept(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    query(warehouse, "CREATE TABLE payroll (id INT)")
    query(warehouse, f"CREATE VIEW seen AS SELECT species FROM {TABLE}")
    with pytest.raises(WarehouseError, match=r"did not make: table payroll, view seen\. Nothing was dropped"):
        warehouse.drop_schema(drop_foreign=False)
    assert {name for (name,) in query(warehouse, "SHOW TABLES")} == {TABLE, "payroll", "seen"}
    warehouse.drop_schema(drop_foreign=True)
    assert query(warehouse, "SHOW TABLES") == []


def test_foreign_routines_events_triggers_and_sequences_are_listed_and_kept_until_asked(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    made = {
        "procedure pay": "CREATE PROCEDURE pay() SELECT 1",
        "function rate": "CREATE FUNCTION rate() RETURNS INT DETERMINISTIC NO SQL RETURN 1",
        "event nightly": "CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO SELECT 1",
        "trigger relabel": f"CREATE TRIGGER relabel BEFORE INSERT ON {TABLE} FOR EACH ROW SET NEW.species = 'Adelie'",
    }
    ((version,),) = query(warehouse, "SELECT VERSION()")
    if "MariaDB" in version:
        made["sequence numbers"] = "CREATE SEQUENCE numbers"
    elif tuple(map(int, re.findall(r"\d+", version)[:2])) >= (9, 2):
        made["library shared"] = "CREATE LIBRARY shared LANGUAGE JAVASCRIPT AS ''"
    for sql in made.values():
        query(warehouse, sql)
    listed = ", ".join(sorted(made))
    for _ in range(2):
        with pytest.raises(WarehouseError, match=rf"did not make: {listed}\. Nothing was dropped"):
            warehouse.drop_schema(drop_foreign=False)
    warehouse.drop_schema(drop_foreign=True)
    warehouse.drop_schema(drop_foreign=False)


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
    with pytest.raises(WarehouseError, match=r"must name a schema of its own|a name must consist of"):
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


def test_a_connection_that_is_cut_while_rows_come_is_a_lost_database(warehouse: Warehouse, tmp_path: Path) -> None:
    """A view in the table's place stops at row 20,000, when some have come, until it is killed."""
    large = tmp_path / "large.csv"
    header, *lines = CSV.read_text().splitlines(keepends=True)
    large.write_text(header + "".join(lines) * 100)
    warehouse.create_raw_table()
    source = source_of(large, 34_400)
    warehouse.load(source)
    query(warehouse, f"RENAME TABLE {TABLE} TO kept_rows")
    names = ", ".join(c.name for c in COLUMNS[:-1])
    stops = f"IF(row_id = 20000, SLEEP(60), {COLUMNS[-1].name})"
    query(warehouse, f"CREATE VIEW {TABLE} AS SELECT row_id, {names}, {stops} AS {COLUMNS[-1].name} FROM kept_rows")

    def cut() -> int:
        for _ in range(500):
            stopped = query(
                warehouse,
                "SELECT id FROM information_schema.processlist WHERE state = 'User sleep' AND info LIKE '%ORDER BY%'"
                " AND id <> CONNECTION_ID()",
            )
            for (connection,) in stopped:
                query(warehouse, f"KILL {connection}")
            if stopped:
                return len(stopped)
            sleep(0.1)
        return 0

    with ThreadPoolExecutor(1) as pool:
        cutting = pool.submit(cut)
        with pytest.raises(DatabaseLostError, match="went away while it was being read"):
            warehouse.read(source)
        assert cutting.result() == 1
