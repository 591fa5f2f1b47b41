"""The one declaration of the table. The DDL, the CSV check, the preprocessing and the request model derive from it.

To use this project for another table, edit this file and put your CSV beside the DAG.

The data are Palmer Archipelago penguins: Horst, Hill and Gorman (2020), palmerpenguins, CC0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Column:
    """What every column has.

    Parameters
    ----------
    name : str
        Letters, digits and underscores: it becomes an SQL identifier and a JSON key.
    description : str
        For the API's documentation.
    required : bool
        Whether a value must be there. Values that may be missing are imputed.
    """

    name: str
    description: str
    required: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", self.name):
            raise ValueError(
                f"column name {self.name!r}: accepted is a letter, then up to 62 letters, digits or underscores"
            )


@dataclass(frozen=True, kw_only=True)
class Number(Column):
    """A measurement in `unit`, between `minimum` and `maximum`, both included."""

    unit: str
    minimum: float
    maximum: float
    example: float
    sql_type: ClassVar[str] = "DOUBLE"

    @property
    def rule(self) -> str:
        return f"a number from {self.minimum:g} to {self.maximum:g} {self.unit}"


@dataclass(frozen=True, kw_only=True)
class Category(Column):
    """One of a few known strings."""

    values: tuple[str, ...]
    example: str

    @property
    def sql_type(self) -> str:
        return f"VARCHAR({max(map(len, (*self.values, *MISSING)))})"

    @property
    def rule(self) -> str:
        return "one of " + ", ".join(self.values)


# How the file says that a value is not there.
MISSING = ("NA", ".", "")

CSV_NAME = "penguins_size.csv"
TABLE = "penguins_raw"
TARGET_NAME = "species"

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

TARGET = next(c for c in COLUMNS if isinstance(c, Category) and c.name == TARGET_NAME)
FEATURES = tuple(c for c in COLUMNS if c is not TARGET)
NUMBERS = tuple(c for c in FEATURES if isinstance(c, Number))
CATEGORIES = tuple(c for c in FEATURES if isinstance(c, Category))
EXAMPLE: dict[str, Any] = {c.name: c.example for c in FEATURES}
