"""From a release that kept the journal in CSV files: `python -m penguins.journal import DIR`.

To be removed when nobody upgrades from such a release any more.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, delete, insert, select

from penguins.journal.export import ABSENT
from penguins.journal.tables import ID, PREDICTED, PROBABILITIES, TABLES, TIME, VERSION, feedback, make_tables
from penguins.schema import FEATURES, TARGET

ROWS_AT_ONCE = 500
_FIRST = [TIME, ID, VERSION, *(c.name for c in FEATURES), PREDICTED]


def take_over(engine: Engine, folder: Path) -> str:
    """Put the rows of the files into the tables, once however often it is done. Return what was taken over."""
    make_tables(engine)
    said = []
    for table in TABLES:
        last = 1 if table is feedback else len(TARGET.values)
        for path in sorted(folder.glob(f"{table.name}-*.csv")):
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                lines = csv.reader(file)
                header = next(lines, [])
                if len(header) != len(_FIRST) + last or header[3 : len(_FIRST) - 1] != _FIRST[3:-1]:
                    said.append(f"{path.name}: left out, because it is for other columns")
                    continue
                rows, count = _rows(table, lines, len(header)), 0
                while some := list(islice(rows, ROWS_AT_ONCE)):
                    with engine.begin() as connection:
                        count += _add(connection, table, some)
                said.append(f"{path.name}: {count:,} rows are taken over")
    return "\n".join(said) or f"there are no files of a journal in {folder}"


def _rows(table: Table, lines: Iterator[list[str]], columns: int) -> Iterator[dict[str, Any]]:
    """Yield whole rows. The last line of a file may have been cut off."""
    for line in lines:
        try:
            row: dict[str, Any] = dict(zip(_FIRST, line, strict=False))
            row[TIME] = datetime.fromisoformat(line[0])
            if len(line) != columns:
                continue
            row |= {c.name: None for c in FEATURES if row[c.name] == ABSENT}
            if table is feedback:
                row[TARGET.name] = line[-1]
            else:
                shares = zip(TARGET.values, line[len(_FIRST) :], strict=True)
                row[PROBABILITIES] = {label: float(share) for label, share in shares if share != ABSENT}
        except (ValueError, IndexError):
            continue
        yield row


def _add(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> int:
    ids = [row[ID] for row in rows]
    there = {
        (name, when)
        for name, when in connection.execute(select(table.c[ID], table.c[TIME]).where(table.c[ID].in_(ids)))
    }
    new = [row for row in rows if (row[ID], row[TIME]) not in there]
    if table is feedback:  # has one row for an id, the last
        latest = dict(there)
        by_id = {row[ID]: row for row in sorted(new, key=lambda row: row[TIME])}
        new = [row for name, row in by_id.items() if name not in latest or latest[name] < row[TIME]]
        connection.execute(delete(table).where(table.c[ID].in_([row[ID] for row in new])))
    if new:
        connection.execute(insert(table), new)
    return len(new)
