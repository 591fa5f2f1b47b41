"""The predictions whose truth is known, as the DAG takes them. Memory does not grow with the journal."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

from sqlalchemy import Engine, select

from penguins.data.records import lines_of, records, writer_of
from penguins.data.text import SourceError
from penguins.journal.tables import SEQ, JournalError, feedback
from penguins.schema import COLUMNS, FILE, MISSING, TRAINED, Ignored

ABSENT = "NA" if "NA" in MISSING else next(iter(MISSING), "")
CHUNK_ROWS = 10_000


def write_csv(file: IO[str], engine: Engine, base: Path | None) -> tuple[int, int]:
    """Write the predictions behind the rows of another CSV, and return how many they are, and how many these."""
    writer, before, count = writer_of(file), 0, 0
    if base:
        before = _copy_rows(base, writer)
    columns = [feedback.c[c.name] for c in TRAINED]
    places = [None if isinstance(c, Ignored) else TRAINED.index(c) for c in COLUMNS]
    query = select(*columns).order_by(feedback.c[SEQ]).execution_options(yield_per=CHUNK_ROWS)
    with engine.connect() as connection:
        for rows in connection.execute(query).partitions():
            writer.writerows([["" if place is None else _text(row[place]) for place in places] for row in rows])
            count += len(rows)
    return count, before


def _copy_rows(base: Path, writer: Any) -> int:
    """Copy the rows of a CSV as they are: the DAG checks them. JournalError if its header is not the schema's."""
    count = 0
    try:
        with lines_of(base) as (lines, columns):
            for _, values in records(base, lines, columns):
                writer.writerow(values)
                count += 1
    except SourceError as error:
        raise JournalError(error) from error
    return count


def _text(value: Any) -> Any:
    """Return a value as the file has it."""
    if value is None:
        return ABSENT
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else str(value).replace(".", FILE.decimal)
