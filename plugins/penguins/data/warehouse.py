"""The raw table in the database behind an Airflow connection: MySQL or MariaDB, or SQLite, the embedded default.

It works on a hook of `airflow.providers.common.sql`; nothing else here depends on Airflow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from penguins.data.progress import Progress
from penguins.data.source import Source, sha256_of
from penguins.schema import COLUMNS, MISSING, TABLE, TRAINED, Category, Ignored, Number

if TYPE_CHECKING:
    import pyarrow as pa
    from airflow.providers.common.sql.hooks.sql import DbApiHook

# Part of the definition of every table created here, so that drop_schema recognises its own.
MARK = "made by modelo_penguin"
# Client errors 2002 to 2013 and 2055: no connection, or it broke. Server errors: shutting down, connection killed.
# mysql-connector-python says 3024 of a server that is silent for too long, mysqlclient 2013; or it says only this text.
_LOST = {2002, 2003, 2005, 2006, 2012, 2013, 2055, 1053, 1927, 3024, 3169, 4031}
_LOST_TEXT = "MySQL Connection not available"


class WarehouseError(RuntimeError):
    """The database holds, or was asked for, something that this DAG must not touch."""


class LoadError(RuntimeError):
    """The table would not have matched the file exactly. Nothing was committed."""


class DatabaseLostError(ConnectionError):
    """The server cannot be reached or went away. The only error worth a retry."""


class Warehouse(ABC):
    """The raw table in one database. `databases.open_warehouse` returns the right kind for a hook."""

    row_id: ClassVar[str]
    rows_per_piece: ClassVar[int] = 250_000

    def __init__(self, hook: DbApiHook) -> None:
        self.hook = hook

    @abstractmethod
    def drop_schema(self, *, drop_foreign: bool) -> str:
        """Drop and recreate the connection's schema, and return its name.

        Before it drops anything, it proves that the raw table can be made and loaded.

        Parameters
        ----------
        drop_foreign : bool
            Whether what was not created here may be dropped too.

        Raises
        ------
        WarehouseError
            If the connection names a system schema or none, if there are foreign tables, views, sequences, routines,
            events or triggers, which are listed, or if the raw table cannot be made and loaded. Nothing was dropped.
        DatabaseLostError
        """

    def create_raw_table(self) -> None:
        """Create the raw table, empty, in place of an earlier one that was created here."""
        with self.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {self.quote(TABLE)}")
            cursor.execute(self.create_statement(self.quote(TABLE)))

    def columns(self) -> str:
        """Return the raw table's columns as CREATE TABLE takes them."""
        columns = [f"{self.quote(c.name)} {sql_type(c)}{' NOT NULL' if c.required else ''}" for c in COLUMNS]
        return ", ".join([self.row_id, *columns])

    def load(self, source: Source) -> int:
        """Load the checked file into the raw table in one transaction, replacing its rows.

        Returns
        -------
        int
            Rows in the table, as many as in the file.

        Raises
        ------
        LoadError
            If the file changed since it was checked, on any warning, or if the table's row count differs.
        DatabaseLostError
        """
        if (now := sha256_of(Path(source.path))) != source.sha256:
            raise LoadError(
                f"{source.path} changed since it was checked: its sha256 is {now}, expected {source.sha256}. "
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
                    f"the table would hold {rows} rows, but the file has {source.rows}. Nothing was committed."
                )
        progress.done()
        return rows

    def read(self, source: Source) -> pa.Table:
        """Return the raw table in the order of the file, read in pieces and stored compactly.

        Parameters
        ----------
        source : Source
            The file that was loaded.

        Returns
        -------
        pyarrow.Table
            float32 for numbers, dictionaries of the schema's values for categories, null for missing values: 28 bytes
            a row for the penguins. A pandas DataFrame takes ten times that.

        Raises
        ------
        WarehouseError
            If the rows are not those of the file, or a category is not in the schema.
        DatabaseLostError
        """
        import pyarrow as pa

        from penguins.data.digest import Digest

        progress = Progress("read", source.rows)
        pieces, done, digest = [], 0, Digest()
        for piece in self.pieces(", ".join(self.quote(c.name) for c in TRAINED)):
            pieces.append(compact(piece))
            columns = [column.combine_chunks() for column in pieces[-1].columns]
            digest.add([c.indices if pa.types.is_dictionary(c.type) else c for c in columns])
            done += piece.num_rows
            progress.at(done)
        if done != source.rows:
            raise WarehouseError(
                f"{TABLE} holds {done} rows, but {source.rows} were loaded: it was changed in between. "
                "Trigger the DAG again."
            )
        if (found := digest.hexdigest()) != source.rows_sha256:
            raise WarehouseError(
                f"{TABLE} holds other values than were loaded: the sha256 of its rows is {found}, that of the rows of "
                f"{source.path} {source.rows_sha256}. Find out who changed the table, then trigger the DAG again."
            )
        progress.done()
        return pa.concat_tables(pieces).combine_chunks()

    def pieces(self, names: str) -> Iterator[pa.Table]:
        """Yield the table in its order, with columns as the database's client returns them."""
        import pyarrow as pa

        types = [pa.float64() if isinstance(c, Number) else pa.string() for c in TRAINED]
        with self.cursor() as cursor:
            cursor.execute(f"SELECT {names} FROM {self.quote(TABLE)} ORDER BY row_id")  # noqa: S608
            while rows := cursor.fetchmany(self.rows_per_piece):
                arrays = [pa.array(values, t) for values, t in zip(zip(*rows, strict=True), types, strict=True)]
                yield pa.table(arrays, names=[c.name for c in TRAINED])

    @contextmanager
    def cursor(self, schema: str | None = None) -> Iterator[Any]:
        """Open a cursor, and commit at the end, or roll back on an exception.

        `schema` overrides the connection's own. DatabaseLostError is raised if the server cannot be reached or goes
        away.
        """
        self.hook.schema = schema
        try:
            # Closing without a commit rolls back, even if the connection is too broken for a ROLLBACK.
            with closing(self.connect()) as connection:
                with closing(connection.cursor()) as cursor:
                    yield cursor
                connection.commit()
        except Exception as error:
            if error_code(error) in _LOST or _LOST_TEXT in str(error):
                raise DatabaseLostError(f"the database went away or cannot be reached: {error}") from error
            raise

    def connect(self) -> Any:
        return self.hook.get_conn()

    @abstractmethod
    def create_statement(self, table: str) -> str: ...

    @abstractmethod
    def bulk_load(self, cursor: Any, source: Source, progress: Progress) -> None: ...

    @staticmethod
    @abstractmethod
    def quote(identifier: str) -> str: ...


