"""The declaration of the columns, which everything else derives from."""

from __future__ import annotations

import dataclasses

import pytest

from penguins.registry import PROJECT
from penguins.schema import (
    CATEGORIES,
    COLUMNS,
    CSV_NAME,
    EXAMPLE,
    FEATURES,
    MISSING,
    NUMBERS,
    TARGET,
    Category,
    Column,
    Number,
)


def test_the_columns_are_those_of_the_files_header() -> None:
    header = (PROJECT / "dags" / CSV_NAME).read_text(encoding="utf-8").splitlines()[0]
    assert [c.name for c in COLUMNS] == header.split(",")


def test_no_name_stands_twice() -> None:
    assert len({c.name for c in COLUMNS}) == len(COLUMNS)


def test_the_features_are_every_column_but_the_target() -> None:
    assert [TARGET.name, *(c.name for c in FEATURES)] == [c.name for c in COLUMNS]
    assert sorted([*NUMBERS, *CATEGORIES], key=FEATURES.index) == list(FEATURES)


def test_the_target_is_a_required_category_of_two_classes_or_more() -> None:
    assert isinstance(TARGET, Category)
    assert TARGET.required
    assert len(TARGET.values) >= 2


def test_a_number_may_always_be_missing() -> None:
    """The model imputes it, and the API takes null for it."""
    assert [c.name for c in NUMBERS if c.required] == []


@pytest.mark.parametrize("column", NUMBERS, ids=lambda c: c.name)
def test_a_numbers_example_is_within_its_range(column: Number) -> None:
    assert column.minimum < column.example < column.maximum


@pytest.mark.parametrize("column", [TARGET, *CATEGORIES], ids=lambda c: c.name)
def test_a_categorys_example_is_one_of_its_values(column: Category) -> None:
    assert column.example in column.values


@pytest.mark.parametrize("column", [TARGET, *CATEGORIES], ids=lambda c: c.name)
def test_no_value_of_a_category_means_missing(column: Category) -> None:
    assert set(column.values).isdisjoint(MISSING)
    assert len(set(column.values)) == len(column.values)


def test_the_example_has_every_feature_and_nothing_else() -> None:
    assert list(EXAMPLE) == [c.name for c in FEATURES]


def test_a_numbers_rule_names_range_and_unit() -> None:
    column = Number(name="wing", description="", unit="mm", minimum=0.5, maximum=300, example=1)
    assert column.rule == "a number from 0.5 to 300 mm"
    assert column.sql_type == "DOUBLE"


def test_a_categorys_rule_names_its_values() -> None:
    column = Category(name="size", description="", values=("small", "big"), example="big")
    assert column.rule == "one of small, big"


def test_a_categorys_sql_type_holds_its_longest_value() -> None:
    column = Category(name="size", description="", values=("small", "big"), example="big")
    assert column.sql_type == "VARCHAR(5)"


def test_a_categorys_sql_type_holds_what_says_missing() -> None:
    column = Category(name="size", description="", values=("S",), example="S")
    assert column.sql_type == "VARCHAR(2)"


@pytest.mark.parametrize(
    "name", ["", "1st", "_x", "body mass", "mass-g", 'a"b', "a`b", "a;b", "größe", "a\n", "a" * 64], ids=ascii
)
def test_a_name_that_is_no_identifier_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ValueError, match="a letter, then up to 62 letters, digits or underscores") as caught:
        Column(name=name, description="")
    assert f"column name {name!r}" in str(caught.value)


@pytest.mark.parametrize("name", ["a", "Body_Mass_2", "a" * 63])
def test_an_identifier_is_taken(name: str) -> None:
    assert Column(name=name, description="").name == name


def test_a_column_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TARGET.name = "other"  # type: ignore[misc]
