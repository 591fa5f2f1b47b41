"""The journal's tables, in SQLite or in any database that SQLAlchemy knows. Their columns follow from the schema."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

import sqlalchemy as sa
from sqlalchemy import Column, Engine, Table
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from penguins.schema import COLUMNS, FEATURES, TARGET, Number

URL, EXAMPLE_URL = "API_JOURNAL_URL", "sqlite:////journal/journal.db"
SECONDS_TO_WAIT = 5  # for another process that writes, or for a server
_SERVER = ["connect_timeout", "read_timeout", "write_timeout"]
_WAITS = {"sqlite": ["timeout"], "mysql": _SERVER, "mariadb": _SERVER}


class JournalError(ValueError):
    """There is no journal, or nothing in it, or it cannot be used."""


def own(name: str) -> str:
    """Return a name for a column of the journal's own: with an underscore where the schema has that name already."""
    while name.lower() in {c.name.lower() for c in COLUMNS}:
        name += "_"
    return name


SEQ, TIME, ID, VERSION, PROBABILITIES = map(own, ("seq", "time", "id", "version", "probabilities"))
PREDICTED = own(f"predicted_{TARGET.name}"[:60])  # MySQL takes 64 characters
# In MySQL's own collations "a" is found where "A" was asked for.
_NAME = sa.String(200).with_variant(mysql.VARCHAR(200, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
_TIME = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")  # UTC
_metadata = sa.MetaData()


def _mark(columns: Iterable[str]) -> str:
    """Return a few letters for these columns."""
    return f"{crc32(repr(list(columns)).encode()):08x}"


def _table(name: str, *others: Column[Any]) -> Table:
    return Table(
        name,
        _metadata,
        Column(SEQ, sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),  # in the order of arrival
        Column(TIME, _TIME, nullable=False),
        Column(ID, _NAME, nullable=False),
        Column(VERSION, sa.String(40), nullable=False),
        *(Column(c.name, sa.Double() if isinstance(c, Number) else sa.Text()) for c in FEATURES),
        Column(PREDICTED, _NAME, nullable=False),
        *others,
    )


predictions = _table("predictions", Column(PROBABILITIES, sa.JSON))
feedback = _table("feedback", Column(TARGET.name, _NAME, nullable=False))  # one row for a prediction: the last truth
TABLES = (predictions, feedback)
for _one in TABLES:  # SQLite has each index's name only once, also in tables that were renamed
    sa.Index(f"{_one.name}_id_{_mark(_one.columns.keys())}", _one.c[ID], unique=_one is feedback)
_counted = (feedback.c[name] for name in (VERSION, SEQ, PREDICTED, TARGET.name))
sa.Index(f"feedback_counted_{_mark(feedback.columns.keys())}", *_counted)


def engine_of(url: str) -> Engine:
    """Return the engine of a URL. JournalError if it is none, or its driver is missing."""
    try:
        kind = sa.make_url(url).get_backend_name()
        waits: dict[str, Any] = dict.fromkeys(_WAITS.get(kind, []), SECONDS_TO_WAIT)
        # The journal writes its rows as tuples, which these drivers take as well as dicts.
        style: dict[str, Any] = {"paramstyle": "format"} if kind in ("mysql", "mariadb", "postgresql") else {}
        return sa.create_engine(url, pool_pre_ping=True, connect_args=waits, **style)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise JournalError(
            f"{URL} is no URL of a database: {error}. Accepted: {EXAMPLE_URL}, "
            "mysql+pymysql://USER:PASSWORD@HOST/DATABASE, or another one that SQLAlchemy has a driver for"
        ) from error


def file_of(engine: Engine) -> Path | None:
    """Return SQLite's file, or None for other databases."""
    return Path(engine.url.database or "") if engine.dialect.name == "sqlite" else None


def make_file(path: Path) -> None:
    """Make SQLite's file, for its owner and group. JournalError if SQLite cannot write it, or beside it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or not path.stat().st_size:  # SQLite itself makes an empty one
            for suffix in ("-wal", "-shm"):  # of a file that was deleted
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            path.touch()
            path.chmod(0o660)  # and so are the files beside it
        connection = sqlite3.connect(path, timeout=SECONDS_TO_WAIT)
        connection.execute("PRAGMA journal_mode=WAL")  # for good: who reads keeps nobody from writing
        connection.execute("BEGIN IMMEDIATE")
        connection.close()
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"{URL} names {path}, which cannot be written: {error}") from error


def make_tables(engine: Engine, tries: int = 4) -> None:
    """Make the tables unless they are there. Those for other columns are kept, and found when the schema is as it was.

    They are called like these, with the mark of their columns behind. Raises DBAPIError if it is not possible.
    """
    for table in TABLES:
        found, mine = sa.inspect(engine).get_table_names(), f"{table.name}_{_mark(table.columns.keys())}"
        if table.name in found:
            columns = [column["name"] for column in sa.inspect(engine).get_columns(table.name)]
            if columns == table.columns.keys():
                continue
            _rename(engine, table.name, f"{table.name}_{_mark(columns)}")
        if mine in found:
            _rename(engine, mine, table.name)
    before = sa.inspect(engine).get_table_names()
    try:
        _metadata.create_all(engine)
    except DBAPIError:
        if tries == 1 or sa.inspect(engine).get_table_names() == before:
            raise
        make_tables(engine, tries - 1)  # another process makes them at this moment


def _rename(engine: Engine, table: str, to: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {to}")
