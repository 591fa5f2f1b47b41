"""The bodies of routes that take many records: parsed, and checked in pieces.

A body of 4 MiB can hold a million empty lists, or as many faults. Parsed, an empty list takes 25 times its bytes, and
each fault a kilobyte. So values are counted before they are parsed, and checking ends once there are more faults than a
response shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import models_json_schema

from app.errors import ERRORS_SHOWN
from app.schemas import MAX_RECORDS, RECORDS
from penguins.schema import FEATURES

MAX_VALUES = 200_000  # 10,000 records of 19 columns, which 4 MiB hold as well; parsed within 0.2 s
MAX_FIELDS = len(FEATURES) + ERRORS_SHOWN
PIECE_ROWS = max(1, 3000 // len(FEATURES))  # checked in a millisecond or two, then others get in between


class _Envelope(BaseModel):
    """A `Batch` whose records are not checked yet."""

    model_config = ConfigDict(extra="forbid")

    records: list[Any] = Field(min_length=1, max_length=MAX_RECORDS)


def parse(body: bytes) -> Any:
    """Return the JSON of a body; for large ones, in a thread.

    Raises
    ------
    RequestValidationError
        If it is no JSON, or holds too many values.
    HTTPException
        400, if it cannot be parsed at all, for example because it is no text.
    """
    if (values := body.count(b",") + body.count(b"[") + body.count(b"{")) > MAX_VALUES:  # each begins with one of them
        message = f"the body has some {values} values; {MAX_VALUES} are accepted. Send the records in several requests"
        raise RequestValidationError([{"type": "too_many_values", "loc": ("body",), "msg": message, "input": None}])
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:  # in the words of FastAPI, which parses the other routes' bodies
        fault = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error", "input": {}}
        raise RequestValidationError([fault | {"ctx": {"error": error.msg}}]) from None
    except (ValueError, RecursionError):
        raise HTTPException(400, "There was an error parsing the body") from None


def checked(values: Sequence[Any], validate: Callable[[Sequence[Any]], list[Any]], *loc: str) -> list[Any]:
    """Return the records that the values are.

    Parameters
    ----------
    values : sequence
        As `parse` returns them.
    validate : callable
        Validates a list of them, such as `RECORDS.validate_python`.
    loc : str
        Where the values stand in the body.

    Raises
    ------
    RequestValidationError
        With the faults of the first records that have more than a response shows, or of all.
    """
    found: list[Any] = []
    faults: list[dict[str, Any]] = []
    for start in range(0, len(values), PIECE_ROWS):
        piece = values[start : start + PIECE_ROWS]
        for row, value in enumerate(piece, start=start):
            if isinstance(value, dict) and len(value) > MAX_FIELDS:
                message = f"it has {len(value)} fields. Accepted: {', '.join(c.name for c in FEATURES)}"
                faults.append({"type": "too_many_fields", "loc": (*loc, row), "msg": message, "input": None})
        if faults:
            break
        try:
            found += validate(piece)
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                within, *field = fault["loc"]
                faults.append({**fault, "loc": (*loc, start + int(within), *field)})
        if len(faults) > ERRORS_SHOWN:
            break
    if faults:
        raise RequestValidationError(faults)
    return found


def refused(error: ValidationError, *loc: str, accepted: str = "") -> RequestValidationError:
    """Return pydantic's errors as those of a request. `loc` is where in it the validated value stands."""
    faults = error.errors(include_url=False)
    return RequestValidationError(
        [{**fault, "loc": (*loc, *fault["loc"]), "msg": fault["msg"] + accepted} for fault in faults]
    )


def batch_of(body: bytes) -> list[Any]:
    """Return the records of a body of POST /predict/batch, or raise as `parse` and `checked` do."""
    given, accepted = parse(body), f'. Accepted: {{"records": [...]}}, with 1 to {MAX_RECORDS} records'
    if not isinstance(given, dict):
        message = f"Input should be a JSON object{accepted}"
        raise RequestValidationError([{"type": "dict_type", "loc": ("body",), "msg": message, "input": given}])
    try:
        # No more fields than a response shows.
        records = _Envelope.model_validate(dict(islice(given.items(), MAX_FIELDS))).records
    except ValidationError as error:
        raise refused(error, "body", accepted=accepted) from None
    return checked(records, RECORDS.validate_python, "body", "records")


def described(model: Any, example: Any = None, examples: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what OpenAPI says of the body of a route that reads it itself."""
    shown = {"examples": examples} if examples else {"example": example}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model, **shown}}}}


def add_schemas(app: FastAPI, *models: type[BaseModel]) -> None:
    """Add the models that such routes read to an application's OpenAPI: FastAPI does not know them."""
    _, document = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    others = app.openapi

    def openapi() -> dict[str, Any]:
        found = others()
        found["components"]["schemas"].update(document["$defs"])
        return found

    app.openapi = openapi  # type: ignore[method-assign]
