"""Importance and calibration against scikit-learn's own, and the points of the scatter."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn import inspection as scikit_learn
from sklearn.calibration import calibration_curve

from penguins import inference
from penguins.evaluation import inspection as module
from penguins.evaluation.inspection import POINTS, REPEATS, calibration, inspect, permutation_importance, points
from penguins.inference import to_frame, unpickle
from penguins.schema import CATEGORIES, FEATURES, NUMBERS, TARGET, Number
from penguins.training import pipeline as training
from penguins.training import rows as training_rows
from penguins.training.pipeline import build_pipeline, fit
from penguins.training.rows import feature_frame, label_codes
from tables import frame_of, table_of

Tables = tuple[pa.Table, pa.Table]


@pytest.fixture(scope="module")
def poor(penguins_tables: Tables) -> Any:
    """A pipeline that makes mistakes: three trees, grown on thirty rows."""
    train, _ = penguins_tables
    return unpickle(fit(build_pipeline(n_estimators=3, max_samples=30, random_state=0, rows=train.num_rows), train))


# permutation_importance


def test_the_importance_is_scikit_learns_own(penguins_tables: Tables, poor: Any) -> None:
    _, test = penguins_tables
    frame, labels = to_frame(feature_frame(test)), test[TARGET.name].to_pylist()
    own = scikit_learn.permutation_importance(poor, frame, labels, n_repeats=REPEATS, random_state=42)
    importance, predicted = permutation_importance(poor, test, 42)
    assert list(importance) == [c.name for c in FEATURES]
    assert [of["mean"] for of in importance.values()] == pytest.approx(own.importances_mean)
    assert [of["sd"] for of in importance.values()] == pytest.approx(own.importances_std)
    assert max(own.importances_mean) > 0.1
    assert [TARGET.values[code] for code in predicted] == list(poor.predict(frame))


def test_all_permutations_are_predicted_in_one_call(penguins_tables: Tables, poor: Any) -> None:
    calls = []

    class Counted:
        def predict(self, frame: Any) -> Any:
            calls.append(len(frame))
            return poor.predict(frame)

    permutation_importance(Counted(), penguins_tables[1], 0)
    assert calls == [69 * (1 + REPEATS * len(FEATURES))]


# calibration


def test_the_calibration_is_scikit_learns_curve_of_the_predicted_class(penguins_tables: Tables, poor: Any) -> None:
    rows = pa.concat_tables(penguins_tables)
    frame = to_frame(feature_frame(rows))
    probabilities, predicted = poor.predict_proba(frame), poor.predict(frame)
    right = predicted == np.array(rows[TARGET.name].to_pylist())
    assert 0 < right.mean() < 1
    share, mean = calibration_curve(right, probabilities.max(axis=1) - 1e-9, n_bins=10)  # its bins hold their upper end
    bins = calibration(poor, rows, np.array([TARGET.values.index(label) for label in predicted]))
    # A tenth itself belongs to the bin above; only 1.0 has none. Three trees give no other such values than 1.
    assert [b["probability"] for b in bins] == pytest.approx(mean, abs=1e-6)
    assert [b["right"] / b["rows"] for b in bins] == pytest.approx(share)
    assert sum(b["rows"] for b in bins) == rows.num_rows


def test_classes_in_another_order_than_the_schemas_keep_their_probabilities(penguins_tables: Tables) -> None:
    """The pipeline's classes are sorted; a schema's need not be."""

    class Turned:
        classes_ = np.array(TARGET.values[::-1])

        def predict_proba(self, frame: Any) -> Any:
            return np.tile([0.05, 0.15, 0.8], (len(frame), 1))

    sample = penguins_tables[1].slice(0, 3)
    for place, expected in enumerate((0.8, 0.15, 0.05)):
        (only,) = calibration(Turned(), sample, np.full(3, place))
        assert only["probability"] == pytest.approx(expected)
        assert only["right"] == (label_codes(sample) == place).sum()


# points


def test_the_points_are_the_rows_by_the_two_numbers_that_matter_most(penguins_tables: Tables, poor: Any) -> None:
    test = penguins_tables[1]
    facts = inspect(poor, test, random_state=0)
    by_mean = sorted((c.name for c in NUMBERS), key=lambda name: -facts["importance"][name]["mean"])
    assert [facts["points"]["x"], facts["points"]["y"]] == by_mean[:2]
    frame = frame_of(test)
    expected = [
        [x, y, TARGET.values.index(truth), TARGET.values.index(said)]
        for x, y, truth, said in zip(
            frame[by_mean[0]], frame[by_mean[1]], frame[TARGET.name], poor.predict(frame), strict=True
        )
    ]
    assert facts["points"]["rows"] == expected
    assert any(truth != said for _, _, truth, said in facts["points"]["rows"])


def test_points_are_few_and_have_both_numbers(penguins_tables: Tables) -> None:
    frame = frame_of(pa.concat_tables([penguins_tables[0]] * 3))
    names = [c.name for c in NUMBERS]
    frame.loc[0, names[0]] = frame.loc[1, names[1]] = None
    table = table_of(frame)
    importance = {c.name: {"mean": -float(names.index(c.name)), "sd": 0.0} for c in NUMBERS}
    rows = points(table, label_codes(table), importance)["rows"]  # type: ignore[index]
    assert len(rows) == POINTS < table.num_rows
    assert rows[0][:2] == frame.loc[2, names[:2]].tolist()


def test_without_two_numbers_there_are_no_points(penguins_tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    test = penguins_tables[1]
    for numbers in (0, 1):
        monkeypatch.setattr(module, "NUMBERS", NUMBERS[:numbers])
        assert points(test, label_codes(test), {c.name: {"mean": 1.0, "sd": 0.0} for c in FEATURES}) is None


# inspect


def test_the_facts_are_the_same_each_time_and_plain_json(penguins_tables: Tables, poor: Any) -> None:
    first = inspect(poor, penguins_tables[1], random_state=3)
    assert first == inspect(poor, penguins_tables[1], random_state=3)
    assert first["importance"] != inspect(poor, penguins_tables[1], random_state=4)["importance"]
    assert json.loads(json.dumps(first, allow_nan=False)) == first


def test_of_many_rows_a_sample_is_taken(penguins_tables: Tables, poor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    test = penguins_tables[1]
    monkeypatch.setattr(module, "PERMUTED_ROWS", 20 * REPEATS * len(FEATURES))
    assert inspect(poor, test, random_state=0) == inspect(poor, test.slice(0, 20), random_state=0)
    assert sum(b["rows"] for b in inspect(poor, test, random_state=0)["calibration"]) == 20


@pytest.mark.parametrize("kept", [NUMBERS, CATEGORIES, NUMBERS[:1]], ids=["no categories", "no numbers", "one column"])
def test_a_table_of_one_kind_of_columns_is_inspected(
    penguins_tables: Tables, monkeypatch: pytest.MonkeyPatch, kept: tuple[Any, ...]
) -> None:
    for changed in (module, inference, training_rows):
        monkeypatch.setattr(changed, "FEATURES", kept)
    for changed in (module, training):
        monkeypatch.setattr(changed, "NUMBERS", tuple(c for c in kept if isinstance(c, Number)))
    monkeypatch.setattr(training, "CATEGORIES", tuple(c for c in kept if not isinstance(c, Number)))
    train, test = (table.select([TARGET.name, *(c.name for c in kept)]) for table in penguins_tables)
    pipeline = build_pipeline(n_estimators=10, max_samples=1000, random_state=0, rows=train.num_rows)
    facts = inspect(unpickle(fit(pipeline, train)), test, random_state=0)
    assert list(facts["importance"]) == [c.name for c in kept]
    assert max(of["mean"] for of in facts["importance"].values()) > 0.1
    assert sum(b["rows"] for b in facts["calibration"]) == test.num_rows
    assert (facts["points"] is not None) == (len(kept) == len(NUMBERS))


def test_a_model_of_two_classes_is_inspected(penguins_tables: Tables) -> None:
    """Its classes have other places than the schema's values."""
    train, test = (t.filter(pc.not_equal(pc.cast(t[TARGET.name], pa.string()), "Adelie")) for t in penguins_tables)
    pipeline = build_pipeline(n_estimators=10, max_samples=1000, random_state=0, rows=train.num_rows)
    facts = inspect(unpickle(fit(pipeline, train)), test, random_state=0)
    assert {truth for *_, truth, _ in facts["points"]["rows"]} == {1, 2}
    assert sum(b["right"] for b in facts["calibration"]) / test.num_rows > 0.9
    assert min(b["probability"] for b in facts["calibration"]) >= 0.5
