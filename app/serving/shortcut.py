"""A shortcut for valid requests to POST /predict and /predict/batch, past most of FastAPI's own work.

An ordinary request is parsed into Python objects, validated, answered through a response model and serialized. Here,
pydantic-core validates the bytes of the body directly, and serializes the answer straight to bytes. Everything else,
errors included, goes to the ordinary route, which alone decides on the response. Both return the same bytes, which
tests/unit/app/serving/test_shortcut.py checks.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING

import anyio
from pydantic_core import to_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access import Keys
from app.admission import Admission, declared_length
from app.schemas import Record
from app.serving.batches import answer_batch
from app.serving.model_server import ModelServer, Served

if TYPE_CHECKING:
    from app.journal.journal import Journal

_record_of = Record.__pydantic_validator__.validate_json  # `model_validate_json` without its option handling


class FastPredict:
    """ASGI middleware that answers valid prediction requests itself, as long as a compiled model serves."""

    def __init__(
        self,
        app: ASGIApp,
        server: ModelServer,
        admission: Admission,
        keys: Keys | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.app = app
        self.server = server
        self.admission = admission
        self.keys = keys
        self.journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        served, length = self.server.served, self._plain_length(scope)
        if served is None or served.fallback or not length:
            await self.app(scope, receive, send)
            return
        key = ""
        if self.keys and not (key := self.keys.name_of(scope) or ""):
            await self.app(scope, receive, send)  # which answers 401
            return
        if not self.admission.takes(length):
            await self.app(scope, receive, send)  # which answers 503
            return
        try:
            await self._answer(served, length, key, scope, receive, send)
        finally:
            self.admission.give_back(length)

    async def _answer(self, served: Served, length: int, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter_ns()
        note = self.journal.note(scope["headers"]) if self.journal else None
        message = await receive()
        body = bytearray(message.get("body", b""))
        while message.get("more_body") and len(body) <= length:
            message = await receive()
            body += message.get("body", b"")
        try:
            if message["type"] != "http.request" or message.get("more_body") or len(body) > length:
                raise ValueError("the body is incomplete or longer than it says")
            if scope["path"] == "/predict":
                answer = to_json(served.answer(_record_of(body), note))
            elif scope["query_string"]:
                raise ValueError("the ordinary route knows the parameters")
            else:
                answer = await anyio.to_thread.run_sync(answer_batch, body, served, note, limiter=self.server.batches)
        except Exception:  # a ValidationError, or anything unexpected: the ordinary route meets it again
            await self.app(scope, _replay(bytes(body), message, receive), send)
            return
        headers = [(b"content-length", b"%d" % len(answer)), (b"content-type", b"application/json")]
        if note:
            headers.append(note.header)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
        # `CountRequests` sees ordinary requests only, because inspecting each message costs more than counting.
        self.server.recorder.answered(scope["path"], 200, perf_counter_ns() - started, key)

    def _plain_length(self, scope: Scope) -> int:
        """Return the length of a JSON POST to one of the two paths, with no header given twice; of anything else, 0."""
        if scope["type"] != "http" or scope["path"] not in ("/predict", "/predict/batch"):
            return 0
        if (root_path := scope.get("root_path")) and scope["path"].startswith(root_path):
            return 0
        headers = dict(scope["headers"])
        length = declared_length(headers.get(b"content-length", b""))
        is_plain = (
            scope["method"] == "POST"
            and len(headers) == len(scope["headers"])
            and headers.get(b"content-type") == b"application/json"
            and b"content-encoding" not in headers
            and length <= self.admission.limit_of(scope["path"])
        )
        return length if is_plain else 0


def _replay(body: bytes, last: Message, receive: Receive) -> Receive:
    """Return a `receive` that first replays the body received so far, and how it ended."""
    more = last["type"] != "http.request" or last.get("more_body", False)
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": more}]
    if last["type"] != "http.request":
        messages.append(last)

    async def again() -> Message:
        return messages.pop(0) if messages else await receive()

    return again
