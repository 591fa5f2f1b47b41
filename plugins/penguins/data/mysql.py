"""The raw table on MySQL and MariaDB."""

from __future__ import annotations

import csv
import os
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import quote as quote_url

from penguins.data.progress import Progress
from penguins.data.source import Source, read_records
from penguins.data.warehouse import (
    MARK,
    DatabaseLostError,
    LoadError,
    Warehouse,
    WarehouseError,
    error_code,
    null_if_missing,
    refuse_foreign,
)
from penguins.schema import COLUMNS, FILE, TABLE, Number

if TYPE_CHECKING:
    import pyarrow as pa

_SYSTEM_SCHEMAS = {"mysql", "information_schema", "performance_schema", "sys", "ndbinfo"}
# Keys of a connection's extra that only concern Airflow's hook, not how the server is reached.
_HOOK_EXTRAS = {"client", "charset", "cursor", "local_infile"}
WARNINGS_SHOWN = 20
# How long a server is waited for: to accept a connection, and for the next byte. The longest silence of a healthy one
# is a statement on all rows, such as the DELETE before a second load.
SECONDS_TO_CONNECT = 30
SECONDS_OF_SILENCE = 300
# What a schema holds: its kind and name, and a table's comment.
_HELD = """
    SELECT REPLACE(LOWER(table_type), 'base ', ''), table_name, table_comment
    FROM information_schema.tables WHERE table_schema = %(schema)s
    UNION ALL SELECT LOWER(routine_type), routine_name, ''
    FROM information_schema.routines WHERE routine_schema = %(schema)s
    UNION ALL SELECT 'event', event_name, '' FROM information_schema.events WHERE event_schema = %(schema)s
    UNION ALL SELECT 'trigger', trigger_name, '' FROM information_schema.triggers WHERE trigger_schema = %(schema)s
"""
# Only MySQL from 9.2 on has them, and this table.
_LIBRARIES = """
    UNION ALL SELECT 'library', library_name, '' FROM information_schema.libraries WHERE library_schema = %(schema)s
"""
# What to do about an error of the raw table's statements, by its number.
_GRANT = "give the connection's user all privileges on the schema: GRANT ALL ON {schema}.* TO that user"
_DECLARE_LESS = (
    "declare fewer columns, or shorter values, in plugins/penguins/schema.py: InnoDB takes 1,017 columns, and in a row "
    "65,535 bytes (8 for a number, 4 for each character of the longest value), of which numbers and short values may "
    "take 8,126"
)
_READ_ONLY = "the server is read-only: name one that may be written to under Admin > Connections"
_REMEDIES = {
    **dict.fromkeys((1044, 1142, 1143, 1227), _GRANT),
    **dict.fromkeys((1005, 1117, 1118), _DECLARE_LESS),
    **dict.fromkeys((1290, 1836), _READ_ONLY),
}


