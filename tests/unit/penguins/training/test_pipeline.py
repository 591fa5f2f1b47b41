"""Cleaning, split and fit."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import StandardScaler

from penguins.data import progress
from penguins.data.cleaning import clean
from penguins.inference import unpickle
from penguins.registry import PROJECT
from penguins.schema import CATEGORIES, COLUMNS, FEATURES, NUMBERS, TARGET
from penguins.training.pipeline import build_pipeline, fit, split
from penguins.training.rows import distinct_rows, feature_frame, label_codes, row_keys
from tables import frame_of, table_of

Frames = tuple[pd.DataFrame, pd.DataFrame]
Tables = tuple[pa.Table, pa.Table]


def small_pipeline(rows: int = 300, **changed: Any) -> Any:
    return build_pipeline(**{"n_estimators": 5, "max_samples": 100_000, "random_state": 42, "rows": rows, **changed})


def fitted(train: pa.Table, **changed: Any) -> Any:
    return unpickle(fit(small_pipeline(train.num_rows, **changed), train))


@pytest.fixture(scope="module")
def small(penguins_tables: Tables) -> bytes:
    """The pickle of the small pipeline, fitted on the project's rows. The same rows and seed must give it again."""
    return fit(small_pipeline(), penguins_tables[0])


@pytest.fixture
def pipeline(small: bytes) -> Any:
    return unpickle(small)


# clean


def test_the_projects_file_has_342_clean_rows(penguins_tables: Tables) -> None:
    assert sum(table.num_rows for table in penguins_tables) == 342


def test_rows_without_any_measurement_are_left_out_and_columns_and_types_stay() -> None:
    table = table_of(
        [
            ("Adelie", "Dream", None, None, None, None, "MALE"),
            ("Gentoo", "Biscoe", None, None, None, 4500.0, "NA"),
        ]
    )
    assert clean(table)["species"].to_pylist() == ["Gentoo"]
    for some in (table, table.slice(0, 1)):  # also where no row is left
        assert clean(some).schema == table.schema


def test_rows_with_one_measurement_stay_as_they_are_and_in_order() -> None:
    measured = [[column.example if c is column else None for c in COLUMNS[2:6]] for column in NUMBERS]
    assert len(measured) == 4
    measured += [[None, None, None, mass] for mass in (4500.0, 3000.0, 4000.0)]
    table = table_of([("Adelie", "Dream", *numbers, None) for numbers in measured])
    assert clean(table).equals(table)


# split


def test_the_split_has_every_row_once(penguins_tables: Tables) -> None:
    whole = pa.concat_tables(penguins_tables)
    train, test = split(whole, test_size=0.25, random_state=1)
    columns = whole.column_names
    pd.testing.assert_frame_equal(
        pd.concat([frame_of(train), frame_of(test)]).sort_values(columns, ignore_index=True),
        frame_of(whole).sort_values(columns, ignore_index=True),
    )
    assert test.num_rows == 86


def test_the_split_is_stratified_by_the_target(penguins_frames: Frames) -> None:
    train, test = penguins_frames
    assert test[TARGET.name].value_counts().to_dict() == {"Adelie": 30, "Gentoo": 25, "Chinstrap": 14}
    assert train[TARGET.name].value_counts().to_dict() == {"Adelie": 121, "Gentoo": 98, "Chinstrap": 54}


def test_the_split_keeps_columns_and_types(penguins_tables: Tables) -> None:
    """What is written for the next tasks stays as compact as what was read."""
    train, test = penguins_tables
    assert train.schema == test.schema == table_of([]).schema


def test_the_same_seed_splits_alike_and_another_one_does_not(penguins_tables: Tables) -> None:
    first, again, other = (split(penguins_tables[0], test_size=0.2, random_state=seed)[1] for seed in (7, 7, 8))
    assert first.equals(again)
    assert not first.equals(other)


def test_rows_with_equal_features_stay_on_one_side_whatever_their_labels(penguins_tables: Tables) -> None:
    rows = pa.concat_tables(penguins_tables)
    labels = rows[TARGET.name].combine_chunks()
    other = rows.set_column(0, TARGET.name, labels.take(np.random.default_rng(0).permutation(len(labels))))
    train, test = split(pa.concat_tables([rows, other, rows.slice(0, 50)]), test_size=0.2, random_state=0)
    assert train.num_rows + test.num_rows == 342 * 2 + 50
    assert not set(row_keys(train)) & set(row_keys(test))
    assert len(set(row_keys(test))) == 69


# row_keys and distinct_rows


def test_the_key_of_a_row_depends_on_its_features_alone(penguins_tables: Tables) -> None:
    train, _ = penguins_tables
    keys, frame = row_keys(train), frame_of(train)
    assert (row_keys(train.slice(100, 7)) == keys[100:107]).all()
    assert (row_keys(table_of(frame.assign(species="Gentoo"))) == keys).all()
    for column in NUMBERS:
        assert not (row_keys(table_of(frame.assign(**{column.name: frame[column.name] + 1}))) == keys).any()


