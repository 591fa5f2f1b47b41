"""What a version keeps for the next gate: whether a model that had not seen a row predicted it correctly."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penguins.evaluation.accuracy import Comparison

ALL_KEYS = 2**64 - 1


@dataclass(frozen=True)
class Predictions:
    """Whether rows were predicted correctly by a model that had not seen them, each distinct row once.

    Attributes
    ----------
    keys : numpy.ndarray of uint64, shape (n_rows,)
        From `training.rows.row_keys`, ascending.
    right : numpy.ndarray of bool, shape (n_rows,)
    judged : numpy.ndarray of bool, shape (n_rows,)
        False if every tree was trained on the row: then only that is known of it.
    limit : int
        All of the file's rows with keys up to this one are here. Of a larger file they are a sample: those with the
        smallest keys, so that the next version samples the same rows.
    """

    keys: np.ndarray
    right: np.ndarray
    judged: np.ndarray
    limit: int = ALL_KEYS

    def to_bytes(self) -> bytes:
        """Return them as Parquet: under 1 MB for 100,000 rows, and no row can be recovered from it."""
        right = pa.array(self.right, mask=~self.judged)
        table = pa.table({"key": self.keys, "right": right}, metadata={"limit": str(self.limit)})
        file = io.BytesIO()
        pq.write_table(
            table, file, use_dictionary=False, compression="zstd", column_encoding={"key": "DELTA_BINARY_PACKED"}
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Predictions:
        """Read what `to_bytes` wrote."""
        table = pq.read_table(io.BytesIO(content))
        limit = int(table.schema.metadata[b"limit"])
        right = table["right"]
        return cls(table["key"].to_numpy(), right.fill_null(False).to_numpy(), right.is_valid().to_numpy(), limit)


def compare_predictions(new: Predictions, old: Predictions) -> tuple[Comparison, np.ndarray]:
    """Compare two versions on the rows that both judged; also return which rows of `new` the old file lacked."""
    index = np.searchsorted(old.keys, new.keys).clip(max=len(old.keys) - 1)
    known = old.keys[index] == new.keys
    both = known & new.judged & old.judged[index]
    # A row within the old version's limit that it did not keep was not in its file: its model never saw it.
    unknown = ~known & (new.keys <= old.limit)
    return Comparison.of(new.right[both], old.right[index[both]]), unknown
