"""The serving version as a baseline, on rows that neither model was trained on."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from models import Tables, evaluate_here, fitted, publish_evaluated, with_random_labels
from penguins.evaluation import scores
from penguins.evaluation.comparison import compare_with_serving
from penguins.evaluation.gate import MIN_ROWS, Baseline, Verdict, judge
from penguins.evaluation.predictions import Predictions
from penguins.evaluation.scores import Unseen, predict_unseen
from penguins.inference import unpickle
from penguins.registry import NoModelError, Registry, RegistryError
from penguins.training.pipeline import build_pipeline, fit, split
from tables import frame_of, table_of

Trained = tuple[bytes, dict[str, Any]]
Publish = Callable[[], dict[str, Any]]


def gate_of(
    unseen: Unseen, registry: Registry, min_accuracy: float = 0.9, *, ignore_untrusted: bool = False
) -> Verdict:
    """The gate's verdict as `evaluate` asks for it, without the model's other facts."""
    baseline = compare_with_serving(registry, unseen, ignore_untrusted=ignore_untrusted)
    return judge(unseen.accuracy, baseline, min_accuracy=min_accuracy, max_accuracy_drop=0.02)


@pytest.fixture(scope="module")
def poor_unseen(penguins_tables: Tables, poor: bytes) -> Unseen:
    return predict_unseen(unpickle(poor), *penguins_tables, 42)[0]


@pytest.fixture(scope="module")
def with_new_rows(penguins_tables: Tables) -> Unseen:
    """The predictions for a file of which 69 rows were changed."""
    train, test = penguins_tables
    moved = table_of(frame_of(test).assign(body_mass_g=lambda f: f["body_mass_g"] + 1))
    return predict_unseen(fitted(train), train, moved, 0)[0]


def test_a_good_model_of_another_seed_and_split_is_not_worse(
    penguins_tables: Tables, registry: Registry, serving: dict[str, Any]
) -> None:
    tables = split(pa.concat_tables(penguins_tables), test_size=0.2, random_state=1)
    pickled = fit(build_pipeline(n_estimators=20, max_samples=10**5, random_state=1, rows=273), tables[0])
    gate = evaluate_here(pickled, tables, registry, random_state=1)["metrics"]["gate"]
    assert (gate["passed"], gate["outcome"]) == (True, "not worse")
    assert gate["serving_version"] == serving["version"]
    assert gate["comparison"]["rows"] == 342


def test_a_version_that_waits_is_no_baseline(
    registry: Registry, serving: dict[str, Any], trained: Trained, poor: bytes, unseen: Unseen, poor_unseen: Unseen
) -> None:
    registry.publish(poor, trained[1], predictions=poor_unseen.predictions.to_bytes(), activate=False)
    baseline = compare_with_serving(registry, unseen)
    assert baseline.version == serving["version"]
    assert not gate_of(poor_unseen, registry, min_accuracy=0).passed


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
    trained: Trained, unseen: Unseen, poor_unseen: Unseen, registry: Registry
) -> None:
    registry.publish(*trained, predictions=poor_unseen.predictions.to_bytes())
    gate = gate_of(unseen, registry)
    assert gate.passed
    assert gate.comparison is not None
    assert gate.comparison["interval"][0] > 0
    assert gate.serving_accuracy is not None
    assert gate.serving_accuracy < gate.accuracy


def test_rows_that_only_one_file_has_are_not_compared(
    with_new_rows: Unseen, registry: Registry, serving: dict[str, Any]
) -> None:
    """The serving model may know what is left of a row in which a value was changed: it would not be a fair judge."""
    baseline = compare_with_serving(registry, with_new_rows)
    assert baseline.comparison is not None
    assert (baseline.comparison.rows, baseline.note) == (273, "")


def test_it_is_said_where_the_serving_model_fails_on_rows_that_are_new_to_it(
    penguins_tables: Tables, registry: Registry, serving: dict[str, Any]
) -> None:
    train, test = penguins_tables
    new = frame_of(test).assign(body_mass_g=lambda f: f["body_mass_g"] + 1)
    wrong = table_of(new.assign(species="Adelie"))
    baseline = compare_with_serving(registry, predict_unseen(fitted(train), train, wrong, 0)[0])
    right_on_new = (unpickle(registry.read(serving["version"])[1]).predict(new) == "Adelie").mean()
    assert f"is right on {right_on_new:.1%} of the 69 rows that are new to it" in baseline.note


def test_few_rows_in_common_do_not_tell_and_min_accuracy_decides(
    penguins_tables: Tables, trained: Trained, registry: Registry, serving: dict[str, Any]
) -> None:
    train, test = penguins_tables
    few = predict_unseen(unpickle(trained[0]), train.slice(0, 60), test.slice(0, 20), 42)[0]
    gate = gate_of(few, registry)
    assert (gate.passed, gate.outcome) == (True, "too few rows")
    assert gate.comparison is not None
    assert gate.comparison["rows"] == 80 < MIN_ROWS
    assert "too few rows can be compared" in gate.reason
    assert not gate_of(few, registry, min_accuracy=1).passed


def spoil_manifest(registry: Registry, version: str) -> None:
    (registry.root / version / "manifest.json").write_text("{}")


def spoil_key(registry: Registry, version: str) -> None:
    registry.keys.public.unlink()
    registry.keys.private.unlink()
    registry.init()


def remove_manifest(registry: Registry, version: str) -> None:
    (registry.root / version / "manifest.json").unlink()


def spoil_pointer(registry: Registry, version: str) -> None:
    for name in ("current", ".last-pointer"):
        (registry.root / name).write_text("../../etc")


def spoil_predictions(registry: Registry, version: str) -> None:
    (registry.root / version / "predictions.parquet").write_bytes(b"PAR1")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_manifest, "signature does not match"),
        (spoil_key, "signature does not match"),
        (remove_manifest, "manifest.json cannot be read"),
        (spoil_pointer, "is not a version"),
        (spoil_predictions, "the sha256 of its predictions is"),
    ],
)
def test_a_serving_version_that_cannot_be_trusted_ends_the_run_unless_that_is_ignored(
    unseen: Unseen,
    poor_unseen: Unseen,
    registry: Registry,
    serving: dict[str, Any],
    spoil: Callable[[Registry, str], None],
    said: str,
) -> None:
    spoil(registry, serving["version"])
    with pytest.raises(RegistryError, match=f"{said}.*ignore_untrusted_serving") as caught:
        gate_of(unseen, registry)
    assert not isinstance(caught.value, NoModelError)
    gate = gate_of(unseen, registry, ignore_untrusted=True)
    assert (gate.passed, gate.outcome, gate.comparison) == (True, "no comparison", None)
    assert "No comparison" in gate.reason
    assert said in gate.reason
    assert not gate_of(poor_unseen, registry, ignore_untrusted=True).passed  # min_accuracy holds


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
    trained: Trained, unseen: Unseen, registry: Registry, publish: Publish
) -> None:
    version = publish()["version"]  # without predictions
    baseline = compare_with_serving(registry, unseen)
    assert baseline == Baseline(version, note=baseline.note)
    assert "was published before versions kept the predictions that a comparison needs" in baseline.note
    registry.publish(*trained, predictions=unseen.predictions.to_bytes())
    assert compare_with_serving(registry, unseen).comparison is not None


def test_a_version_of_another_table_makes_this_the_first(trained: Trained, unseen: Unseen, registry: Registry) -> None:
    pickled, facts = trained
    registry.publish(pickled, {**facts, "columns": facts["columns"][1:]})
    gate = gate_of(unseen, registry)
    assert (gate.passed, gate.outcome) == (True, "first version")
    assert "trained on another table" in gate.reason


def test_new_rows_cannot_be_tried_on_a_pickle_that_was_replaced_and_it_is_never_opened(
    with_new_rows: Unseen, registry: Registry, serving: dict[str, Any], tmp_path: Path
) -> None:
    class WritesWhenOpened:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "opened",)

    bad = pickle.dumps(WritesWhenOpened())
    pickle.loads(bad)
    (tmp_path / "opened").unlink()
    (registry.root / serving["version"] / "model.pkl").write_bytes(bad)
    baseline = compare_with_serving(registry, with_new_rows)
    assert baseline.comparison is not None
    assert baseline.comparison.rows == 273
    assert "cannot be tested on the 69 rows that are new to it" in baseline.note
    assert "sha256" in baseline.note
    assert not (tmp_path / "opened").exists()


def test_rows_that_every_tree_was_shown_are_known_and_not_judged(
    penguins_tables: Tables, registry: Registry, unseen: Unseen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a table of many copies only the held-out rows are: the next version does not take the others for new."""
    monkeypatch.setattr(scores, "ROWS_TO_CROSS_VALIDATE", 1000)
    train, test = penguins_tables
    copies = pa.concat_tables([train] * 20)
    pickled = pickle.dumps(fitted(copies, max_samples=10**5))
    of_copies, metrics = predict_unseen(unpickle(pickled), copies, test, 0)
    assert metrics == {}
    assert (len(of_copies.predictions.keys), of_copies.predictions.judged.sum()) == (342, 69)
    metrics = publish_evaluated(pickled, (copies, test), registry)["metrics"]
    assert metrics["headline"]["method"] == "held-out"
    baseline = compare_with_serving(registry, unseen)
    assert baseline.comparison is not None
    assert (baseline.comparison.rows, baseline.note) == (69, "")
