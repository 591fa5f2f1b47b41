"""A MySQL or MariaDB that refuses something, or that stops answering: a server of this file's own."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import connectorx
import psutil
import pytest
from airflow.providers.mysql.hooks.mysql import MySqlHook

from benchmarks.mysql import SCHEMA
from penguins.column_types import Category, Number
from penguins.data import mysql, warehouse
from penguins.data.databases import open_warehouse
from penguins.data.source import check_source
from penguins.data.warehouse import DatabaseLostError, Warehouse, WarehouseError
from penguins.schema import CATEGORIES, COLUMNS, CSV_NAME, NUMBERS, TABLE
from support import ROOT, connection_of

SOURCE = check_source(ROOT / "dags" / CSV_NAME, test_size=0.2)
PRIVILEGES = ("SELECT", "INSERT", "DELETE", "CREATE", "DROP")
LIMITED = {"login": "limited", "password": "a password of this server only"}

Open = Callable[..., Warehouse]


@pytest.fixture
def open_as(own_mysql_url: str, monkeypatch: pytest.MonkeyPatch) -> Open:
    def open_as(**fields: Any) -> Warehouse:
        monkeypatch.setenv("AIRFLOW_CONN_MYSQL_DEFAULT", json.dumps({**connection_of(own_mysql_url), **fields}))
        return open_warehouse(MySqlHook(mysql_conn_id="mysql_default"))

    return open_as


@pytest.fixture
def loaded(open_as: Open) -> Warehouse:
    """The warehouse of a user who may do everything, with the project's file in its table."""
    loaded = open_as()
    loaded.drop_schema(drop_foreign=True)
    loaded.create_raw_table()
    loaded.load(SOURCE)
    return loaded


def query(warehouse: Warehouse, sql: str) -> list[tuple[Any, ...]]:
    with warehouse.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


