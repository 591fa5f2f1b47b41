"""The raw table in the database behind an Airflow connection: MySQL or MariaDB, or SQLite, the embedded default.

What comes in is a hook of `airflow.providers.common.sql`; nothing else here knows of Airflow.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote as quote_url

from penguins.progress import Progress
from penguins.schema import COLUMNS, MISSING, TABLE, Number
from penguins.source import Source, read_records, sha256_of

if TYPE_CHECKING:
    import pyarrow as pa
    from airflow.providers.common.sql.hooks.sql import DbApiHook

# Stands in the definition of every table that is made here, so that drop_schema knows its own.
MARK = "made by modelo_penguin"
_SYSTEM_SCHEMAS = {"mysql", "information_schema", "performance_schema", "sys", "ndbinfo"}
ROWS_PER_PIECE = 250_000
# What Airflow's hook is told in a connection's extra that says nothing of how the server is reached.
_EXTRA_OF_THE_HOOK = {"client", "charset", "cursor", "local_infile"}
WARNINGS_SHOWN = 20
# Client errors 2002 to 2013 and 2055: no connection, or it broke. Server errors: shutting down, connection killed.
_LOST = {2002, 2003, 2005, 2006, 2012, 2013, 2055, 1053, 1927, 3169, 4031}


class WarehouseError(RuntimeError):
    """The database holds, or was asked for, what this DAG must not touch."""


class LoadError(RuntimeError):
    """The table would not have held exactly what the file says. Nothing was committed."""


class DatabaseLostError(ConnectionError):
    """The server cannot be reached or went away. The only failure worth a retry."""


class Warehouse(ABC):
    """The raw table in one database. `open_warehouse` makes the right kind for a hook."""

    row_id: ClassVar[str]

    def __init__(self, hook: DbApiHook) -> None:
        self.hook = hook

    @abstractmethod
    def drop_schema(self, *, drop_foreign: bool) -> str:
        """Drop and recreate the connection's schema, and return what was emptied.

        Parameters
        ----------
        drop_foreign : bool
            Whether tables that were not made here may go too.

        Raises
        ------
        WarehouseError
            If the connection names a system schema or none, or if foreign tables are there: they are listed.
        DatabaseLostError
        """

    def create_raw_table(self) -> None:
        """Create the raw table, empty, in place of any of that name that was made here."""
        columns = [self.row_id]
        columns += [f"{self.quote(c.name)} {c.sql_type}{' NOT NULL' if c.required else ''}" for c in COLUMNS]
        with self.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {self.quote(TABLE)}")
            cursor.execute(self.create_statement(", ".join(columns)))

    def load(self, source: Source) -> int:
        """Put the checked file into the raw table in one transaction, in place of what the table held.

        Returns
        -------
        int
            Rows in the table, the same as in the file.

        Raises
        ------
        LoadError
            If the file changed since it was checked, on any warning, or if the table's row count differs.
        DatabaseLostError
        """
        if (now := sha256_of(Path(source.path))) != source.sha256:
            raise LoadError(
                f"{source.path} changed since it was checked: its sha256 is {now}, expected is {source.sha256}. "
                "Nothing was loaded; trigger the DAG again."
            )
        progress = Progress("loaded", source.rows)
        with self.cursor() as cursor:
            cursor.execute(f"DELETE FROM {self.quote(TABLE)}")  # noqa: S608 - a constant, validated by quote()
            self.bulk_load(cursor, source, progress)
            cursor.execute(f"SELECT COUNT(*) FROM {self.quote(TABLE)}")  # noqa: S608
            rows = int(cursor.fetchone()[0])
            if rows != source.rows:
                raise LoadError(
                    f"the table would hold {rows} rows and the file has {source.rows}. Nothing was committed."
                )
        progress.done()
        return rows

    def read(self, expected_rows: int) -> pa.Table:
        """Return the raw table in the order of the file, a piece at a time and compact.

        Parameters
        ----------
        expected_rows : int
            As many as were loaded.

        Returns
        -------
        pyarrow.Table
            float32 for numbers, dictionaries of the schema's values for categories, null for what is missing: 28 bytes
            a row for the penguins, where a frame of pandas takes ten times that.

        Raises
        ------
        WarehouseError
            If the table holds another number of rows, or a category that the schema does not know.
        DatabaseLostError
        """
        import pyarrow as pa

        progress = Progress("read", expected_rows)
        pieces, done = [], 0
        for piece in self.pieces(", ".join(self.quote(c.name) for c in COLUMNS)):
            pieces.append(compact(piece))
            done += piece.num_rows
            progress.at(done)
        if done != expected_rows:
            raise WarehouseError(
                f"{TABLE} holds {done} rows, and {expected_rows} were loaded: somebody changed it since. "
                "Trigger the DAG again."
            )
        progress.done()
        return pa.concat_tables(pieces).combine_chunks()

    def pieces(self, names: str) -> Iterator[pa.Table]:
        """Yield the table in its order, with columns as the database's client gives them."""
        import pyarrow as pa

        types = [pa.float64() if isinstance(c, Number) else pa.string() for c in COLUMNS]
        with self.cursor() as cursor:
            cursor.execute(f"SELECT {names} FROM {self.quote(TABLE)} ORDER BY row_id")  # noqa: S608
            while rows := cursor.fetchmany(ROWS_PER_PIECE):
                arrays = [pa.array(values, t) for values, t in zip(zip(*rows, strict=True), types, strict=True)]
                yield pa.table(arrays, names=[c.name for c in COLUMNS])

    @contextmanager
    def cursor(self, schema: str | None = None) -> Iterator[Any]:
        """Open a cursor whose work is committed at the end, or rolled back on an exception.

        `schema` is the one to connect to, in place of the connection's own. Where there is no server, or it goes
        away, DatabaseLostError is raised.
        """
        self.hook.schema = schema
        try:
            # Closing without a commit rolls back, also where the connection is too broken to be told so.
            with closing(self.hook.get_conn()) as connection:
                with closing(connection.cursor()) as cursor:
                    yield cursor
                connection.commit()
        except Exception as error:
            if _error_code(error) in _LOST:
                raise DatabaseLostError(f"the database went away or cannot be reached: {error}") from error
            raise

    @abstractmethod
    def create_statement(self, columns: str) -> str: ...

    @abstractmethod
    def bulk_load(self, cursor: Any, source: Source, progress: Progress) -> None: ...

    @staticmethod
    @abstractmethod
    def quote(identifier: str) -> str: ...


