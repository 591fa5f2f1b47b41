"""The declaration of the columns, which everything else derives from."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from penguins import schema
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

SIZE = Category(name="size", description="", values=("S", "M"), example="S", required=True)
LENGTH = Number(name="length", description="", unit="", minimum=0, maximum=1, example=0)

# What a column is


def test_an_identifier_is_taken_and_any_other_name_is_refused_with_the_rule() -> None:
    for name in ("a", "Body_Mass_2", "a" * 63):
        assert Column(name=name, description="").name == name
    for name in ("", "1st", "_x", "body mass", "mass-g", 'a"b', "a`b", "a;b", "größe", "a\n", "a" * 64):
        with pytest.raises(ValueError, match="a letter, then up to 62 letters, digits or underscores") as caught:
            Column(name=name, description="")
        assert f"column name {name!r}" in str(caught.value)


def test_a_column_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TARGET.name = "other"  # type: ignore[misc]


def test_a_numbers_rule_names_range_and_unit_with_all_their_digits() -> None:
    column = Number(name="wing", description="", unit="mm", minimum=0.5, maximum=300, example=1)
    assert column.rule == "a number from 0.5 to 300 mm"
    assert column.sql_type == "DOUBLE"
    column = Number(name="income", description="", unit="", minimum=-1e6, maximum=1234567.25, example=0)
    assert column.rule == "a number from -1000000 to 1234567.25"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"minimum": 300}, "minimum is 300 and maximum 300"),
        ({"minimum": 301}, "the minimum must be below the maximum"),
        ({"minimum": float("nan")}, "the minimum must be below the maximum"),
        ({"maximum": 2e15}, "both from -1e+15 to 1e+15"),
        ({"maximum": float("inf")}, "both from -1e+15 to 1e+15"),
        ({"example": 0}, "the example is 0; it must be a number from 0.5 to 300 mm"),
    ],
    ids=["empty range", "turned", "nan", "large", "infinite", "example"],
)
def test_a_number_that_contradicts_itself_is_refused(changed: dict[str, Any], said: str) -> None:
    good: dict[str, Any] = {"name": "wing", "description": "", "unit": "mm", "minimum": 0.5, "maximum": 300}
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        Number(**{**good, "example": 1, **changed})
    assert "column wing" in str(caught.value)


def test_a_categorys_rule_names_its_values_and_quotes_one_with_a_comma() -> None:
    """So that it is not taken for two."""
    column = Category(name="size", description="", values=("small", "big"), example="big")
    assert column.rule == "one of small, big"
    column = Category(name="size", description="", values=("small, flat", "big"), example="big")
    assert column.rule == "one of 'small, flat', big"


def test_a_categorys_sql_type_holds_its_longest_value_and_what_says_missing() -> None:
    column = Category(name="size", description="", values=("small", "big"), example="big")
    assert column.sql_type == "VARCHAR(5)"
    column = Category(name="size", description="", values=("S",), example="S")
    assert column.sql_type == "VARCHAR(2)"


@pytest.mark.parametrize(
    ("values", "example", "said"),
    [
        ((), "S", "Wrong here: no value"),
        (("S", "M", "S"), "S", "Wrong here: ['S']"),
        (("S", "NA", ""), "S", "Wrong here: ['NA', '']"),
        (("S", "NULL"), "S", "Wrong here: ['NULL']"),
        (("S", 1), "S", "Wrong here: [1]"),
        ("S", "S", "its values are 'S'; this must be a tuple: is a comma missing, as in ('S',)?"),
        (("S", "M"), "L", "the example is 'L'; it must be one of S, M"),
    ],
    ids=["none", "twice", "missing", "NULL", "no string", "no tuple", "example"],
)
def test_a_category_that_contradicts_itself_is_refused(values: Any, example: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        Category(name="size", description="", values=values, example=example)
    assert "column size" in str(caught.value)


# What is declared


def test_the_columns_are_those_of_the_files_header() -> None:
    header = (PROJECT / "dags" / CSV_NAME).read_text(encoding="utf-8").splitlines()[0]
    assert [c.name for c in COLUMNS] == header.split(",")
    assert len({c.name for c in COLUMNS}) == len(COLUMNS)


def test_a_number_has_an_example_within_its_range_and_may_always_be_missing() -> None:
    """The model imputes it, and the API takes null for it."""
    for column in NUMBERS:
        assert column.minimum < column.example < column.maximum, column.name
        assert not column.required, column.name


def test_a_category_has_distinct_values_that_are_never_missing_and_one_of_them_as_example() -> None:
    for column in (TARGET, *CATEGORIES):
        assert column.example in column.values, column.name
        assert set(column.values).isdisjoint(MISSING), column.name
        assert len(set(column.values)) == len(column.values), column.name


def test_the_target_is_a_required_category_of_two_classes_or_more() -> None:
    assert isinstance(TARGET, Category)
    assert TARGET.required
    assert len(TARGET.values) >= 2


def test_the_features_are_every_column_but_the_target_and_the_example_has_each() -> None:
    assert [TARGET.name, *(c.name for c in FEATURES)] == [c.name for c in COLUMNS]
    assert sorted([*NUMBERS, *CATEGORIES], key=FEATURES.index) == list(FEATURES)
    assert list(EXAMPLE) == [c.name for c in FEATURES]


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a name twice": (
        {"COLUMNS": (LENGTH, dataclasses.replace(LENGTH, name="LENGTH"), SIZE)},
        "or reserved (row_id): length",
    ),
    "the table's own name": (
        {"COLUMNS": (dataclasses.replace(LENGTH, name="Row_ID"), SIZE)},
        "duplicate column names, or reserved (row_id): row_id",
    ),
    "a table's name": ({"TABLE": "2024_sizes"}, "TABLE '2024_sizes': it must be a letter, then up to 62"),
    "a comma too few": ({"MISSING": ("unknown")}, "MISSING is 'unknown'; this must be a tuple"),
    "a number for missing": ({"MISSING": (-1,)}, "MISSING holds [-1]; it must hold strings"),
    "a quote for missing": ({"MISSING": ("n'a",)}, """MISSING holds ["n'a"]; it must hold strings without quotes"""),
    "no such target": ({"TARGET_NAME": "weight"}, "TARGET_NAME is 'weight'; it must be the name of a Category"),
    "a number": ({"TARGET_NAME": "length"}, "TARGET_NAME is 'length'"),
    "not required": ({"COLUMNS": (LENGTH, dataclasses.replace(SIZE, required=False))}, "Candidates here: none"),
    "an answer's name": (
        {"TARGET_NAME": "probabilities", "COLUMNS": (LENGTH, dataclasses.replace(SIZE, name="probabilities"))},
        "not called probabilities or model_version",
    ),
    "the target alone": ({"COLUMNS": (SIZE,)}, "no column to predict size from"),
}


@pytest.mark.parametrize(("changed", "said"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_declaration_that_contradicts_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], said: str
) -> None:
    for name, value in {"TARGET_NAME": "size", "COLUMNS": (LENGTH, SIZE), **changed}.items():
        monkeypatch.setattr(schema, name, value)
    with pytest.raises(ValueError, match=re.escape(said)):
        schema._target()
