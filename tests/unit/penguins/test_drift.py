"""The stability index, and the bins that rows fall into."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penguins.drift import DataChangedError, Drift, check_data, drift_of, stability_index
from penguins.inference import Record
from penguins.schema import CATEGORIES, EXAMPLE, FEATURES, NUMBERS
from penguins.source import Source
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


# a new file against the serving version


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


def source(**changed: Any) -> Source:
    facts = {"rows": 344, "class_counts": {"Adelie": 151, "Chinstrap": 68, "Gentoo": 123}, "constant": {}, **changed}
    return Source(path="f.csv", sha256="", line_ending="\n", **facts)


def manifest_of(**histograms: Any) -> dict[str, Any]:
    counts = {"Adelie": 151, "Chinstrap": 68, "Gentoo": 123}
    data = {"rows": 344, "class_counts": counts}
    return {"version": "v", "data": data, "classes": list(counts), "histograms": spread(**histograms)}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rows": 171}, "it has 171 rows, v was trained on a file of 344: less than min_rows_share 0.5"),
        (
            {"class_counts": {"Adelie": 151, "Gentoo": 123}},
            "no row has the species Chinstrap, v was trained on 68 of them",
        ),
        ({"constant": {"body_mass_g": "4000"}}, "the column body_mass_g is 4000 in every row that has it, v was"),
        (
            {"constant": {"body_mass_g": None}},
            "the column body_mass_g is missing in every row, v was trained on rows of",
        ),
    ],
)
def test_a_file_that_shrank_or_lost_a_class_or_a_column_is_refused(changed: dict[str, Any], said: str) -> None:
    check_data(source(), manifest_of(), min_rows_share=0.5)
    with pytest.raises(
        DataChangedError, match="is not like the file that the serving version was trained on"
    ) as raised:
        check_data(source(**changed), manifest_of(), min_rows_share=0.5)
    assert said in str(raised.value)


def test_exactly_the_share_is_enough_and_the_share_may_be_changed() -> None:
    check_data(source(rows=172), manifest_of(), min_rows_share=0.5)
    check_data(source(rows=18), manifest_of(), min_rows_share=0.05)
    with pytest.raises(DataChangedError):
        check_data(source(rows=309), manifest_of(), min_rows_share=0.9)


def test_all_that_changed_is_named_at_once() -> None:
    with pytest.raises(DataChangedError) as raised:
        check_data(source(rows=1, class_counts={}, constant={NUMBER.name: None}), manifest_of(), min_rows_share=0.5)
    assert len(str(raised.value).splitlines()) == 1 + 1 + 3 + 1


def test_what_was_constant_before_may_stay_so_and_what_was_missing_may_as_well() -> None:
    constant = {"edges": [4000.0], "counts": [273], "missing": 0}
    missing = {"edges": [0.0], "counts": [0], "missing": 273}
    check_data(source(constant={"body_mass_g": "4000"}), manifest_of(body_mass_g=constant), min_rows_share=0.5)
    check_data(source(constant={"body_mass_g": None}), manifest_of(body_mass_g=missing), min_rows_share=0.5)
    with pytest.raises(DataChangedError, match="missing in every row"):
        check_data(source(constant={"body_mass_g": None}), manifest_of(body_mass_g=constant), min_rows_share=0.5)


def test_a_version_from_before_these_facts_still_has_its_classes() -> None:
    manifest = manifest_of()
    del manifest["data"]["class_counts"]
    with pytest.raises(DataChangedError, match="no row has the species Adelie, v was trained on some"):
        check_data(source(class_counts={"Chinstrap": 68, "Gentoo": 123}), manifest, min_rows_share=0.5)