def test_rows_that_repeat_by_nature_count_each(penguins_tables: Tables) -> None:
    """A table of a few categories has no copies; were its rows one, a class would have none to hold out."""
    frame = frame_of(pa.concat_tables(penguins_tables)).assign(**{c.name: 1.0 for c in NUMBERS}, sex="MALE")
    groups, first = distinct_rows(table_of(frame.assign(body_mass_g=200.0)))
    assert (groups == first).all()
    assert len(first) == 342


def test_equal_rows_count_one_by_one_if_any_class_has_too_few_others(penguins_frames: Frames) -> None:
    frame = penguins_frames[0].copy()
    one_class = frame[TARGET.name] == TARGET.values[1]
    for column in FEATURES:
        frame.loc[one_class, column.name] = frame.loc[one_class, column.name].iloc[0]
    groups, first = distinct_rows(table_of(frame))
    assert list(groups) == list(first) == list(range(len(frame)))


# label_codes and feature_frame


def test_label_codes_are_places_in_the_schemas_values(penguins_tables: Tables) -> None:
    table = pa.concat_tables(penguins_tables)
    assert [TARGET.values[code] for code in label_codes(table)] == table[TARGET.name].to_pylist()


def test_the_feature_frame_is_small_lacks_the_target_and_has_nan_for_what_is_missing(penguins_tables: Tables) -> None:
    frame = feature_frame(penguins_tables[0])
    assert frame.columns.tolist() == [c.name for c in FEATURES]
    assert {frame[c.name].dtype for c in NUMBERS} == {np.dtype("float32")}
    assert {c.name: tuple(frame[c.name].cat.categories) for c in CATEGORIES} == {c.name: c.values for c in CATEGORIES}
    frame = feature_frame(table_of([("Adelie", "Dream", 39.1, None, 181.0, 3750.0, None)]))
    assert frame.isna().to_numpy().tolist() == [[False, False, True, False, False, True]]


# build_pipeline


def test_the_forest_is_built_as_asked_without_a_score_of_its_own() -> None:
    """scikit-learn's takes longer than the fit; `evaluation.scores.out_of_bag` takes its place."""
    forest = small_pipeline(10_001, n_estimators=17, random_state=3).named_steps["forest"]
    assert isinstance(forest, RandomForestClassifier)
    assert (forest.n_estimators, forest.random_state, forest.n_jobs) == (17, 3, -1)
    assert not forest.oob_score


def test_max_samples_only_limits_a_table_that_has_more() -> None:
    for rows, expected in ((99, None), (100, None), (101, 100)):
        assert small_pipeline(rows, max_samples=100).named_steps["forest"].max_samples == expected, rows


# fit


def test_numbers_are_scaled_and_categories_are_one_hot_in_float32(penguins_tables: Tables, pipeline: Any) -> None:
    """What the trees take: one column of float64 would double what all of them need."""
    train = feature_frame(penguins_tables[0])
    columns = pipeline.named_steps["columns"]
    assert isinstance(columns.named_transformers_["numbers"][-1], StandardScaler)
    features = columns.transform(train)
    assert features.dtype == np.float32
    numbers, one_hot = features[:, : len(NUMBERS)], features[:, len(NUMBERS) :]
    np.testing.assert_allclose(numbers.mean(axis=0, dtype="float64"), 0, atol=1e-6)
    np.testing.assert_allclose(numbers.std(axis=0, dtype="float64"), 1, rtol=1e-6)
    assert set(one_hot.ravel()) == {0.0, 1.0}
    assert one_hot.shape[1] == sum(len(c.values) for c in CATEGORIES)
    assert one_hot.sum(axis=1).tolist() == [len(CATEGORIES)] * len(train)


def test_missing_values_are_imputed_with_median_and_most_frequent(penguins_frames: Frames, pipeline: Any) -> None:
    train, _ = penguins_frames
    columns = pipeline.named_steps["columns"]
    record = train.head(1).assign(body_mass_g=np.nan, sex=np.nan)
    filled = train.head(1).assign(body_mass_g=train["body_mass_g"].median(), sex=train["sex"].mode()[0])
    np.testing.assert_array_equal(columns.transform(record), columns.transform(filled))


def test_a_category_that_training_never_saw_can_be_predicted(penguins_frames: Frames) -> None:
    """The API accepts every value of the schema, whatever the table had."""
    train, test = penguins_frames
    pipeline = fitted(table_of(train[train["island"] != "Torgersen"]))
    assert len(pipeline.predict(test.assign(island="Torgersen"))) == len(test)


@pytest.mark.filterwarnings("ignore:Skipping features without any observed values")
def test_a_feature_that_no_row_has_does_not_stop_the_training(penguins_frames: Frames) -> None:
    """The check of the source accepts such a file, and by the time of training the old table is gone."""
    train, test = penguins_frames
    for name in (NUMBERS[0].name, "sex"):
        pipeline = fitted(table_of(train.assign(**{name: None})))
        assert len(pipeline.predict(test)) == len(test), name


