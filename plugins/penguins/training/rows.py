"""The rows of a table as scikit-learn takes them, and which of them are equal."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pyarrow as pa

from penguins.schema import FEATURES, TARGET

# Of cross-validation; each fold needs at least one row of each class.
FOLDS = 10
HASH_CHUNK_ROWS = 500_000

log = logging.getLogger(__name__)


def label_codes(table: pa.Table) -> np.ndarray:
    """Return each row's target as an index into the schema's values, shape (n_rows,)."""
    return table[TARGET.name].combine_chunks().indices.to_numpy()


def feature_frame(table: pa.Table) -> pd.DataFrame:
    """Return the features for a fit: float32 and pandas' categories, which are small, NaN for missing values."""
    return table.select([c.name for c in FEATURES]).to_pandas()


def row_keys(table: pa.Table) -> np.ndarray:
    """Return a 64-bit hash of each row's features, shape (n_rows,): equal rows have equal keys in every file."""
    pieces = [
        pd.util.hash_pandas_object(feature_frame(table.slice(start, HASH_CHUNK_ROWS)), index=False)
        for start in range(0, table.num_rows, HASH_CHUNK_ROWS)
    ]
    return np.concatenate([np.empty(0, np.uint64), *pieces])


def distinct_rows(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's group, and the first row of each group: rows with equal features form one group.

    If a class had fewer groups than cross-validation has folds, equal rows are no duplicates but lie in the nature of
    the table, for example one with only a few categories. Then each row is its own group.

    Returns
    -------
    numpy.ndarray, shape (n_rows,)
    numpy.ndarray, shape (n_groups,)
    """
    every_row = np.arange(table.num_rows)
    groups, keys = pd.factorize(row_keys(table))
    if len(keys) == len(groups):
        return every_row, every_row
    first = np.flatnonzero(~pd.Series(groups).duplicated())
    labels = label_codes(table)
    present = np.unique(labels)
    if np.bincount(labels[first], minlength=len(TARGET.values))[present].min() < FOLDS:
        log.info("rows with equal features count one by one: a class has too few distinct rows")
        return every_row, every_row
    return groups, first
