"""POST /feedback: what was true about earlier predictions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from time import time_ns
from typing import Any, Literal

import anyio
from anyio import sleep
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from app.bodies import checked, described, parse, refused
from app.errors import ServiceError
from app.journal.journal import Journal
from app.journal.labels import after
from app.journal.lookup import Row
from app.schemas import BODY_ERRORS, INVALID, MAX_RECORDS, Problem, category
from penguins.journal.files import DIRECTORY, encoded
from penguins.schema import FEATURES, TARGET

SECONDS_TO_WAIT = 0.75  # three times as long as the other workers and replicas take to write
_FEATURES = len(FEATURES)
Outcome = Literal["new", "repeated", "corrected", "unknown"]
EXAMPLE = {"id": "0b5c8d1f2e3a4c5d-17", TARGET.name: TARGET.example}

_FIELDS: dict[str, Any] = {
    "id": (str, Field(min_length=1, max_length=200, description="The X-Request-ID; in a batch, / and the row follow.")),
    TARGET.name: category(TARGET, "The class that it truly was."),
}
Feedback: Any = create_model("Feedback", __config__=ConfigDict(strict=True), **_FIELDS)
_one = Feedback.__pydantic_validator__.validate_python
_several = TypeAdapter(list[Feedback]).validator.validate_python
_FEEDBACK = {"$ref": "#/components/schemas/Feedback"}
_LIST = {"type": "array", "items": _FEEDBACK, "minItems": 1, "maxItems": MAX_RECORDS}


class Result(BaseModel):
    """What became of one label."""

    id: str
    outcome: Outcome = Field(description="`corrected` contradicts an earlier one, and counts in its place.")
    predicted: str | None = Field(description="What was predicted, unless the id is unknown.")
    model_version: str | None = Field(description="The version that predicted.")


class Results(BaseModel):
    results: list[Result] = Field(description="In the order of what was sent.")


class NoJournalError(ServiceError):
    """The service keeps no journal."""

    status_code = 404


class UnknownIdError(ServiceError):
    """No prediction in the journal has this id."""

    status_code = 404


class NotKeptError(ServiceError):
    """The labels could not be written."""

    status_code = 503


routes = APIRouter()


@routes.post(
    "/feedback",
    tags=["feedback"],
    responses={
        **BODY_ERRORS,
        404: {"model": Problem, "description": f"No prediction has this id, or {DIRECTORY} is not set."},
        422: {"description": "Validation Error", "content": INVALID},
        503: {"model": Problem, "description": "The labels could not be kept. Send them again."},
    },
    openapi_extra=described(
        {"anyOf": [_FEEDBACK, _LIST]}, examples={"one": {"value": EXAMPLE}, "a list": {"value": [EXAMPLE]}}
    ),
)
async def feedback(request: Request) -> Results:
    """Say what was true about one earlier prediction, or about up to 10,000. Of two labels, the later one counts."""
    journal: Journal | None = request.app.state.journal
    if journal is None:
        raise NoJournalError(f"this service keeps no journal of its predictions; set {DIRECTORY} to a folder for it")
    given = await anyio.to_thread.run_sync(_given, await request.body(), limiter=request.app.state.model_server.batches)
    several: list[Any] = given if isinstance(given, list) else [given]
    truths = [(one.id, getattr(one, TARGET.name)) for one in several]
    _check_agreement(truths)
    rows = await _find(journal, {prediction_id for prediction_id, _ in truths})
    if not isinstance(given, list) and not rows:
        raise UnknownIdError(
            f"no prediction in the journal has the id {truths[0][0]!r}. It is the X-Request-ID of the answer, in a "
            "batch followed by / and the row, from 0. Rows appear within a second, and are kept for "
            f"{journal.bounds.days} days, or until there are more than {journal.bounds.max_bytes >> 20} MiB"
        )
    return Results(results=await anyio.to_thread.run_sync(_keep, journal, truths, rows))


def _given(body: bytes) -> Any:
    """Return the `Feedback` that a body holds, or a list of them. Raises as `parse` and `checked` do."""
    given = parse(body)
    if not isinstance(given, list):
        try:
            return _one(given)
        except ValidationError as error:
            raise refused(error, "body", "one") from None
    if not 1 <= len(given) <= MAX_RECORDS:
        message = f"the list has {len(given)} labels; from 1 to {MAX_RECORDS} are accepted"
        raise RequestValidationError([{"type": "wrong_length", "loc": ("body", "list"), "msg": message, "input": None}])
    return checked(given, _several, "body", "list")


def _check_agreement(truths: Sequence[tuple[str, str]]) -> None:
    """Refuse a list that says two things about one prediction."""
    first: dict[str, str] = {}
    for place, (prediction_id, truth) in enumerate(truths):
        if (said := first.setdefault(prediction_id, truth)) != truth:
            message = f"{prediction_id!r} is {said} and {truth} in one list; send each id once. Nothing was kept"
            where = ("body", "list", place, TARGET.name)
            raise RequestValidationError([{"type": "contradiction", "loc": where, "msg": message, "input": truth}])


async def _find(journal: Journal, ids: set[str]) -> dict[str, Row]:
    """Return the rows of the predictions that are known. For others it waits once: another process may write them."""
    await anyio.to_thread.run_sync(journal.flush)
    rows = await anyio.to_thread.run_sync(journal.lookup.find, ids)
    if missing := ids - rows.keys():
        await sleep(SECONDS_TO_WAIT)
        rows |= await anyio.to_thread.run_sync(journal.lookup.find, missing)
    return rows


_one_at_a_time = threading.Lock()


def _keep(journal: Journal, truths: Sequence[tuple[str, str]], rows: dict[str, Row]) -> list[Result]:
    """Write the labels that are new to disk, and return what became of each."""
    with _one_at_a_time:
        lines: list[list[str]] = []
        results: list[Result] = []
        told: set[str] = set()
        try:
            journal.labels.refresh()
            for prediction_id, truth in truths:
                if (row := rows.get(prediction_id)) is None:
                    results.append(Result(id=prediction_id, outcome="unknown", predicted=None, model_version=None))
                    continue
                label = journal.labels.last(prediction_id)
                outcome: Outcome = "corrected" if label else "new"
                if prediction_id in told or (label and label.truth == truth):
                    outcome = "repeated"
                else:
                    now = datetime.fromtimestamp(time_ns() / 1e9, UTC).replace(tzinfo=None)
                    # A clock that went back must not make the earlier label the last one.
                    time = max(now, after(label)) if label else now
                    lines.append([time.isoformat(timespec="microseconds"), *row[1 : 4 + _FEATURES], truth])
                told.add(prediction_id)
                predicted, version = row[3 + _FEATURES], row[2]
                results.append(Result(id=prediction_id, outcome=outcome, predicted=predicted, model_version=version))
            if lines:
                journal.feedback.append(encoded(lines), flush=True)
                journal.labels.refresh()
        except OSError as error:
            raise NotKeptError(f"nothing was kept: {error.strerror}. Send it again later") from error
    return results
