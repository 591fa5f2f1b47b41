"""The raw table on MySQL and MariaDB."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import quote as quote_url

from penguins.data.source import Source
from penguins.data.warehouse import (
    MARK,
    DatabaseLostError,
    LoadError,
    Warehouse,
    WarehouseError,
    null_if_missing,
    refuse_foreign,
)
from penguins.progress import Progress
from penguins.schema import COLUMNS, TABLE, Number

if TYPE_CHECKING:
    import pyarrow as pa

_SYSTEM_SCHEMAS = {"mysql", "information_schema", "performance_schema", "sys", "ndbinfo"}
# Keys of a connection's extra that only concern Airflow's hook, not how the server is reached.
_HOOK_EXTRAS = {"client", "charset", "cursor", "local_infile"}
WARNINGS_SHOWN = 20


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
            cursor.execute(
                "SELECT table_name, table_comment FROM information_schema.tables WHERE table_schema = %s", (name,)
            )
            refuse_foreign(name, [table for table, comment in cursor.fetchall() if comment != MARK], drop_foreign)
            cursor.execute(f"DROP SCHEMA IF EXISTS {self.quote(name)}")
            cursor.execute(f"CREATE SCHEMA {self.quote(name)} CHARACTER SET utf8mb4")
        return name

    def create_statement(self, columns: str) -> str:
        return f"CREATE TABLE {self.quote(TABLE)} ({columns}) ENGINE=InnoDB COMMENT='{MARK}'"

    def bulk_load(self, cursor: Any, source: Source, progress: Progress) -> None:
        # Strings are loaded directly and numbers through variables: if every column were a variable, MySQL would not
        # warn of a short row.
        targets = [f"@{c.name}" if isinstance(c, Number) else self.quote(c.name) for c in COLUMNS]
        numbers = [f"{self.quote(c.name)} = {null_if_missing(f'@{c.name}')}" for c in COLUMNS if isinstance(c, Number)]
        ending = {"\n": r"\n", "\r\n": r"\r\n"}[source.line_ending]
        with _watched(source, progress):
            cursor.execute(
                f"LOAD DATA LOCAL INFILE %s INTO TABLE {self.quote(TABLE)} CHARACTER SET utf8mb4"
                " FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' ESCAPED BY ''"
                f" LINES TERMINATED BY '{ending}' IGNORE 1 LINES"
                f" ({', '.join(targets)})" + (f" SET {', '.join(numbers)}" if numbers else ""),
                (source.path,),
            )
        # LOCAL turns errors into warnings: a bad number becomes 0, a long string is truncated.
        cursor.execute("SHOW COUNT(*) WARNINGS")
        if count := int(cursor.fetchone()[0]):
            cursor.execute(f"SHOW WARNINGS LIMIT {WARNINGS_SHOWN}")
            shown = "\n".join(str(message) for _, _, message in cursor.fetchall())
            raise LoadError(f"MySQL gave {count} warnings while loading {source.path}; nothing was committed:\n{shown}")

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

        # Fetch at most two pieces ahead while the previous one is compacted, so that memory stays flat.
        with ThreadPoolExecutor(2) as pool:
            coming: deque[Future[pa.Table]] = deque()
            for start in range(first, last + 1, self.rows_per_piece):
                coming.append(pool.submit(read, start))
                if len(coming) > 2:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    @staticmethod
    def quote(identifier: str) -> str:
        if not re.fullmatch(r"[0-9A-Za-z$_-]{1,64}", identifier):
            raise WarehouseError(f"{identifier!r}: a name must consist of 1 to 64 letters, digits, '$', '_' and '-'")
        return f"`{identifier}`"

    @contextmanager
    def cursor(self, schema: str | None = None) -> Iterator[Any]:
        self.hook.local_infile = True
        with super().cursor(schema) as cursor:
            yield cursor


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
