"""Categories that look like numbers or booleans, in requests."""

from __future__ import annotations

import json
from typing import Any

import lookalikes
import pytest
from pydantic import ConfigDict, ValidationError, create_model

from app.errors import detail_of
from app.schemas import Record, _field, category

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # as records are
FIELDS: dict[str, Any] = {c.name: _field(c) for c in lookalikes.FEATURES}
Customer: Any = create_model("Customer", __config__=STRICT, **FIELDS)
COLUMNS = {c.name: c for c in lookalikes.FEATURES}
EXAMPLE = {c.name: c.example for c in lookalikes.FEATURES}


def ways(name: str, value: str) -> list[Any]:
    """Return what the shortcut and the ordinary route make of a value in JSON: the value, or what is wrong."""
    body = json.dumps(EXAMPLE | {name: "X"}).replace('"X"', value)
    made: list[Any] = []
    for validate in (lambda: Customer.model_validate_json(body), lambda: Customer.model_validate(json.loads(body))):
        try:
            made.append(getattr(validate(), name))
        except ValidationError as error:
            made.append([(*e["loc"], e["msg"]) for e in detail_of(error.errors())])
    return made


TAKEN: dict[str, dict[str, Any]] = {
    "senior": {"0": "0", "1": "1", "0.0": "0", "1e0": "1", "-0": "0", "true": "1", '"1"': "1"},
    "zone": {"1": "01", "2.0": "02", "10": "10", '"01"': "01"},
    "level": {"1.5": "1.50", "2": "2", "1000": "1e3", '"1e3"': "1e3", "null": None},
    "partner": {"true": "TRUE", "false": "false", '"TRUE"': "TRUE"},
    "paperless": {"true": "True", "false": "False", "null": None},
    "contract": {"2": "2", '"None"': "None"},
}
REFUSED = {
    "senior": ["2", "0.5", "-1", "1e999", "1" * 400, "123456789012345678901234567890", "NaN"],
    "partner": ["2", "0.5"],
    "contract": ["0", "true", "1"],
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_number_or_boolean_stands_for_the_one_value_that_it_looks_like(name: str) -> None:
    for sent, value in TAKEN[name].items():
        assert ways(name, sent) == [value, value], sent


@pytest.mark.parametrize("name", REFUSED)
def test_another_number_is_refused_with_the_values_and_that_they_are_strings(name: str) -> None:
    *others, last = map(repr, COLUMNS[name].values)
    said = f"Input should be {', '.join(others)} or {last}. Accepted: a string, in quotes"
    for sent in REFUSED[name]:
        assert ways(name, sent) == [[(name, said)]] * 2, sent


def test_what_is_neither_number_nor_boolean_is_refused_as_ever() -> None:
    for sent in ('"2"', '"00"', '"true"', '"0.0"', "null", "[]", "[0]", "{}"):
        assert ways("senior", sent) == [[("senior", "Input should be '0' or '1'")]] * 2, sent


def test_openapi_has_the_strings_and_says_what_else_is_taken() -> None:
    documented = Customer.model_json_schema()["properties"]
    assert documented["senior"] == {
        "description": "senior. Taken without quotes as well: 0, 1.",
        "enum": ["0", "1"],
        "title": "Senior",
        "type": "string",
    }
    assert documented["partner"]["description"].endswith("Taken without quotes as well: false, true.")
    assert documented["paperless"]["anyOf"] == [{"enum": ["True", "False"], "type": "string"}, {"type": "null"}]


def test_ordinary_categories_are_checked_without_python() -> None:
    """Which would cost each record some of the shortcut's time."""
    assert "FunctionBefore" in repr(Customer.__pydantic_validator__)
    assert "FunctionBefore" not in repr(Record.__pydantic_validator__)


def test_feedback_takes_the_same_of_the_target() -> None:
    feedback = create_model("Feedback", __config__=STRICT, churn=category(lookalikes.TARGET, "The truth."))
    for sent in ("0", '"0"', "false", "0.0"):
        assert feedback.model_validate_json(f'{{"churn": {sent}}}').model_dump() == {"churn": "0"}
    with pytest.raises(ValidationError):
        feedback.model_validate_json('{"churn": 2}')
