"""The preprocessing folded into a forest's thresholds: exactly, or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.decomposition import PCA
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.pipeline import Pipeline

from app.fast import folding
from app.fast.compiler import _random_records, _without_imputers, compile_model
from app.fast.graph import CompiledGraph, CompiledModel, FoldedForest, compiled_model
from penguins.evaluation.evaluate import golden_records
from penguins.inference import Model, golden_rows, to_frame, unpickle
from penguins.schema import EXAMPLE, NUMBERS, TARGET
from penguins.training.pipeline import build_pipeline, fit
from penguins.training.rows import feature_frame

Tables = tuple[pa.Table, pa.Table]


def trained(table: pa.Table, last: Any = None, *, between: Any = None) -> Model:
    pipeline = build_pipeline(n_estimators=10, max_samples=1000, random_state=0, rows=table.num_rows)
    if last is None and between is None:
        pipeline = unpickle(fit(pipeline, table))
    else:
        steps = [
            pipeline.steps[0],
            *([("between", between)] if between else []),
            ("last", pipeline[-1] if last is None else last),
        ]
        pipeline = Pipeline(steps).fit(to_frame(feature_frame(table)), table[TARGET.name].to_pylist())
    return Model(pipeline, tuple(map(str, pipeline.classes_)))


def compiled(model: Model, test: pa.Table) -> CompiledModel:
    return compiled_model(compile_model(model, golden_rows(model, golden_records(test))), model.classes)


def test_forests_of_any_number_of_classes_predict_the_very_same(penguins_tables: Tables) -> None:
    train, test = penguins_tables
    two_classes = [t.filter(pa.compute.not_equal(t[TARGET.name], "Gentoo")) for t in penguins_tables]
    uneven = RandomForestClassifier(7, max_depth=2, class_weight="balanced", random_state=0)  # leaves of mixed shares
    for rows, held_out, last in (
        (train, test, None),
        (train, test, ExtraTreesClassifier(10, random_state=0)),
        (train, test, uneven),
        (*two_classes, RandomForestClassifier(10, random_state=0)),
    ):
        model = trained(rows, last)
        folded = compiled(model, held_out)
        assert isinstance(folded, FoldedForest)
        records = _random_records(np.random.default_rng(5), 2000)
        for record in records[::3]:
            record |= {"sex": None, "body_mass_g": None}
        for expected, batch in zip(model.predict(records), folded.predict(records), strict=True):
            assert batch.label == expected.label
            assert batch.probabilities == pytest.approx(expected.probabilities, abs=1e-7, rel=0)
        assert [folded.predict([record])[0] for record in records[:300]] == folded.predict(records[:300])


@pytest.mark.parametrize("rows_at_once", [folding.CHUNK_ROWS, 1])
def test_each_threshold_is_the_largest_number_that_goes_left(
    penguins_tables: Tables, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(folding, "CHUNK_ROWS", rows_at_once)
    model = trained(penguins_tables[0])
    pipeline = model.pipeline
    layout = folding._layout(pipeline)
    tree, folded = pipeline[-1].estimators_[0].tree_, folding._thresholds(pipeline, layout)[0]
    tried = 0
    for number in NUMBERS:
        nodes = np.flatnonzero(tree.feature == layout.numbers[number.name])
        for threshold, own in zip(tree.threshold[nodes], folded[nodes], strict=True):
            sides = [{**EXAMPLE, number.name: value} for value in (own, np.nextafter(own, np.inf))]
            scaled = pipeline[:-1].transform(to_frame(sides))[:, layout.numbers[number.name]].astype(np.float32)
            assert scaled[0] <= threshold < scaled[1]
            tried += 1
    assert tried > 5


def test_thresholds_that_are_one_float_off_are_not_served(
    penguins_tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = penguins_tables
    model, exact = trained(train), folding._thresholds

    def off(*of: Any) -> list[np.ndarray]:
        return [np.nextafter(thresholds, -np.inf) for thresholds in exact(*of)]

    monkeypatch.setattr(folding, "_thresholds", off)
    assert isinstance(compiled(model, test), CompiledGraph)


def test_what_mixes_features_or_is_no_forest_is_not_folded(penguins_tables: Tables) -> None:
    train, _ = penguins_tables
    mixed = trained(train, between=PCA(3, random_state=0)).pipeline
    with pytest.raises(folding.CompileError, match="columns of the forest's input"):
        folding.fold(mixed, _without_imputers(mixed)[1])
    other = Pipeline([*mixed.steps[:1], ("last", PCA(2))])
    with pytest.raises(folding.CompileError, match="a PCA is not folded"):
        folding.fold(other, {})


def test_batches_of_one_from_other_threads_do_not_get_mixed_up(penguins_tables: Tables) -> None:
    train, test = penguins_tables
    folded = compiled(trained(train), test)
    records = _random_records(np.random.default_rng(6), 200)
    alone = folded.predict(records)
    with ThreadPoolExecutor(4) as threads:
        for _ in range(10):
            assert [p for (p,) in threads.map(lambda record: folded.predict([record]), records)] == alone
