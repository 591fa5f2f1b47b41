"""Scores, gate, golden rows and histograms."""

from __future__ import annotations

import json
import pickle
import secrets
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.model_selection import StratifiedKFold, cross_val_score

from penguins import validation as module
from penguins.gate import ALL_KEYS, MIN_ROWS, Predictions, Rival
from penguins.inference import load_model, prove
from penguins.registry import PROJECT, Registry
from penguins.schema import CATEGORIES, CSV_NAME, FEATURES, MISSING, NUMBERS, TARGET
from penguins.training import build_pipeline, feature_frame, fit, label_codes, row_keys, split
from penguins.validation import (
    GOLDEN_PER_CLASS,
    ROWS_TO_CROSS_VALIDATE,
    compare_with_serving,
    evaluate,
    golden_records,
    histograms,
    out_of_bag,
    predict_unseen,
    score,
)
from tables import frame_of, table_of

Tables = tuple[pa.Table, pa.Table]
Trained = tuple[bytes, dict[str, Any]]
CSV = PROJECT / "dags" / CSV_NAME
Publish = Callable[[], dict[str, Any]]


@pytest.fixture(scope="module")
def poor(penguins_tables: Tables) -> bytes:
    """A model that makes mistakes: one tree, grown on ten rows."""
    train, _ = penguins_tables
    return fit(build_pipeline(n_estimators=1, max_samples=10, random_state=0, rows=train.num_rows), train)


# evaluate


def test_the_facts_are_those_of_a_manifest(trained: Trained) -> None:
    _, facts = trained
    assert facts.keys() - {"dag_run_id", "data", "params"} == {
        *("metrics", "classes", "rows", "columns", "estimator", "libraries", "golden", "histograms"),
        *("importance", "calibration"),
    }
    assert facts["metrics"].keys() == {
        *("accuracy", "macro_f1", "per_class", "confusion_matrix", "cross_validation", "headline", "gate")
    }
    assert facts["classes"] == list(TARGET.values)
    assert facts["rows"] == {"train": 273, "test": 69}


def test_the_facts_are_plain_json(trained: Trained) -> None:
    text = json.dumps(trained[1], allow_nan=False)
    assert json.dumps(json.loads(text)) == text


def test_the_facts_describe_every_feature_as_the_schema_does(trained: Trained) -> None:
    columns = trained[1]["columns"]
    assert [(c["kind"], c["name"]) for c in columns] == [
        ("number" if column in NUMBERS else "category", column.name) for column in FEATURES
    ]
    for described, column in zip(columns, FEATURES, strict=True):
        assert {k: v for k, v in described.items() if k != "kind"} == asdict(column)


def test_the_facts_golden_rows_prove_the_model(trained: Trained) -> None:
    pickled, facts = trained
    prove(load_model(pickled, facts), facts["golden"])
    assert len(facts["golden"]["records"]) == len(facts["golden"]["labels"]) > 0


def test_the_first_model_passes_without_a_rival(trained: Trained) -> None:
    gate = trained[1]["metrics"]["gate"]
    assert gate["passed"]
    assert "no version serves yet" in gate["reason"]
    assert (gate["serving_version"], gate["serving_accuracy"]) == (None, None)


def evaluate_here(pickled: bytes, tables: Tables, registry: Registry, **changed: Any) -> dict[str, Any]:
    gate = {"min_accuracy": 0.9, "max_accuracy_drop": 0.02, "random_state": 42, **changed}
    return evaluate(pickled, *tables, registry=registry, **gate)


def publish_evaluated(pickled: bytes, tables: Tables, registry: Registry, **changed: Any) -> dict[str, Any]:
    """Publish a model as the DAG does, with what the next gate needs."""
    facts = evaluate_here(pickled, tables, registry, **changed)
    predictions, _ = facts.pop("predictions"), facts.pop("points")
    facts |= {"dag_run_id": "test", "data": {"rows": sum(t.num_rows for t in tables)}, "params": {}}
    return registry.publish(pickled, facts, predictions=predictions)