class MySQLWarehouse(Warehouse):
    """MySQL and MariaDB, through mysqlclient or mysql-connector-python, as the connection says."""

    row_id = "row_id BIGINT AUTO_INCREMENT PRIMARY KEY"

    def drop_schema(self, *, drop_foreign: bool) -> str:
        name = self.hook.get_connection(self.hook.get_conn_id()).schema
        if not name or name.lower() in _SYSTEM_SCHEMAS:
            what = f"the system schema {name}" if name else "no schema"
            raise WarehouseError(
                f"the connection {self.hook.get_conn_id()} names {what}; "
                "accepted is a schema of its own, which this DAG drops. Set it under Admin > Connections."
            )
        # Connected beside it, so that this works as well where an earlier try stopped between DROP and CREATE.
        with self.cursor(schema="information_schema") as cursor:
            cursor.execute(
                "SELECT table_name, table_comment FROM information_schema.tables WHERE table_schema = %s", (name,)
            )
            _refuse_foreign(name, [table for table, comment in cursor.fetchall() if comment != MARK], drop_foreign)
            cursor.execute(f"DROP SCHEMA IF EXISTS {self.quote(name)}")
            cursor.execute(f"CREATE SCHEMA {self.quote(name)} CHARACTER SET utf8mb4")
        return name

    def create_statement(self, columns: str) -> str:
        return f"CREATE TABLE {self.quote(TABLE)} ({columns}) ENGINE=InnoDB COMMENT='{MARK}'"

    def bulk_load(self, cursor: Any, source: Source, progress: Progress) -> None:
        # Strings go in directly and numbers through a variable: were every column a variable, MySQL would say
        # nothing of a short row.
        targets = [f"@{c.name}" if isinstance(c, Number) else self.quote(c.name) for c in COLUMNS]
        numbers = [f"{self.quote(c.name)} = {_null_if_missing(f'@{c.name}')}" for c in COLUMNS if isinstance(c, Number)]
        ending = {"\n": r"\n", "\r\n": r"\r\n"}[source.line_ending]
        with _watched(source, progress):
            cursor.execute(
                f"LOAD DATA LOCAL INFILE %s INTO TABLE {self.quote(TABLE)} CHARACTER SET utf8mb4"
                " FIELDS TERMINATED BY ',' OPTIONALLY ENCLOSED BY '\"' ESCAPED BY ''"
                f" LINES TERMINATED BY '{ending}' IGNORE 1 LINES"
                f" ({', '.join(targets)})" + (f" SET {', '.join(numbers)}" if numbers else ""),
                (source.path,),
            )
        # LOCAL turns errors into warnings: a bad number becomes 0, a long string is cut.
        cursor.execute("SHOW COUNT(*) WARNINGS")
        if count := int(cursor.fetchone()[0]):
            cursor.execute(f"SHOW WARNINGS LIMIT {WARNINGS_SHOWN}")
            shown = "\n".join(str(message) for _, _, message in cursor.fetchall())
            raise LoadError(
                f"MySQL gave {count} warnings while it loaded {source.path}; nothing was committed:\n{shown}"
            )

    def pieces(self, names: str) -> Iterator[pa.Table]:
        connection = self.hook.get_connection(self.hook.get_conn_id())
        if set(connection.extra_dejson) - _EXTRA_OF_THE_HOOK:
            # A certificate or a socket that ConnectorX would not know of. Slower, and through the same connection.
            yield from super().pieces(names)
            return
        with self.cursor() as cursor:  # lets us in, or says why not at once: ConnectorX takes half a minute
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
                f" WHERE row_id BETWEEN {start} AND {start + ROWS_PER_PIECE - 1} ORDER BY row_id"
            )
            try:
                return connectorx.read_sql(url, query, return_type="arrow")
            except RuntimeError as error:  # it has no other, and the hook's own client has just been let in
                raise DatabaseLostError(f"the database went away while it was read: {error}") from error

        # Two pieces are on their way while the one before is made compact, and no more: memory stays flat.
        with ThreadPoolExecutor(2) as pool:
            coming: deque[Future[pa.Table]] = deque()
            for start in range(first, last + 1, ROWS_PER_PIECE):
                coming.append(pool.submit(read, start))
                if len(coming) > 2:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    @staticmethod
    def quote(identifier: str) -> str:
        if not re.fullmatch(r"[0-9A-Za-z$_-]{1,64}", identifier):
            raise WarehouseError(f"{identifier!r}: accepted as a name are 1 to 64 letters, digits, '$', '_' and '-'")
        return f"`{identifier}`"

    @contextmanager
    def cursor(self, schema: str | None = None) -> Iterator[Any]:
        self.hook.local_infile = True
        with super().cursor(schema) as cursor:
            yield cursor


