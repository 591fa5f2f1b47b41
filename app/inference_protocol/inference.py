"""One request of the protocol, from bytes to bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import to_json

from app.errors import detail_of
from app.guards.bodies import checked, parse
from app.inference_protocol.messages import InferenceRequest
from app.inference_protocol.tensors import InferenceError, outputs_of, records_of, requested_outputs
from app.schemas import RECORDS
from app.serving.answers import labels_of
from app.serving.model_server import Predicted, Served
from app.serving.observers import Observed
from penguins.inference import Prediction

MODEL = "modelo_penguin"
ERRORS_SHOWN = 10
PIECE = 500  # rows at once: others get in between, as with a batch
_request_of = InferenceRequest.__pydantic_validator__.validate_python


class Answer(NamedTuple):
    """A response's body. `json_bytes` is the length of the JSON in front, if there are bytes behind it."""

    body: bytes
    json_bytes: int | None


def answer(body: bytes, json_bytes: str | None, served: Served, observed: Observed) -> Answer:
    """Predict what a request asks for. Nobody is told until all of it turned out to be valid.

    Parameters
    ----------
    body : bytes
    json_bytes : str, optional
        The header Inference-Header-Content-Length: the length of the JSON, behind which tensors come as bytes.
    served : Served
    observed : Observed

    Raises
    ------
    InferenceError
        With what came and what is accepted, if this is not a request for the model.
    """
    head, behind = _split(body, json_bytes)
    try:
        request = _request_of(parse(head))
    except (RequestValidationError, ValidationError) as error:
        raise InferenceError(_text(error.errors(), _place)) from None
    binary = (request.parameters or {}).get("binary_data_output") is True
    requested = requested_outputs(request.outputs, binary=binary)
    records = _validated(records_of(request.inputs, behind))
    rows = [vars(record) for record in records]
    predictions: list[Prediction] = []
    for start in range(0, len(rows), PIECE):
        predictions += served.predict(rows[start : start + PIECE]).predictions
    observed.tell(Predicted(served, rows, predictions))
    outputs, contents = zip(*outputs_of(labels_of(predictions), requested), strict=True)
    echoed = {name: value for name in ("id", "parameters") if (value := getattr(request, name)) is not None}
    answered = {"model_name": MODEL, "model_version": served.version, **echoed, "outputs": outputs}
    text = to_json(answered, inf_nan_mode="null")
    content = b"".join(contents)
    return Answer(text + content, len(text) if content else None)


def _split(body: bytes, json_bytes: str | None) -> tuple[bytes, memoryview | None]:
    if json_bytes is None:
        return body, None
    if not (json_bytes.isascii() and json_bytes.isdigit() and len(json_bytes) < 20 and int(json_bytes) <= len(body)):
        raise InferenceError(
            f"the header Inference-Header-Content-Length is {json_bytes[:20]!r}; it must be the length of the JSON, "
            f"at most that of the body, {len(body)}"
        )
    return body[: int(json_bytes)], memoryview(body)[int(json_bytes) :]


def _validated(rows: list[dict[str, Any]]) -> list[Any]:
    try:
        return checked(rows, RECORDS.validate_python)
    except RequestValidationError as error:
        raise InferenceError(_text(error.errors(), _row)) from None


def _place(fault: dict[str, Any]) -> str:
    why = fault["ctx"]["error"] if fault["type"] == "json_invalid" else ""
    return f"{'.'.join(map(str, fault['loc'])) or 'the request'}: {fault['msg']}{why and f', {why}'}"


def _row(fault: dict[str, Any]) -> str:
    """Say what is wrong, in the words of a 422."""
    (fault,) = detail_of([fault])
    row, *column = fault["loc"]
    came = f", not {fault['input']!r}" if column else ""
    return f"row {row}{''.join(f', {name}' for name in column)}: {fault['msg']}{came}"


def _text(faults: Sequence[Any], say: Callable[[dict[str, Any]], str]) -> str:
    said = [say(fault) for fault in faults[:ERRORS_SHOWN]]
    more = len(faults) - len(said)
    return "; ".join([*said, f"and {more} or more others"] if more else said)
