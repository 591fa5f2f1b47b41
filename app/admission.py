"""What is let in: bodies up to their route's limit, as JSON, and not too many at once."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import problem
from penguins.files import KIBIBYTE, MEBIBYTE

RECORD_BYTES = 64 * KIBIBYTE  # a record of a thousand columns fits
MANY = ("/predict/batch", "/feedback", "/infer")  # paths that end so take many records
MAX_HELD_BYTES = 64 * MEBIBYTE


class Admission:
    """How large a body may be, and how many bytes all requests together may hold.

    Parameters
    ----------
    max_bytes : int
        For a body with many records.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held = 0

    def limit_of(self, path: str) -> int:
        return self.max_bytes if path.endswith(MANY) else min(RECORD_BYTES, self.max_bytes)

    def takes(self, size: int) -> bool:
        """Whether there is room for that many bytes; if so, they are held until they are given back."""
        if self.held + size > max(MAX_HELD_BYTES, self.max_bytes):
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        self.held -= size


class AdmitBody:
    """ASGI middleware that refuses a body while it is still arriving: 413, 415, or 503 if there are too many at once.

    What comes without a Content-Type, or with the one that `curl --data` sends, is taken for JSON. From a page in a
    browser it is refused: other pages may send such a request without being asked, and could fill metrics and journal.
    """

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self.app = app
        self.admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        limit = self.admission.limit_of(scope["path"])
        status, refusal = 415, _refusal_of_type(headers)
        if not refusal and (length := declared_length(headers.get(b"content-length", b"0"))) > limit:
            status, refusal = 413, _too_large(f"{length} bytes", limit)
        if refusal:
            await JSONResponse(problem(scope, refusal), status)(scope, receive, send)
            return
        if not _is_json_or_binary(headers.get(b"content-type", b"")):
            others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
            scope = {**scope, "headers": [*others, (b"content-type", b"application/json")]}
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            if received + size > limit:
                raise HTTPException(413, _too_large("too many bytes", limit))
            if not self.admission.takes(size):
                said = f"other requests hold {self.admission.held} bytes of bodies. Send it again in a second"
                raise HTTPException(503, said, {"Retry-After": "1"})
            received += size
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self.admission.give_back(received)


def _refusal_of_type(headers: dict[bytes, bytes]) -> str | None:
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding != b"identity":
        return (
            f"the body is compressed ({_shown(encoding)}); send it as it is, without Content-Encoding. Nothing is "
            "unpacked here, because a small body may become a thousand times as large"
        )
    content_type = headers.get(b"content-type", b"")
    is_from_page = b"origin" in headers or b"sec-fetch-site" in headers
    if is_from_page and not _is_json_or_binary(content_type):
        return (
            f"the body came with the Content-Type {_shown(content_type) or '(none)'}; from a page in a browser it has "
            "to come with Content-Type: application/json"
        )
    return None


def _is_json_or_binary(content_type: bytes) -> bool:
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type in (b"application/json", b"application/octet-stream") or (
        media_type.startswith(b"application/") and media_type.endswith(b"+json")
    )


def _shown(header: bytes) -> str:
    return header[:60].decode("latin-1")


def _too_large(size: str, limit: int) -> str:
    return f"the body has {size}; the limit here is {limit} bytes. Send the records in several requests."


def declared_length(header: bytes) -> int:
    """Return a Content-Length as a number, or 0 if it is not one."""
    # Twenty digits exceed any limit. Python refuses to parse several thousand of them.
    return int(header.lstrip(b"0")[:20] or b"0") if header.isdigit() else 0
