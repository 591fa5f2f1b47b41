"""From the raw table to a trained pipeline: cleaning, splitting and fitting."""

from __future__ import annotations

import io
import logging
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from functools import reduce
from threading import Lock
from typing import TextIO

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from penguins.column_types import NULL
from penguins.progress import Progress
from penguins.schema import CATEGORIES, FEATURES, NUMBERS, TARGET
from penguins.training.cluster import VARIABLE, fit_forest

# Of cross-validation; each fold needs at least one row of each class.
FOLDS = 10
ROWS_HASHED_AT_ONCE = 500_000

log = logging.getLogger(__name__)


def clean(raw: pa.Table) -> pa.Table:
    """Return the rows to train on: those with at least one measurement, which the API requires as well."""
    if not NUMBERS:
        return raw
    measured = [pc.is_valid(raw[c.name]) for c in NUMBERS]
    return raw.filter(reduce(pc.or_, measured))


def split(table: pa.Table, *, test_size: float, random_state: int) -> tuple[pa.Table, pa.Table]:
    """Return (train, test), shuffled, and stratified by the target. Rows with equal features stay on one side."""
    codes, first = distinct_rows(table)
    train, test = train_test_split(
        np.arange(len(first)), test_size=test_size, random_state=random_state, stratify=label_codes(table)[first]
    )
    copies = np.setdiff1d(np.arange(table.num_rows), first, assume_unique=True)
    held_out = np.isin(codes[copies], test)
    return (
        table.take(np.concatenate([first[train], copies[~held_out]])),
        table.take(np.concatenate([first[test], copies[held_out]])),
    )


def row_keys(table: pa.Table) -> np.ndarray:
    """Return a 64-bit hash of each row's features, shape (n_rows,): equal rows have equal keys in every file."""
    pieces = [
        pd.util.hash_pandas_object(feature_frame(table.slice(start, ROWS_HASHED_AT_ONCE)), index=False)
        for start in range(0, table.num_rows, ROWS_HASHED_AT_ONCE)
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


def label_codes(table: pa.Table) -> np.ndarray:
    """Return each row's target as an index into the schema's values, shape (n_rows,)."""
    return table[TARGET.name].combine_chunks().indices.to_numpy()


def feature_frame(table: pa.Table) -> pd.DataFrame:
    """Return the features for a fit: float32 and pandas' categories, which are small, NaN for missing values."""
    return table.select([c.name for c in FEATURES]).to_pandas()


def build_pipeline(*, n_estimators: int, max_samples: int, random_state: int, rows: int) -> Pipeline:
    """Return the unfitted pipeline: imputation, one-hot and standard scaling, then a random forest.

    Parameters
    ----------
    max_samples : int
        Maximum number of rows for each tree. It has no effect on a smaller table.
    rows : int
        Rows of the training table.
    """
    # A feature that is missing in every row is kept, as a constant, so that requests may have it.
    numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    categories = make_pipeline(
        SimpleImputer(strategy="most_frequent", keep_empty_features=True),
        OneHotEncoder(
            categories=[list(c.values) for c in CATEGORIES],
            handle_unknown="warn",
            sparse_output=False,
            dtype=np.float32,  # what the trees use; one float64 column would turn all others into it
        ),
    )
    columns = ColumnTransformer(
        [
            ("numbers", numbers, [c.name for c in NUMBERS]),
            ("categories", categories, [c.name for c in CATEGORIES]),
        ]
    )
    forest = RandomForestClassifier(
        n_estimators=n_estimators,
        max_samples=max_samples if rows > max_samples else None,
        random_state=random_state,
        n_jobs=-1,
    )
    return Pipeline([("columns", columns), ("forest", forest)])


def fit(pipeline: Pipeline, train: pa.Table) -> bytes:
    """Fit the pipeline in place and return its pickle: the same rows and seed give the same bytes.

    `joblib.load` opens it, with scikit-learn and pandas alone: nothing in it is of this project.
    """
    labels = np.array(TARGET.values, dtype=object)[label_codes(train)]
    forest = pipeline.named_steps["forest"]
    progress = Progress("fitted", train.num_rows)
    features = pipeline[:-1].fit_transform(feature_frame(train))
    with nullcontext() if os.environ.get(VARIABLE) else _progress_of_trees(forest):
        fit_forest(forest, features, labels)
    progress.done()
    _take_frames_as_read(pipeline.named_steps["columns"])
    forest.estimators_ = [_canonical_tree(tree) for tree in forest.estimators_]
    # Parallel predictions are summed in any order, and so differ in the last bit.
    forest.n_jobs = None
    pickled = io.BytesIO()
    joblib.dump(pipeline, pickled, protocol=5)
    return pickled.getvalue()


def _take_frames_as_read(columns: ColumnTransformer) -> None:
    """Let the fitted pipeline take frames with 0 or False where the schema has "0" or "false", and None or NA for NaN.

    `pandas.read_csv` makes such frames. Training has the schema's own text, and is spared a pass over its rows for each
    value. What no value stands for stays as it is, and what must not be missing is no value: the encoder warns of both.
    """
    meanings = {c.name: c.meanings for c in CATEGORIES if c.meanings}
    missing = {c.name: NULL if c.required else np.nan for c in CATEGORIES}
    names = pd.DataFrame(columns=list(missing))
    columns.named_transformers_["categories"].steps[:0] = [
        (name, FunctionTransformer(function, kw_args=arguments, feature_names_out="one-to-one").fit(names))
        for name, function, arguments in (
            ("objects", pd.DataFrame.astype, {"dtype": object}),
            ("declared", pd.DataFrame.replace, {"to_replace": meanings}),
            ("missing", pd.DataFrame.fillna, {"value": missing}),
        )
    ]


def _canonical_tree(tree: DecisionTreeClassifier) -> DecisionTreeClassifier:
    # Which strings trees share depends on the process that grew them, and shows in the forest's pickle. Here each tree
    # gets its own values, and interned attribute names.
    copy = pickle.loads(pickle.dumps(tree))  # noqa: S301 - our own
    copy.__dict__ = {sys.intern(name): value for name, value in vars(copy).items()}
    return copy


class _TreeCounter(io.TextIOBase):
    """Turns the lines that scikit-learn and joblib print about trees into progress lines. Passes on all others."""

    def __init__(self, passed_on: TextIO, trees: int) -> None:
        self.passed_on, self.trees = passed_on, trees
        self.started = self.line_ends_to_drop = 0
        self.lock = Lock()  # each tree is announced by the thread that grows it

    def write(self, text: str) -> int:
        with self.lock:
            if text.startswith("building tree"):
                if not self.started:
                    self.progress = Progress("grown", self.trees, "trees")
                self.progress.at(self.started)
                self.started += 1
                self.line_ends_to_drop += not text.endswith("\n")
            elif text == "\n" and self.line_ends_to_drop:
                self.line_ends_to_drop -= 1
            elif not text.startswith("[Parallel("):
                self.passed_on.write(text)
        return len(text)


@contextmanager
def _progress_of_trees(forest: RandomForestClassifier) -> Iterator[None]:
    forest.verbose = 2  # prints a line for each tree
    try:
        with (
            redirect_stdout(_TreeCounter(sys.stdout, forest.n_estimators)),
            redirect_stderr(_TreeCounter(sys.stderr, forest.n_estimators)),
        ):
            yield
    finally:
        forest.verbose = 0
