"""POST /feedback: what was true about earlier predictions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import anyio
from anyio import sleep
from fastapi import APIRouter, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from app.guards.bodies import checked, described, parse, refused
from app.journal.journal import Journal
from app.schemas import BODY_ERRORS, INVALID, MAX_RECORDS, Problem, category
from penguins.journal.tables import ID, PREDICTED, SEQ, TIME, URL, VERSION, JournalError, predictions
from penguins.journal.tables import feedback as labels
from penguins.schema import TARGET

SECONDS_TO_WAIT = 0.75  # three times as long as the other workers and replicas take to write
Row = dict[str, Any]
COMMON = [name for name in labels.c.keys() if name not in (SEQ, TARGET.name)]  # noqa: SIM118 - no dict
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


routes = APIRouter()


@routes.post(
    "/feedback",
    tags=["feedback"],
    responses={
        **BODY_ERRORS,
        404: {"model": Problem, "description": f"No prediction has this id, or {URL} is not set."},
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
        raise HTTPException(404, f"this service keeps no journal of its predictions; set {URL} to a database for it")
    given = await anyio.to_thread.run_sync(_given, await request.body(), limiter=request.app.state.model_server.batches)
    several: list[Any] = given if isinstance(given, list) else [given]
    truths = [(one.id, getattr(one, TARGET.name)) for one in several]
    _check_agreement(truths)
    try:
        rows = await _find(journal, {prediction_id for prediction_id, _ in truths})
        results = await anyio.to_thread.run_sync(_keep, journal, truths, rows)
    except (SQLAlchemyError, JournalError, OSError) as error:
        raise HTTPException(503, f"nothing was kept: {getattr(error, 'orig', error)}. Send it again later") from error
    if not isinstance(given, list) and not rows:
        raise HTTPException(
            404,
            f"no prediction in the journal has the id {truths[0][0]!r}. It is the X-Request-ID of the answer, in a "
            "batch followed by / and the row, from 0. Rows appear within a second, and are kept for "
            f"{journal.days} days, or until there are more than {journal.max_rows:,}",
        )
    return Results(results=results)


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
    rows = await anyio.to_thread.run_sync(_known, journal, ids)
    if missing := ids - rows.keys():
        await sleep(SECONDS_TO_WAIT)
        rows |= await anyio.to_thread.run_sync(_known, journal, missing)
    return rows


def _known(journal: Journal, ids: set[str]) -> dict[str, Row]:
    """Return what the tables say of ids: the later prediction of two, or earlier feedback where none is left."""
    journal.flush()
    journal.prepare()
    rows: dict[str, Row] = {}
    with journal.engine.connect() as connection:
        for table in (labels, predictions):
            columns = [table.c[name] for name in COMMON]
            found = connection.execute(select(*columns).where(table.c[ID].in_(ids)).order_by(table.c[SEQ]))
            rows |= {row[ID]: dict(row) for row in found.mappings()}
    return {name: row for name, row in rows.items() if name in ids}  # no other spelling that a database takes for it


def _keep(journal: Journal, truths: Sequence[tuple[str, str]], rows: dict[str, Row], tries: int = 3) -> list[Result]:
    """Write the labels that are new, and return what became of each."""
    now = datetime.now(UTC).replace(tzinfo=None)
    results: list[Result] = []
    new: dict[str, Row] = {}
    try:
        with journal.engine.begin() as connection:
            query = select(labels.c[ID], labels.c[TARGET.name]).where(labels.c[ID].in_(rows))
            last = {name: truth for name, truth in connection.execute(query)}  # noqa: C416 - mypy takes rows for no pairs
            for name, truth in truths:
                if not (row := rows.get(name)):
                    results.append(Result(id=name, outcome="unknown", predicted=None, model_version=None))
                    continue
                outcome: Outcome = "corrected" if name in last else "new"
                if name in new or last.get(name) == truth:
                    outcome = "repeated"
                else:
                    # No label is older than its prediction, or it would go before it.
                    new[name] = {**row, TIME: max(now, row[TIME]), TARGET.name: truth}
                results.append(Result(id=name, outcome=outcome, predicted=row[PREDICTED], model_version=row[VERSION]))
            if new:  # of two labels the later one counts, whatever the clock says
                connection.execute(delete(labels).where(labels.c[ID].in_(new.keys() & last.keys())))
                connection.execute(insert(labels), list(new.values()))
    except IntegrityError:  # another process has kept one of them meanwhile
        if tries == 1:
            raise
        return _keep(journal, truths, rows, tries - 1)
    return results