class SQLiteWarehouse(Warehouse):
    """A file of SQLite: the connection's host is its path. The schema is the whole file."""

    row_id = "row_id INTEGER PRIMARY KEY"

    def drop_schema(self, *, drop_foreign: bool) -> str:
        name = self.hook.get_connection(self.hook.get_conn_id()).host
        with self.cursor() as cursor:
            cursor.execute("SELECT type, name, sql FROM sqlite_master WHERE type IN ('table', 'view')")
            found = [(kind, table, sql) for kind, table, sql in cursor.fetchall() if not table.startswith("sqlite_")]
            _refuse_foreign(name, [table for _, table, sql in found if MARK not in sql], drop_foreign)
            for kind, table, _ in found:
                cursor.execute(f'DROP {kind} "{table.replace(chr(34), chr(34) * 2)}"')
        return name

    def create_statement(self, columns: str) -> str:
        return f"CREATE TABLE {self.quote(TABLE)} ({columns} /* {MARK} */)"

    def bulk_load(self, cursor: Any, source: Source, progress: Progress) -> None:
        cells = ", ".join(_null_if_missing("?") if isinstance(c, Number) else "?" for c in COLUMNS)
        names = ", ".join(self.quote(c.name) for c in COLUMNS)
        cursor.executemany(
            f"INSERT INTO {self.quote(TABLE)} ({names}) VALUES ({cells})",  # noqa: S608
            _counted(read_records(source), progress),
        )

    @staticmethod
    def quote(identifier: str) -> str:
        if not re.fullmatch(r"[A-Za-z][0-9A-Za-z_]*", identifier):
            raise WarehouseError(f"{identifier!r}: accepted as a name is a letter, then letters, digits and '_'")
        return f'"{identifier}"'