def test_the_model_is_worth_its_name(penguins_tables: Tables, penguins_frames: Frames) -> None:
    test = penguins_frames[1]
    assert (fitted(penguins_tables[0], n_estimators=20).predict(test) == test[TARGET.name]).mean() >= 0.95


def test_the_same_rows_and_seed_give_the_same_bytes(penguins_tables: Tables, small: bytes) -> None:
    """In one chunk or several, on one core or several."""
    train, _ = penguins_tables
    assert fit(small_pipeline(), table_of(frame_of(train))) == small
    chunks = pa.concat_tables([train.slice(0, 100), train.slice(100)])
    assert chunks["species"].num_chunks == 2
    assert fit(small_pipeline(), chunks) == small
    for n_jobs in (None, 1, 2, 3):
        assert fit(small_pipeline().set_params(forest__n_jobs=n_jobs), train) == small, n_jobs
    assert fit(small_pipeline(random_state=43), train) != small


def test_another_process_gives_the_same_bytes(penguins_tables: Tables, small: bytes, tmp_path: Path) -> None:
    """Each task of a run is a process of its own, with another seed of Python's hashes."""
    train, _ = penguins_tables
    pq.write_table(train, tmp_path / "train.parquet")
    code = (
        "import hashlib, sys, pyarrow.parquet; from penguins.training.pipeline import build_pipeline, fit\n"
        "pipeline = build_pipeline(n_estimators=5, max_samples=100_000, random_state=42, rows=300)\n"
        "print(hashlib.sha256(fit(pipeline, pyarrow.parquet.read_table(sys.argv[1]))).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "train.parquet")],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(PROJECT / "plugins"), "PYTHONHASHSEED": "1"},
    )
    assert run.stdout.strip() == hashlib.sha256(small).hexdigest()


def test_joblib_wrote_the_pickle_and_nothing_in_it_is_of_this_project(small: bytes) -> None:
    assert b"NumpyArrayWrapper" in small
    assert b"penguins" not in small


def test_the_pickled_forest_predicts_on_one_core_and_says_nothing(pipeline: Any) -> None:
    """Parallel summing of the trees would change the last bits."""
    assert pipeline.named_steps["forest"].n_jobs is None
    assert pipeline.named_steps["forest"].verbose == 0


def test_a_large_tables_pickle_keeps_not_a_row_of_it(penguins_tables: Tables) -> None:
    large = pa.concat_tables([penguins_tables[0]] * 37)
    forest = fitted(large, max_samples=200).named_steps["forest"]
    kept = [value for value in vars(forest).values() if isinstance(value, np.ndarray)]
    assert kept
    assert not any(np.size(value) >= large.num_rows for value in kept)


# What a fit says


class TalkativeForest(RandomForestClassifier):
    """Says something of its own, and warns, before and after the trees are grown."""

    def fit(self, *given: Any, **named: Any) -> TalkativeForest:
        print("said before the trees")
        super().fit(*given, **named)
        print("said after the trees")
        print("warned after the trees", file=sys.stderr)
        return self


def test_the_trees_that_are_done_are_said(
    penguins_tables: Tables, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN", 0)
    caplog.set_level(logging.INFO, progress.__name__)
    fit(small_pipeline().set_params(forest__n_jobs=1), penguins_tables[0])
    *lines, last = caplog.messages
    assert [line.split(" trees")[0] for line in lines] == [f"grown: {done} of 5" for done in (1, 2, 3, 4)]
    assert last.startswith("fitted: 273 rows in ")


def test_what_scikit_learn_prints_of_its_trees_is_not_seen(
    penguins_tables: Tables, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, progress.__name__)
    fit(small_pipeline(), penguins_tables[0])
    assert capfd.readouterr() == ("", "")


def test_what_anything_else_prints_during_a_fit_is_seen(
    penguins_tables: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = small_pipeline()
    pipeline.steps[-1] = ("forest", TalkativeForest(n_estimators=5, random_state=42, n_jobs=-1))
    fit(pipeline, penguins_tables[0])
    out, err = capsys.readouterr()
    assert "said before the trees\n" in out
    assert "said after the trees\n" in out
    assert "warned after the trees" in err
    assert "building tree" not in out + err
    assert "[Parallel(" not in out + err


def test_a_fit_that_fails_leaves_the_streams_and_the_forest_as_they_were(penguins_tables: Tables) -> None:
    streams, pipeline = (sys.stdout, sys.stderr), small_pipeline().set_params(forest__max_depth=-1)
    with pytest.raises(ValueError, match="max_depth"):
        fit(pipeline, penguins_tables[0])
    assert (sys.stdout, sys.stderr) == streams
    assert pipeline.named_steps["forest"].verbose == 0
