"""Between the tables that training takes and frames, which are easier to change in a test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from penguins.schema import CATEGORIES, COLUMNS, MISSING, NUMBERS, Number


def table_of(records: Iterable[Sequence[Any]] | pd.DataFrame) -> pa.Table:
    """Return rows of the schema's columns as the warehouse reads them: float32, dictionaries, null for missing."""
    frame = pd.DataFrame(records, columns=[c.name for c in COLUMNS]).astype(object)
    frame = frame.where(frame.notna() & ~frame.isin(MISSING), None)
    arrays = [
        pa.array([None if v is None else float(v) for v in frame[column.name]], pa.float32())
        if isinstance(column, Number)
        else pa.DictionaryArray.from_arrays(
            pa.array([None if v is None else column.values.index(v) for v in frame[column.name]], pa.int32()),
            pa.array(column.values, pa.string()),
        )
        for column in COLUMNS
    ]
    return pa.table(arrays, names=[c.name for c in COLUMNS])


def frame_of(table: pa.Table) -> pd.DataFrame:
    """Return a table as plain objects and floats, NaN for what is missing."""
    frame = table.to_pandas()
    for column in COLUMNS:
        frame[column.name] = frame[column.name].astype("float64" if isinstance(column, Number) else object)
    return frame


def spread(**changes: Any) -> dict[str, Any]:
    """Return histograms of 100 rows: every number in [0, 10), [10, 20) and [20, 30], none missing."""
    numbers = {c.name: {"edges": [0.0, 10.0, 20.0, 30.0], "counts": [20, 30, 50], "missing": 0} for c in NUMBERS}
    categories = {c.name: {"counts": {c.values[0]: 100}, "missing": 0} for c in CATEGORIES}
    return {**numbers, **categories, **changes}