def open_warehouse(hook: DbApiHook) -> Warehouse:
    """Return the warehouse for a hook, by its connection type: mysql or sqlite."""
    kinds: dict[str, type[Warehouse]] = {"mysql": MySQLWarehouse, "sqlite": SQLiteWarehouse}
    kind = kinds.get(hook.conn_type)
    if kind is None:
        raise WarehouseError(f"the connection's type is {hook.conn_type}; accepted are {' and '.join(kinds)}")
    return kind(hook)


def _refuse_foreign(schema: str, foreign: list[str], drop_foreign: bool) -> None:
    if foreign and not drop_foreign:
        raise WarehouseError(
            f"the schema {schema} holds tables that this DAG did not make: {', '.join(sorted(foreign))}. Nothing was "
            "dropped. Use a schema of its own, or trigger with drop_foreign_tables to drop them."
        )


def _counted(records: Iterator[list[str]], progress: Progress) -> Iterator[list[str]]:
    for done, record in enumerate(records):
        yield record
        if done % 10_000 == 0:
            progress.at(done)


@contextmanager
def _watched(source: Source, progress: Progress) -> Iterator[None]:
    """Say how much of the file the database's client has read meanwhile: it is one statement, and tells nothing."""
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
    """Return how far this process has read an open file, or 0 where the system does not say (macOS)."""
    real = Path(path).resolve()
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # closed meanwhile
            if link.readlink() == real:
                return int(Path("/proc/self/fdinfo", link.name).read_text().split()[1])
    return 0


def compact(piece: pa.Table) -> pa.Table:
    """Return a piece as it is written for training: 4 bytes for a number, an index for a category."""
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays = []
    for column in COLUMNS:
        values = piece[column.name].combine_chunks()
        if isinstance(column, Number):
            arrays.append(pc.cast(values, pa.float32(), safe=False))
            continue
        accepted = pa.array(column.values, values.type)
        indices = pc.index_in(values, value_set=accepted)
        missing = pc.is_in(values, value_set=pa.array([*MISSING, None], values.type))
        unknown = pc.filter(values, pc.and_not(pc.is_null(indices), missing))
        if len(unknown):
            raise WarehouseError(
                f"{TABLE} holds {unknown[0].as_py()!r} in the column {column.name}; accepted is {column.rule}. "
                "Trigger the DAG again: it loads the file anew."
            )
        arrays.append(pa.DictionaryArray.from_arrays(indices, accepted.cast(pa.string())))
    return pa.table(arrays, names=[c.name for c in COLUMNS])


def _null_if_missing(value: str) -> str:
    for token in MISSING:
        value = f"NULLIF({value}, '{token}')"
    return value


def _error_code(error: Exception) -> int | None:
    # mysql-connector-python has an errno, mysqlclient puts the number first into args.
    code = getattr(error, "errno", None) or (error.args[0] if error.args else None)
    return code if isinstance(code, int) else None
