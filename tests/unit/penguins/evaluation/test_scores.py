"""Scores on held-out rows, and predictions by models that had not seen the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.model_selection import StratifiedKFold, cross_val_score

from models import Tables, fitted, with_random_labels
from penguins.evaluation import scores as module
from penguins.evaluation.predictions import ALL_KEYS
from penguins.evaluation.scores import ROWS_TO_CROSS_VALIDATE, out_of_bag, predict_unseen, score, warnings_of
from penguins.inference import unpickle
from penguins.schema import NUMBERS, TARGET
from penguins.training.pipeline import build_pipeline, fit
from penguins.training.rows import feature_frame, label_codes, row_keys
from tables import frame_of, table_of

Trained = tuple[bytes, dict[str, Any]]


# score


def test_the_scores_are_those_counted_by_hand(penguins_tables: Tables, poor: bytes) -> None:
    _, test = penguins_tables
    pipeline = unpickle(poor)
    scores = score(pipeline, test)
    frame = frame_of(test)
    pairs = list(zip(frame[TARGET.name], pipeline.predict(frame), strict=True))
    assert 0 < sum(t != p for t, p in pairs) < len(pairs)
    assert scores["accuracy"] == sum(t == p for t, p in pairs) / len(pairs)
    assert scores["confusion_matrix"] == [[pairs.count((t, p)) for p in TARGET.values] for t in TARGET.values]
    f1s = []
    for name in TARGET.values:
        right = pairs.count((name, name))
        said, there = sum(p == name for _, p in pairs), sum(t == name for t, _ in pairs)
        f1s.append(2 * right / (said + there))
        assert scores["per_class"][name] == {
            "precision": pytest.approx(right / said),
            "recall": pytest.approx(right / there),
            "f1": pytest.approx(f1s[-1]),
            "rows": there,
        }
    assert scores["macro_f1"] == pytest.approx(sum(f1s) / 3)


@pytest.mark.filterwarnings("error")
def test_a_class_without_held_out_rows_scores_zero_without_a_warning(penguins_tables: Tables, trained: Trained) -> None:
    test = frame_of(penguins_tables[1])
    scores = score(unpickle(trained[0]), table_of(test[test[TARGET.name] != "Chinstrap"]))
    assert scores["per_class"]["Chinstrap"] == {"precision": 0, "recall": 0, "f1": 0, "rows": 0}
    assert np.shape(scores["confusion_matrix"]) == (3, 3)


def test_the_scores_of_a_model_of_two_classes_stand_under_their_names(penguins_tables: Tables) -> None:
    """Its classes have other places than the schema's values."""
    train, test = (t.filter(pc.not_equal(pc.cast(t[TARGET.name], pa.string()), "Adelie")) for t in penguins_tables)
    scores = score(fitted(train), test)
    assert scores["accuracy"] > 0.9
    assert {name: of["rows"] for name, of in scores["per_class"].items()} == {"Chinstrap": 14, "Gentoo": 25}
    assert np.sum(scores["confusion_matrix"], axis=1).tolist() == [14, 25]


