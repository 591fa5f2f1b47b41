"""The raw table in an SQLite file, the embedded default."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from penguins.data.source import Source, read_records
from penguins.data.warehouse import MARK, Warehouse, WarehouseError, null_if_missing, refuse_foreign
from penguins.progress import Progress
from penguins.schema import COLUMNS, TABLE, Number


class SQLiteWarehouse(Warehouse):
    """An SQLite file: the connection's host is its path. The schema is the whole file."""

    row_id = "row_id INTEGER PRIMARY KEY"

    def drop_schema(self, *, drop_foreign: bool) -> str:
        name = self.hook.get_connection(self.hook.get_conn_id()).host
        with self.cursor() as cursor:
            cursor.execute("SELECT type, name, sql FROM sqlite_master WHERE type IN ('table', 'view')")
            found = [(kind, table, sql) for kind, table, sql in cursor.fetchall() if not table.startswith("sqlite_")]
            refuse_foreign(name, [table for _, table, sql in found if MARK not in sql], drop_foreign)
            for kind, table, _ in found:
                cursor.execute(f'DROP {kind} "{table.replace(chr(34), chr(34) * 2)}"')
        return name

    def create_statement(self, columns: str) -> str:
        return f"CREATE TABLE {self.quote(TABLE)} ({columns} /* {MARK} */)"

    def bulk_load(self, cursor: Any, source: Source, progress: Progress) -> None:
        cells = ", ".join(null_if_missing("?") if isinstance(c, Number) else "?" for c in COLUMNS)
        names = ", ".join(self.quote(c.name) for c in COLUMNS)
        cursor.executemany(
            f"INSERT INTO {self.quote(TABLE)} ({names}) VALUES ({cells})",  # noqa: S608
            _counted(read_records(source), progress),
        )

    @staticmethod
    def quote(identifier: str) -> str:
        if not re.fullmatch(r"[A-Za-z][0-9A-Za-z_]*", identifier):
            raise WarehouseError(f"{identifier!r}: a name must be a letter, then letters, digits and '_'")
        return f'"{identifier}"'


def _counted(records: Iterator[list[str]], progress: Progress) -> Iterator[list[str]]:
    for done, record in enumerate(records):
        yield record
        if done % 10_000 == 0:
            progress.at(done)
