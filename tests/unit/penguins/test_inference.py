"""From a record to a prediction, and the proof on the golden rows."""

from __future__ import annotations

import copy
import pickle
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from penguins.compatibility import LIBRARIES, ModelError, library_versions
from penguins.inference import TOLERANCE, Model, golden_rows, load_model, prove, to_frame, unpickle
from penguins.schema import CATEGORIES, EXAMPLE, FEATURES, NUMBERS, TARGET
from penguins.training.pipeline import build_pipeline, fit

Frames = tuple[pd.DataFrame, pd.DataFrame]
Tables = tuple[pa.Table, pa.Table]
Trained = tuple[bytes, dict[str, Any]]


@pytest.fixture
def pickled(trained: Trained) -> bytes:
    return trained[0]


@pytest.fixture
def manifest(trained: Trained) -> dict[str, Any]:
    """The facts of the trained model, to be changed at will."""
    return copy.deepcopy(trained[1])


@pytest.fixture
def model(trained: Trained) -> Model:
    return load_model(*trained)


@pytest.fixture
def records(penguins_frames: Frames) -> list[dict[str, Any]]:
    """The held-out rows as the API gets them."""
    frame = penguins_frames[1][[c.name for c in FEATURES]].astype(object)
    return frame.where(frame.notna(), None).to_dict("records")


# predict


def test_the_example_is_predicted_as_its_species_whatever_the_order_of_its_keys(model: Model) -> None:
    (prediction,) = model.predict([EXAMPLE])
    assert prediction.label == TARGET.example
    assert prediction.probabilities[TARGET.example] == max(prediction.probabilities.values())
    assert model.predict([dict(reversed(EXAMPLE.items()))]) == [prediction]


def test_predictions_are_those_of_the_pipeline_as_floats_by_class(model: Model, records: list[dict[str, Any]]) -> None:
    frame = to_frame(records)
    predictions = model.predict(records)
    assert [p.label for p in predictions] == model.pipeline.predict(frame).tolist()
    assert [list(p.probabilities.values()) for p in predictions] == model.pipeline.predict_proba(frame).tolist()
    for prediction in predictions:
        assert tuple(prediction.probabilities) == TARGET.values
        assert {type(p) for p in prediction.probabilities.values()} == {float}
        assert sum(prediction.probabilities.values()) == pytest.approx(1)


def test_predictions_keep_the_order_of_the_records(model: Model, records: list[dict[str, Any]]) -> None:
    predictions = model.predict(records)
    assert len({p.label for p in predictions}) == 3
    assert model.predict(records[::-1]) == predictions[::-1]
    assert [model.predict([record])[0] for record in records[:5]] == predictions[:5]


def test_null_nan_and_a_left_out_feature_are_imputed_alike(model: Model) -> None:
    for name in (c.name for c in FEATURES if not c.required):
        (expected,) = model.predict([{**EXAMPLE, name: None}])
        assert model.predict([{**EXAMPLE, name: np.nan}]) == [expected], name
        assert model.predict([{k: v for k, v in EXAMPLE.items() if k != name}]) == [expected], name


def test_nulls_are_imputed_as_in_training(model: Model, penguins_frames: Frames) -> None:
    train, _ = penguins_frames
    missing = {**EXAMPLE, "body_mass_g": None, "sex": None}
    filled = {**EXAMPLE, "body_mass_g": train["body_mass_g"].median(), "sex": train["sex"].mode()[0]}
    assert model.predict([missing]) == model.predict([filled])


def test_nulls_of_one_record_leave_the_others_as_they_are(model: Model, records: list[dict[str, Any]]) -> None:
    empty = dict.fromkeys([c.name for c in FEATURES if not c.required])
    mixed = model.predict([records[0], {**EXAMPLE, **empty}, records[1]])
    assert [mixed[0], mixed[2]] == model.predict(records[:2])


# to_frame


def test_to_frame_has_the_features_in_order_with_their_types() -> None:
    frame = to_frame([{"year": 2007, **dict(reversed(EXAMPLE.items()))}])
    assert frame.columns.tolist() == [c.name for c in FEATURES]
    assert {frame[c.name].dtype for c in NUMBERS} == {np.dtype("float64")}
    assert {frame[c.name].dtype for c in CATEGORIES} == {np.dtype(object)}
    assert frame.iloc[0].to_dict() == EXAMPLE


