"""The single declaration of the table. The DDL, the CSV check, the preprocessing and the request model derive from it.

To use this project for another table, replace the part between the two dashed lines below, and put your CSV next to the
DAG. docs/your-own-table.md explains it step by step. A declaration that contradicts itself fails on import.

The data are Palmer Archipelago penguins: Horst, Hill and Gorman (2020), palmerpenguins, CC0.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

# Beyond this, training in float32 would overflow, and an OpenAPI document cannot hold infinity.
LARGEST_NUMBER = 1e15
# MySQL reads this as missing, whatever MISSING says.
NULL = "NULL"
# Names that the table and the API's answers already use.
RESERVED_IN_TABLE, RESERVED_IN_ANSWERS = "row_id", ("probabilities", "model_version")


def _check_identifier(what: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", name):
        raise ValueError(f"{what} {name!r}: it must be a letter, then up to 62 letters, digits or underscores")


def _check_tuple(what: str, values: object) -> None:
    if not isinstance(values, tuple):  # ("unknown") is a string, and `in` would search its letters
        raise ValueError(f"{what} {values!r}; this must be a tuple: is a comma missing, as in ('S',)?")


@dataclass(frozen=True, kw_only=True)
class Column:
    """The fields of every column.

    Parameters
    ----------
    name : str
        Letters, digits and underscores: it becomes an SQL identifier and a JSON key.
    description : str
        Shown in the API's documentation.
    required : bool
        Whether a value must be present. Otherwise missing values are imputed.
    """

    name: str
    description: str
    required: bool = False

    def __post_init__(self) -> None:
        _check_identifier("column name", self.name)


@dataclass(frozen=True, kw_only=True)
class Number(Column):
    """A measurement in `unit`, between `minimum` and `maximum`, both included."""

    unit: str
    minimum: float
    maximum: float
    example: float
    sql_type: ClassVar[str] = "DOUBLE"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -LARGEST_NUMBER <= self.minimum < self.maximum <= LARGEST_NUMBER:
            raise ValueError(
                f"column {self.name}: minimum is {self.minimum} and maximum {self.maximum}; the minimum must "
                f"be below the maximum, both from {-LARGEST_NUMBER:g} to {LARGEST_NUMBER:g}"
            )
        if not self.minimum <= self.example <= self.maximum:
            raise ValueError(f"column {self.name}: the example is {self.example}; it must be {self.rule}")

    @property
    def rule(self) -> str:
        # Not :g, which would print 1.23457e+06 for 1234567.
        return f"a number from {self.minimum:.15g} to {self.maximum:.15g} {self.unit}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Category(Column):
    """One of a few known strings."""

    values: tuple[str, ...]
    example: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_tuple(f"column {self.name}: its values are", self.values)
        duplicates = [value for value, count in Counter(self.values).items() if count > 1]
        missing = [value for value in self.values if value in (*MISSING, NULL) or not isinstance(value, str)]
        if not self.values or duplicates or missing:
            raise ValueError(
                f"column {self.name}: its values are {self.values}; they must be one or more distinct strings, none "
                f"of them {NULL} or in MISSING, which is {MISSING}. Wrong here: {duplicates + missing or 'no value'}"
            )
        if self.example not in self.values:
            raise ValueError(f"column {self.name}: the example is {self.example!r}; it must be {self.rule}")

    @property
    def sql_type(self) -> str:
        return f"VARCHAR({max(map(len, (*self.values, *MISSING)))})"

    @property
    def rule(self) -> str:
        return "one of " + ", ".join(v if re.fullmatch(r"[^\s,'\"]+", v) else repr(v) for v in self.values)


# ------------------------------------------------------------------ your own table: replace from here

# How the file marks a missing value.
MISSING = ("NA", ".", "")

CSV_NAME = "penguins_size.csv"
TABLE = "penguins_raw"
TARGET_NAME = "species"

# Accuracy below which a run fails, unless it is triggered with another min_accuracy.
MIN_ACCURACY = 0.9

# In the order of the file's header.
COLUMNS: tuple[Number | Category, ...] = (
    Category(
        name="species",
        description="Species of the penguin.",
        values=("Adelie", "Chinstrap", "Gentoo"),
        example="Gentoo",
        required=True,
    ),
    Category(
        name="island",
        description="Island of the Palmer Archipelago where the penguin was observed.",
        values=("Biscoe", "Dream", "Torgersen"),
        example="Biscoe",
        required=True,
    ),
    Number(
        name="culmen_length_mm",
        description="Length of the culmen, the upper ridge of the bill.",
        unit="mm",
        minimum=10,
        maximum=100,
        example=46.1,
    ),
    Number(
        name="culmen_depth_mm",
        description="Depth of the culmen.",
        unit="mm",
        minimum=5,
        maximum=50,
        example=13.2,
    ),
    Number(
        name="flipper_length_mm",
        description="Length of the flipper.",
        unit="mm",
        minimum=100,
        maximum=300,
        example=211,
    ),
    Number(
        name="body_mass_g",
        description="Body mass.",
        unit="g",
        minimum=1000,
        maximum=10000,
        example=4500,
    ),
    Category(
        name="sex",
        description="Sex of the penguin.",
        values=("FEMALE", "MALE"),
        example="FEMALE",
    ),
)

# ------------------------------------------------------------------ to here


def _target() -> Category:
    """Return the column of TARGET_NAME. Raise ValueError if the declaration above contradicts itself."""
    # Column names are case-insensitive in MySQL and SQLite.
    names = [c.name.lower() for c in COLUMNS]
    wrong = {name for name, count in Counter([*names, RESERVED_IN_TABLE]).items() if count > 1}
    if wrong:
        raise ValueError(f"duplicate column names, or reserved ({RESERVED_IN_TABLE}): {', '.join(sorted(wrong))}")
    _check_identifier("TABLE", TABLE)
    _check_tuple("MISSING is", MISSING)
    if unsafe := [t for t in MISSING if not isinstance(t, str) or re.search(r"""['"%\\\r\n]""", t)]:
        raise ValueError(f"MISSING holds {unsafe}; it must hold strings without quotes, %, backslashes and line breaks")
    target = next((c for c in COLUMNS if c.name == TARGET_NAME), None)
    if not isinstance(target, Category) or not target.required or TARGET_NAME in RESERVED_IN_ANSWERS:
        candidates = [c.name for c in COLUMNS if isinstance(c, Category) and c.required]
        raise ValueError(
            f"TARGET_NAME is {TARGET_NAME!r}; it must be the name of a Category with required=True that is not "
            f"called {' or '.join(RESERVED_IN_ANSWERS)}. Candidates here: {', '.join(candidates) or 'none'}"
        )
    if len(COLUMNS) < 2:
        raise ValueError(f"there is no column to predict {TARGET_NAME} from; declare one or more besides it")
    return target


TARGET = _target()
FEATURES = tuple(c for c in COLUMNS if c is not TARGET)
NUMBERS = tuple(c for c in FEATURES if isinstance(c, Number))
CATEGORIES = tuple(c for c in FEATURES if isinstance(c, Category))
EXAMPLE: dict[str, Any] = {c.name: c.example for c in FEATURES}