@contextmanager
def setting(warehouse: Warehouse, name: str, value: int) -> Iterator[None]:
    ((before,),) = query(warehouse, f"SELECT @@GLOBAL.{name}")
    query(warehouse, f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        query(warehouse, f"SET GLOBAL {name} = {before}")


def refusal(warehouse: Warehouse) -> str:
    with pytest.raises(WarehouseError) as caught:
        warehouse.drop_schema(drop_foreign=True)
    assert "Nothing was dropped" in str(caught.value)
    return str(caught.value)


def assert_kept(loaded: Warehouse) -> None:
    """The table and its rows are there, and nothing else."""
    assert query(loaded, "SHOW TABLES") == [(TABLE,)]
    assert loaded.read(SOURCE).num_rows == 344


# What would fail after the drop is refused before it.


def test_without_local_infile_nothing_is_dropped(loaded: Warehouse) -> None:
    with setting(loaded, "local_infile", 0):
        assert "SET GLOBAL local_infile = 1" in refusal(loaded)
    assert_kept(loaded)


@pytest.fixture
def limited(loaded: Warehouse, open_as: Open) -> Callable[..., Warehouse]:
    def limited(*privileges: str) -> Warehouse:
        query(loaded, "DROP USER IF EXISTS limited")
        query(loaded, f"CREATE USER limited IDENTIFIED BY '{LIMITED['password']}'")
        query(loaded, f"GRANT {', '.join(privileges)} ON {SCHEMA}.* TO limited")
        return open_as(**LIMITED)

    return limited


@pytest.mark.parametrize("missing", PRIVILEGES)
def test_without_one_of_the_privileges_nothing_is_dropped(
    loaded: Warehouse, limited: Callable[..., Warehouse], open_as: Open, missing: str
) -> None:
    said = refusal(limited(*(p for p in PRIVILEGES if p != missing)))
    assert f"GRANT ALL ON `{SCHEMA}`.* TO" in said
    assert "denied" in said
    open_as()
    assert_kept(loaded)


def test_these_privileges_are_enough(limited: Callable[..., Warehouse]) -> None:
    warehouse = limited(*PRIVILEGES)
    warehouse.drop_schema(drop_foreign=False)
    warehouse.create_raw_table()
    warehouse.load(SOURCE)
    assert warehouse.read(SOURCE).num_rows == 344


def test_on_a_read_only_server_nothing_is_dropped(
    loaded: Warehouse, limited: Callable[..., Warehouse], open_as: Open
) -> None:
    warehouse = limited("ALL")
    open_as()
    with setting(loaded, "read_only", 1):
        open_as(**LIMITED)
        assert "the server is read-only" in refusal(warehouse)
        open_as()
    assert_kept(loaded)


def wide(number: int, column: Number | Category) -> tuple[Number | Category, ...]:
    return tuple(dataclasses.replace(column, name=f"c{i}") for i in range(number))


@pytest.mark.parametrize("strict", [0, 1])
@pytest.mark.parametrize(
    "columns",
    [
        wide(70, dataclasses.replace(CATEGORIES[0], values=("a" * 250, "b"), example="b")),
        wide(1100, NUMBERS[0]),
        wide(1016, NUMBERS[0]),
        wide(5000, NUMBERS[0]),
    ],
    ids=["70 long categories", "1,100 numbers", "1,016 numbers", "5,000 numbers"],
)
def test_of_a_table_that_the_server_cannot_hold_the_earlier_one_is_kept(
    loaded: Warehouse, monkeypatch: pytest.MonkeyPatch, columns: tuple[Number | Category, ...], strict: int
) -> None:
    with setting(loaded, "innodb_strict_mode", strict):
        for module in (warehouse, mysql):
            monkeypatch.setattr(module, "COLUMNS", columns)
        assert "declare fewer columns, or shorter values, in plugins/penguins/schema.py" in refusal(loaded)
        for module in (warehouse, mysql):
            monkeypatch.setattr(module, "COLUMNS", COLUMNS)
    assert_kept(loaded)


def test_what_a_killed_run_left_behind_is_its_own(loaded: Warehouse) -> None:
    query(loaded, loaded.create_statement("try_0123456789abcdef"))
    loaded.drop_schema(drop_foreign=False)
    assert query(loaded, "SHOW TABLES") == []


# A server that stops answering.


@pytest.fixture
def send(loaded: Warehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Send a signal to the server. Stopped, it goes on after the test."""
    for limit in ("SECONDS_TO_CONNECT", "SECONDS_OF_SILENCE"):
        monkeypatch.setattr(mysql, limit, 3)
    pid = int(Path(query(loaded, "SELECT @@GLOBAL.pid_file")[0][0]).read_text())
    server = psutil.Process(pid)

    def sent(number: int) -> None:
        server.send_signal(number)
        deadline = time.monotonic() + 60
        while number == signal.SIGSTOP and server.status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    yield sent
    server.send_signal(signal.SIGCONT)


def lost(work: Callable[[], Any]) -> None:
    """Do it in a thread, so that a wait without limit fails the test and does not hang it."""
    pool = ThreadPoolExecutor(1)
    try:
        with pytest.raises(DatabaseLostError):
            pool.submit(work).result(timeout=120)
    finally:
        pool.shutdown(wait=False)


def test_a_server_that_does_not_answer_when_it_is_connected_to_is_lost(
    loaded: Warehouse, send: Callable[[int], None]
) -> None:
    send(signal.SIGSTOP)
    lost(lambda: loaded.drop_schema(drop_foreign=False))


def test_a_server_that_does_not_answer_a_statement_is_lost(loaded: Warehouse, send: Callable[[int], None]) -> None:
    def work() -> None:
        with loaded.cursor() as cursor:
            send(signal.SIGSTOP)
            cursor.execute("SELECT 1")

    lost(work)


@pytest.mark.parametrize("during", ["load", "read"])
def test_a_server_that_stops_in_a_load_or_a_read_is_lost_and_the_next_try_goes_through(
    loaded: Warehouse, send: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    """It stops when the connection is there and the transaction has begun; in a read, when it is ConnectorX's turn."""
    owner, name = (loaded, "bulk_load") if during == "load" else (connectorx, "read_sql")
    work = getattr(owner, name)

    def stopped(*given: Any, **named: Any) -> Any:
        send(signal.SIGSTOP)
        return work(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, stopped)
        lost(lambda: loaded.load(SOURCE) if during == "load" else loaded.read(SOURCE))
    send(signal.SIGCONT)
    assert loaded.read(SOURCE).num_rows == 344  # nothing of the load was committed
    assert loaded.load(SOURCE) == 344
    assert loaded.read(SOURCE).num_rows == 344
