"""Which rows are trained on."""

from __future__ import annotations

from functools import reduce
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from penguins.schema import NUMBERS

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def clean(rows: Rows) -> Rows:
    """Return the rows to train on: those with at least one measurement, which the API requires as well."""
    if not NUMBERS:
        return rows
    return rows.filter(reduce(pc.or_, [pc.is_valid(rows[c.name]) for c in NUMBERS]))
