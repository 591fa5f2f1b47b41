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
from penguins.inference import load_model, prove
from penguins.registry import PROJECT, Registry
from penguins.schema import CATEGORIES, CSV_NAME, FEATURES, MISSING, NUMBERS, TARGET
from penguins.training import build_pipeline, feature_frame, fit, label_codes
from penguins.validation import (
    GOLDEN_PER_CLASS,
    ROWS_TO_CROSS_VALIDATE,
    evaluate,
    golden_records,
    histograms,
    judge,
    out_of_bag_accuracy,
    score,
    score_beyond_one_split,
    score_serving,
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
        *("accuracy", "macro_f1", "per_class", "confusion_matrix", "cross_validation", "gate")
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
    gate = {"min_accuracy": 0.9, "max_accuracy_drop": 0.02, **changed}
    return evaluate(pickled, *tables, registry=registry, random_state=42, **gate)["metrics"]


def test_a_poor_model_fails_against_the_serving_one(
    penguins_tables: Tables, poor: bytes, registry: Registry, publish: Publish
) -> None:
    serving = publish()
    metrics = evaluate_here(poor, penguins_tables, registry, min_accuracy=0.1)
    gate = metrics["gate"]
    assert not gate["passed"]
    assert gate["serving_version"] == serving["version"]
    assert gate["serving_accuracy"] == serving["metrics"]["accuracy"]
    assert gate["accuracy"] == metrics["accuracy"] < serving["metrics"]["accuracy"] - 0.02


def test_a_better_model_passes_against_a_poor_serving_one(
    penguins_tables: Tables, trained: Trained, poor: bytes, registry: Registry
) -> None:
    serving = registry.publish(poor, {**trained[1], "golden": golden_of(poor, penguins_tables[1])})
    gate = evaluate_here(trained[0], penguins_tables, registry)["gate"]
    assert gate["passed"]
    assert gate["serving_version"] == serving["version"]
    assert gate["serving_accuracy"] < gate["accuracy"]


def golden_of(pickled: bytes, test: pa.Table) -> dict[str, Any]:
    from penguins.inference import Model, golden_rows

    pipeline = pickle.loads(pickled)
    return golden_rows(Model(pipeline, tuple(pipeline.classes_)), golden_records(test))


def test_a_rival_that_cannot_be_read_does_not_block_and_is_said(
    penguins_tables: Tables, trained: Trained, registry: Registry, publish: Publish
) -> None:
    version = publish()["version"]
    (registry.root / version / "model.pkl").write_bytes(b"")
    gate = evaluate_here(trained[0], penguins_tables, registry)["gate"]
    assert gate["passed"]
    assert "the serving version cannot be scored" in gate["reason"]
    assert version in gate["reason"]
    assert (gate["serving_version"], gate["serving_accuracy"]) == (version, None)


def test_a_rival_that_cannot_be_read_does_not_help_a_poor_model(
    penguins_tables: Tables, poor: bytes, registry: Registry, publish: Publish
) -> None:
    (registry.root / publish()["version"] / "model.pkl").write_bytes(b"")
    gate = evaluate_here(poor, penguins_tables, registry)["gate"]
    assert not gate["passed"]
    assert "under min_accuracy 0.9" in gate["reason"]


# score_serving


def test_the_serving_version_is_scored_on_the_given_rows(
    penguins_tables: Tables, registry: Registry, publish: Publish
) -> None:
    manifest = publish()
    _, test = penguins_tables
    frame = frame_of(test)
    wrong = table_of(frame.replace({TARGET.name: {"Adelie": "Gentoo"}}))
    adelies = (frame[TARGET.name] == "Adelie").mean()
    assert score_serving(registry, test)["serving_accuracy"] == manifest["metrics"]["accuracy"]
    assert score_serving(registry, wrong) == {
        "serving_version": manifest["version"],
        "serving_accuracy": pytest.approx(manifest["metrics"]["accuracy"] - adelies),
    }


def test_without_a_version_there_is_only_a_note(penguins_tables: Tables, registry: Registry) -> None:
    assert score_serving(registry, penguins_tables[1]) == {"serving_note": "no version serves yet"}


def spoil_manifest(registry: Registry, version: str) -> None:
    (registry.root / version / "manifest.json").write_text("{}")


def spoil_key(registry: Registry, version: str) -> None:
    registry.key_file.write_text(secrets.token_hex(32))


def remove_version(registry: Registry, version: str) -> None:
    (registry.root / version / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_manifest, "signature does not match"),
        (spoil_key, "signature does not match"),
        (remove_version, "manifest cannot be read"),
    ],
)
def test_why_the_serving_version_cannot_be_scored_is_said(
    penguins_tables: Tables,
    registry: Registry,
    publish: Publish,
    spoil: Callable[[Registry, str], None],
    said: str,
) -> None:
    version = publish()["version"]
    spoil(registry, version)
    serving = score_serving(registry, penguins_tables[1])
    assert serving["serving_version"] == version
    assert said in serving["serving_note"]
    assert "serving_accuracy" not in serving


