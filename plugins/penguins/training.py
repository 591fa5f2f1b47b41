"""From the raw table to a trained pipeline: cleaning, split and fit."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pandas as pd
import pyarrow as pa
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from penguins.cluster import fit_forest
from penguins.inference import to_frame
from penguins.schema import CATEGORIES, MISSING, NUMBERS, TARGET

# Cross-validation's ten more fits are cheap up to here; above, the trees' own out-of-bag rows serve instead.
ROWS_TO_CROSS_VALIDATE = 10_000


def clean(raw: pa.Table) -> pd.DataFrame:
    """Turn the raw table into rows to train on.

    Returns
    -------
    pandas.DataFrame, shape (n_rows, n_columns)
        The target and the features as `inference.to_frame` gives them: what says "missing" is NaN, and rows without
        any measurement are left out, because the API answers none for them either.
    """
    frame = raw.to_pandas()
    for column in CATEGORIES:
        frame[column.name] = frame[column.name].mask(frame[column.name].isin(MISSING))
    cleaned = to_frame(frame)
    cleaned.insert(0, TARGET.name, frame[TARGET.name].astype(object))
    if NUMBERS:
        cleaned = cleaned.dropna(subset=[c.name for c in NUMBERS], how="all")
    return cleaned.reset_index(drop=True)


def split(frame: pd.DataFrame, *, test_size: float, random_state: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (train, test), stratified by the target."""
    train, test = train_test_split(
        frame, test_size=test_size, random_state=random_state, stratify=frame[TARGET.name], shuffle=True
    )
    return train.reset_index(drop=True), test.reset_index(drop=True)


def build_pipeline(*, n_estimators: int, max_samples: int, random_state: int, rows: int) -> Pipeline:
    """Return the unfitted pipeline: imputation, one-hot and standard scaling, then a random forest.

    Parameters
    ----------
    max_samples : int
        Rows that a tree sees at most. It only limits a table that has more.
    rows : int
        Rows of the training table.
    """
    # A feature that every row misses is kept, as a constant without information, so that it may come later.
    numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    categories = make_pipeline(
        SimpleImputer(strategy="most_frequent", keep_empty_features=True),
        OneHotEncoder(categories=[list(c.values) for c in CATEGORIES], handle_unknown="ignore", sparse_output=False),
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
        oob_score=rows > ROWS_TO_CROSS_VALIDATE,
        random_state=random_state,
        n_jobs=-1,
    )
    return Pipeline([("columns", columns), ("forest", forest)])


def fit(pipeline: Pipeline, train: pd.DataFrame) -> bytes:
    """Fit the pipeline in place and return its pickle, the same bytes for the same rows and seed."""
    forest = pipeline.named_steps["forest"]
    features = pipeline[:-1].fit_transform(to_frame(train))  # here: it is quicker than to send the frame somewhere
    fit_forest(forest, features, train[TARGET.name])
    forest.estimators_ = [_wherever_it_grew(tree) for tree in forest.estimators_]
    # Parallel predictions add up in any order, and so differ in the last bit.
    forest.n_jobs = None
    if forest.oob_score:
        del forest.oob_decision_function_  # one row for each row of the table: it is no part of the model
    return pickle.dumps(pipeline, protocol=5)


def _wherever_it_grew(tree: Any) -> Any:
    """Return a copy whose pickle has the same bytes, whether the tree grew in this process or came from another one.

    A pickle notes which strings and dtypes are one object. Grown here, all trees share them; what came by another
    pickle has its own.
    """
    copy = pickle.loads(pickle.dumps(tree))  # noqa: S301 - our own
    copy.__dict__ = {
        sys.intern(name): sys.intern(value) if isinstance(value, str) else value for name, value in vars(copy).items()
    }
    return copy
