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
import pytest
from sklearn.model_selection import StratifiedKFold, cross_val_score

from penguins.inference import load_model, prove
from penguins.registry import Registry
from penguins.schema import CATEGORIES, FEATURES, NUMBERS, TARGET
from penguins.training import build_pipeline, fit
from penguins.validation import (
    GOLDEN_PER_CLASS,
    evaluate,
    golden_records,
    histograms,
    judge,
    score,
    score_beyond_one_split,
    score_serving,
)

Frames = tuple[pd.DataFrame, pd.DataFrame]
Trained = tuple[bytes, dict[str, Any]]
Publish = Callable[[], dict[str, Any]]


@pytest.fixture(scope="module")
def poor(penguins_frames: Frames) -> bytes:
    """A model that makes mistakes: one tree, grown on ten rows."""
    train, _ = penguins_frames
    return fit(build_pipeline(n_estimators=1, max_samples=10, random_state=0, rows=len(train)), train)


# evaluate


def test_the_facts_are_those_of_a_manifest(trained: Trained) -> None:
    _, facts = trained
    assert facts.keys() - {"dag_run_id", "data", "params"} == {
        *("metrics", "classes", "rows", "columns", "libraries", "golden", "histograms")
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


def evaluate_here(pickled: bytes, frames: Frames, registry: Registry, **changed: Any) -> dict[str, Any]:
    gate = {"min_accuracy": 0.9, "max_accuracy_drop": 0.02, **changed}
    return evaluate(pickled, *frames, registry=registry, random_state=42, **gate)["metrics"]


def test_a_poor_model_fails_against_the_serving_one(
    penguins_frames: Frames, poor: bytes, registry: Registry, publish: Publish
) -> None:
    serving = publish()
    metrics = evaluate_here(poor, penguins_frames, registry, min_accuracy=0.1)
    gate = metrics["gate"]
    assert not gate["passed"]
    assert gate["serving_version"] == serving["version"]
    assert gate["serving_accuracy"] == serving["metrics"]["accuracy"]
    assert gate["accuracy"] == metrics["accuracy"] < serving["metrics"]["accuracy"] - 0.02


def test_a_better_model_passes_against_a_poor_serving_one(
    penguins_frames: Frames, trained: Trained, poor: bytes, registry: Registry
) -> None:
    serving = registry.publish(poor, {**trained[1], "golden": golden_of(poor, penguins_frames[1])})
    gate = evaluate_here(trained[0], penguins_frames, registry)["gate"]
    assert gate["passed"]
    assert gate["serving_version"] == serving["version"]
    assert gate["serving_accuracy"] < gate["accuracy"]


def golden_of(pickled: bytes, test: pd.DataFrame) -> dict[str, Any]:
    from penguins.inference import Model, golden_rows

    pipeline = pickle.loads(pickled)
    return golden_rows(Model(pipeline, tuple(pipeline.classes_)), golden_records(test))


def test_a_rival_that_cannot_be_read_does_not_block_and_is_said(
    penguins_frames: Frames, trained: Trained, registry: Registry, publish: Publish
) -> None:
    version = publish()["version"]
    (registry.root / version / "model.pkl").write_bytes(b"")
    gate = evaluate_here(trained[0], penguins_frames, registry)["gate"]
    assert gate["passed"]
    assert "the serving version cannot be scored" in gate["reason"]
    assert version in gate["reason"]
    assert (gate["serving_version"], gate["serving_accuracy"]) == (version, None)


def test_a_rival_that_cannot_be_read_does_not_help_a_poor_model(
    penguins_frames: Frames, poor: bytes, registry: Registry, publish: Publish
) -> None:
    (registry.root / publish()["version"] / "model.pkl").write_bytes(b"")
    gate = evaluate_here(poor, penguins_frames, registry)["gate"]
    assert not gate["passed"]
    assert "under min_accuracy 0.9" in gate["reason"]


# score_serving


def test_the_serving_version_is_scored_on_the_given_rows(
    penguins_frames: Frames, registry: Registry, publish: Publish
) -> None:
    manifest = publish()
    _, test = penguins_frames
    wrong = test.assign(**{TARGET.name: test[TARGET.name].map({"Adelie": "Gentoo"}).fillna(test[TARGET.name])})
    adelies = (test[TARGET.name] == "Adelie").mean()
    assert score_serving(registry, test)["serving_accuracy"] == manifest["metrics"]["accuracy"]
    assert score_serving(registry, wrong) == {
        "serving_version": manifest["version"],
        "serving_accuracy": pytest.approx(manifest["metrics"]["accuracy"] - adelies),
    }


def test_without_a_version_there_is_only_a_note(penguins_frames: Frames, registry: Registry) -> None:
    assert score_serving(registry, penguins_frames[1]) == {"serving_note": "no version serves yet"}


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
    penguins_frames: Frames,
    registry: Registry,
    publish: Publish,
    spoil: Callable[[Registry, str], None],
    said: str,
) -> None:
    version = publish()["version"]
    spoil(registry, version)
    serving = score_serving(registry, penguins_frames[1])
    assert serving["serving_version"] == version
    assert said in serving["serving_note"]
    assert "serving_accuracy" not in serving