def test_to_frame_keeps_its_types_where_everything_is_null() -> None:
    frame = to_frame([dict.fromkeys(EXAMPLE)])
    assert {frame[c.name].dtype for c in NUMBERS} == {np.dtype("float64")}
    assert {frame[c.name].dtype for c in CATEGORIES} == {np.dtype(object)}
    assert all(isinstance(value, float) and np.isnan(value) for value in frame.iloc[0])


def test_to_frame_leaves_a_frame_as_it_was(penguins_frames: Frames) -> None:
    given = penguins_frames[1].astype({"sex": "string"})
    before = given.copy(deep=True)
    frame = to_frame(given)
    frame.loc[:, "sex"] = "changed"
    pd.testing.assert_frame_equal(given, before)


# library_versions


def test_library_versions_are_those_that_run_here() -> None:
    versions = library_versions()
    assert versions["python"] == platform.python_version()
    assert {name: versions[name] for name in LIBRARIES} == {name: version(name) for name in LIBRARIES}


# load_model


def test_a_model_loads_with_its_classes_also_if_other_ranges_were_declared(
    pickled: bytes, manifest: dict[str, Any]
) -> None:
    assert load_model(pickled, manifest).classes == TARGET.values
    manifest["columns"][1] |= {"minimum": 0, "description": "another", "example": 1, "required": True}
    assert load_model(pickled, manifest).classes == TARGET.values


def test_another_version_of_a_library_is_refused_with_both_named(pickled: bytes, manifest: dict[str, Any]) -> None:
    for name in LIBRARIES:
        changed = {**manifest, "libraries": {**manifest["libraries"], name: "0.99"}}
        with pytest.raises(ModelError) as caught:
            load_model(pickled, changed)
        assert f"trained with {name} 0.99 (here {version(name)}). Train again" in str(caught.value)


def test_every_library_that_differs_is_named(pickled: bytes, manifest: dict[str, Any]) -> None:
    manifest["libraries"] |= {"numpy": "1.0"}
    del manifest["libraries"]["pandas"]
    with pytest.raises(ModelError) as caught:
        load_model(pickled, manifest)
    assert f"numpy 1.0 (here {version('numpy')}), pandas None (here {version('pandas')})" in str(caught.value)
    assert "scikit-learn" not in str(caught.value)


def test_a_pickle_of_other_libraries_is_not_even_opened(manifest: dict[str, Any], tmp_path: Path) -> None:
    class WritesWhenOpened:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "opened",)

    bad = pickle.dumps(WritesWhenOpened())
    pickle.loads(bad)
    (tmp_path / "opened").unlink()
    manifest["libraries"]["numpy"] = "1.0"
    with pytest.raises(ModelError, match=r"numpy 1\.0"):
        load_model(bad, manifest)
    assert not (tmp_path / "opened").exists()


OTHER_TABLES: dict[str, Callable[[dict[str, Any]], None]] = {
    "a column more": lambda m: m["columns"].append({**m["columns"][1], "name": "wing"}),
    "a column less": lambda m: m["columns"].pop(),
    "another order": lambda m: m["columns"].reverse(),
    "another kind": lambda m: m["columns"][1].update(kind="category", values=["a"]),
    "another category": lambda m: m["columns"][0].update(values=["Biscoe", "Dream", "Anvers"]),
    "another class": lambda m: m["classes"].append("Emperor"),
}


@pytest.mark.parametrize("change", OTHER_TABLES.values(), ids=OTHER_TABLES)
def test_a_model_of_another_table_is_refused_and_both_are_named(
    pickled: bytes, manifest: dict[str, Any], change: Callable[[dict[str, Any]], None]
) -> None:
    change(manifest)
    with pytest.raises(ModelError, match="trained on another table than the one with which this service was") as caught:
        load_model(pickled, manifest)
    said = str(caught.value)
    assert "Only in the model: " in said
    assert "If plugins/penguins/schema.py was changed since, start the service again: `make run`, or" in said
    assert said.endswith("Otherwise trigger the DAG modelo_penguin.")


