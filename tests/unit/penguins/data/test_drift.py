"""The stability index, and the bins that rows fall into."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from penguins.data.drift import Drift, drift_of, histograms, stability_index
from penguins.inference import Record
from penguins.registry import PROJECT
from penguins.schema import CATEGORIES, CSV_NAME, EXAMPLE, FEATURES, MISSING, NUMBERS
from tables import frame_of, spread, table_of

Tables = tuple[pa.Table, pa.Table]
CSV = PROJECT / "dags" / CSV_NAME
NUMBER, CATEGORY = NUMBERS[0], CATEGORIES[0]


def ask(drift: Drift, *records: Record) -> None:
    drift.add_counts(drift.counts_of(records))


def bins(drift: Drift, name: str, *values: Any) -> list[int]:
    """Ask for these values, and return their counts alone."""
    before = drift.counts()[name]
    ask(drift, *({**EXAMPLE, name: value} for value in values))
    return [after - b for after, b in zip(drift.counts()[name], before, strict=True)]


# stability_index


def test_the_index_is_the_one_computed_by_hand() -> None:
    for trained, asked, index in (
        ([50, 50], [500, 500], 0),
        ([50, 50], [75, 25], 0.27465307),  # 0.25 ln 1.5 - 0.25 ln 0.5
        ([20, 30, 50], [2, 3, 5], 0),
        ([20, 30, 50], [50, 30, 20], 0.54977444),  # 0.3 ln 2.5 - 0.3 ln 0.4
        ([99, 1], [90, 10], 0.21581058),  # -0.09 ln(0.9 / 0.99) + 0.09 ln 10
        ([100, 0], [90, 10], 0.29513062),  # -0.1 ln 0.9 + 0.095 ln 20: none counts as 0.005
        ([90, 10], [1000, 0], 0.29513062),
        ([100, 0, 0], [7, 0, 0], 0),
    ):
        assert stability_index(trained, asked) == pytest.approx(index, abs=1e-7)


def test_an_empty_bin_counts_the_same_however_many_rows_there_are() -> None:
    few, many = stability_index([900, 100], [1000, 0]), stability_index([900, 100], [10**9, 0])
    assert few == many


# Drift


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


def test_a_constant_number_has_one_bin_and_drifts_when_it_goes_missing() -> None:
    for edges in ([5.0], [5.0, 5.0]):
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


# counts_in and drift_of: a new file against the serving version


def test_the_rows_of_a_table_fall_into_the_bins_of_the_same_rows_as_records(penguins_tables: Any) -> None:
    """Also those on an edge: 39.1 is 39.099998 in the table."""
    train, test = penguins_tables
    drift = Drift(histograms(train))
    for table in (train, test):
        frame = frame_of(table).astype(object)
        records = frame.where(frame.notna(), None).to_dict("records")
        for record in records:  # as a client would write them
            record |= {n: float(str(np.float32(v))) for n, v in record.items() if isinstance(v, float)}
        assert drift.counts_in(table) == drift.counts_of(records)


def test_the_drift_of_a_file_names_its_features_and_the_version(penguins_tables: Any) -> None:
    train, _ = penguins_tables
    manifest = {"version": "v", "histograms": histograms(train)}
    same = drift_of(train, manifest)
    assert same == {"version": "v", "psi": dict.fromkeys([c.name for c in FEATURES], pytest.approx(0))}
    moved = drift_of(table_of(frame_of(train).assign(body_mass_g=6000.0)), manifest)
    assert [name for name, psi in moved["psi"].items() if psi > 0.25] == ["body_mass_g"]


# histograms


def test_the_counts_add_up_to_the_rows(penguins_tables: Tables) -> None:
    spread = histograms(pa.concat_tables(penguins_tables))
    assert spread.keys() == {c.name for c in FEATURES}
    for column in NUMBERS:
        assert sum(spread[column.name]["counts"]) + spread[column.name]["missing"] == 342
    for category in CATEGORIES:
        assert sum(spread[category.name]["counts"].values()) + spread[category.name]["missing"] == 342
    assert spread["sex"]["missing"] == 9


def test_a_numbers_bins_run_from_its_least_to_its_greatest_value(penguins_tables: Tables) -> None:
    train, _ = penguins_tables
    written = pd.read_csv(CSV, na_values=MISSING)
    for column in NUMBERS:
        edges = histograms(train)[column.name]["edges"]
        ends = pc.min_max(train[column.name]).as_py()
        assert (np.float32(edges[0]), np.float32(edges[-1])) == (ends["min"], ends["max"])
        assert {edges[0], edges[-1]} <= {*written[column.name]}
        assert edges == sorted(set(edges))
        assert len(histograms(train)[column.name]["counts"]) == len(edges) - 1


def test_a_category_that_does_not_occur_counts_zero(penguins_tables: Tables) -> None:
    train = frame_of(penguins_tables[0])
    counts = histograms(table_of(train[train["island"] != "Dream"]))["island"]["counts"]
    assert counts["Dream"] == 0
    assert list(counts) == ["Biscoe", "Dream", "Torgersen"]


def test_each_of_a_few_values_has_a_bin(penguins_tables: Tables) -> None:
    train = frame_of(penguins_tables[0])
    for ones in (5, 100):
        masses = [0.1] * (len(train) - ones) + [1.0] * ones
        found = histograms(table_of(train.assign(body_mass_g=masses)))["body_mass_g"]
        assert found == {"edges": [0.1, 1.0, 1.0], "counts": [len(train) - ones, ones], "missing": 0}


def test_a_constant_feature_is_one_bin_and_a_missing_one_counts_as_missing(penguins_tables: Tables) -> None:
    train = frame_of(penguins_tables[0])
    constant = histograms(table_of(train.assign(body_mass_g=4000.0)))["body_mass_g"]
    assert constant == {"edges": [4000.0], "counts": [len(train)], "missing": 0}
    missing = histograms(table_of(train.assign(body_mass_g=np.nan)))["body_mass_g"]
    assert sum(missing["counts"]) == 0
    assert missing["missing"] == len(train)
    json.dumps(missing, allow_nan=False)
