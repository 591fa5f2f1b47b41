"""The predictions whose truth is known, as the DAG takes them. Memory does not grow with the journal."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Engine, select

from penguins.journal.tables import SEQ, JournalError, feedback
from penguins.schema import COLUMNS, MISSING

ABSENT = "NA" if "NA" in MISSING else next(iter(MISSING), "")
CHUNK_ROWS = 10_000
HEADER = [c.header for c in COLUMNS]


def write_csv(file: IO[str], engine: Engine, base: Path | None) -> tuple[int, int]:
    """Write the predictions behind the rows of another CSV, and return how many they are, and how many these."""
    writer, before, count = csv.writer(file, lineterminator="\n"), 0, 0
    writer.writerow(HEADER)
    if base:
        before = _copy_rows(base, writer)
    columns = [feedback.c[c.name] for c in COLUMNS]
    query = select(*columns).order_by(feedback.c[SEQ]).execution_options(yield_per=CHUNK_ROWS)
    with engine.connect() as connection:
        for rows in connection.execute(query).partitions():
            writer.writerows([[ABSENT if value is None else _short(value) for value in row] for row in rows])
            count += len(rows)
    return count, before


def _copy_rows(base: Path, writer: Any) -> int:
    """Copy the rows of a CSV as they are: the DAG checks them. JournalError if its header is not the schema's."""
    count = 0
    with base.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            if [unicodedata.normalize("NFC", name) for name in next(rows, [])] != HEADER:
                raise JournalError(f"{base}: the first line must be {','.join(HEADER)}")
            for row in rows:
                writer.writerow(row)
                count += 1
        except csv.Error as error:
            raise JournalError(f"{base}, line {rows.line_num}: {error}") from error
    return count


def _short(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
