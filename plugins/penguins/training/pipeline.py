"""From the raw table to a trained pipeline: cleaning, splitting and fitting."""

from __future__ import annotations

import io
import os
import pickle
import sys
from contextlib import nullcontext

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from penguins.column_types import NULL
from penguins.data.progress import Progress
from penguins.schema import CATEGORIES, NUMBERS, TARGET
from penguins.training.cluster import VARIABLE, fit_forest
from penguins.training.rows import distinct_rows, feature_frame, label_codes
from penguins.training.trees import progress_of_trees


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
    with nullcontext() if os.environ.get(VARIABLE) else progress_of_trees(forest):
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
