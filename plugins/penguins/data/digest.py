"""A digest of rows as they are trained on: what the database gives back is compared by it with what the file says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from penguins.schema import COLUMNS, MISSING, TRAINED, Category, Number


class Digest:
    """The SHA-256 of rows in their order. It makes no difference in which pieces they are added."""

    def __init__(self) -> None:
        self._columns = [hashlib.sha256() for _ in TRAINED]

    def add(self, columns: Iterable[pa.Array]) -> None:
        """Add rows, given by column: float32 for numbers, int32 indices of the schema's values, null for missing."""
        for digest, values in zip(self._columns, columns, strict=True):
            if not len(values):
                continue
            # The sum is a new buffer without an offset, and has no -0.0, which only some databases keep.
            fresh = pc.add(values, pa.scalar(0, values.type))
            filled = pc.fill_null(fresh, float("nan") if pa.types.is_floating(values.type) else -1)
            digest.update(memoryview(filled.buffers()[1])[: len(filled) * 4])

    def hexdigest(self) -> str:
        return hashlib.sha256(b"".join(column.digest() for column in self._columns)).hexdigest()


def indices_of(column: Category, values: pa.Array) -> pa.Array:
    """Return the place of each text among the column's values: null for missing, and where it accepts no such text."""
    indices = pc.index_in(values, value_set=pa.array(column.values, values.type))
    if column.rest:
        missing = pc.is_in(values, value_set=pa.array([*MISSING, None], values.type))
        rest = pa.scalar(column.values.index(column.rest), pa.int32())
        indices = pc.if_else(missing, pa.scalar(None, pa.int32()), pc.fill_null(indices, rest))
    return indices


def columns_of(rows: Iterable[Sequence[str]]) -> list[pa.Array]:
    """Return rows of the file, which fit the schema, as `Digest.add` takes them."""
    arrays = []
    for column, values in zip(COLUMNS, zip(*rows, strict=True), strict=True):
        if isinstance(column, Number):
            numbers = pa.array([None if v in MISSING else float(v) for v in values], pa.float64())
            arrays.append(numbers.cast(pa.float32(), safe=False))
        elif isinstance(column, Category):
            arrays.append(indices_of(column, pa.array(values, pa.string())))
    return arrays
