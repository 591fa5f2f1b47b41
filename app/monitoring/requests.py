"""Count the requests, by endpoint and status."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.monitoring.counts import Recorder

OTHER = "other"  # every path that is none of the service's, so that nobody can make series by asking for paths


class CountRequests:
    """ASGI middleware that counts requests by endpoint: those of `endpoints`, those left out, and others as one."""

    def __init__(self, app: ASGIApp, recorder: Recorder, endpoints: Sequence[str], left_out: Sequence[str]) -> None:
        self.app = app
        self.recorder = recorder
        self.labels = {path: path for path in endpoints} | dict.fromkeys(left_out)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.labels.get(scope["path"], OTHER) is None:
            await self.app(scope, receive, send)
            return
        status = 0  # of a client that went away before it was answered
        started = time.perf_counter_ns()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception:
            status = 500  # by which Starlette answers, outside of all middleware
            raise
        finally:
            if status:
                # A body that is too large is refused before the router has found the route: that has the path alone.
                path = scope["route"].path if "route" in scope else scope["path"]
                self.recorder.answered(self.labels.get(path) or OTHER, status, time.perf_counter_ns() - started)
