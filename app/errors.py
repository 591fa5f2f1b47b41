"""Error responses: 404, 413, 422 and 503, always as JSON and never a 500."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse
from starlette.types import Scope

from penguins.registry import RegistryError
from penguins.schema import FEATURES

ERRORS_SHOWN = 100
_SEVERAL = 'Several records go to /predict/batch, as {"records": [...]}'
_DEPTH, _ITEMS, _CHARACTERS, _LARGEST = 4, 20, 200, 10.0**100


class ServiceError(Exception):
    """A failure, and the status code of its response."""

    status_code = 500


class ModelNotReadyError(ServiceError):
    """No model is ready to serve."""

    status_code = 503


class NoReportError(ServiceError):
    """The version does not exist, or it has no report that can be trusted."""

    status_code = 404


def problem(scope: Scope, text: str) -> dict[str, str]:
    """Return the body of an error: under /v2 as the Open Inference Protocol has it, elsewhere as FastAPI does."""
    return {"error" if scope["path"].startswith("/v2") else "detail": text}


def add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> JSONResponse:
        return JSONResponse(problem(request.scope, str(error)), error.status_code)

    @app.exception_handler(RegistryError)
    async def registry_error(request: Request, error: RegistryError) -> JSONResponse:
        return JSONResponse(problem(request.scope, str(error)), 503)

    @app.exception_handler(StarletteHTTPException)
    async def http_error(request: Request, error: StarletteHTTPException) -> Response:
        text = error.detail
        if error.status_code == 404 and request.url.path.startswith("/v2"):
            text = f"there is no {_short(request.url.path)}; the model is /v2/models/{request.app.title}"
        return JSONResponse(problem(request.scope, text), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> Response:
        # Escaped to ASCII, because the input may contain a lone surrogate, which UTF-8 cannot encode.
        return Response(json.dumps({"detail": detail_of(error.errors())}), 422, media_type="application/json")


def detail_of(errors: Sequence[Any]) -> list[dict[str, Any]]:
    """Return pydantic's errors as a response shows them: not too many, not too long, and with what is accepted."""
    detail = [
        {key: _echo(value) for key, value in error.items()}
        | {"msg": error["msg"] + ("" if "Accepted: " in error["msg"] else _accepted(error))}
        for error in errors[:ERRORS_SHOWN]
    ]
    if (more := len(errors) - len(detail)) > 0:
        detail.append({"type": "more_errors", "loc": ["body"], "msg": f"and {more} or more other errors"})
    return detail


def _accepted(error: Any) -> str:
    """Return what the schema accepts for the field, where pydantic's message leaves something out."""
    if error["loc"] == ("body",) and error["type"].endswith("_type"):
        return f". Accepted: one record, a JSON object. {_SEVERAL}"
    if error["type"] == "extra_forbidden":
        several = f". {_SEVERAL}" if error["loc"] == ("body", "records") else ""
        return f". Accepted: {', '.join(c.name for c in FEATURES)}{several}"
    if error["type"] == "json_invalid":
        return f": {error['ctx']['error']}. Accepted: JSON, as in the examples of the page /"
    if error["type"] == "literal_error":
        return ". Accepted: a string, in quotes" if isinstance(error["input"], int | float) else ""
    column = next((c for c in FEATURES if c.name == error["loc"][-1]), None)
    if column is None:
        return ""
    return f". Accepted: {column.rule}{'' if column.required else ', or null'}"


def _echo(value: Any, depth: int = _DEPTH) -> Any:
    """Return the rejected input as JSON, cut short: an error should not repeat a whole body."""
    if value is None or (isinstance(value, int | float) and abs(value) < _LARGEST):
        return value
    if isinstance(value, dict | list | tuple) and depth == 0:
        return "..."
    if isinstance(value, dict):
        return {_short(str(key)): _echo(item, depth - 1) for key, item in list(value.items())[:_ITEMS]}
    if isinstance(value, list | tuple):
        return [_echo(item, depth - 1) for item in value[:_ITEMS]]
    return _short(value.decode(errors="replace") if isinstance(value, bytes) else str(value))


def _short(text: str) -> str:
    return text if len(text) <= _CHARACTERS else text[:_CHARACTERS] + "..."
