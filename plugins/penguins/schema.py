"""The single declaration of the table. The DDL, the CSV check, the preprocessing and the request model derive from it.

To use this project for another table, replace the part between the two dashed lines below, and put your CSV next to the
DAG. docs/your-own-table.md explains it step by step. What a column takes is in `column_types.py`; a declaration that
contradicts itself fails on import.

The data are Palmer Archipelago penguins: Horst, Hill and Gorman (2020), palmerpenguins, CC0.
"""

from __future__ import annotations

from typing import Any

from penguins.column_types import Category, FileFormat, Ignored, Number, checked_target

# ------------------------------------------------------------------ your own table: replace from here

# How the file marks a missing value.
MISSING = ("NA", ".", "")

# Of the DAG, its asset, the API and its model.
NAME = "modelo_penguin"
CSV_NAME = "penguins_size.csv"
FILE = FileFormat()
TABLE = "penguins_raw"
TARGET_NAME = "species"

# Accuracy below which a run fails, unless it is triggered with another min_accuracy.
MIN_ACCURACY = 0.9

# The file may have them in any order.
COLUMNS: tuple[Number | Category | Ignored, ...] = (
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


TARGET = checked_target(
    COLUMNS, TARGET_NAME, name=NAME, table=TABLE, csv_name=CSV_NAME, missing=MISSING, min_accuracy=MIN_ACCURACY
)
# The event of a version that serves.
ASSET = f"{NAME.removeprefix('modelo_')}_model"
TRAINED = tuple(c for c in COLUMNS if not isinstance(c, Ignored))
FEATURES = tuple(c for c in TRAINED if c is not TARGET)
NUMBERS = tuple(c for c in FEATURES if isinstance(c, Number))
CATEGORIES = tuple(c for c in FEATURES if isinstance(c, Category))
EXAMPLE: dict[str, Any] = {c.name: c.example for c in FEATURES}
