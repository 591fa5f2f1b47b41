"""A table of customers whose categories look like numbers and booleans, to be declared in place of the penguins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from penguins.schema import Category, Number

CUSTOMERS = 7042
MISSING = ("NA", ".", "")


def _category(name: str, *values: str, required: bool = True) -> Category:
    return Category(name=name, description=f"{name}.", values=values, example=values[0], required=required)


def _number(name: str, maximum: float) -> Number:
    return Number(name=name, description=f"{name}.", unit="", minimum=0, maximum=maximum, example=maximum / 2)


TARGET = _category("churn", "0", "1")
FEATURES: tuple[Any, ...] = (
    _category("senior", "0", "1"),  # int64
    _category("zone", "01", "02", "10"),  # int64 without the zero
    _category("level", "1.50", "2", "1e3", required=False),  # float64
    _category("partner", "false", "TRUE"),  # bool
    _category("paperless", "True", "False", required=False),  # object, of booleans and NaN
    _category("contract", "None", "One year", "2"),  # "None" is NaN for read_csv, unless it is told
    _number("tenure", 72),
    _number("charges", 120),
)


@contextmanager
def declared(*modules: ModuleType) -> Iterator[None]:
    """Declare the table in modules that use the schema."""
    schema = {
        "COLUMNS": (*FEATURES, TARGET),
        "TRAINED": (*FEATURES, TARGET),
        "FEATURES": FEATURES,
        "NUMBERS": tuple(c for c in FEATURES if isinstance(c, Number)),
        "CATEGORIES": tuple(c for c in FEATURES if isinstance(c, Category)),
        "TARGET": TARGET,
        "EXAMPLE": {c.name: c.example for c in FEATURES},
        "MISSING": MISSING,
    }
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            for name in schema.keys() & vars(module).keys():
                patch.setattr(module, name, schema[name])
        yield


def customers() -> pd.DataFrame:
    """Return the rows as text and numbers, None for what is missing. Who churns depends on most of the columns."""
    random = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            c.name: random.uniform(c.minimum, c.maximum, CUSTOMERS).round(2)
            if isinstance(c, Number)
            else random.choice(c.values, CUSTOMERS)
            for c in FEATURES
        }
    ).astype(object)
    risk = 2 * (frame["senior"] == "1") + (frame["zone"] == "02") + (frame["level"] == "2") + (frame["tenure"] < 20)
    risk += 1.0 * (frame["partner"] == "false") + (frame["paperless"] == "True") - (frame["contract"] == "None")
    frame[TARGET.name] = np.where(risk + random.normal(0, 0.7, CUSTOMERS) > 3, "1", "0")
    for column in FEATURES:
        if not column.required:
            frame.loc[random.random(CUSTOMERS) < 0.05, column.name] = None
    return frame
