"""A digest of rows as they are trained on: what the database gives back is compared by it with what the file says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from penguins.schema import COLUMNS, MISSING, Number

_INDEX = [{} if isinstance(c, Number) else {value: i for i, value in enumerate(c.values)} for c in COLUMNS]


class Digest:
    """The SHA-256 of rows in their order. It makes no difference in which pieces they are added."""

    def __init__(self) -> None:
        self._columns = [hashlib.sha256() for _ in COLUMNS]

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


def columns_of(rows: Iterable[Sequence[str]]) -> list[pa.Array]:
    """Return rows of the file, which fit the schema, as `Digest.add` takes them."""
    return [
        pa.array([None if v in MISSING else float(v) for v in values], pa.float64()).cast(pa.float32(), safe=False)
        if isinstance(column, Number)
        else pa.array([index.get(v) for v in values], pa.int32())
        for column, index, values in zip(COLUMNS, _INDEX, zip(*rows, strict=True), strict=True)
    ]