def test_a_long_difference_between_two_tables_is_cut(pickled: bytes, manifest: dict[str, Any]) -> None:
    manifest["columns"] += [{**manifest["columns"][1], "name": f"wing_{number}"} for number in range(1000)]
    with pytest.raises(ModelError, match=r"Only in the model: wing_0 .* …\. Only in the schema: nothing") as caught:
        load_model(pickled, manifest)
    assert len(str(caught.value)) < 1000


def test_what_is_no_classifier_is_refused(pickled: bytes, manifest: dict[str, Any]) -> None:
    for content in (b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps(None), pickled[: len(pickled) // 2]):
        with pytest.raises(ModelError, match="the pickle does not open as a classifier"):
            load_model(content, manifest)


def test_other_classes_than_the_manifests_are_refused_with_both_named(pickled: bytes, manifest: dict[str, Any]) -> None:
    for classes in (["Gentoo", "Chinstrap", "Adelie"], ["Adelie", "Gentoo"], []):
        with pytest.raises(ModelError) as caught:
            load_model(pickled, {**manifest, "classes": classes})
        assert f"classes are ['Adelie', 'Chinstrap', 'Gentoo'], the manifest's {classes}" in str(caught.value)


def test_a_plain_pickle_which_older_versions_have_is_opened_too(pickled: bytes, manifest: dict[str, Any]) -> None:
    plain = pickle.dumps(unpickle(pickled), protocol=5)
    assert plain != pickled
    assert load_model(plain, manifest).classes == TARGET.values


# The proof on the golden rows.


def test_a_loaded_model_is_proven(pickled: bytes, manifest: dict[str, Any]) -> None:
    manifest["golden"]["labels"][3] = "Gentoo"
    with pytest.raises(ModelError, match="golden row 4 "):
        load_model(pickled, manifest)


def test_a_model_proves_its_own_golden_rows(model: Model, records: list[dict[str, Any]]) -> None:
    golden = golden_rows(model, records)
    assert golden["records"] == records
    prove(model, golden)


def test_another_label_is_refused_with_both_named(model: Model) -> None:
    golden = golden_rows(model, [EXAMPLE, EXAMPLE])
    golden["labels"][1] = "Adelie"
    with pytest.raises(ModelError) as caught:
        prove(model, golden)
    assert f"golden row 2 gives Gentoo {golden['probabilities'][1]}" in str(caught.value)
    assert f"in training it gave Adelie {golden['probabilities'][1]}" in str(caught.value)


def test_a_probability_beyond_the_tolerance_is_refused_with_both_named(model: Model) -> None:
    golden = golden_rows(model, [EXAMPLE])
    came = golden["probabilities"][0][0]
    golden["probabilities"][0][0] = came + TOLERANCE / 2
    prove(model, golden)
    for wrong in (came - 2 * TOLERANCE, came + 2 * TOLERANCE, float("nan")):
        golden["probabilities"][0][0] = wrong
        with pytest.raises(ModelError, match="golden row 1 ") as caught:
            prove(model, golden)
        assert str(came) in str(caught.value)
        assert str(wrong) in str(caught.value)


def test_the_golden_rows_of_another_model_are_refused(penguins_tables: Tables, manifest: dict[str, Any]) -> None:
    train, _ = penguins_tables
    other = fit(build_pipeline(n_estimators=20, max_samples=100_000, random_state=1, rows=train.num_rows), train)
    with pytest.raises(ModelError, match=r"golden row \d+ gives"):
        load_model(other, manifest)


def test_golden_rows_that_cannot_be_predicted_or_are_none_are_refused(model: Model, manifest: dict[str, Any]) -> None:
    from sklearn.dummy import DummyClassifier

    unfitted = DummyClassifier()
    unfitted.classes_ = np.array(TARGET.values)
    with pytest.raises(ModelError, match="the golden rows cannot be predicted"):
        load_model(pickle.dumps(unfitted), manifest)
    with pytest.raises(ModelError, match="the golden rows cannot be predicted"):
        prove(model, {"records": [], "labels": [], "probabilities": []})
