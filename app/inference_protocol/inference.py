"""One request of the protocol, from bytes to bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from app.errors import detail_of
from app.guards.bodies import checked, parse
from app.inference_protocol.tensors import (
    InferenceError,
    RequestInput,
    RequestOutput,
    output_of,
    records_of,
    requested_outputs,
)
from app.schemas import RECORDS
from app.serving.model_server import Predicted, Served
from app.serving.observers import Observed
from penguins.inference import Prediction
from penguins.schema import FEATURES, NAME

MAX_ERRORS = 10  # in one answer
PIECE = 500  # rows at once: others get in between, as with a batch


class InferenceRequest(BaseModel):
    model_config = ConfigDict(strict=True)

    id: str | None = Field(None, description="The response has the same.")
    parameters: dict[str, Any] | None = Field(None, description="The response has the same.")
    inputs: list[RequestInput] = Field(
        max_length=2 * len(FEATURES),
        description="One for each column, in any order. Those of columns that may be missing may be left out.",
    )
    outputs: list[RequestOutput] | None = Field(None, max_length=8, description="All, if there are none.")


def answer(body: bytes, json_bytes: str | None, served: Served, observed: Observed) -> tuple[bytes, int]:
    """Predict what a request asks for. Nobody is told until all of it turned out to be valid.

    Parameters
    ----------
    body : bytes
    json_bytes : str, optional
        The header Inference-Header-Content-Length: the length of the JSON, behind which tensors come as bytes.
    served : Served
    observed : Observed

    Returns
    -------
    body : bytes
    json_bytes : int
        The length of the JSON at its beginning.

    Raises
    ------
    InferenceError
        With what came and what is accepted, if this is not a request for the model.
    """
    head, behind = _split(body, json_bytes)
    try:
        request = InferenceRequest.model_validate(parse(head))
        binary = (request.parameters or {}).get("binary_data_output") is True
        requested = requested_outputs(request.outputs, binary=binary)
        rows = records_of(request.inputs, behind)
    except (RequestValidationError, ValidationError) as error:
        raise InferenceError(_text(error.errors(), in_rows=False)) from None
    try:
        records = [vars(record) for record in checked(rows, RECORDS.validate_python)]
    except RequestValidationError as error:
        raise InferenceError(_text(error.errors(), in_rows=True)) from None
    predictions: list[Prediction] = []
    for start in range(0, len(records), PIECE):
        predictions += served.predict(records[start : start + PIECE]).predictions
    observed.tell(Predicted(served, records, predictions))
    outputs = [output_of(name, predictions, binary=binary) for name, binary in requested.items()]
    echoed = {name: value for name in ("id", "parameters") if (value := getattr(request, name)) is not None}
    answered = {"model_name": NAME, "model_version": served.version, **echoed, "outputs": [o for o, _ in outputs]}
    text = to_json(answered, inf_nan_mode="null")
    return b"".join([text, *(content for _, content in outputs)]), len(text)


def _split(body: bytes, json_bytes: str | None) -> tuple[bytes, memoryview | None]:
    if json_bytes is None:
        return body, None
    if not (json_bytes.isascii() and json_bytes.isdigit() and len(json_bytes) < 20 and int(json_bytes) <= len(body)):
        raise InferenceError(
            f"the header Inference-Header-Content-Length is {json_bytes[:20]!r}; it must be the length of the JSON, "
            f"at most that of the body, {len(body)}"
        )
    return body[: int(json_bytes)], memoryview(body)[int(json_bytes) :]


def _text(faults: Sequence[Any], *, in_rows: bool) -> str:
    """Say what is wrong in one sentence: in rows, in the words of a 422."""
    said = [(_row if in_rows else _place)(fault) for fault in faults[:MAX_ERRORS]]
    more = len(faults) - len(said)
    return "; ".join([*said, f"and {more} or more others"] if more else said)


def _place(fault: dict[str, Any]) -> str:
    why = f", {fault['ctx']['error']}" if fault["type"] == "json_invalid" else ""
    return f"{'.'.join(map(str, fault['loc'])) or 'the request'}: {fault['msg']}{why}"


def _row(fault: dict[str, Any]) -> str:
    (fault,) = detail_of([fault])
    row, *column = fault["loc"]
    came = f", not {fault['input']!r}" if column else ""
    return f"row {row}{''.join(f', {name}' for name in column)}: {fault['msg']}{came}"
