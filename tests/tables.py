"""Between the tables that training takes and frames, which are easier to change in a test."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from penguins.data.digest import Digest, columns_of
from penguins.data.source import Source, check_source
from penguins.data.warehouse import Warehouse, WarehouseError
from penguins.schema import CATEGORIES, COLUMNS, MISSING, NUMBERS, TABLE, TRAINED, Number

# Of the project's file in the raw table: what UPDATE ... SET takes, and the schema accepts.
CHANGES = (
    "species = 'Adelie' WHERE row_id = 300",
    "species = CASE species WHEN 'Gentoo' THEN 'Adelie' ELSE 'Gentoo' END WHERE row_id IN (1, 300)",
    "body_mass_g = body_mass_g + 1 WHERE row_id = 1",
    "body_mass_g = 4000 WHERE row_id = 4",
    "body_mass_g = NULL WHERE row_id = 344",
    "sex = 'MALE' WHERE row_id = 337",
    "sex = '.' WHERE row_id = 344",
    "row_id = 1000 WHERE row_id = 1",
)


def table_of(records: Iterable[Sequence[Any]] | pd.DataFrame) -> pa.Table:
    """Return rows of the schema's columns as the warehouse reads them: float32, dictionaries, null for missing."""
    if not isinstance(records, pd.DataFrame):
        records = pd.DataFrame(records, columns=[c.name for c in COLUMNS])
    frame = records[[c.name for c in TRAINED]].astype(object)
    frame = frame.where(frame.notna() & ~frame.isin(MISSING), None)
    arrays = [
        pa.array([None if v is None else float(v) for v in frame[column.name]], pa.float32())
        if isinstance(column, Number)
        else pa.DictionaryArray.from_arrays(
            pa.array([None if v is None else column.values.index(v) for v in frame[column.name]], pa.int32()),
            pa.array(column.values, pa.string()),
        )
        for column in TRAINED
    ]
    return pa.table(arrays, names=[c.name for c in TRAINED])


def digest_of(records: Iterable[Sequence[str]]) -> str:
    """Return the digest of rows as the check of a file gives it, or of none if a row does not fit."""
    digest = Digest()
    with suppress(ValueError):
        digest.add(columns_of(records))
    return digest.hexdigest()


def many_spellings(path: Path) -> Source:
    """Write 3,000 rows with numbers of up to thirty digits, and check them."""
    draw = random.Random(1)

    def spelled(column: Number) -> str:
        value = draw.uniform(column.minimum, column.maximum)
        return draw.choice(
            [f"{value:.{draw.randint(0, 20)}f}"[:30], repr(value), f"{value:.{draw.randint(3, 25)}e}", MISSING[0]]
        )

    rows = [",".join(c.in_file for c in TRAINED)]
    for row in range(3000):
        values = [spelled(c) if isinstance(c, Number) else c.values[row % len(c.values)] for c in TRAINED]
        rows.append(",".join(values))
    path.write_text("\n".join([*rows, ""]), encoding="utf-8")
    return check_source(path, test_size=0.2)


def frame_of(table: pa.Table) -> pd.DataFrame:
    """Return a table as plain objects and floats, NaN for what is missing."""
    frame = table.to_pandas()
    for column in TRAINED:
        frame[column.name] = frame[column.name].astype("float64" if isinstance(column, Number) else object)
    return frame


def spread(**changes: Any) -> dict[str, Any]:
    """Return histograms of 100 rows: every number in [0, 10), [10, 20) and [20, 30], none missing."""
    numbers = {c.name: {"edges": [0.0, 10.0, 20.0, 30.0], "counts": [20, 30, 50], "missing": 0} for c in NUMBERS}
    categories = {c.name: {"counts": {c.values[0]: 100}, "missing": 0} for c in CATEGORIES}
    return {**numbers, **categories, **changes}


def check_that_a_change_is_refused(loaded: Warehouse, source: Source, change: str) -> None:
    """Check that a table is not read once it was changed, and that both it and the file are named."""
    with loaded.cursor() as cursor:
        cursor.execute(f"UPDATE {TABLE} SET {change}")
    with pytest.raises(WarehouseError, match=f"{TABLE} holds other values than were loaded") as caught:
        loaded.read(source)
    for said in (source.path, source.rows_sha256, "trigger the DAG again"):
        assert said in str(caught.value)


def check_that_spellings_are_read(warehouse: Warehouse, source: Source) -> None:
    """Check that the rows of `many_spellings` are read as the check has read them."""
    warehouse.create_raw_table()
    warehouse.load(source)
    assert warehouse.read(source).num_rows == 3000