def test_a_pointer_that_cannot_be_read_is_said(penguins_frames: Frames, registry: Registry, publish: Publish) -> None:
    publish()
    (registry.root / "current").write_text("../../etc")
    serving = score_serving(registry, penguins_frames[1])
    assert serving["serving_version"] is None
    assert "'../../etc' is not a version" in serving["serving_note"]


def test_a_serving_version_of_other_libraries_is_said(
    penguins_frames: Frames, trained: Trained, registry: Registry
) -> None:
    pickled, facts = trained
    registry.publish(pickled, {**facts, "libraries": {**facts["libraries"], "scikit-learn": "0.1"}})
    assert "scikit-learn 0.1, here is" in score_serving(registry, penguins_frames[1])["serving_note"]


def test_a_serving_pickle_that_was_replaced_is_never_opened(
    penguins_frames: Frames, registry: Registry, publish: Publish, tmp_path: Path
) -> None:
    class WritesWhenOpened:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "opened",)

    bad = pickle.dumps(WritesWhenOpened())
    pickle.loads(bad)
    (tmp_path / "opened").unlink()
    (registry.root / publish()["version"] / "model.pkl").write_bytes(bad)
    assert "sha256" in score_serving(registry, penguins_frames[1])["serving_note"]
    assert not (tmp_path / "opened").exists()


# score


def test_the_scores_are_those_counted_by_hand(penguins_frames: Frames, poor: bytes) -> None:
    _, test = penguins_frames
    pipeline = pickle.loads(poor)
    scores = score(pipeline, test)
    pairs = list(zip(test[TARGET.name], pipeline.predict(test), strict=True))
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
def test_a_class_without_held_out_rows_scores_zero_without_a_warning(penguins_frames: Frames, trained: Trained) -> None:
    _, test = penguins_frames
    scores = score(pickle.loads(trained[0]), test[test[TARGET.name] != "Chinstrap"])
    assert scores["per_class"]["Chinstrap"] == {"precision": 0, "recall": 0, "f1": 0, "rows": 0}
    assert np.shape(scores["confusion_matrix"]) == (3, 3)


# score_beyond_one_split


def test_cross_validation_has_ten_folds_mean_and_sd(trained: Trained) -> None:
    validation = trained[1]["metrics"]["cross_validation"]
    assert validation["folds"] == 10
    assert 0.95 < validation["mean"] < 1
    assert 0 < validation["sd"] < 0.1


def test_cross_validation_is_that_of_scikit_learn_on_the_plain_pipeline(penguins_frames: Frames) -> None:
    train, test = penguins_frames
    params = {"n_estimators": 20, "max_samples": 100_000, "random_state": 3, "rows": len(train)}
    rows = pd.concat([train, test], ignore_index=True)
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


def test_cross_validation_takes_the_rows_of_both_parts(penguins_frames: Frames, poor: bytes) -> None:
    """Other labels in the held-out part change the score; the same rows and seed do not."""
    train, test = penguins_frames
    pipeline = pickle.loads(poor)
    swapped = test.assign(**{TARGET.name: test[TARGET.name].sample(frac=1, random_state=0).to_numpy()})
    first = score_beyond_one_split(pipeline, train, test, random_state=1)
    assert first != score_beyond_one_split(pipeline, train, swapped, random_state=1)
    assert first == score_beyond_one_split(pipeline, train, test, random_state=1)