class MySQLWarehouse(Warehouse):
    """MySQL and MariaDB, through mysqlclient or mysql-connector-python, whichever the connection names."""

    row_id = "row_id BIGINT AUTO_INCREMENT PRIMARY KEY"

    def drop_schema(self, *, drop_foreign: bool) -> str:
        name = self.hook.get_connection(self.hook.get_conn_id()).schema
        if not name or name.lower() in _SYSTEM_SCHEMAS:
            what = f"the system schema {name}" if name else "no schema"
            raise WarehouseError(
                f"the connection {self.hook.get_conn_id()} names {what}; "
                "it must name a schema of its own, because this DAG drops it. Set it under Admin > Connections."
            )
        # Connect to another schema, so that this also works after a try that stopped between DROP and CREATE.
        with self.cursor(schema="information_schema") as cursor:
            cursor.execute("SHOW TABLES LIKE 'LIBRARIES'")
            cursor.execute(_HELD + (_LIBRARIES if cursor.fetchall() else ""), {"schema": name})
            foreign = [f"{kind} {held}" for kind, held, comment in cursor.fetchall() if comment != MARK]
            refuse_foreign(name, foreign, drop_foreign)
            self._try_out(cursor, name)
            cursor.execute(f"DROP SCHEMA IF EXISTS {self.quote(name)}")
            cursor.execute(f"CREATE SCHEMA {self.quote(name)} CHARACTER SET utf8mb4")
        return name

    def _try_out(self, cursor: Any, schema: str) -> None:
        """Make a table like the raw table, load nothing into it and drop it. Raise WarehouseError if that fails.

        Its name is random, so it is in nobody's place. If this process is killed here, the table stays behind, but it
        bears the mark: the next run drops it.
        """
        cursor.execute("SELECT @@GLOBAL.local_infile")
        if not int(cursor.fetchone()[0]):
            raise WarehouseError(
                "the server's local_infile is off, but LOAD DATA LOCAL INFILE needs it. Nothing was dropped. Start the "
                "server with --local-infile=1, or SET GLOBAL local_infile = 1."
            )
        table = f"{self.quote(schema)}.{self.quote(f'try_{token_hex(8)}')}"
        try:
            # First, because without this privilege the table would stay behind. It is also asked of a missing table.
            cursor.execute(f"DROP TABLE IF EXISTS {table}")
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {self.quote(schema)} CHARACTER SET utf8mb4")
            cursor.execute(self.create_statement(table))
            try:
                # Without innodb_strict_mode, a row that is too large is only a warning here, and an error in the load.
                cursor.execute("SHOW WARNINGS")
                if warnings := cursor.fetchall():
                    raise WarehouseError(
                        f"the server warns of the raw table: {warnings[0][2]}. Nothing was dropped; {_DECLARE_LESS}."
                    )
                cursor.execute(f"DELETE FROM {table}")  # noqa: S608 - quoted above
                cursor.execute(self._load_statement(table), (os.devnull,))
                cursor.execute(f"SELECT COUNT(*) FROM {table}")  # noqa: S608
                cursor.fetchall()
            finally:
                cursor.execute(f"DROP TABLE {table}")
        except Exception as error:
            if remedy := _REMEDIES.get(error_code(error) or 0):
                raise WarehouseError(
                    f"the raw table cannot be made and loaded in the schema {schema}: {error}. Nothing was dropped; "
                    f"{remedy.format(schema=self.quote(schema))}."
                ) from error
            raise

    def create_statement(self, table: str) -> str:
        return f"CREATE TABLE {table} ({self.columns()}) ENGINE=InnoDB CHARACTER SET utf8mb4 COMMENT='{MARK}'"

    def bulk_load(self, cursor: Any, source: Source, progress: Progress) -> None:
        with _watched(source, progress), _readable(source) as path:
            cursor.execute(self._load_statement(self.quote(TABLE), source if source.as_it_is else None), (path,))
        # LOCAL turns errors into warnings: a bad number becomes 0, a long string is truncated.
        cursor.execute("SHOW COUNT(*) WARNINGS")
        if count := int(cursor.fetchone()[0]):
            cursor.execute(f"SHOW WARNINGS LIMIT {WARNINGS_SHOWN}")
            shown = "\n".join(str(message) for _, _, message in cursor.fetchall())
            raise LoadError(f"MySQL gave {count} warnings while loading {source.path}; nothing was committed:\n{shown}")

    def _load_statement(self, table: str, source: Source | None = None) -> str:
        """Return the statement that loads a file as it is, or without one what `_readable` writes."""
        columns = {c.name: c for c in COLUMNS}
        # Strings are loaded directly and numbers through variables: if every column were a variable, MySQL would not
        # warn of a short row.
        in_file = [columns[name] for name in (source.columns if source else columns)]
        targets = [f"@{c.name}" if isinstance(c, Number) else self.quote(c.name) for c in in_file]
        numbers = [f"{self.quote(c.name)} = {null_if_missing(f'@{c.name}')}" for c in COLUMNS if isinstance(c, Number)]
        delimiter, quote = (FILE.delimiter, FILE.quote) if source else (",", '"')
        ending = source.line_ending if source else "\n"
        return (
            f"LOAD DATA LOCAL INFILE %s INTO TABLE {table} CHARACTER SET utf8mb4"
            f" FIELDS TERMINATED BY {_hex(delimiter)} OPTIONALLY ENCLOSED BY {_hex(quote)} ESCAPED BY ''"
            f" LINES TERMINATED BY {_hex(ending)} IGNORE {source.first_row - 1 if source else 0} LINES"
            f" ({', '.join(targets)})" + (f" SET {', '.join(numbers)}" if numbers else "")
        )

    def pieces(self, names: str) -> Iterator[pa.Table]:
        connection = self.hook.get_connection(self.hook.get_conn_id())
        if set(connection.extra_dejson) - _HOOK_EXTRAS:
            # ConnectorX would ignore a certificate or a socket. The hook's own connection is slower, but uses them.
            yield from super().pieces(names)
            return
        with self.cursor() as cursor:  # fails at once if the login does; ConnectorX takes half a minute
            cursor.execute(f"SELECT MIN(row_id), MAX(row_id) FROM {self.quote(TABLE)}")  # noqa: S608
            first, last = cursor.fetchone()
        if first is None:
            return
        import connectorx

        login, password = quote_url(connection.login or "", safe=""), quote_url(connection.password or "", safe="")
        url = f"mysql://{login}:{password}@{connection.host}:{connection.port or 3306}/{connection.schema}"

        def read(start: int) -> pa.Table:
            query = (
                f"SELECT {names} FROM {self.quote(TABLE)}"  # noqa: S608
                f" WHERE row_id BETWEEN {start} AND {start + self.rows_per_piece - 1} ORDER BY row_id"
            )
            try:
                return connectorx.read_sql(url, query, return_type="arrow")
            except RuntimeError as error:  # it raises no other, and the hook has just logged in
                raise DatabaseLostError(f"the database went away while it was being read: {error}") from error

        def result(coming: Future[pa.Table]) -> pa.Table:
            try:
                return coming.result(SECONDS_OF_SILENCE)
            except TimeoutError as error:  # ConnectorX waits without limit
                raise DatabaseLostError(f"the database was silent for {SECONDS_OF_SILENCE} s in a read") from error

        # Fetch at most two pieces ahead while the previous one is compacted, so that memory stays flat.
        pool = ThreadPoolExecutor(2)
        try:
            coming: deque[Future[pa.Table]] = deque()
            for start in range(first, last + 1, self.rows_per_piece):
                coming.append(pool.submit(read, start))
                if len(coming) > 2:
                    yield result(coming.popleft())
            while coming:
                yield result(coming.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a silent server would be waited for

    @staticmethod
    def quote(identifier: str) -> str:
        if not re.fullmatch(r"[0-9A-Za-z$_-]{1,64}", identifier):
            raise WarehouseError(f"{identifier!r}: a name must consist of 1 to 64 letters, digits, '$', '_' and '-'")
        return f"`{identifier}`"

    def connect(self) -> Any:
        # The hook has no time-outs to hand on to its client, so they are added to the settings that it makes.
        connection = self.hook.get_connection(self.hook.get_conn_id())
        limits = {
            "connect_timeout": SECONDS_TO_CONNECT,
            "read_timeout": SECONDS_OF_SILENCE,
            "write_timeout": SECONDS_OF_SILENCE,
        }
        if connection.extra_dejson.get("client") == "mysql-connector-python":
            import mysql.connector

            settings = self.hook._get_conn_config_mysql_connector_python(connection)
            return mysql.connector.connect(**settings, **limits)
        import MySQLdb

        return MySQLdb.connect(**self.hook._get_conn_config_mysql_client(connection), **limits)

    @contextmanager
    def cursor(self, schema: str | None = None) -> Iterator[Any]:
        self.hook.local_infile = True
        with super().cursor(schema) as cursor:
            yield cursor


def _hex(text: str) -> str:
    return f"x'{text.encode().hex()}'"


@contextmanager
def _readable(source: Source) -> Iterator[str]:
    """Yield a path from which LOAD DATA reads the file's values: the file, or a pipe with them in plain CSV."""
    if source.as_it_is:
        yield source.path
        return
    failed: list[Exception] = []

    def write() -> None:
        try:
            with pipe.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(read_records(source))
        except BrokenPipeError:  # nobody reads it any more, and whoever did has said why
            pass
        except Exception as error:
            failed.append(error)

    with TemporaryDirectory() as folder:
        pipe = Path(folder, "rows.csv")
        os.mkfifo(pipe)
        writer = Thread(target=write, daemon=True)
        writer.start()
        try:
            yield str(pipe)
        finally:
            os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))  # if nobody has read it, the writer waits for one
            writer.join()
    if failed:
        raise failed[0]


@contextmanager
def _watched(source: Source, progress: Progress) -> Iterator[None]:
    """Log how much of the file the database's client has read: the load is one statement, which reports nothing."""
    ended = Event()
    size = Path(source.path).stat().st_size

    def watch() -> None:
        while not ended.wait(1):
            progress.at(source.rows * _position_in(source.path) // size)

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _position_in(path: str) -> int:
    """Return how far this process has read an open file, or 0 where the system does not tell (macOS)."""
    real = Path(path).resolve()
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # closed meanwhile
            if link.readlink() == real:
                return int(Path("/proc/self/fdinfo", link.name).read_text().split()[1])
    return 0
