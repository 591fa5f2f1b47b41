"""A new file against the one that the serving version was trained on."""

from __future__ import annotations

from typing import Any

import pytest

from penguins.data.changes import DataChangedError, check_data
from penguins.data.source import Source
from penguins.schema import NUMBERS
from tables import spread

NUMBER = NUMBERS[0]


def source(**changed: Any) -> Source:
    facts = {"rows": 344, "class_counts": {"Adelie": 151, "Chinstrap": 68, "Gentoo": 123}, "constant": {}, **changed}
    return Source(path="f.csv", sha256="", rows_sha256="", line_ending="\n", **facts)


def manifest_of(**histograms: Any) -> dict[str, Any]:
    counts = {"Adelie": 151, "Chinstrap": 68, "Gentoo": 123}
    data = {"rows": 344, "class_counts": counts}
    return {"version": "v", "data": data, "classes": list(counts), "histograms": spread(**histograms)}


def test_a_file_that_shrank_or_lost_a_class_or_a_column_is_refused() -> None:
    check_data(source(), manifest_of(), min_rows_share=0.5)
    class_gone, constant, missing = {"Adelie": 151, "Gentoo": 123}, {"body_mass_g": "4000"}, {"body_mass_g": None}
    for changed, said in (
        ({"rows": 171}, "it has 171 rows, but v was trained on a file of 344: less than min_rows_share 0.5"),
        ({"class_counts": class_gone}, "no row has the species Chinstrap, but v was trained on 68 of them"),
        ({"constant": constant}, "the column body_mass_g is 4000 in every row that has it, but v was"),
        ({"constant": missing}, "the column body_mass_g is missing in every row, but v was trained on rows of"),
    ):
        with pytest.raises(
            DataChangedError, match="differs too much from the file that the serving version was trained on"
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
    with pytest.raises(DataChangedError, match="no row has the species Adelie, but v was trained on some"):
        check_data(source(class_counts={"Chinstrap": 68, "Gentoo": 123}), manifest, min_rows_share=0.5)