def test_cross_validation_works_where_max_samples_is_near_the_rows_of_a_fold(penguins_frames: Frames) -> None:
    train, test = penguins_frames
    all_but_few, few = pd.concat([train, test.iloc[:60]], ignore_index=True), test.iloc[60:]
    rows = len(all_but_few)
    pickled = fit(build_pipeline(n_estimators=2, max_samples=rows - 1, random_state=0, rows=rows), all_but_few)
    scores = score_beyond_one_split(pickle.loads(pickled), all_but_few, few, random_state=0)
    assert scores["cross_validation"]["mean"] > 0.8


@pytest.mark.filterwarnings("ignore:Some inputs do not have OOB scores")
def test_above_10000_rows_the_out_of_bag_accuracy_stands_in(penguins_frames: Frames) -> None:
    train, test = penguins_frames
    large = pd.concat([train] * 37, ignore_index=True)
    pipeline = pickle.loads(
        fit(build_pipeline(n_estimators=5, max_samples=500, random_state=0, rows=len(large)), large)
    )
    scores = score_beyond_one_split(pipeline, large, test, random_state=0)
    assert scores == {"out_of_bag_accuracy": pipeline.named_steps["forest"].oob_score_}


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


def test_golden_records_are_some_of_each_class_and_each_nullable_feature_missing(penguins_frames: Frames) -> None:
    _, test = penguins_frames
    nullable = [c.name for c in FEATURES if not c.required]
    records = golden_records(test)
    assert len(records) == 3 * (GOLDEN_PER_CLASS + len(nullable))
    for start in range(0, len(records), GOLDEN_PER_CLASS + len(nullable)):
        of_class = records[start : start + GOLDEN_PER_CLASS + len(nullable)]
        last = of_class[GOLDEN_PER_CLASS - 1]
        assert of_class[GOLDEN_PER_CLASS:] == [{**last, name: None} for name in nullable]


def test_golden_records_hold_the_features_and_never_nan(penguins_frames: Frames) -> None:
    frame = pd.concat(penguins_frames, ignore_index=True)
    missing_first = frame.sort_values("sex", na_position="first", ignore_index=True)
    records = golden_records(missing_first)
    assert {tuple(record) for record in records} == {tuple(c.name for c in FEATURES)}
    assert records[0]["sex"] is None
    json.dumps(records, allow_nan=False)


# histograms


def test_the_counts_add_up_to_the_rows(penguins_frames: Frames) -> None:
    frame = pd.concat(penguins_frames, ignore_index=True)
    spread = histograms(frame)
    assert spread.keys() == {c.name for c in FEATURES}
    for column in NUMBERS:
        assert sum(spread[column.name]["counts"]) + spread[column.name]["missing"] == 342
    for category in CATEGORIES:
        assert sum(spread[category.name]["counts"].values()) + spread[category.name]["missing"] == 342
    assert spread["sex"]["missing"] == 9


def test_a_numbers_bins_run_from_its_least_to_its_greatest_value(penguins_frames: Frames) -> None:
    train, _ = penguins_frames
    for column in NUMBERS:
        edges = histograms(train)[column.name]["edges"]
        assert (edges[0], edges[-1]) == (train[column.name].min(), train[column.name].max())
        assert edges == sorted(set(edges))
        assert len(histograms(train)[column.name]["counts"]) == len(edges) - 1


def test_a_category_that_does_not_occur_counts_zero(penguins_frames: Frames) -> None:
    train, _ = penguins_frames
    counts = histograms(train[train["island"] != "Dream"])["island"]["counts"]
    assert counts["Dream"] == 0
    assert list(counts) == ["Biscoe", "Dream", "Torgersen"]


def test_a_constant_feature_is_one_bin(penguins_frames: Frames) -> None:
    train, _ = penguins_frames
    spread = histograms(train.assign(body_mass_g=4000.0))["body_mass_g"]
    assert spread == {"edges": [4000.0], "counts": [len(train)], "missing": 0}


def test_a_feature_that_is_always_missing_counts_as_missing(penguins_frames: Frames) -> None:
    train, _ = penguins_frames
    spread = histograms(train.assign(body_mass_g=np.nan))["body_mass_g"]
    assert sum(spread["counts"]) == 0
    assert spread["missing"] == len(train)
    json.dumps(spread, allow_nan=False)
