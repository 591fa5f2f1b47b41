"""What a version keeps for the next gate: whether each row was predicted right by a model that had not seen it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penguins.evaluation.gate import Comparison

ALL_KEYS = 2**64 - 1


@dataclass(frozen=True)
class Predictions:
    """Whether rows were predicted right by a model that had not seen them, each distinct row once.

    Attributes
    ----------
    keys : numpy.ndarray of uint64, shape (n_rows,)
        As `training.pipeline.row_keys` gives them, ascending.
    right : numpy.ndarray of bool, shape (n_rows,)
    judged : numpy.ndarray of bool, shape (n_rows,)
        False where every tree was shown the row: then nothing can be said of it, but that the model knows it.
    limit : int
        The file's rows with keys up to this one are all here. A larger file has a sample: those with the least keys,
        so that the next version's sample holds the same rows.
    """

    keys: np.ndarray
    right: np.ndarray
    judged: np.ndarray
    limit: int = ALL_KEYS

    def to_bytes(self) -> bytes:
        """Return them as Parquet: under 1 MB for 100,000 rows, and nothing in it that a row could be read from."""
        right = pa.array(self.right, mask=~self.judged)
        table = pa.table({"key": self.keys, "right": right}, metadata={"limit": str(self.limit)})
        file = io.BytesIO()
        pq.write_table(
            table, file, use_dictionary=False, compression="zstd", column_encoding={"key": "DELTA_BINARY_PACKED"}
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Predictions:
        """Return what `to_bytes` wrote."""
        table = pq.read_table(io.BytesIO(content))
        limit = int(table.schema.metadata[b"limit"])
        right = table["right"]
        return cls(table["key"].to_numpy(), right.fill_null(False).to_numpy(), right.is_valid().to_numpy(), limit)


def compare_kept(new: Predictions, old: Predictions) -> tuple[Comparison, np.ndarray]:
    """Compare two versions on the rows that both have judged; and say which rows of `new` the old one's file lacked."""
    place = np.searchsorted(old.keys, new.keys).clip(max=len(old.keys) - 1)
    known = old.keys[place] == new.keys
    both = known & new.judged & old.judged[place]
    # What the old version has not kept, although it would have, was not in its file: its model never saw it.
    unknown = ~known & (new.keys <= old.limit)
    return Comparison.of(new.right[both], old.right[place[both]]), unknown