@pytest.fixture
def serving(penguins_tables: Tables, trained: Trained, registry: Registry) -> dict[str, Any]:
    """A serving version of the good model."""
    return publish_evaluated(trained[0], penguins_tables, registry)


def test_the_headline_is_of_all_rows_and_decides_on_min_accuracy(trained: Trained) -> None:
    """One split of 69 rows says 1.0; all 342 rows know better."""
    metrics = trained[1]["metrics"]
    headline = metrics["headline"]
    assert (headline["method"], headline["rows"]) == ("cross-validation", 342)
    assert headline["interval"][0] < headline["accuracy"] == headline["right"] / 342 < 1 == metrics["accuracy"]
    assert metrics["gate"]["accuracy"] == headline["accuracy"]
    assert metrics["gate"]["method"] == "cross-validation"


def test_min_accuracy_is_held_against_cross_validation(
    penguins_tables: Tables, trained: Trained, registry: Registry
) -> None:
    gate = evaluate_here(trained[0], penguins_tables, registry, min_accuracy=0.999)["metrics"]["gate"]
    assert not gate["passed"]
    assert "(cross-validation, 342 rows) is under min_accuracy 0.999" in gate["reason"]


# compare_with_serving


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_good_model_of_another_seed_and_split_is_not_worse(
    penguins_tables: Tables, registry: Registry, serving: dict[str, Any], seed: int
) -> None:
    tables = split(pa.concat_tables(penguins_tables), test_size=0.2, random_state=seed)
    pickled = fit(build_pipeline(n_estimators=20, max_samples=10**5, random_state=seed, rows=273), tables[0])
    gate = evaluate_here(pickled, tables, registry, random_state=seed)["metrics"]["gate"]
    assert (gate["passed"], gate["outcome"]) == (True, "not worse")
    assert gate["serving_version"] == serving["version"]
    assert (gate["comparison"]["rows"], gate["comparison"]["new_rows"]) == (342, 0)


def with_random_labels(table: pa.Table, share: float) -> pa.Table:
    random, frame = np.random.default_rng(0), frame_of(table)
    hit = random.random(len(frame)) < share
    frame.loc[hit, TARGET.name] = random.choice(TARGET.values, hit.sum())
    return table_of(frame)


def test_a_model_of_labels_a_tenth_of_which_are_random_is_worse(
    penguins_tables: Tables, registry: Registry, serving: dict[str, Any]
) -> None:
    """Although it passes min_accuracy."""
    tables = tuple(with_random_labels(table, 0.1) for table in penguins_tables)
    pickled = fit(build_pipeline(n_estimators=20, max_samples=10**5, random_state=42, rows=273), tables[0])
    gate = evaluate_here(pickled, tables, registry)["metrics"]["gate"]
    assert (gate["passed"], gate["outcome"]) == (False, "worse")
    assert gate["accuracy"] > 0.9
    assert f"worse than the serving version {serving['version']}" in gate["reason"]
    assert gate["comparison"]["interval"][1] < -0.02


def test_a_better_model_passes_against_a_poor_serving_one(
    penguins_tables: Tables, trained: Trained, poor: bytes, registry: Registry
) -> None:
    publish_evaluated(poor, penguins_tables, registry, min_accuracy=0)
    gate = evaluate_here(trained[0], penguins_tables, registry)["metrics"]["gate"]
    assert gate["passed"]
    assert gate["comparison"]["interval"][0] > 0
    assert gate["serving_accuracy"] < gate["accuracy"]


def test_rows_that_are_new_to_the_serving_version_are_predicted_by_its_model(
    penguins_tables: Tables, registry: Registry, serving: dict[str, Any]
) -> None:
    """Its own rows are not: there only what was said by models that had not seen them counts."""
    train, test = penguins_tables
    new = frame_of(test).assign(body_mass_g=lambda f: f["body_mass_g"] + 1)
    wrong = new.assign(species="Adelie")
    unseen, _ = predict_unseen(fitted(train), pa.concat_tables([train, table_of(wrong)]), test, 0)
    rival = compare_with_serving(registry, unseen)
    assert rival.comparison is not None
    assert (rival.comparison.rows, rival.comparison.new_rows) == (342 + 69, 69)
    pipeline = pickle.loads(registry.read(serving["version"])[1])
    right_on_new = int((pipeline.predict(new) == "Adelie").sum())
    kept = Predictions.from_bytes(registry.predictions(serving["version"]))
    assert rival.comparison.serving_right == int(kept.right.sum()) + right_on_new
    assert f"is right on {right_on_new / 69:.1%} of the 69 rows that are new to it" in rival.note


