"""What a version keeps for the next gate."""

from __future__ import annotations

import numpy as np

from penguins.evaluation.predictions import Predictions


def test_what_a_version_keeps_of_a_large_table_is_small() -> None:
    keys = np.unique(np.random.default_rng(0).integers(0, 2**64 - 1, 100_000, np.uint64))
    judged = np.arange(len(keys)) % 9 > 0
    kept = Predictions(keys, judged & (np.arange(len(keys)) % 7 > 0), judged, limit=int(keys[-1]))
    content = kept.to_bytes()
    assert len(content) < 1_000_000
    back = Predictions.from_bytes(content)
    assert (back.keys == keys).all()
    assert (back.right == kept.right).all()
    assert (back.judged == kept.judged).all()
    assert back.limit == kept.limit
