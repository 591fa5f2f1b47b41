"""The declaration of the columns, which everything else derives from."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from penguins.column_types import Column, SchemaError, checked_target
from penguins.data.records import header_line
from penguins.data.warehouse import sql_type
from penguins.registry import PROJECT
from penguins.schema import CATEGORIES, COLUMNS, CSV_NAME, EXAMPLE, FEATURES, MISSING, NUMBERS, TARGET, Category, Number

SIZE = Category(name="size", description="", values=("S", "M"), example="S", required=True)
LENGTH = Number(name="length", description="", unit="", minimum=0, maximum=1, example=0)

# What a column is


def test_an_identifier_is_taken_and_any_other_name_is_refused_with_the_rule() -> None:
    for name in ("a", "Body_Mass_2", "a" * 63):
        assert Column(name=name, description="").name == name
    for name in ("", "1st", "_x", "body mass", "mass-g", 'a"b', "a`b", "a;b", "größe", "a\n", "a" * 64):
        with pytest.raises(SchemaError, match="a letter, then up to 62 letters, digits or underscores") as caught:
            Column(name=name, description="")
        assert f"column name {name!r}" in str(caught.value)
        assert caught.value.column == name


def test_a_header_may_be_any_text_on_one_line_and_is_the_name_if_none_is_declared() -> None:
    assert Column(name="a", description="").header == "a"
    for header in ("Culmen Length (mm)", "OD280/OD315 of diluted wines", "'", '"', ",", " ", "日本", "año"):
        column = Column(name="a", description="", header=header)
        assert (column.name, column.header) == ("a", header)
    assert Column(name="a", description="", header="an\u0303o").header == "año"  # as macOS writes it
    for header in ("a\nb", "a\r"):
        with pytest.raises(SchemaError, match="it must be on one line"):
            Column(name="a", description="", header=header)


def test_a_column_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TARGET.name = "other"  # type: ignore[misc]


def test_a_numbers_rule_names_range_and_unit_with_all_their_digits() -> None:
    column = Number(name="wing", description="", unit="mm", minimum=0.5, maximum=300, example=1)
    assert column.rule == "a number from 0.5 to 300 mm"
    assert sql_type(column) == "DOUBLE"
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
        ({"example": "1"}, "example is '1'; it must be a number"),
        ({"minimum": True}, "minimum is True; it must be a number"),
        ({"unit": None}, "unit is None; it must be a string"),
        ({"required": "yes"}, "required is 'yes'; it must be True or False"),
    ],
    ids=["empty range", "turned", "nan", "large", "infinite", "example", "text", "a bool", "no unit", "no bool"],
)
def test_a_number_that_contradicts_itself_is_refused(changed: dict[str, Any], said: str) -> None:
    good: dict[str, Any] = {"name": "wing", "description": "", "unit": "mm", "minimum": 0.5, "maximum": 300}
    with pytest.raises(SchemaError, match=re.escape(said)) as caught:
        Number(**{**good, "example": 1, **changed})
    assert "column wing" in str(caught.value)


def test_a_categorys_rule_names_its_values_and_quotes_one_with_a_comma() -> None:
    """So that it is not taken for two."""
    column = Category(name="size", description="", values=("small", "big"), example="big")
    assert column.rule == "one of small, big"
    column = Category(name="size", description="", values=("small, flat", "big"), example="big")
    assert column.rule == "one of 'small, flat', big"


@pytest.mark.parametrize(
    ("values", "meanings"),
    [
        (("S", "M", "", "yes", "t", "0x1", "1,5", "nan", "-inf", "1e999", "1" * 5000), {}),
        (("0", "1", "-1", "unknown"), {0: "0", 1: "1", -1: "-1"}),
        (("01", "1.50", "+2", "1e3", " 7"), {1: "01", 1.5: "1.50", 2: "+2", 1e3: "1e3", 7: " 7"}),
        (("9007199254740992", "9007199254740993"), {2**53: "9007199254740992", 2**53 + 1: "9007199254740993"}),
        (("true", "FALSE"), {True: "true", False: "FALSE"}),
        # Two that mean the same are not guessed.
        (("0", "00", "0.0", "-0", "2"), {2: "2"}),
        (("True", "true", "False"), {False: "False"}),
        (("1", "true", "false"), {False: "false"}),
    ],
)
def test_a_categorys_values_that_look_like_numbers_or_booleans(
    values: tuple[str, ...], meanings: dict[float, str]
) -> None:
    found = Category(name="a", description="", values=values, example=values[0]).meanings
    assert found == meanings
    assert list(map(type, found)) == list(map(type, meanings))


def test_a_categorys_sql_type_holds_its_longest_value_and_what_says_missing() -> None:
    column = Category(name="size", description="", values=("small", "big"), example="big")
    assert sql_type(column) == "VARCHAR(5)"
    column = Category(name="size", description="", values=("S",), example="S")
    assert sql_type(column) == "VARCHAR(2)"


@pytest.mark.parametrize(
    ("values", "example", "said"),
    [
        ((), "S", "Wrong here: no value"),
        (("S", "M", "S"), "S", "Wrong here: ['S']"),
        (("S", "NULL"), "S", "Wrong here: ['NULL']"),
        (("S", 1), "S", "Wrong here: [1]"),
        ("S", "S", "its values are 'S'; this must be a tuple: is a comma missing, as in ('S',)?"),
        (("S", "M"), "L", "the example is 'L'; it must be one of S, M"),
    ],
    ids=["none", "twice", "NULL", "no string", "no tuple", "example"],
)
def test_a_category_that_contradicts_itself_is_refused(values: Any, example: str, said: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(said)) as caught:
        Category(name="size", description="", values=values, example=example)
    assert "column size" in str(caught.value)


# What is declared


def test_the_columns_are_those_of_the_files_header() -> None:
    header = (PROJECT / "dags" / CSV_NAME).read_text(encoding="utf-8").splitlines()[0]
    assert header == header_line()
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


ROW_ID, LENGTH_AGAIN = (dataclasses.replace(LENGTH, name=name) for name in ("Row_ID", "LENGTH"))
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a name twice": ({"columns": (LENGTH, LENGTH_AGAIN, SIZE)}, "LENGTH", "the name is taken, by another column"),
    "the table's own name": ({"columns": (ROW_ID, SIZE)}, "Row_ID", "the name is taken, by the table itself"),
    "a header twice": (
        {"columns": (LENGTH, dataclasses.replace(LENGTH, name="width"), SIZE)},
        "width",
        "another column has the header 'length' as well",
    ),
    "no tuple": ({"columns": SIZE}, "COLUMNS", "this must be a tuple"),
    "no column": (
        {"columns": (SIZE, "length")},
        "COLUMNS",
        "COLUMNS holds 'length'; each must be a Number, a Category or",
    ),
    "a table's name": ({"table": "2024_sizes"}, "TABLE", "TABLE '2024_sizes': it must be a letter, then up to 62"),
    "a DAG's name": ({"name": "my sizes"}, "NAME", "NAME 'my sizes': it must be a letter, then up to 62"),
    "no file": ({"csv_name": ""}, "CSV_NAME", "CSV_NAME is ''; it must be the name of a file"),
    "percent": ({"min_accuracy": 90}, "MIN_ACCURACY", "MIN_ACCURACY is 90; it must be from 0 to 1"),
    "a comma too few": ({"missing": ("unknown")}, "MISSING", "MISSING is 'unknown'; this must be a tuple"),
    "a number for missing": ({"missing": (-1,)}, "MISSING", "MISSING holds [-1]; it must hold strings"),
    "two lines for missing": ({"missing": ("n\na",)}, "MISSING", "it must hold strings without line breaks"),
    "a missing value": ({"missing": ("M", "S", "NA")}, "size", "which is ('M', 'S', 'NA'), holds ['M', 'S'] as well"),
    "no such target": (
        {"target_name": "weight"},
        "TARGET_NAME",
        "TARGET_NAME is 'weight'; it must be the name of a Category",
    ),
    "a number": ({"target_name": "length"}, "TARGET_NAME", "TARGET_NAME is 'length'"),
    "not required": (
        {"columns": (LENGTH, dataclasses.replace(SIZE, required=False))},
        "TARGET_NAME",
        "Candidates here: none",
    ),
    "an answer's name": (
        {"target_name": "probabilities", "columns": (LENGTH, dataclasses.replace(SIZE, name="probabilities"))},
        "TARGET_NAME",
        "not called one of probabilities, model_version, id",
    ),
    "the target alone": ({"columns": (SIZE,)}, "COLUMNS", "no column to predict size from"),
}


@pytest.mark.parametrize(("changed", "where", "said"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_declaration_that_contradicts_itself_is_refused(changed: dict[str, Any], where: str, said: str) -> None:
    good: dict[str, Any] = {"target_name": "size", "columns": (LENGTH, SIZE), "table": "sizes", "csv_name": "sizes.csv"}
    good |= {"name": "sizes", "missing": (), "min_accuracy": 0.9}
    assert checked_target(**good) is SIZE
    with pytest.raises(SchemaError, match=re.escape(said)) as caught:
        checked_target(**{**good, **changed})
    assert (caught.value.column or caught.value.setting) == where