def test_few_rows_in_common_do_not_tell_and_min_accuracy_decides(
    penguins_tables: Tables, trained: Trained, registry: Registry, serving: dict[str, Any]
) -> None:
    train, test = penguins_tables
    few = (train.slice(0, 60), test.slice(0, 20))
    gate = evaluate_here(trained[0], few, registry)["metrics"]["gate"]
    assert (gate["passed"], gate["outcome"]) == (True, "too few rows")
    assert gate["comparison"]["rows"] == 80 < MIN_ROWS
    assert "too few rows can be compared" in gate["reason"]
    assert not evaluate_here(trained[0], few, registry, min_accuracy=1)["metrics"]["gate"]["passed"]


def unseen_here(tables: Tables, pickled: bytes) -> Any:
    return predict_unseen(pickle.loads(pickled), *tables, 42)[0]


def spoil_manifest(registry: Registry, version: str) -> None:
    (registry.root / version / "manifest.json").write_text("{}")


def spoil_key(registry: Registry, version: str) -> None:
    registry.key_file.write_text(secrets.token_hex(32))


def remove_manifest(registry: Registry, version: str) -> None:
    (registry.root / version / "manifest.json").unlink()


def spoil_pointer(registry: Registry, version: str) -> None:
    (registry.root / "current").write_text("../../etc")


def spoil_predictions(registry: Registry, version: str) -> None:
    (registry.root / version / "predictions.parquet").write_bytes(b"PAR1")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_manifest, "signature does not match"),
        (spoil_key, "signature does not match"),
        (remove_manifest, "manifest cannot be read"),
        (spoil_pointer, "'../../etc' is not a version"),
        (spoil_predictions, "its predictions's sha256 is"),
    ],
)
def test_why_the_serving_version_cannot_be_judged_is_said(
    penguins_tables: Tables,
    trained: Trained,
    poor: bytes,
    registry: Registry,
    serving: dict[str, Any],
    spoil: Callable[[Registry, str], None],
    said: str,
) -> None:
    spoil(registry, serving["version"])
    gate = evaluate_here(trained[0], penguins_tables, registry)["metrics"]["gate"]
    assert (gate["passed"], gate["outcome"], gate["comparison"]) == (True, "no comparison", None)
    assert "Compared with nothing" in gate["reason"]
    assert said in gate["reason"]
    assert not evaluate_here(poor, penguins_tables, registry)["metrics"]["gate"]["passed"]  # min_accuracy holds


def test_what_nobody_thought_of_fails_the_run_and_lets_no_model_in(
    penguins_tables: Tables,
    trained: Trained,
    registry: Registry,
    serving: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(content: bytes) -> Predictions:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Predictions, "from_bytes", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        evaluate_here(trained[0], penguins_tables, registry)


def test_a_version_from_before_is_compared_with_nothing_once(
    penguins_tables: Tables, trained: Trained, registry: Registry, publish: Publish
) -> None:
    version = publish()["version"]  # without predictions
    rival = compare_with_serving(registry, unseen_here(penguins_tables, trained[0]))
    assert rival == Rival(version, note=rival.note)
    assert "was published before versions kept what a comparison needs" in rival.note
    publish_evaluated(trained[0], penguins_tables, registry)
    assert compare_with_serving(registry, unseen_here(penguins_tables, trained[0])).comparison is not None


def test_a_version_of_another_table_makes_this_the_first(
    penguins_tables: Tables, trained: Trained, registry: Registry
) -> None:
    pickled, facts = trained
    registry.publish(pickled, {**facts, "columns": facts["columns"][1:]})
    gate = evaluate_here(pickled, penguins_tables, registry)["metrics"]["gate"]
    assert (gate["passed"], gate["outcome"]) == (True, "first version")
    assert "trained on another table" in gate["reason"]


def test_new_rows_cannot_be_judged_by_a_pickle_that_was_replaced_and_it_is_never_opened(
    penguins_tables: Tables, trained: Trained, registry: Registry, serving: dict[str, Any], tmp_path: Path
) -> None:
    class WritesWhenOpened:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "opened",)

    bad = pickle.dumps(WritesWhenOpened())
    pickle.loads(bad)
    (tmp_path / "opened").unlink()
    (registry.root / serving["version"] / "model.pkl").write_bytes(bad)
    train, test = penguins_tables
    moved = table_of(frame_of(test).assign(body_mass_g=lambda f: f["body_mass_g"] + 1))
    rival = compare_with_serving(registry, unseen_here((train, moved), trained[0]))
    assert rival.comparison is not None
    assert (rival.comparison.rows, rival.comparison.new_rows) == (273, 0)
    assert "on 69 rows that are new to" in rival.note
    assert "sha256" in rival.note
    assert not (tmp_path / "opened").exists()