def test_the_scores_do_not_depend_on_how_many_rows_are_predicted_at_once(
    penguins_tables: Tables, poor: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, test = unpickle(poor), penguins_tables[1]
    expected = score(pipeline, test)
    for rows_at_once in (10, 23, 69):  # with a shorter last piece, without, and all at once
        monkeypatch.setattr(module, "CHUNK_ROWS", rows_at_once)
        assert score(pipeline, test) == expected, rows_at_once


# predict_unseen


def test_cross_validation_is_that_of_scikit_learn_on_the_plain_pipeline(
    penguins_tables: Tables, penguins_frames: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    train, test = penguins_tables
    params = {"n_estimators": 5, "max_samples": 100_000, "random_state": 3, "rows": train.num_rows}
    rows = pd.concat(penguins_frames, ignore_index=True)
    scores = cross_val_score(
        build_pipeline(**params),
        rows.drop(columns=TARGET.name),
        rows[TARGET.name],
        cv=StratifiedKFold(10, shuffle=True, random_state=7),
        scoring="accuracy",
    )
    fitted = unpickle(fit(build_pipeline(**params), train))
    unseen, metrics = predict_unseen(fitted, train, test, random_state=7)
    assert metrics == {"cross_validation": {"folds": 10, "mean": scores.mean(), "sd": scores.std(ddof=1)}}
    assert 0.95 < scores.mean() < 1
    assert unseen.accuracy.rows == len(unseen.predictions.keys) == 342
    assert unseen.accuracy.right == unseen.predictions.right.sum()


def test_the_predictions_are_of_their_rows_and_of_the_rows_of_both_parts(penguins_tables: Tables, poor: bytes) -> None:
    """Other labels in the held-out part change its predictions; the same rows and seed do not."""
    train, test = penguins_tables
    pipeline = unpickle(poor)
    labels = test[TARGET.name].combine_chunks()
    swapped = test.set_column(0, TARGET.name, labels.take(np.random.default_rng(0).permutation(len(labels))))
    first, _ = predict_unseen(pipeline, train, test, random_state=1)
    again, _ = predict_unseen(pipeline, train, test, random_state=1)
    other, _ = predict_unseen(pipeline, train, swapped, random_state=1)
    assert first.predictions.to_bytes() == again.predictions.to_bytes()
    assert (row_keys(first.rows) == first.predictions.keys).all()
    assert (first.predictions.keys == other.predictions.keys).all()
    assert first.accuracy.right > other.accuracy.right


def test_identical_rows_count_once_and_are_predicted_by_models_that_saw_none_of_them(penguins_tables: Tables) -> None:
    """A fully grown tree memorises the rows it saw. Here every row occurs twice, with random labels."""
    train, test = (with_random_labels(table, 1) for table in penguins_tables)
    twice = pa.concat_tables([train, train])
    pipeline = fitted(twice, n_estimators=20, max_samples=10**5)
    unseen, _ = predict_unseen(pipeline, twice, test, random_state=0)
    assert (unseen.accuracy.rows, len(unseen.predictions.keys)) == (2 * 273 + 69, 342)
    assert unseen.accuracy.value < 0.5


def test_cross_validation_works_where_max_samples_is_near_the_rows_of_a_fold(penguins_tables: Tables) -> None:
    train, test = penguins_tables
    all_but_few, few = pa.concat_tables([train, test.slice(0, 60)]), test.slice(60)
    rows = all_but_few.num_rows
    pickled = fit(build_pipeline(n_estimators=2, max_samples=rows - 1, random_state=0, rows=rows), all_but_few)
    assert predict_unseen(unpickle(pickled), all_but_few, few, random_state=0)[0].accuracy.value > 0.8


@pytest.fixture(scope="module")
def large(penguins_tables: Tables) -> pa.Table:
    """More rows than are cross-validated, of which no two are alike and a fifth bears any label.

    So a tree is right about nearly all rows that it was shown, and about far fewer others.
    """
    random = np.random.default_rng(0)
    frame = pd.concat([frame_of(penguins_tables[0])] * 37, ignore_index=True)
    for column in NUMBERS:
        frame[column.name] += random.normal(0, 0.1 * frame[column.name].std(), len(frame))
    labels = random.choice(TARGET.values, len(frame))
    frame[TARGET.name] = frame[TARGET.name].where(random.random(len(frame)) > 0.2, labels)
    return table_of(frame)


def test_above_10000_rows_out_of_bag_rows_stand_in(large: pa.Table, penguins_tables: Tables) -> None:
    assert ROWS_TO_CROSS_VALIDATE == 10_000
    for rows, metric, method in (
        (10_000, "cross_validation", "cross-validation"),
        (10_001, "out_of_bag_accuracy", "out-of-bag"),
    ):
        train = large.slice(0, rows)
        unseen, metrics = predict_unseen(fitted(train, n_estimators=1), train, penguins_tables[1], random_state=0)
        assert list(metrics) == [metric]
        assert unseen.accuracy.method == method


def test_the_sample_of_a_large_table_has_the_same_rows_in_every_run(
    large: pa.Table, penguins_tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_KEPT", 1000)
    train, test = large.slice(0, 10_050), large.slice(10_050)
    pipeline = fitted(train)
    one, _ = predict_unseen(pipeline, train, test, random_state=0)
    every_key = np.unique(row_keys(large))
    assert (one.predictions.keys == every_key[:1000]).all()
    assert one.predictions.limit == every_key[999] < ALL_KEYS
    assert (row_keys(one.rows) == one.predictions.keys).all()
    # The held-out ones are the model's own.
    held_out = np.isin(one.predictions.keys, row_keys(test))
    own = pipeline.predict(feature_frame(one.rows)) == np.array(TARGET.values)[label_codes(one.rows)]
    assert 0 < held_out.sum() < 100
    assert (one.predictions.right[held_out] == own[held_out]).all()


# out_of_bag


def out_of_bag_accuracy(pipeline: Any, table: pa.Table) -> float:
    voted, right = out_of_bag(pipeline, table, np.arange(table.num_rows), np.arange(table.num_rows, dtype=np.uint64))
    return right[voted].mean()


def scikit_learns_own(table: pa.Table, **changed: Any) -> Any:
    """Return the same forest, fitted with scikit-learn's own out-of-bag score."""
    forest = {"n_estimators": 12, "max_samples": 500, "random_state": 0, **changed}
    pipeline = build_pipeline(**forest, rows=table.num_rows).set_params(forest__oob_score=True)
    pipeline.fit(feature_frame(table), np.array(TARGET.values)[label_codes(table)])
    return pipeline.named_steps["forest"]


@pytest.mark.parametrize("max_samples", [50, 3_000], ids=["few were shown", "many were shown"])
def test_the_out_of_bag_accuracy_is_scikit_learns_own(large: pa.Table, max_samples: int) -> None:
    own = scikit_learns_own(large, max_samples=max_samples)
    assert own.oob_decision_function_.any(axis=1).all()
    assert out_of_bag_accuracy(fitted(large, n_estimators=12, max_samples=max_samples), large) == own.oob_score_


@pytest.mark.filterwarnings("error")
def test_rows_that_every_tree_was_shown_do_not_count(large: pa.Table) -> None:
    """scikit-learn's own score takes them for the first class."""
    pipeline = fitted(large, n_estimators=1, max_samples=8_000)
    tree, (shown,) = pipeline[-1].estimators_[0], pipeline[-1].estimators_samples_
    unseen = np.setdiff1d(np.arange(large.num_rows), shown)
    said = tree.predict(pipeline[:-1].transform(feature_frame(large))[unseen])
    assert out_of_bag_accuracy(pipeline, large) == (said == label_codes(large)[unseen]).mean()


def test_a_tree_that_was_shown_a_copy_of_a_row_does_not_judge_it(large: pa.Table) -> None:
    pipeline = fitted(large, n_estimators=1, max_samples=8_000)
    (shown,) = pipeline[-1].estimators_samples_
    unseen = np.setdiff1d(np.arange(large.num_rows), shown)
    keys = np.arange(large.num_rows, dtype=np.uint64)
    keys[unseen[0]] = keys[shown[0]]
    voted, _ = out_of_bag(pipeline, large, unseen, keys)
    assert voted.tolist() == [False] + [True] * (len(unseen) - 1)


def test_the_out_of_bag_accuracy_of_two_classes_is_that_of_their_own_order(large: pa.Table) -> None:
    """The classes of such a forest have other places than the schema's values."""
    two = large.filter(pc.not_equal(pc.cast(large[TARGET.name], pa.string()), "Adelie"))
    own = scikit_learns_own(two, max_samples=50)
    assert out_of_bag_accuracy(fitted(two, n_estimators=12, max_samples=50), two) == own.oob_score_ > 0.7


def test_a_class_that_is_never_found_and_no_gain_over_the_commonest_are_warned_of() -> None:
    def metrics(accuracy: float, **recalls: tuple[float, int]) -> dict[str, Any]:
        per_class = {name: {"recall": recall, "rows": rows} for name, (recall, rows) in recalls.items()}
        return {"accuracy": accuracy, "per_class": per_class}

    assert warnings_of(metrics(0.97, zero=(1.0, 95), one=(0.4, 5))) == []
    never, no_gain = warnings_of(metrics(0.95, zero=(1.0, 95), one=(0.0, 5)))
    assert never.startswith("the class one is never found: none of its 5 held-out rows")
    assert no_gain.startswith("always answering zero is right in 0.9500")
    assert warnings_of(metrics(1.0, zero=(1.0, 95), one=(1.0, 5), absent=(0.0, 0))) == []
