"""A shortcut for valid requests to POST /predict and /predict/batch, past most of FastAPI's own work.

An ordinary request is parsed into Python objects, validated, answered through a response model and serialized. Here,
pydantic-core validates the bytes of the body directly, and serializes the answer straight to bytes. Everything else,
errors included, goes to the ordinary route, which alone decides on the response. Both return the same bytes, which
tests/unit/app/fast/test_shortcut.py checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter_ns

import anyio
from pydantic_core import to_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.fast.batches import answer_batch
from app.guards.access import Keys
from app.guards.admission import limit_of
from app.schemas import Record
from app.serving.answers import answer_of
from app.serving.model_server import ModelServer
from app.serving.observers import Observed

_record_of = Record.__pydantic_validator__.validate_json  # `model_validate_json` without its option handling


class FastPredict:
    """ASGI middleware that answers valid prediction requests itself, as long as a compiled model serves."""

    def __init__(
        self,
        app: ASGIApp,
        server: ModelServer,
        observed: Callable[[Iterable[tuple[bytes, bytes]]], Observed],
        answered: Callable[[str, int, int, str], None],
        max_bytes: int,
        keys: Keys | None = None,
    ) -> None:
        self.app = app
        self.server = server
        self.observed = observed
        self.answered = answered
        self.max_bytes = max_bytes
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        served = self.server.served
        if served is None or served.fallback or not self._is_plain(scope):
            await self.app(scope, receive, send)
            return
        key = ""
        if self.keys and not (key := self.keys.name_of(scope) or ""):
            await self.app(scope, receive, send)  # which answers 401
            return
        started = perf_counter_ns()
        observed = self.observed(scope["headers"])
        message = await receive()
        body = bytearray(message.get("body", b""))
        limit = limit_of(scope["path"], self.max_bytes)
        while message.get("more_body") and len(body) <= limit:
            message = await receive()
            body += message.get("body", b"")
        try:
            if message["type"] != "http.request" or message.get("more_body") or len(body) > limit:
                raise ValueError("the body is incomplete or too large")
            if scope["path"] == "/predict":
                answer = to_json(answer_of(observed.tell(served.predict([vars(_record_of(body))], batch=False))))
            elif scope["query_string"]:
                raise ValueError("the ordinary route knows the parameters")
            else:
                batch = anyio.to_thread.run_sync(answer_batch, body, served, observed, limiter=self.server.batches)
                answer = await batch
        except Exception:  # a ValidationError, or anything unexpected: the ordinary route meets it again
            await self.app(scope, _replay(bytes(body), message, receive), send)
            return
        headers = [(b"content-length", b"%d" % len(answer)), (b"content-type", b"application/json"), *observed.headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
        # `CountRequests` sees ordinary requests only, because inspecting each message costs more than counting.
        self.answered(scope["path"], 200, perf_counter_ns() - started, key)

    def _is_plain(self, scope: Scope) -> bool:
        """Whether this is a JSON POST of allowed length to one of the two paths, with no header given twice."""
        if scope["type"] != "http" or scope["path"] not in ("/predict", "/predict/batch"):
            return False
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        return (
            scope["method"] == "POST"
            and not scope.get("root_path")
            and len(headers) == len(scope["headers"])
            and headers.get(b"content-type") == b"application/json"
            and b"content-encoding" not in headers
            and length.isdigit()
            and len(length) < 10  # the ordinary route judges longer ones
            and int(length) <= limit_of(scope["path"], self.max_bytes)
        )


def _replay(body: bytes, last: Message, receive: Receive) -> Receive:
    """Return a `receive` that first replays the body received so far, and how it ended."""
    more = last["type"] != "http.request" or last.get("more_body", False)
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": more}]
    if last["type"] != "http.request":
        messages.append(last)

    async def again() -> Message:
        return messages.pop(0) if messages else await receive()

    return again