def refuse_foreign(schema: str, foreign: list[str], drop_foreign: bool) -> None:
    if foreign and not drop_foreign:
        raise WarehouseError(
            f"the schema {schema} holds what this DAG did not make: {', '.join(sorted(foreign))}. Nothing was dropped. "
            "Use a schema of its own, or trigger with drop_foreign_tables to drop them."
        )


def sql_type(column: Number | Category | Ignored) -> str:
    if isinstance(column, Number):
        return "DOUBLE"
    if isinstance(column, Ignored) or column.rest:  # of any length
        return "MEDIUMTEXT"  # apart from the row, which it does not make too wide
    return f"VARCHAR({max(map(len, (*column.values, *MISSING)))})"


def null_if_missing(value: str) -> str:
    for token in MISSING:  # in hexadecimal, so that a server's mode has no say in what a backslash means
        value = f"NULLIF({value}, _utf8mb4 x'{token.encode().hex()}')"
    return value


def compact(piece: pa.Table) -> pa.Table:
    """Return a piece in the form used for training: 4 bytes for a number, an index for a category."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from penguins.data.digest import indices_of

    arrays = []
    for column in TRAINED:
        values = piece[column.name].combine_chunks()
        if isinstance(column, Number):
            arrays.append(pc.cast(values, pa.float32(), safe=False))
            continue
        indices = indices_of(column, values)
        missing = pc.is_in(values, value_set=pa.array([*MISSING, None], values.type))
        unknown = pc.filter(values, pc.and_not(pc.is_null(indices), missing))
        if len(unknown):
            raise WarehouseError(
                f"{TABLE} holds {unknown[0].as_py()!r} in the column {column.name}; it must be {column.rule}. "
                "Trigger the DAG again to reload the file."
            )
        arrays.append(pa.DictionaryArray.from_arrays(indices, pa.array(column.values, pa.string())))
    return pa.table(arrays, names=[c.name for c in TRAINED])


def error_code(error: Exception) -> int | None:
    # mysql-connector-python sets errno; mysqlclient puts the number first in args.
    code = getattr(error, "errno", None) or (error.args[0] if error.args else None)
    return code if isinstance(code, int) else None