def test_a_pointer_that_cannot_be_read_is_said(penguins_tables: Tables, registry: Registry, publish: Publish) -> None:
    publish()
    (registry.root / "current").write_text("../../etc")
    serving = score_serving(registry, penguins_tables[1])
    assert serving["serving_version"] is None
    assert "'../../etc' is not a version" in serving["serving_note"]


def test_a_serving_version_of_other_libraries_is_said(
    penguins_tables: Tables, trained: Trained, registry: Registry
) -> None:
    pickled, facts = trained
    registry.publish(pickled, {**facts, "libraries": {**facts["libraries"], "scikit-learn": "0.1"}})
    assert "scikit-learn 0.1, here is" in score_serving(registry, penguins_tables[1])["serving_note"]


def test_a_serving_pickle_that_was_replaced_is_never_opened(
    penguins_tables: Tables, registry: Registry, publish: Publish, tmp_path: Path
) -> None:
    class WritesWhenOpened:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "opened",)

    bad = pickle.dumps(WritesWhenOpened())
    pickle.loads(bad)
    (tmp_path / "opened").unlink()
    (registry.root / publish()["version"] / "model.pkl").write_bytes(bad)
    assert "sha256" in score_serving(registry, penguins_tables[1])["serving_note"]
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


# score_beyond_one_split


def test_cross_validation_has_ten_folds_mean_and_sd(trained: Trained) -> None:
    validation = trained[1]["metrics"]["cross_validation"]
    assert validation["folds"] == 10
    assert 0.95 < validation["mean"] < 1
    assert 0 < validation["sd"] < 0.1


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
    assert score_beyond_one_split(fitted, train, test, random_state=7) == {
        "cross_validation": {"folds": 10, "mean": scores.mean(), "sd": scores.std(ddof=1)}
    }


def test_cross_validation_takes_the_rows_of_both_parts(penguins_tables: Tables, poor: bytes) -> None:
    """Other labels in the held-out part change the score; the same rows and seed do not."""
    train, test = penguins_tables
    pipeline = pickle.loads(poor)
    labels = test[TARGET.name].combine_chunks()
    swapped = test.set_column(0, TARGET.name, labels.take(np.random.default_rng(0).permutation(len(labels))))
    first = score_beyond_one_split(pipeline, train, test, random_state=1)
    assert first != score_beyond_one_split(pipeline, train, swapped, random_state=1)
    assert first == score_beyond_one_split(pipeline, train, test, random_state=1)


def test_cross_validation_works_where_max_samples_is_near_the_rows_of_a_fold(penguins_tables: Tables) -> None:
    train, test = penguins_tables
    all_but_few, few = pa.concat_tables([train, test.slice(0, 60)]), test.slice(60)
    rows = all_but_few.num_rows
    pickled = fit(build_pipeline(n_estimators=2, max_samples=rows - 1, random_state=0, rows=rows), all_but_few)
    scores = score_beyond_one_split(pickle.loads(pickled), all_but_few, few, random_state=0)
    assert scores["cross_validation"]["mean"] > 0.8


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
def test_above_10000_rows_the_out_of_bag_accuracy_stands_in(
    large: pa.Table, penguins_tables: Tables, beyond: int
) -> None:
    assert ROWS_TO_CROSS_VALIDATE == 10_000
    train = large.slice(0, 10_000 + beyond)
    scores = score_beyond_one_split(fitted(train, n_estimators=2), train, penguins_tables[1], random_state=0)
    assert list(scores) == ["out_of_bag_accuracy" if beyond else "cross_validation"]


# out_of_bag_accuracy


def scikit_learns_own(table: pa.Table, **changed: Any) -> Any:
    """Return the same forest, fitted with scikit-learn's own out-of-bag score."""
    forest = {"n_estimators": 30, "max_samples": 500, "random_state": 0, **changed}
    pipeline = build_pipeline(**forest, rows=table.num_rows).set_params(forest__oob_score=True)
    pipeline.fit(feature_frame(table), np.array(TARGET.values)[label_codes(table)])
    return pipeline.named_steps["forest"]


@pytest.mark.parametrize("max_samples", [50, 8_000])
def test_the_out_of_bag_accuracy_is_scikit_learns_own(large: pa.Table, max_samples: int) -> None:
    own = scikit_learns_own(large, max_samples=max_samples)
    assert large.num_rows > ROWS_TO_CROSS_VALIDATE
    assert own.oob_decision_function_.any(axis=1).all()
    pipeline = fitted(large, n_estimators=30, max_samples=max_samples)
    assert out_of_bag_accuracy(pipeline, large) == own.oob_score_


