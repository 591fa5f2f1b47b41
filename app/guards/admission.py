"""What is let in: bodies up to their route's limit, as JSON."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import problem
from penguins.files import KIBIBYTE

RECORD_BYTES = 64 * KIBIBYTE  # a record of a thousand columns fits
MANY = ("/predict/batch", "/feedback", "/infer")  # paths that end so take many records


def limit_of(path: str, max_bytes: int) -> int:
    """Return how many bytes a body may have. Only those with many records may have `max_bytes`."""
    return max_bytes if path.endswith(MANY) else min(RECORD_BYTES, max_bytes)


class AdmitBody:
    """ASGI middleware that refuses a body while it is still arriving: 413 if it is too large, 415 for its type.

    What comes without a Content-Type, or with the one that `curl --data` sends, is taken for JSON. From a page in a
    browser it is refused: other pages may send such a request without being asked, and could fill metrics and journal.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        limit = limit_of(scope["path"], self.max_bytes)
        status, refusal = 415, _refusal_of_type(headers)
        if not refusal and (length := declared_length(headers.get(b"content-length", b"0"))) > limit:
            status, refusal = 413, _too_large(f"{length} bytes", limit)
        if refusal:
            await JSONResponse(problem(scope, refusal), status)(scope, receive, send)
            return
        if not _is_json(headers.get(b"content-type", b"")):
            others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
            scope = {**scope, "headers": [*others, (b"content-type", b"application/json")]}
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, _too_large("too many bytes", limit))
            return message

        await self.app(scope, counted, send)


def _refusal_of_type(headers: dict[bytes, bytes]) -> str | None:
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding != b"identity":
        return (
            f"the body is compressed ({_shown(encoding)}); send it as it is, without Content-Encoding. Nothing is "
            "unpacked here, because a small body may become a thousand times as large"
        )
    content_type = headers.get(b"content-type", b"")
    is_from_page = b"origin" in headers or b"sec-fetch-site" in headers
    # A page of another site may not send these two without asking first, which the service would not grant.
    if is_from_page and not _is_json(content_type) and content_type != b"application/octet-stream":
        return (
            f"the body came with the Content-Type {_shown(content_type) or '(none)'}; from a page in a browser it has "
            "to come with Content-Type: application/json"
        )
    return None


def _is_json(content_type: bytes) -> bool:
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type.startswith(b"application/") and media_type.endswith((b"/json", b"+json"))


def _shown(header: bytes) -> str:
    return header[:60].decode("latin-1")


def _too_large(size: str, limit: int) -> str:
    return f"the body has {size}; the limit here is {limit} bytes. Send the records in several requests."


def declared_length(header: bytes) -> int:
    """Return a Content-Length as a number, or 0 if it is not one."""
    # Twenty digits exceed any limit. Python refuses to parse several thousand of them.
    return int(header.lstrip(b"0")[:20] or b"0") if header.isdigit() else 0
