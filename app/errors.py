"""How the service says no: 404, 413, 422 and 503, always as JSON and never as 500."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penguins.schema import FEATURES

ERRORS_SHOWN = 100
_DEPTH, _ITEMS, _CHARACTERS, _LARGEST = 4, 20, 200, 10.0**100


class ServiceError(Exception):
    """A failure with the status code that it is answered with."""

    status_code = 500


class ModelNotReadyError(ServiceError):
    """There is no proven model to answer from."""

    status_code = 503


class NoReportError(ServiceError):
    """There is no such version, or it has no report that can be trusted."""

    status_code = 404


def add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ServiceError)
    async def service_error(_: Request, error: ServiceError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, error.status_code)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> Response:
        # ASCII, because what came may hold half a character, which is no valid UTF-8 to answer with.
        return Response(json.dumps({"detail": _detail(error.errors())}), 422, media_type="application/json")


def _detail(errors: Sequence[Any]) -> list[dict[str, Any]]:
    detail = [
        {key: _echo(value) for key, value in error.items()} | {"msg": error["msg"] + _accepted(error)}
        for error in errors[:ERRORS_SHOWN]
    ]
    if (more := len(errors) - len(detail)) > 0:
        detail.append({"type": "more_errors", "loc": ["body"], "msg": f"and {more} more errors"})
    return detail


def _accepted(error: Any) -> str:
    """Return what the schema accepts there, where pydantic's message does not say all of it."""
    if error["type"] == "extra_forbidden":
        return f". Accepted: {', '.join(c.name for c in FEATURES)}"
    column = next((c for c in FEATURES if c.name == error["loc"][-1]), None)
    if column is None or error["type"] == "literal_error":
        return ""
    return f". Accepted: {column.rule}{'' if column.required else ', or null'}"


def _echo(value: Any, depth: int = _DEPTH) -> Any:
    """Return what came in a form that JSON has and that stays short: an error is no place for a whole body."""
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


def declared_length(header: bytes) -> int:
    """Return the number that a Content-Length gives, 0 if it is none."""
    # Twenty digits are too many bytes in any case, and Python refuses to read some thousands of them.
    return int(header.lstrip(b"0")[:20] or b"0") if header.isdigit() else 0


class BodyLimit:
    """ASGI middleware that refuses a body over `max_bytes` with 413 while it is still coming in."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if (length := declared_length(declared)) > self.max_bytes:
            await JSONResponse({"detail": self._message(f"{length} bytes")}, 413)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, self._message("more"))
            return message

        await self.app(scope, counted, send)

    def _message(self, came: str) -> str:
        return f"the body has {came}; accepted are up to {self.max_bytes} bytes. Send the records in several requests."