def test_the_out_of_bag_accuracy_of_a_larger_table_is_that_of_its_first_rows(
    large: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OUT_OF_BAG_ROWS", 1000)
    own = scikit_learns_own(large, max_samples=50)
    voted = own.oob_decision_function_[:1000].argmax(axis=1)
    expected = (voted == label_codes(large)[:1000]).mean()
    assert expected != own.oob_score_
    assert out_of_bag_accuracy(fitted(large, n_estimators=30, max_samples=50), large) == expected


@pytest.mark.filterwarnings("error")
def test_rows_that_every_tree_was_shown_do_not_count(large: pa.Table) -> None:
    """scikit-learn's own score takes them for the first class."""
    pipeline = fitted(large, n_estimators=1, max_samples=8_000)
    tree, (shown,) = pipeline[-1].estimators_[0], pipeline[-1].estimators_samples_
    unseen = np.setdiff1d(np.arange(large.num_rows), shown)
    said = tree.predict(pipeline[:-1].transform(feature_frame(large))[unseen])
    assert out_of_bag_accuracy(pipeline, large) == (said == label_codes(large)[unseen]).mean()


def test_the_out_of_bag_accuracy_of_two_classes_is_that_of_their_own_order(large: pa.Table) -> None:
    """The classes of such a forest have other places than the schema's values."""
    two = large.filter(pc.not_equal(pc.cast(large[TARGET.name], pa.string()), "Adelie"))
    own = scikit_learns_own(two, max_samples=50)
    assert out_of_bag_accuracy(fitted(two, n_estimators=30, max_samples=50), two) == own.oob_score_ > 0.7


# judge


def test_under_min_accuracy_fails_and_names_both() -> None:
    verdict = judge(0.8999, min_accuracy=0.9, max_accuracy_drop=1)
    assert not verdict.passed
    assert verdict.reason == "accuracy 0.8999 is under min_accuracy 0.9"


def test_min_accuracy_itself_passes() -> None:
    assert judge(0.9, min_accuracy=0.9, max_accuracy_drop=0.02).passed


def test_a_perfect_model_passes_a_min_accuracy_of_1() -> None:
    assert judge(1.0, min_accuracy=1, max_accuracy_drop=0).passed


def against(accuracy: float, serving: float, drop: float = 0.02) -> Any:
    return judge(
        accuracy,
        min_accuracy=0.5,
        max_accuracy_drop=drop,
        serving_version="20260101T000000Z-00000000",
        serving_accuracy=serving,
    )


def test_more_than_max_accuracy_drop_under_the_serving_version_fails_and_names_all() -> None:
    verdict = against(0.92, serving=0.95)
    assert not verdict.passed
    for said in ("accuracy 0.9200", "max_accuracy_drop 0.02", "20260101T000000Z-00000000", "0.9500 on the same rows"):
        assert said in verdict.reason


@pytest.mark.parametrize("serving", [0.95, 0.97, 0.99, 1.0])
def test_exactly_max_accuracy_drop_under_the_serving_version_passes(serving: float) -> None:
    """Whatever 0.95 - 0.93 is in binary."""
    assert against(round(serving - 0.02, 2), serving).passed


@pytest.mark.parametrize("rows", [69, 2_000_000])
def test_one_row_more_than_the_drop_fails(rows: int) -> None:
    right = rows // 2 + rows // 4
    assert against(right / rows, right / rows, drop=0).passed
    assert not against((right - 1) / rows, right / rows, drop=0).passed


def test_a_better_model_than_the_serving_one_passes_and_names_it() -> None:
    verdict = against(0.96, serving=0.95)
    assert verdict.passed
    assert "20260101T000000Z-00000000 has 0.9500" in verdict.reason


def test_min_accuracy_holds_also_against_a_worse_serving_version() -> None:
    verdict = judge(0.6, min_accuracy=0.9, max_accuracy_drop=0.02, serving_version="v", serving_accuracy=0.3)
    assert not verdict.passed
    assert "under min_accuracy 0.9" in verdict.reason


def test_a_note_on_the_rival_is_part_of_the_reason() -> None:
    verdict = judge(0.95, min_accuracy=0.9, max_accuracy_drop=0.02, serving_note="the old one is gone")
    assert verdict.passed
    assert "the old one is gone" in verdict.reason


def test_the_verdict_keeps_the_figures_that_were_compared() -> None:
    assert asdict(against(0.96, serving=0.95)) | {"reason": ""} == {
        "passed": True,
        "reason": "",
        "accuracy": 0.96,
        "min_accuracy": 0.5,
        "max_accuracy_drop": 0.02,
        "serving_version": "20260101T000000Z-00000000",
        "serving_accuracy": 0.95,
    }


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
