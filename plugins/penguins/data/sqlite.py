"""The raw table in an SQLite file, the embedded default."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

from penguins.data.progress import Progress
from penguins.data.source import Source, read_records
from penguins.data.warehouse import MARK, Warehouse, WarehouseError, refuse_foreign
from penguins.schema import COLUMNS, MISSING, TABLE, Number


class SQLiteWarehouse(Warehouse):
    """An SQLite file: the connection's host is its path. The schema is the whole file."""

    row_id = "row_id INTEGER PRIMARY KEY"

    def drop_schema(self, *, drop_foreign: bool) -> str:
        name = self.hook.get_connection(self.hook.get_conn_id()).host
        try:
            with self.cursor() as cursor:
                cursor.execute("BEGIN IMMEDIATE")  # undone as a whole if the new table cannot be made
                cursor.execute("SELECT type, name, sql FROM sqlite_master WHERE type IN ('table', 'view', 'trigger')")
                found = [(kind, held, sql) for kind, held, sql in cursor.fetchall() if not held.startswith("sqlite_")]
                refuse_foreign(name, [f"{kind} {held}" for kind, held, sql in found if MARK not in sql], drop_foreign)
                for kind, held, _ in found:  # a table's triggers go with it
                    cursor.execute(f'DROP {kind} IF EXISTS "{held.replace(chr(34), chr(34) * 2)}"')
                cursor.execute(self.create_statement(self.quote(TABLE)))
                cursor.execute(f"DROP TABLE {self.quote(TABLE)}")
        except sqlite3.DatabaseError as error:
            raise WarehouseError(
                f"the raw table cannot be made in {name}: {error}. Nothing was dropped. It must be a file that this "
                "user may write and no other program holds; a table takes 1,999 columns besides its row_id."
            ) from error
        return name

    def create_statement(self, table: str) -> str:
        return f"CREATE TABLE {table} ({self.columns()} /* {MARK} */)"

    def bulk_load(self, cursor: Any, source: Source, progress: Progress) -> None:
        names = ", ".join(self.quote(c.name) for c in COLUMNS)
        cursor.executemany(
            f"INSERT INTO {self.quote(TABLE)} ({names}) VALUES ({', '.join('?' * len(COLUMNS))})",  # noqa: S608
            _counted(map(_typed, read_records(source)), progress),
        )

    @staticmethod
    def quote(identifier: str) -> str:
        if not re.fullmatch(r"[A-Za-z][0-9A-Za-z_]*", identifier):
            raise WarehouseError(f"{identifier!r}: a name must be a letter, then letters, digits and '_'")
        return f'"{identifier}"'


def _typed(record: list[str]) -> list[Any]:
    # SQLite does not round every decimal number to the nearest float, as the check and MySQL do.
    return [
        value if not isinstance(column, Number) else None if value in MISSING else float(value)
        for column, value in zip(COLUMNS, record, strict=True)
    ]


def _counted(records: Iterator[list[Any]], progress: Progress) -> Iterator[list[Any]]:
    for done, record in enumerate(records):
        yield record
        if done % 10_000 == 0:
            progress.at(done)
