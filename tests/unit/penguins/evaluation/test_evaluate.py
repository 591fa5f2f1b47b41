"""The facts of a manifest, and the golden rows."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pandas as pd

from models import Tables, evaluate_here
from penguins.evaluation.evaluate import GOLDEN_PER_CLASS, golden_records
from penguins.inference import load_model, prove
from penguins.registry import Registry
from penguins.schema import FEATURES, NUMBERS, TARGET
from tables import frame_of, table_of

Trained = tuple[bytes, dict[str, Any]]


def test_the_first_model_passes_without_a_comparison(trained: Trained) -> None:
    gate = trained[1]["metrics"]["gate"]
    assert gate["passed"]
    assert "no version serves yet" in gate["reason"]
    assert (gate["serving_version"], gate["serving_accuracy"]) == (None, None)


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
    assert "(cross-validation, 342 rows) is below min_accuracy 0.999" in gate["reason"]


def test_the_facts_are_those_of_a_manifest_in_plain_json(trained: Trained) -> None:
    _, facts = trained
    text = json.dumps(facts, allow_nan=False)
    assert json.dumps(json.loads(text)) == text
    assert facts.keys() - {"dag_run_id", "data", "params"} == {
        *("metrics", "classes", "rows", "columns", "estimator", "libraries", "golden", "histograms"),
        *("importance", "calibration"),
    }
    assert facts["metrics"].keys() == {
        *("accuracy", "macro_f1", "per_class", "confusion_matrix", "cross_validation", "headline", "gate", "warnings")
    }
    assert facts["classes"] == list(TARGET.values)
    assert facts["rows"] == {"train": 273, "test": 69}


def test_the_facts_describe_every_feature_as_the_schema_does(trained: Trained) -> None:
    columns = trained[1]["columns"]
    assert [(c["kind"], c["name"]) for c in columns] == [
        ("number" if column in NUMBERS else "category", column.name) for column in FEATURES
    ]
    for described, column in zip(columns, FEATURES, strict=True):
        expected = {name: value for name, value in asdict(column).items() if name not in ("header", "rest")}
        assert {k: v for k, v in described.items() if k != "kind"} == expected
        assert "header" not in described  # a model knows names


def test_the_facts_golden_rows_prove_the_model(trained: Trained) -> None:
    pickled, facts = trained
    prove(load_model(pickled, facts), facts["golden"])
    assert len(facts["golden"]["records"]) == len(facts["golden"]["labels"]) > 0


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


def test_golden_records_hold_numbers_as_the_file_writes_them(penguins_tables: Tables) -> None:
    """And not as the nearest float32, 39.099998474121094."""
    for value in (39.1, 18.7, 181.0, 3750.25):
        frame = frame_of(penguins_tables[1]).assign(culmen_length_mm=value)
        assert {record["culmen_length_mm"] for record in golden_records(table_of(frame))} == {value, None}
