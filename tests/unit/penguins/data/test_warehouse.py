"""The raw table in SQLite, through Airflow's own hook, and what needs no server of MySQL's guards."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from airflow.providers.common.sql.hooks.sql import DbApiHook
from airflow.providers.mysql.hooks.mysql import MySqlHook
from airflow.providers.sqlite.hooks.sqlite import SqliteHook
from mysql.connector import errors

from penguins.data import progress
from penguins.data import warehouse as module
from penguins.data.databases import open_warehouse
from penguins.data.mysql import MySQLWarehouse
from penguins.data.source import Source, check_source, sha256_of
from penguins.data.sqlite import SQLiteWarehouse
from penguins.data.warehouse import (
    DatabaseLostError,
    LoadError,
    Warehouse,
    WarehouseError,
    sql_type,
)
from penguins.registry import PROJECT
from penguins.schema import CATEGORIES, COLUMNS, CSV_NAME, MISSING, NUMBERS, TABLE, TARGET, Number
from tables import (
    CHANGES,
    check_that_a_change_is_refused,
    check_that_spellings_are_read,
    digest_of,
    many_spellings,
)

CSV = PROJECT / "dags" / CSV_NAME

Connect = Callable[..., None]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Define the connection `mysql_default`."""

    def connect(**fields: Any) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_MYSQL_DEFAULT", json.dumps(fields))

    return connect


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "w.db"


@pytest.fixture
def warehouse(connect: Connect, database: Path) -> Warehouse:
    connect(conn_type="sqlite", host=str(database))
    return open_warehouse(SqliteHook(sqlite_conn_id="mysql_default"))


@pytest.fixture(scope="module")
def source() -> Source:
    return check_source(CSV, test_size=0.2)


@pytest.fixture
def loaded(warehouse: Warehouse, source: Source) -> Warehouse:
    """The warehouse with the project's file in its table."""
    warehouse.create_raw_table()
    warehouse.load(source)
    return warehouse


def query(warehouse: Warehouse, sql: str) -> list[tuple[Any, ...]]:
    with warehouse.cursor() as cursor:
        return cursor.execute(sql).fetchall()


def names_in(warehouse: Warehouse) -> set[str]:
    return {name for (name,) in query(warehouse, "SELECT name FROM sqlite_master")}


def count(warehouse: Warehouse) -> int:
    return query(warehouse, f"SELECT COUNT(*) FROM {TABLE}")[0][0]


GENTOO = "Gentoo,Biscoe,46.1,13.2,211,4500,FEMALE"


def source_of(path: Path, *rows: str, said_rows: int | None = None) -> Source:
    """Write rows under the header; a source that claims to be checked, to see what the load itself does."""
    path.write_text("\n".join([",".join(c.name for c in COLUMNS), *rows, ""]), encoding="utf-8")
    digest = digest_of(row.split(",") for row in rows)
    return Source(str(path), len(rows) if said_rows is None else said_rows, sha256_of(path), digest, "\n", {}, {})


# Which warehouse.


def test_the_type_of_the_connection_decides_which_warehouse_is_opened(warehouse: Warehouse) -> None:
    class OracleHook(DbApiHook):
        conn_name_attr = "oracle_conn_id"
        conn_type = "oracle"

    assert isinstance(warehouse, SQLiteWarehouse)
    assert isinstance(open_warehouse(MySqlHook(mysql_conn_id="mysql_default")), MySQLWarehouse)
    with pytest.raises(WarehouseError, match="type is oracle; it must be mysql or sqlite"):
        open_warehouse(OracleHook())


# Quoting.


@pytest.mark.parametrize(
    ("kind", "quote", "accepted", "refused", "rule"),
    [
        (
            SQLiteWarehouse,
            '"',
            ["a", "penguins_raw", "T1"],
            ["", 'a"b', "a b", "a;b", "1a", "a-b", "a\n", "sp\u00e9cies", 'x" --'],
            "letters, digits and '_'",
        ),
        (
            MySQLWarehouse,
            "`",
            ["a", "my-database", "a$b", "2nd", "a" * 64],
            ["", "a`b", "a b", "a;b", "a.b", "a\n", "sp\u00e9cies", "a" * 65, "x` --", "../x"],
            "1 to 64 letters, digits, '$', '_' and '-'",
        ),
    ],
    ids=["sqlite", "mysql"],
)
def test_an_identifier_is_quoted_and_any_other_name_is_refused(
    kind: type[Warehouse], quote: str, accepted: list[str], refused: list[str], rule: str
) -> None:
    for name in accepted:
        assert kind.quote(name) == f"{quote}{name}{quote}"
    for name in refused:
        with pytest.raises(WarehouseError, match=re.escape(rule)) as caught:
            kind.quote(name)
        assert repr(name) in str(caught.value)


