"""Count requests by endpoint, status and key."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.guards.access import NAME_IN_SCOPE
from app.monitoring.counts import Recorder

OTHER = "other"  # every unknown path, so that clients cannot create series by requesting new ones


class CountRequests:
    """ASGI middleware that counts requests by endpoint. Unknown paths share one label; `excluded` ones do not count."""

    def __init__(self, app: ASGIApp, recorder: Recorder, endpoints: Sequence[str], excluded: Sequence[str]) -> None:
        self.app = app
        self.recorder = recorder
        self.labels = {path: path for path in endpoints} | dict.fromkeys(excluded)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.labels.get(scope["path"], OTHER) is None:
            await self.app(scope, receive, send)
            return
        status = 0  # stays 0 if the client disconnects before the response
        started = time.perf_counter_ns()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception:
            status = 500  # as Starlette responds, outside all middleware
            raise
        finally:
            if status:
                # An oversized body is rejected before routing: then there is only the path.
                path = scope["route"].path if "route" in scope else scope["path"]
                endpoint, key = self.labels.get(path) or OTHER, scope.get(NAME_IN_SCOPE, "")
                self.recorder.answered(endpoint, status, time.perf_counter_ns() - started, key)
