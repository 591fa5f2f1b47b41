"""The stability index, and the bins that rows fall into."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penguins.drift import Drift, stability_index
from penguins.inference import Record
from penguins.schema import CATEGORIES, EXAMPLE, FEATURES, NUMBERS
from penguins.validation import histograms
from tables import frame_of, table_of

NUMBER, CATEGORY = NUMBERS[0], CATEGORIES[0]


def spread(**changes: Any) -> dict[str, Any]:
    """Return histograms of 100 rows: every number in [0, 10), [10, 20) and [20, 30], none missing."""
    numbers = {c.name: {"edges": [0.0, 10.0, 20.0, 30.0], "counts": [20, 30, 50], "missing": 0} for c in NUMBERS}
    categories = {c.name: {"counts": {c.values[0]: 100}, "missing": 0} for c in CATEGORIES}
    return {**numbers, **categories, **changes}


def ask(drift: Drift, *records: Record) -> None:
    drift.add_counts(drift.counts_of(records))


def bins(drift: Drift, name: str, *values: Any) -> list[int]:
    """Ask for these values, and return their counts alone."""
    before = drift.counts()[name]
    ask(drift, *({**EXAMPLE, name: value} for value in values))
    return [after - b for after, b in zip(drift.counts()[name], before, strict=True)]


@pytest.mark.parametrize(
    ("trained", "asked", "index"),
    [
        ([50, 50], [500, 500], 0),
        ([50, 50], [75, 25], 0.27465307),  # 0.25 ln 1.5 - 0.25 ln 0.5
        ([20, 30, 50], [2, 3, 5], 0),
        ([20, 30, 50], [50, 30, 20], 0.54977444),  # 0.3 ln 2.5 - 0.3 ln 0.4
        ([99, 1], [90, 10], 0.21581058),  # -0.09 ln(0.9 / 0.99) + 0.09 ln 10
        ([100, 0], [90, 10], 0.29513062),  # -0.1 ln 0.9 + 0.095 ln 20: none counts as 0.005
        ([90, 10], [1000, 0], 0.29513062),
        ([100, 0, 0], [7, 0, 0], 0),
    ],
)
def test_the_index_is_the_one_computed_by_hand(trained: list[int], asked: list[int], index: float) -> None:
    assert stability_index(trained, asked) == pytest.approx(index, abs=1e-7)


def test_an_empty_bin_counts_the_same_however_many_rows_there_are() -> None:
    few, many = stability_index([900, 100], [1000, 0]), stability_index([900, 100], [10**9, 0])
    assert few == many


def test_a_number_falls_into_its_bin_and_beyond_the_edges_into_the_outermost() -> None:
    drift = Drift(spread())
    assert bins(drift, NUMBER.name, 0.0, 9.999, -1e300) == [3, 0, 0, 0]
    assert bins(drift, NUMBER.name, 10.0, 19.9) == [0, 2, 0, 0]
    assert bins(drift, NUMBER.name, 20.0, 30.0, 1e300) == [0, 0, 3, 0]
    assert bins(drift, NUMBER.name, None, None) == [0, 0, 0, 2]


def test_a_category_has_a_bin_for_each_value_also_for_one_that_training_never_saw() -> None:
    drift = Drift(spread())
    last = CATEGORY.values[-1]
    assert bins(drift, CATEGORY.name, last, last) == [0] * (len(CATEGORY.values) - 1) + [2, 0]
    assert bins(drift, CATEGORY.name, None)[-1] == 1


@pytest.mark.parametrize("edges", [[5.0], [5.0, 5.0]])
def test_a_constant_number_has_one_bin_and_drifts_when_it_goes_missing(edges: list[float]) -> None:
    drift = Drift(spread(**{NUMBER.name: {"edges": edges, "counts": [100], "missing": 0}}))
    same = bins(drift, NUMBER.name, 5, 4, 6)
    assert same == [3, 0]
    assert drift.indices(drift.counts())[NUMBER.name] == 0
    bins(drift, NUMBER.name, None, None)
    assert drift.indices(drift.counts())[NUMBER.name] > 0.25


def test_a_number_that_was_always_missing_drifts_once_it_is_there() -> None:
    drift = Drift(spread(**{NUMBER.name: {"edges": [0.0], "counts": [0], "missing": 100}}))
    assert bins(drift, NUMBER.name, *[None] * 8) == [0, 8]
    assert drift.indices(drift.counts())[NUMBER.name] == 0
    bins(drift, NUMBER.name, 1, 2)
    assert drift.indices(drift.counts())[NUMBER.name] > 0.25


def test_a_number_of_two_values_drifts_with_their_shares(penguins_tables: Any) -> None:
    train = frame_of(penguins_tables[0])
    share = np.arange(len(train)) < len(train) * 0.1
    found = histograms(table_of(train.assign(**{NUMBER.name: np.where(share, 0.1, 1.0)})))
    drift = Drift(found)
    bins(drift, NUMBER.name, *[0.1] * 10, *[1.0] * 90)
    assert drift.indices(drift.counts())[NUMBER.name] < 0.01
    bins(drift, NUMBER.name, *[0.1] * 100)
    assert drift.indices(drift.counts())[NUMBER.name] > 0.25


def test_training_rows_between_whose_quantiles_lies_a_rounding_do_not_drift(penguins_tables: Any) -> None:
    values = np.random.default_rng(111).integers(0, 15, 111)  # numpy's quantiles of these hold 3.0000000000000004
    train = frame_of(penguins_tables[0]).head(len(values)).assign(**{NUMBER.name: values.astype(float)})
    drift = Drift(histograms(table_of(train)))
    bins(drift, NUMBER.name, *values.tolist())
    assert drift.indices(drift.counts())[NUMBER.name] == pytest.approx(0, abs=1e-9)


def test_each_feature_has_an_index() -> None:
    drift = Drift(spread())
    ask(drift, EXAMPLE)
    assert list(drift.indices(drift.counts())) == [c.name for c in FEATURES]
