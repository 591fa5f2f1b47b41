"""The journal's rows in files: as the DAG takes them, or whole tables. Memory does not grow with the journal."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Column, Engine, select

from penguins.data.records import Lines, check_header, records
from penguins.journal.tables import SEQ, TABLES, feedback
from penguins.schema import COLUMNS, MISSING

ABSENT = "NA" if "NA" in MISSING else next(iter(MISSING), "")
ROWS_AT_ONCE = 10_000
Columns = dict[str, Column[Any]]  # by their names in the file


def labelled() -> Columns:
    """Return the columns of the DAG's CSV: one row for each prediction whose truth is known."""
    return {c.header: feedback.c[c.name] for c in COLUMNS}


def all_of(table: str) -> Columns:
    """Return the columns of a table."""
    return {c.name: c for one in TABLES if one.name == table for c in one.c if c.name != SEQ}


def pieces(engine: Engine, columns: Columns) -> Iterator[Sequence[Any]]:
    """Yield the rows in the order of arrival, some at a time."""
    seq = next(iter(columns.values())).table.c[SEQ]
    query = select(*columns.values()).order_by(seq).execution_options(yield_per=ROWS_AT_ONCE)
    with engine.connect() as connection:
        yield from connection.execute(query).partitions()


def base_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a CSV, without its header, which must be the schema's. SourceError or OSError if it is not."""
    with path.open("rb") as file:
        line_ending = "\r\n" if file.readline().endswith(b"\r\n") else "\n"
        file.seek(0)
        lines = Lines(path, file, line_ending)
        check_header(path, lines)
        for _, values in records(path, lines):
            yield values


def write_csv(file: IO[str], engine: Engine, columns: Columns, base: Path | None) -> tuple[int, int]:
    """Write the rows behind those of another CSV, and return how many these were and those."""
    writer, before, count = csv.writer(file, lineterminator="\n"), 0, 0
    writer.writerow(columns)
    for row in base_rows(base) if base else ():
        writer.writerow(row)
        before += 1
    for piece in pieces(engine, columns):
        writer.writerows([[ABSENT if value is None else _short(value) for value in row] for row in piece])
        count += len(piece)
    return count, before


def _short(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def write_parquet(path: Path, engine: Engine, columns: Columns) -> int:
    """Write the rows as Parquet, and return how many they were."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"DOUBLE": pa.float64(), "DATETIME": pa.timestamp("us", tz="UTC")}
    schema = pa.schema([(name, kinds.get(str(c.type), pa.string())) for name, c in columns.items()])
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for piece in pieces(engine, columns):
            rows = [[json.dumps(value) if isinstance(value, dict) else value for value in row] for row in piece]
            arrays = [
                pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            count += len(piece)
    return count
