"""The facts about a new version that its manifest, its report and the next gate need."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from penguins.compatibility import library_versions
from penguins.data.drift import histograms, shortest_float
from penguins.evaluation.accuracy import Accuracy
from penguins.evaluation.comparison import compare_with_serving
from penguins.evaluation.gate import judge
from penguins.evaluation.inspection import inspect
from penguins.evaluation.scores import predict_unseen, score, warnings_of
from penguins.inference import Model, golden_rows, unpickle
from penguins.registry import Registry
from penguins.schema import FEATURES, Category, Number
from penguins.training.rows import label_codes

GOLDEN_PER_CLASS = 5


def evaluate(
    pickled: bytes,
    train: pa.Table,
    test: pa.Table,
    *,
    registry: Registry,
    min_accuracy: float,
    max_accuracy_drop: float,
    random_state: int,
    ignore_untrusted: bool = False,
) -> dict[str, Any]:
    """Score a run's model, compare it with the serving model, and collect the facts for its manifest.

    Parameters
    ----------
    pickled : bytes
        The run's own pickle. It is unpickled here, so its checksum must have been compared with the train task's.
    ignore_untrusted : bool
        Compare with nothing if the serving version cannot be trusted. Otherwise RegistryError is raised.

    Returns
    -------
    dict
        `metrics` (with the verdict as `gate`), `classes`, `rows`, `columns`, `estimator`, `libraries`, `golden`,
        `histograms`, `importance`, `calibration`; and, outside the manifest, `points` for the report, and
        `predictions`, bytes that the version keeps next to its pickle for the next gate.
    """
    pipeline = unpickle(pickled)
    classes = [str(c) for c in pipeline.classes_]
    metrics = score(pipeline, test)
    unseen, extra_metrics = predict_unseen(pipeline, train, test, random_state)
    held_out = Accuracy("held-out", sum(row[i] for i, row in enumerate(metrics["confusion_matrix"])), test.num_rows)
    headline = max(unseen.accuracy, held_out, key=lambda accuracy: accuracy.rows)  # more rows, a narrower interval
    gate = judge(
        headline,
        compare_with_serving(registry, unseen, ignore_untrusted=ignore_untrusted),
        min_accuracy=min_accuracy,
        max_accuracy_drop=max_accuracy_drop,
    )
    return {
        "metrics": {
            **metrics,
            **extra_metrics,
            "headline": headline.facts(),
            "gate": asdict(gate),
            "warnings": warnings_of(metrics),
        },
        "classes": classes,
        "rows": {"train": train.num_rows, "test": test.num_rows},
        "columns": [_described(c) for c in FEATURES],
        "estimator": type(pipeline[-1]).__name__,
        "libraries": library_versions(),
        "golden": golden_rows(Model(pipeline, tuple(classes)), golden_records(test)),
        "histograms": histograms(train),
        **inspect(pipeline, test, random_state),
        "predictions": unseen.predictions.to_bytes(),
    }


def _described(column: Number | Category) -> dict[str, Any]:
    described = {"kind": type(column).__name__.lower(), **asdict(column)}
    del described["header"]  # which is the file's, and no matter of the model
    if not described.get("rest", True):
        del described["rest"]
    return described


def golden_records(table: pa.Table) -> list[dict[str, Any]]:
    """Return a few records of each class, unchanged and with each nullable feature missing in turn."""
    names = [c.name for c in FEATURES]
    nullable = [c.name for c in FEATURES if not c.required]
    codes = label_codes(table)
    records: list[dict[str, Any]] = []
    for code in np.unique(codes):
        rows = table.select(names).take(np.flatnonzero(codes == code)[:GOLDEN_PER_CLASS])
        records += [{name: shortest_float(value) for name, value in row.items()} for row in rows.to_pylist()]
        records += [{**records[-1], name: None} for name in nullable]
    return records
