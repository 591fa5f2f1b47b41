"""Cleaning, split and fit."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import StandardScaler

from penguins.registry import PROJECT
from penguins.schema import CATEGORIES, COLUMNS, FEATURES, MISSING, NUMBERS, TARGET, Number
from penguins.training import ROWS_TO_CROSS_VALIDATE, build_pipeline, clean, fit, split

Frames = tuple[pd.DataFrame, pd.DataFrame]


def raw_table(*rows: tuple[Any, ...]) -> pa.Table:
    fields = [pa.field(c.name, pa.float64() if isinstance(c, Number) else pa.string()) for c in COLUMNS]
    return pa.Table.from_pylist(
        [dict(zip([c.name for c in COLUMNS], row, strict=True)) for row in rows], schema=pa.schema(fields)
    )


def small_pipeline(rows: int = 300, **changed: Any) -> Any:
    return build_pipeline(**{"n_estimators": 5, "max_samples": 100_000, "random_state": 42, "rows": rows, **changed})


def fitted(train: pd.DataFrame, **changed: Any) -> Any:
    return pickle.loads(fit(small_pipeline(len(train), **changed), train))


# clean


def test_the_projects_file_has_342_clean_rows(penguins_frames: Frames) -> None:
    assert sum(map(len, penguins_frames)) == 342


@pytest.mark.parametrize("token", [*MISSING, None], ids=repr)
def test_what_says_missing_is_nan(token: str | None) -> None:
    frame = clean(raw_table(("Adelie", "Dream", 39.1, None, 181.0, 3750.0, token)))
    assert frame["sex"].isna().tolist() == [True]
    assert frame["culmen_depth_mm"].isna().tolist() == [True]


def test_rows_without_any_measurement_are_left_out() -> None:
    frame = clean(
        raw_table(
            ("Adelie", "Dream", None, None, None, None, "MALE"),
            ("Gentoo", "Biscoe", None, None, None, 4500.0, "NA"),
        )
    )
    assert frame["species"].tolist() == ["Gentoo"]
    assert frame.index.tolist() == [0]


def test_clean_columns_are_target_then_features_with_their_types(penguins_frames: Frames) -> None:
    train, _ = penguins_frames
    assert train.columns.tolist() == [TARGET.name, *(c.name for c in FEATURES)]
    assert {train[c.name].dtype for c in NUMBERS} == {np.dtype("float64")}
    assert {train[c.name].dtype for c in (TARGET, *CATEGORIES)} == {np.dtype(object)}


def test_cleaning_keeps_the_order_of_the_table() -> None:
    masses = [4500.0, 3000.0, 4000.0]
    frame = clean(raw_table(*[("Gentoo", "Biscoe", None, None, None, mass, "MALE") for mass in masses]))
    assert frame["body_mass_g"].tolist() == masses


# split


def test_the_split_has_every_row_once(penguins_frames: Frames) -> None:
    train, test = penguins_frames
    whole = pd.concat([train, test], ignore_index=True)
    again_train, again_test = split(whole, test_size=0.25, random_state=1)
    columns = whole.columns.tolist()
    pd.testing.assert_frame_equal(
        pd.concat([again_train, again_test]).sort_values(columns, ignore_index=True),
        whole.sort_values(columns, ignore_index=True),
    )
    assert len(again_test) == 86


def test_the_split_is_stratified_by_the_target(penguins_frames: Frames) -> None:
    train, test = penguins_frames
    assert test[TARGET.name].value_counts().to_dict() == {"Adelie": 30, "Gentoo": 25, "Chinstrap": 14}
    assert train[TARGET.name].value_counts().to_dict() == {"Adelie": 121, "Gentoo": 98, "Chinstrap": 54}


def test_the_same_seed_splits_alike_and_another_one_does_not(penguins_frames: Frames) -> None:
    frame = penguins_frames[0]
    first, again, other = (split(frame, test_size=0.2, random_state=seed)[1] for seed in (7, 7, 8))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


# build_pipeline


def test_the_forest_is_built_as_asked() -> None:
    forest = small_pipeline(n_estimators=17, random_state=3).named_steps["forest"]
    assert isinstance(forest, RandomForestClassifier)
    assert (forest.n_estimators, forest.random_state, forest.n_jobs) == (17, 3, -1)


@pytest.mark.parametrize(("rows", "expected"), [(99, None), (100, None), (101, 100)])
def test_max_samples_only_limits_a_table_that_has_more(rows: int, expected: int | None) -> None:
    assert small_pipeline(rows, max_samples=100).named_steps["forest"].max_samples == expected


@pytest.mark.parametrize("beyond", [0, 1])
def test_out_of_bag_scores_replace_cross_validation_above_10000_rows(beyond: int) -> None:
    assert ROWS_TO_CROSS_VALIDATE == 10_000
    assert small_pipeline(10_000 + beyond).named_steps["forest"].oob_score == bool(beyond)


# fit


def test_numbers_are_scaled_and_categories_are_one_hot(penguins_frames: Frames) -> None:
    train, _ = penguins_frames
    columns = fitted(train).named_steps["columns"]
    assert isinstance(columns.named_transformers_["numbers"][-1], StandardScaler)
    features = columns.transform(train)
    numbers, one_hot = features[:, : len(NUMBERS)], features[:, len(NUMBERS) :]
    np.testing.assert_allclose(numbers.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(numbers.std(axis=0), 1)
    assert set(one_hot.ravel()) == {0.0, 1.0}
    assert one_hot.shape[1] == sum(len(c.values) for c in CATEGORIES)
    assert one_hot.sum(axis=1).tolist() == [len(CATEGORIES)] * len(train)


def test_missing_values_are_imputed_with_median_and_most_frequent(penguins_frames: Frames) -> None:
    train, _ = penguins_frames
    columns = fitted(train).named_steps["columns"]
    record = train.head(1).assign(body_mass_g=np.nan, sex=np.nan)
    filled = train.head(1).assign(body_mass_g=train["body_mass_g"].median(), sex=train["sex"].mode()[0])
    np.testing.assert_array_equal(columns.transform(record), columns.transform(filled))


def test_a_category_that_training_never_saw_can_be_predicted(penguins_frames: Frames) -> None:
    """The API accepts every value of the schema, whatever the table had."""
    train, test = penguins_frames
    pipeline = fitted(train[train["island"] != "Torgersen"].reset_index(drop=True))
    assert len(pipeline.predict(test.assign(island="Torgersen"))) == len(test)


@pytest.mark.filterwarnings("ignore:Skipping features without any observed values")
@pytest.mark.parametrize("name", [c.name for c in FEATURES if not c.required])
def test_a_feature_that_no_row_has_does_not_stop_the_training(penguins_frames: Frames, name: str) -> None:
    """The check of the source accepts such a file, and by the time of training the old table is gone."""
    train, test = penguins_frames
    nothing = pd.Series(np.nan, index=train.index, dtype=train[name].dtype)
    pipeline = fitted(train.assign(**{name: nothing}))
    assert len(pipeline.predict(test)) == len(test)


def test_the_model_is_worth_its_name(penguins_frames: Frames) -> None:
    train, test = penguins_frames
    assert (fitted(train, n_estimators=20).predict(test) == test[TARGET.name]).mean() >= 0.95


def test_the_same_rows_and_seed_give_the_same_bytes(penguins_frames: Frames) -> None:
    train, _ = penguins_frames
    assert fit(small_pipeline(), train) == fit(small_pipeline(), train.copy())


def test_another_seed_gives_another_model(penguins_frames: Frames) -> None:
    train, _ = penguins_frames
    assert fit(small_pipeline(), train) != fit(small_pipeline(random_state=43), train)


@pytest.mark.parametrize("n_jobs", [None, 1, 2, 3])
def test_n_jobs_does_not_change_the_bytes(penguins_frames: Frames, n_jobs: int | None) -> None:
    train, _ = penguins_frames
    pipeline = small_pipeline().set_params(forest__n_jobs=n_jobs)
    assert fit(pipeline, train) == fit(small_pipeline(), train)


def test_another_process_gives_the_same_bytes(penguins_frames: Frames, tmp_path: Path) -> None:
    """Each task of a run is a process of its own, with another seed of Python's hashes."""
    train, _ = penguins_frames
    train.to_parquet(tmp_path / "train.parquet")
    code = (
        "import hashlib, sys, pandas; from penguins.training import build_pipeline, fit\n"
        "pipeline = build_pipeline(n_estimators=5, max_samples=100_000, random_state=42, rows=300)\n"
        "print(hashlib.sha256(fit(pipeline, pandas.read_parquet(sys.argv[1]))).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "train.parquet")],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(PROJECT / "plugins"), "PYTHONHASHSEED": "1"},
    )
    assert run.stdout.strip() == hashlib.sha256(fit(small_pipeline(), train)).hexdigest()


def test_the_pickle_predicts_on_one_core(penguins_frames: Frames) -> None:
    """Parallel summing of the trees would change the last bits."""
    assert fitted(penguins_frames[0]).named_steps["forest"].n_jobs is None


@pytest.mark.filterwarnings("ignore:Some inputs do not have OOB scores")
def test_a_large_tables_pickle_keeps_its_score_and_not_a_row_of_it(penguins_frames: Frames) -> None:
    train, _ = penguins_frames
    large = pd.concat([train] * 37, ignore_index=True)
    assert len(large) > ROWS_TO_CROSS_VALIDATE
    forest = fitted(large, max_samples=200).named_steps["forest"]
    assert 0.5 < forest.oob_score_ <= 1
    assert not any(np.size(value) >= len(large) for value in vars(forest).values() if isinstance(value, np.ndarray))
