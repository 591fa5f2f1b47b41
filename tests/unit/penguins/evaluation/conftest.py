"""What the tests of the evaluation share."""

from __future__ import annotations

from typing import Any

import pytest

from models import Tables
from penguins.evaluation.scores import Unseen, predict_unseen
from penguins.inference import unpickle
from penguins.registry import Registry
from penguins.training.pipeline import build_pipeline, fit

Trained = tuple[bytes, dict[str, Any]]


@pytest.fixture(scope="session")
def poor(penguins_tables: Tables) -> bytes:
    """A model that makes mistakes: one tree, grown on ten rows."""
    train, _ = penguins_tables
    return fit(build_pipeline(n_estimators=1, max_samples=10, random_state=0, rows=train.num_rows), train)


@pytest.fixture(scope="session")
def unseen(penguins_tables: Tables, trained: Trained) -> Unseen:
    """What models like the good one predict of rows that they had not seen: cross-validated once for all tests."""
    return predict_unseen(unpickle(trained[0]), *penguins_tables, 42)[0]


@pytest.fixture
def serving(trained: Trained, unseen: Unseen, registry: Registry) -> dict[str, Any]:
    """A serving version of the good model."""
    return registry.publish(*trained, predictions=unseen.predictions.to_bytes())
