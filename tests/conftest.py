"""What the tests share: a registry of their own, and one small model, trained once on the project's CSV."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penguins.data.source import check_source, read_records
from penguins.registry import PROJECT, Registry
from penguins.schema import COLUMNS, CSV_NAME
from support import empty_registry

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# Airflow reads its folder once, when it is first imported. It must not be the one that somebody works with.
_AIRFLOW_HOME = tempfile.TemporaryDirectory(prefix="airflow-")
os.environ["AIRFLOW_HOME"] = _AIRFLOW_HOME.name

CSV = PROJECT / "dags" / CSV_NAME


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """An empty registry with keys of its own."""
    return empty_registry(tmp_path)


@pytest.fixture(scope="session")
def penguins_tables() -> tuple[pa.Table, pa.Table]:
    """The CSV's rows as (train, test), without a database in between."""
    from penguins.data.cleaning import clean
    from penguins.training.pipeline import split
    from tables import table_of

    return split(clean(table_of(read_records(check_source(CSV, test_size=0.2)))), test_size=0.2, random_state=42)


@pytest.fixture(scope="session")
def penguins_frames(penguins_tables: tuple[pa.Table, pa.Table]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same rows as plain objects and floats, for a test that changes some."""
    from tables import frame_of

    train, test = map(frame_of, penguins_tables)
    return train, test


@pytest.fixture(scope="session")
def trained(
    penguins_tables: tuple[pa.Table, pa.Table], tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, dict[str, Any]]:
    """A pickled model and the facts to publish it with. Not to be changed: all tests see the same."""
    from penguins.evaluation.evaluate import evaluate
    from penguins.training.pipeline import build_pipeline, fit

    train, test = penguins_tables
    pickled = fit(build_pipeline(n_estimators=20, max_samples=100_000, random_state=42, rows=train.num_rows), train)
    facts = evaluate(
        pickled,
        train,
        test,
        registry=empty_registry(tmp_path_factory.mktemp("empty")),
        min_accuracy=0.9,
        max_accuracy_drop=0.02,
        random_state=42,
    )
    del facts["points"], facts["predictions"]  # which do not belong into the manifest
    missing = {c.name: sum(table[c.name].null_count for table in penguins_tables) for c in COLUMNS}
    data = {"sha256": hashlib.sha256(CSV.read_bytes()).hexdigest(), "rows": 344, "missing": missing}
    return pickled, {**facts, "dag_run_id": "test", "data": data, "params": {}}


@pytest.fixture
def publish(registry: Registry, trained: tuple[bytes, dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Publish the trained model into the registry and return the manifest."""
    return lambda: registry.publish(*trained)