# score


def test_the_scores_are_those_counted_by_hand(penguins_tables: Tables, poor: bytes) -> None:
    _, test = penguins_tables
    pipeline = pickle.loads(poor)
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
    scores = score(pickle.loads(trained[0]), table_of(test[test[TARGET.name] != "Chinstrap"]))
    assert scores["per_class"]["Chinstrap"] == {"precision": 0, "recall": 0, "f1": 0, "rows": 0}
    assert np.shape(scores["confusion_matrix"]) == (3, 3)


def test_the_scores_of_a_model_of_two_classes_stand_under_their_names(penguins_tables: Tables) -> None:
    """Its classes have other places than the schema's values."""
    train, test = (t.filter(pc.not_equal(pc.cast(t[TARGET.name], pa.string()), "Adelie")) for t in penguins_tables)
    scores = score(fitted(train), test)
    assert scores["accuracy"] > 0.9
    assert {name: of["rows"] for name, of in scores["per_class"].items()} == {"Chinstrap": 14, "Gentoo": 25}
    assert np.sum(scores["confusion_matrix"], axis=1).tolist() == [14, 25]


@pytest.mark.parametrize("rows_at_once", [1, 10, 69])
def test_the_scores_do_not_depend_on_how_many_rows_are_predicted_at_once(
    penguins_tables: Tables, poor: bytes, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    pipeline, test = pickle.loads(poor), penguins_tables[1]
    expected = score(pipeline, test)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", rows_at_once)
    assert score(pipeline, test) == expected


# predict_unseen


def test_cross_validation_is_that_of_scikit_learn_on_the_plain_pipeline(
    penguins_tables: Tables, penguins_frames: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    train, test = penguins_tables
    params = {"n_estimators": 20, "max_samples": 100_000, "random_state": 3, "rows": train.num_rows}
    rows = pd.concat(penguins_frames, ignore_index=True)
    scores = cross_val_score(
        build_pipeline(**params),
        rows.drop(columns=TARGET.name),
        rows[TARGET.name],
        cv=StratifiedKFold(10, shuffle=True, random_state=7),
        scoring="accuracy",
    )
    fitted = pickle.loads(fit(build_pipeline(**params), train))
    unseen, metrics = predict_unseen(fitted, train, test, random_state=7)
    assert metrics == {"cross_validation": {"folds": 10, "mean": scores.mean(), "sd": scores.std(ddof=1)}}
    assert 0.95 < scores.mean() < 1
    assert unseen.accuracy.rows == len(unseen.predictions.keys) == 342
    assert unseen.accuracy.right == unseen.predictions.right.sum()


def test_the_predictions_are_of_their_rows_and_of_the_rows_of_both_parts(penguins_tables: Tables, poor: bytes) -> None:
    """Other labels in the held-out part change its predictions; the same rows and seed do not."""
    train, test = penguins_tables
    pipeline = pickle.loads(poor)
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
    """A tree that may grow to the end knows each row that it saw: here every row is there twice, at random labels."""
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
    assert predict_unseen(pickle.loads(pickled), all_but_few, few, random_state=0)[0].accuracy.value > 0.8


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


def fitted(table: pa.Table, **changed: Any) -> Any:
    forest = {"n_estimators": 5, "max_samples": 500, "random_state": 0, **changed}
    return pickle.loads(fit(build_pipeline(**forest, rows=table.num_rows), table))


@pytest.mark.parametrize("beyond", [0, 1])
def test_above_10000_rows_out_of_bag_rows_stand_in(large: pa.Table, penguins_tables: Tables, beyond: int) -> None:
    assert ROWS_TO_CROSS_VALIDATE == 10_000
    train = large.slice(0, 10_000 + beyond)
    unseen, metrics = predict_unseen(fitted(train, n_estimators=2), train, penguins_tables[1], random_state=0)
    assert list(metrics) == ["out_of_bag_accuracy" if beyond else "cross_validation"]
    assert unseen.accuracy.method == ("out-of-bag" if beyond else "cross-validation")


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


def test_rows_that_every_tree_was_shown_are_known_and_not_judged(
    penguins_tables: Tables, registry: Registry, trained: Trained
) -> None:
    """Of a table of many copies only the held-out rows are: the next version does not take the others for new."""
    train, test = penguins_tables
    copies = pa.concat_tables([train] * 40)
    pickled = pickle.dumps(fitted(copies, max_samples=10**5))
    unseen, metrics = predict_unseen(pickle.loads(pickled), copies, test, 0)
    assert metrics == {}
    assert (len(unseen.predictions.keys), unseen.predictions.judged.sum()) == (342, 69)
    metrics = publish_evaluated(pickled, (copies, test), registry)["metrics"]
    assert metrics["headline"]["method"] == "held-out"
    rival = compare_with_serving(registry, unseen_here(penguins_tables, trained[0]))
    assert rival.comparison is not None
    assert (rival.comparison.rows, rival.comparison.new_rows) == (69, 0)


def test_what_a_version_keeps_of_a_large_table_is_small() -> None:
    keys = np.unique(np.random.default_rng(0).integers(0, 2**64 - 1, 100_000, np.uint64))
    judged = np.arange(len(keys)) % 9 > 0
    kept = Predictions(keys, judged & (np.arange(len(keys)) % 7 > 0), judged, limit=int(keys[-1]))
    content = kept.to_bytes()
    assert len(content) < 1_000_000
    back = Predictions.from_bytes(content)
    assert (back.keys == keys).all()
    assert (back.right == kept.right).all()
    assert (back.judged == kept.judged).all()
    assert back.limit == kept.limit


# out_of_bag


def out_of_bag_accuracy(pipeline: Any, table: pa.Table) -> float:
    voted, right = out_of_bag(pipeline, table, np.arange(table.num_rows), np.arange(table.num_rows, dtype=np.uint64))
    return right[voted].mean()


def scikit_learns_own(table: pa.Table, **changed: Any) -> Any:
    """Return the same forest, fitted with scikit-learn's own out-of-bag score."""
    forest = {"n_estimators": 30, "max_samples": 500, "random_state": 0, **changed}
    pipeline = build_pipeline(**forest, rows=table.num_rows).set_params(forest__oob_score=True)
    pipeline.fit(feature_frame(table), np.array(TARGET.values)[label_codes(table)])
    return pipeline.named_steps["forest"]


@pytest.mark.parametrize("max_samples", [50, 8_000])
def test_the_out_of_bag_accuracy_is_scikit_learns_own(large: pa.Table, max_samples: int) -> None:
    own = scikit_learns_own(large, max_samples=max_samples)
    assert own.oob_decision_function_.any(axis=1).all()
    assert out_of_bag_accuracy(fitted(large, n_estimators=30, max_samples=max_samples), large) == own.oob_score_


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
    assert out_of_bag_accuracy(fitted(two, n_estimators=30, max_samples=50), two) == own.oob_score_ > 0.7


# golden_records


def test_golden_records_are_some_of_each_class_and_each_nullable_feature_missing(penguins_tables: Tables) -> None:
    _, test = penguins_tables
    nullable = [c.name for c in FEATURES if not c.required]
    records = golden_records(test)
    assert len(records) == 3 * (GOLDEN_PER_CLASS + len(nullable))
    for start in range(0, len(records), GOLDEN_PER_CLASS + len(nullable)):
        of_class = records[start : start + GOLDEN_PER_CLASS + len(nullable)]
        last = of_class[GOLDEN_PER_CLASS - 1]
        assert of_class[GOLDEN_PER_CLASS:] == [{**last, name: None} for name in nullable]


def test_golden_records_hold_the_features_and_never_nan(penguins_tables: Tables) -> None:
    frame = pd.concat(map(frame_of, penguins_tables))
    missing_first = frame.sort_values("sex", na_position="first")
    records = golden_records(table_of(missing_first))
    assert {tuple(record) for record in records} == {tuple(c.name for c in FEATURES)}
    assert records[0]["sex"] is None
    json.dumps(records, allow_nan=False)


@pytest.mark.parametrize("value", [39.1, 18.7, 181.0, 3750.25])
def test_golden_records_hold_numbers_as_the_file_writes_them(penguins_tables: Tables, value: float) -> None:
    """And not as the nearest float32, 39.099998474121094."""
    frame = frame_of(penguins_tables[1]).assign(culmen_length_mm=value)
    assert {record["culmen_length_mm"] for record in golden_records(table_of(frame))} == {value, None}


# histograms


def test_the_counts_add_up_to_the_rows(penguins_tables: Tables) -> None:
    spread = histograms(pa.concat_tables(penguins_tables))
    assert spread.keys() == {c.name for c in FEATURES}
    for column in NUMBERS:
        assert sum(spread[column.name]["counts"]) + spread[column.name]["missing"] == 342
    for category in CATEGORIES:
        assert sum(spread[category.name]["counts"].values()) + spread[category.name]["missing"] == 342
    assert spread["sex"]["missing"] == 9


def test_a_numbers_bins_run_from_its_least_to_its_greatest_value(penguins_tables: Tables) -> None:
    train, _ = penguins_tables
    written = pd.read_csv(CSV, na_values=MISSING)
    for column in NUMBERS:
        edges = histograms(train)[column.name]["edges"]
        ends = pc.min_max(train[column.name]).as_py()
        assert (np.float32(edges[0]), np.float32(edges[-1])) == (ends["min"], ends["max"])
        assert {edges[0], edges[-1]} <= {*written[column.name]}
        assert edges == sorted(set(edges))
        assert len(histograms(train)[column.name]["counts"]) == len(edges) - 1


def test_a_category_that_does_not_occur_counts_zero(penguins_tables: Tables) -> None:
    train = frame_of(penguins_tables[0])
    counts = histograms(table_of(train[train["island"] != "Dream"]))["island"]["counts"]
    assert counts["Dream"] == 0
    assert list(counts) == ["Biscoe", "Dream", "Torgersen"]


@pytest.mark.parametrize("ones", [5, 100])
def test_each_of_a_few_values_has_a_bin(penguins_tables: Tables, ones: int) -> None:
    train = frame_of(penguins_tables[0])
    spread = histograms(table_of(train.assign(body_mass_g=[0.1] * (len(train) - ones) + [1.0] * ones)))["body_mass_g"]
    assert spread == {"edges": [0.1, 1.0, 1.0], "counts": [len(train) - ones, ones], "missing": 0}


def test_a_constant_feature_is_one_bin(penguins_tables: Tables) -> None:
    train = frame_of(penguins_tables[0])
    spread = histograms(table_of(train.assign(body_mass_g=4000.0)))["body_mass_g"]
    assert spread == {"edges": [4000.0], "counts": [len(train)], "missing": 0}


def test_a_feature_that_is_always_missing_counts_as_missing(penguins_tables: Tables) -> None:
    train = frame_of(penguins_tables[0])
    spread = histograms(table_of(train.assign(body_mass_g=np.nan)))["body_mass_g"]
    assert sum(spread["counts"]) == 0
    assert spread["missing"] == len(train)
    json.dumps(spread, allow_nan=False)
