"""Models for the tests of what comes after the training, some of them poor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from penguins.evaluation.evaluate import evaluate
from penguins.inference import unpickle
from penguins.registry import Registry
from penguins.schema import TARGET
from penguins.training.pipeline import build_pipeline, fit
from tables import frame_of, table_of

Tables = tuple[pa.Table, pa.Table]


def fitted(table: pa.Table, **changed: Any) -> Any:
    forest = {"n_estimators": 5, "max_samples": 500, "random_state": 0, **changed}
    return unpickle(fit(build_pipeline(**forest, rows=table.num_rows), table))


def with_random_labels(table: pa.Table, share: float) -> pa.Table:
    random, frame = np.random.default_rng(0), frame_of(table)
    hit = random.random(len(frame)) < share
    frame.loc[hit, TARGET.name] = random.choice(TARGET.values, hit.sum())
    return table_of(frame)


def evaluate_here(pickled: bytes, tables: Tables, registry: Registry, **changed: Any) -> dict[str, Any]:
    gate = {"min_accuracy": 0.9, "max_accuracy_drop": 0.02, "random_state": 42, **changed}
    return evaluate(pickled, *tables, registry=registry, **gate)


def publish_evaluated(pickled: bytes, tables: Tables, registry: Registry, **changed: Any) -> dict[str, Any]:
    """Publish a model as the DAG does, with what the next gate needs."""
    facts = evaluate_here(pickled, tables, registry, **changed)
    predictions, _ = facts.pop("predictions"), facts.pop("points")
    facts |= {"dag_run_id": "test", "data": {"rows": sum(t.num_rows for t in tables)}, "params": {}}
    return registry.publish(pickled, facts, predictions=predictions)