# What counts as a lost database.


def test_a_broken_connection_is_a_lost_database_and_says_why(warehouse: Warehouse) -> None:
    for error in (
        errors.OperationalError("lost", errno=2013),
        errors.InterfaceError("no connection", errno=2003),
        errors.DatabaseError("shutting down", errno=1053),
        RuntimeError(2006, "mysqlclient puts the number first"),
        errors.ProgrammingError("Failed processing format-parameters; MySQL Connection not available"),
    ):
        with pytest.raises(DatabaseLostError) as caught, warehouse.cursor():
            raise error
        assert str(error) in str(caught.value)
        assert caught.value.__cause__ is error


def test_any_other_error_stays_what_it_is(warehouse: Warehouse) -> None:
    for error in (
        errors.ProgrammingError("access denied", errno=1045),
        errors.IntegrityError("duplicate", errno=1062),
        LoadError("short"),
        ValueError(),
        KeyError("2013"),
        FileNotFoundError(2, "no such file"),
    ):
        with pytest.raises(type(error)) as caught, warehouse.cursor():
            raise error
        assert caught.value is error


def test_an_error_rolls_back(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    with pytest.raises(ValueError, match="stop"), warehouse.cursor() as cursor:
        cursor.execute(f"INSERT INTO {TABLE} (species, island) VALUES ('Gentoo', 'Biscoe')")
        raise ValueError("stop")
    assert count(warehouse) == 0


# drop_schema. MySQL's guards act before there is a connection.


@pytest.fixture
def unreachable(connect: Connect) -> Iterator[Callable[[str], Warehouse]]:
    """A MySQL connection to that schema of a server that is not there: a socket has its port and accepts nothing."""

    def unreachable(schema: str) -> Warehouse:
        connect(
            conn_type="mysql",
            host="127.0.0.1",
            port=taken.getsockname()[1],
            login="nobody",
            password="none",
            schema=schema,
            extra={"client": "mysql-connector-python"},
        )
        return open_warehouse(MySqlHook(mysql_conn_id="mysql_default"))

    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield unreachable


def test_a_system_schema_or_none_is_refused_before_anything_is_asked_of_the_server(
    unreachable: Callable[[str], Warehouse],
) -> None:
    systems = ("mysql", "MySQL", "information_schema", "PERFORMANCE_SCHEMA", "sys", "ndbinfo")
    for schema, said in (("", "no schema"), *((name, f"the system schema {name}") for name in systems)):
        warehouse = unreachable(schema)
        for drop_foreign in (False, True):
            with pytest.raises(WarehouseError, match=f"mysql_default names {said};") as caught:
                warehouse.drop_schema(drop_foreign=drop_foreign)
            assert "it must name a schema of its own" in str(caught.value)
            assert "Admin > Connections" in str(caught.value)


def test_a_server_that_is_not_there_is_a_lost_database(unreachable: Callable[[str], Warehouse]) -> None:
    with pytest.raises(DatabaseLostError, match="cannot be reached"):
        unreachable("penguins").drop_schema(drop_foreign=False)


def test_own_tables_are_dropped_without_a_question_and_it_is_no_error_if_there_are_none(
    warehouse: Warehouse, database: Path
) -> None:
    assert warehouse.drop_schema(drop_foreign=False) == str(database)
    assert database.exists()
    warehouse.create_raw_table()
    assert warehouse.drop_schema(drop_foreign=False) == str(database)
    assert names_in(warehouse) == set()


def test_foreign_tables_and_views_are_listed_and_everything_is_kept(warehouse: Warehouse, database: Path) -> None:
    warehouse.create_raw_table()
    query(warehouse, "CREATE TABLE payroll (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    query(warehouse, f"CREATE VIEW adelies AS SELECT * FROM {TABLE} WHERE species = 'Adelie'")
    before = names_in(warehouse)
    with pytest.raises(WarehouseError) as caught:
        warehouse.drop_schema(drop_foreign=False)
    assert f"the schema {database} holds what this DAG did not make: table payroll, view adelies." in str(caught.value)
    assert "Nothing was dropped" in str(caught.value)
    assert "drop_foreign_tables" in str(caught.value)
    assert names_in(warehouse) == before >= {TABLE, "payroll", "adelies"}


def test_a_copy_of_the_raw_table_is_foreign_and_so_is_another_of_its_name(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    query(warehouse, f"CREATE TABLE backup AS SELECT * FROM {TABLE}")
    with pytest.raises(WarehouseError, match=r"did not make: table backup\."):
        warehouse.drop_schema(drop_foreign=False)
    query(warehouse, f"DROP TABLE {TABLE}")
    query(warehouse, "DROP TABLE backup")
    query(warehouse, f"CREATE TABLE {TABLE} (id INTEGER)")
    with pytest.raises(WarehouseError, match=rf"did not make: table {TABLE}\."):
        warehouse.drop_schema(drop_foreign=False)


def test_foreign_tables_and_views_are_dropped_when_asked(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    query(warehouse, "CREATE TABLE payroll (id INTEGER PRIMARY KEY, name TEXT UNIQUE)")
    query(warehouse, "CREATE INDEX by_name ON payroll (name)")
    query(warehouse, "CREATE VIEW names AS SELECT name FROM payroll")
    query(warehouse, 'CREATE TABLE "a ""strange"" name; --" (id INTEGER)')
    warehouse.drop_schema(drop_foreign=True)
    assert names_in(warehouse) == set()


def test_foreign_triggers_are_listed_and_kept_until_asked(loaded: Warehouse) -> None:
    relabels = f"UPDATE {TABLE} SET species = 'Adelie' WHERE row_id = NEW.row_id"
    query(loaded, f"CREATE TRIGGER relabel AFTER INSERT ON {TABLE} BEGIN {relabels}; END")
    with pytest.raises(WarehouseError, match=r"what this DAG did not make: trigger relabel\. Nothing was dropped"):
        loaded.drop_schema(drop_foreign=False)
    assert names_in(loaded) == {TABLE, "relabel"}
    loaded.drop_schema(drop_foreign=True)
    assert names_in(loaded) == set()


def test_a_table_that_sqlite_cannot_hold_is_refused_before_the_drop(
    loaded: Warehouse, source: Source, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query(loaded, "CREATE TABLE payroll (id INTEGER)")
    before = loaded.read(source)
    wide = tuple(dataclasses.replace(NUMBERS[0], name=f"n{i}") for i in range(2000))
    with monkeypatch.context() as patched:
        patched.setattr(module, "COLUMNS", wide)
        with pytest.raises(WarehouseError, match=r"cannot be made in .*too many columns.*Nothing was dropped.*1,999"):
            loaded.drop_schema(drop_foreign=True)
    assert names_in(loaded) == {TABLE, "payroll"}
    assert loaded.read(source).equals(before)
    monkeypatch.setattr(module, "COLUMNS", wide[1:])
    assert loaded.drop_schema(drop_foreign=True) == str(database)


def test_a_file_that_is_no_database_is_refused_and_kept(warehouse: Warehouse, database: Path) -> None:
    database.write_text("a letter, of more than a hundred characters" * 10)
    before = database.read_text()
    with pytest.raises(WarehouseError, match=r"not a database. Nothing was dropped"):
        warehouse.drop_schema(drop_foreign=True)
    assert database.read_text() == before


# create_raw_table.


def test_the_raw_table_has_the_schemas_columns(warehouse: Warehouse) -> None:
    warehouse.create_raw_table()
    columns = [
        (name, kind, bool(required)) for _, name, kind, required, *_ in query(warehouse, f"PRAGMA table_info({TABLE})")
    ]
    assert columns[1:] == [(c.name, sql_type(c), c.required) for c in COLUMNS]


def test_creating_again_empties_the_table(loaded: Warehouse) -> None:
    loaded.create_raw_table()
    assert count(loaded) == 0


# load.


def test_a_load_gives_the_number_of_rows_and_a_second_one_replaces_the_first(
    warehouse: Warehouse, source: Source
) -> None:
    warehouse.create_raw_table()
    assert warehouse.load(source) == 344
    assert count(warehouse) == 344
    first = warehouse.read(source)
    assert warehouse.load(source) == 344
    assert warehouse.read(source).equals(first)


def test_what_was_loaded_is_what_the_file_says(loaded: Warehouse, source: Source) -> None:
    rows = [list(row.values()) for row in loaded.read(source).to_pylist()]
    assert rows == [
        [
            None if v in MISSING else float(np.float32(v)) if c in NUMBERS else v
            for c, v in zip(COLUMNS, line, strict=True)
        ]
        for line in (text.split(",") for text in CSV.read_text(encoding="utf-8").splitlines()[1:])
    ]


def test_a_file_with_bom_crlf_and_quotes_is_loaded_alike(loaded: Warehouse, tmp_path: Path, source: Source) -> None:
    expected = loaded.read(source)
    windows = tmp_path / "windows.csv"
    content = CSV.read_bytes().replace(b"Biscoe", b'"Biscoe"').replace(b"\n", b"\r\n")
    windows.write_bytes(b"\xef\xbb\xbf" + content)
    loaded.load(check_source(windows, test_size=0.2))
    assert loaded.read(source).equals(expected)


def test_a_number_is_read_as_the_check_reads_it(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.create_raw_table()
    numbers = ("39", "39.", "+39.0", "3.9e1", "390E-1", "0039")
    source = source_of(tmp_path / "x.csv", *[GENTOO.replace("46.1", number) for number in numbers])
    warehouse.load(source)
    assert warehouse.read(source)["culmen_length_mm"].to_pylist() == [float(number) for number in numbers] == [39] * 6


def test_what_says_missing_is_null_and_the_raw_table_keeps_how_a_category_was_written(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    warehouse.create_raw_table()
    rows = [f"Gentoo,Biscoe,{token},13.2,211,4500,{token}" for token in MISSING]
    source = source_of(tmp_path / "x.csv", *rows)
    warehouse.load(source)
    table = warehouse.read(source)
    assert table["culmen_length_mm"].null_count == table["sex"].null_count == len(MISSING) == 3
    assert query(warehouse, f"SELECT sex FROM {TABLE} ORDER BY row_id") == [(token,) for token in MISSING]


def test_a_load_says_how_many_rows_are_done(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN", 0)
    caplog.set_level(logging.INFO, progress.__name__)
    warehouse.create_raw_table()
    warehouse.load(source_of(tmp_path / "x.csv", *[GENTOO] * 25_000))
    assert [line.split(" rows")[0] for line in caplog.messages] == [
        *("loaded: 10,000 of 25,000", "loaded: 20,000 of 25,000", "loaded: 25,000")
    ]


@pytest.mark.parametrize("said", [343, 345])
def test_a_row_count_that_differs_is_named_and_keeps_what_was_there(
    warehouse: Warehouse, source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture, said: int
) -> None:
    warehouse.create_raw_table()
    earlier = source_of(tmp_path / "before.csv", GENTOO)
    warehouse.load(earlier)
    before = warehouse.read(earlier)
    caplog.set_level(logging.INFO, progress.__name__)
    caplog.clear()
    with pytest.raises(LoadError) as caught:
        warehouse.load(dataclasses.replace(source, rows=said))
    assert f"would hold 344 rows, but the file has {said}. Nothing was committed" in str(caught.value)
    assert not any(line.startswith("loaded") for line in caplog.messages)
    assert warehouse.read(earlier).equals(before)


def test_a_file_that_changed_is_named_with_both_checksums_and_loads_nothing(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    warehouse.create_raw_table()
    path = tmp_path / "x.csv"
    source = source_of(path, GENTOO)
    warehouse.load(source)
    before = warehouse.read(source)
    path.write_text(path.read_text().replace("46.1", "46.2"))
    with pytest.raises(LoadError) as caught:
        warehouse.load(source)
    for said in (str(path), source.sha256, sha256_of(path), "changed since it was checked"):
        assert said in str(caught.value)
    assert warehouse.read(source).equals(before)


def test_a_row_with_another_number_of_values_keeps_what_was_there(loaded: Warehouse, tmp_path: Path) -> None:
    for row in ("Gentoo,Biscoe,46.1", f"{GENTOO},2007"):
        with pytest.raises(ValueError, match=r"zip\(\) argument 2 is (shorter|longer)"):
            loaded.load(source_of(tmp_path / "x.csv", GENTOO, row))
        assert count(loaded) == 344


# read.


def test_read_types_are_float32_and_dictionaries_of_the_schemas_values(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.create_raw_table()
    source = source_of(tmp_path / "x.csv", GENTOO)
    warehouse.load(source)
    table = warehouse.read(source)
    assert [(f.name, f.type) for f in table.schema] == [
        (c.name, pa.float32() if isinstance(c, Number) else pa.dictionary(pa.int32(), pa.string())) for c in COLUMNS
    ]
    for category in (TARGET, *CATEGORIES):
        assert table[category.name].combine_chunks().dictionary.to_pylist() == list(category.values)


def test_a_table_of_several_pieces_is_read_whole_and_in_order_and_says_how_far_it_is(
    loaded: Warehouse, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, source: Source
) -> None:
    at_once = loaded.read(source)
    monkeypatch.setattr(Warehouse, "rows_per_piece", 100)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN", 0)
    caplog.clear()
    caplog.set_level(logging.INFO, progress.__name__)
    assert loaded.read(source).equals(at_once)
    assert [line.split(" rows")[0] for line in caplog.messages] == [
        *(f"read: {rows} of 344" for rows in (100, 200, 300, 344)),
        "read: 344",
    ]


def test_pieces_without_a_value_in_a_column_join_those_that_have_one(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Warehouse, "rows_per_piece", 1)
    warehouse.create_raw_table()
    source = source_of(tmp_path / "x.csv", GENTOO, "Gentoo,Biscoe,NA,NA,NA,NA,NA")
    warehouse.load(source)
    assert warehouse.read(source)["sex"].to_pylist() == ["FEMALE", None]
    assert warehouse.read(source)["body_mass_g"].to_pylist() == [4500, None]


def test_a_null_that_was_written_by_hand_is_null(loaded: Warehouse, source: Source) -> None:
    expected = loaded.read(source)
    query(loaded, f"UPDATE {TABLE} SET sex = NULL WHERE sex IN ('NA', '.')")
    assert loaded.read(source).equals(expected)


def test_another_number_of_rows_than_was_loaded_is_refused_and_both_are_named(
    loaded: Warehouse, source: Source
) -> None:
    for expected in (343, 345):
        with pytest.raises(WarehouseError, match=f"{TABLE} holds 344 rows, but {expected} were loaded"):
            loaded.read(dataclasses.replace(source, rows=expected))
    loaded.create_raw_table()
    with pytest.raises(WarehouseError, match=f"{TABLE} holds 0 rows, but 344 were loaded"):
        loaded.read(source)


@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_were_changed_since_the_load_are_refused(loaded: Warehouse, source: Source, change: str) -> None:
    check_that_a_change_is_refused(loaded, source, change)


def test_numbers_of_many_digits_are_read_as_the_check_read_them(warehouse: Warehouse, tmp_path: Path) -> None:
    check_that_spellings_are_read(warehouse, many_spellings(tmp_path / "x.csv"))


@pytest.mark.parametrize(
    ("column", "rule"),
    [("species", "one of Adelie, Chinstrap, Gentoo"), ("sex", "one of FEMALE, MALE")],
)
def test_an_unknown_category_is_refused_with_its_column_and_rule(
    loaded: Warehouse, column: str, rule: str, source: Source
) -> None:
    for value in ("Dodo", "na", " "):
        query(loaded, f"UPDATE {TABLE} SET {column} = '{value}' WHERE row_id = 200")
        with pytest.raises(WarehouseError) as caught:
            loaded.read(source)
        assert f"{TABLE} holds {value!r} in the column {column}; it must be {rule}" in str(caught.value)
