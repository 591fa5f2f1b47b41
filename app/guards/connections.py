"""What a client may take of the process before it is answered: bytes, seconds, connections.

uvicorn bounds none of these, nor does its parser, but for the seconds that a connection idles after an answer.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.errors import problem

HEAD_BYTES = 32 * 1024
HEAD_LINES = 100
HEAD_SECONDS = 10
BODY_SECONDS = 60
ANSWER_SECONDS = 60  # for a client to take what it asked for
CONNECTIONS = 500  # of one process: a shell allows it 1,024 open files
PIPELINED = 16  # requests on one connection behind the one that is being answered
HELD_BYTES = 64 * 2**20  # of all connections together
LINGER_SECONDS = 2
STOP_SECONDS = 2


class BoundedProtocol(HttpToolsProtocol):
    """A connection. If it takes too much, it is answered 408, 431 or 503 where no other answer is due, and closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.url, self.headers = b"", []
        self.heard = self.loop.time()  # when the client sent something last
        self.in_body = self.refused = False
        self.beside_body = 0  # bytes since the body's last: of the head, of chunks' extensions, of trailers
        self.body_bytes = 0
        self.seconds = 0  # that the client has for sending the rest; 0: as many as it likes
        self.sending: asyncio.TimerHandle | None = None
        self.taking: asyncio.TimerHandle | None = None
        full = len(self.connections) >= CONNECTIONS and not self._made_room()
        super().connection_made(transport)
        self._expect(HEAD_SECONDS)
        if full:
            self.refuse(503, f"{CONNECTIONS} requests are being answered, which is the limit. Try again.")

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(0)
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        self.heard = self.loop.time()
        if not self.answering:
            self.body_bytes = 0
        self.beside_body += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # the request is answered as any other
        except HttpParserError:
            self.refuse(400, "this is no HTTP/1.1 request. Nor is TLS spoken here: the address begins with http://.")
        if self.beside_body > HEAD_BYTES or len(self.headers) > HEAD_LINES:
            self._refuse_head()
        elif self.in_body:
            self._expect(BODY_SECONDS)
        elif not self.answering:
            self._expect(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        # The bytes so far include what arrived of the body, and are less than the head if another request came before.
        large = self.beside_body > HEAD_BYTES and len(self.url) + sum(map(len, sum(self.headers, ()))) > HEAD_BYTES
        if large or len(self.headers) > HEAD_LINES:
            self._refuse_head()
        elif len(self.pipeline) >= PIPELINED:
            self.refuse(503, f"{PIPELINED} requests are waiting on this connection, which is the limit.")
        if self.refused:
            raise HttpParserError  # so that nothing more is parsed
        super().on_headers_complete()
        self.in_body = True
        self.headers = []  # where trailers go: they are no headers

    def on_body(self, body: bytes) -> None:
        self.beside_body = 0
        self.body_bytes += len(body)
        if self.body_bytes > HIGH_WATER_LIMIT and sum(c.held for c in self._all()) > HELD_BYTES:
            self.refuse(503, f"requests and answers have {HELD_BYTES} bytes together, which is the limit. Try again.")
            raise HttpParserError
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.url, self.in_body, self.beside_body = b"", False, 0
        self._expect(0)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.taking = self.loop.call_later(ANSWER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.taking:
            self.taking.cancel()

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(STOP_SECONDS, self.transport.abort)

    def refuse(self, status: int, text: str) -> None:
        """Close the connection, with an answer unless another one has begun or is due before it."""
        if self.refused:
            return
        self.refused = True
        self.logger.warning("%s: %s", self.client, text)
        due = self.pipeline or (self.answering and (not self.in_body or self.cycle.response_started))
        if self.answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if due:
            self.transport.close()
            return
        body = json.dumps(problem({"path": self.url.decode("latin-1")}, text)).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        self.transport.write(
            STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n" + body
        )
        # Whoever is still sending would not get the answer, but a reset, if the connection were closed at once.
        self.transport.write_eof()
        self.flow.resume_reading()
        self._expect(0)
        self._expect(LINGER_SECONDS)

    @property
    def answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def held(self) -> int:
        """Bytes in memory: of a body that is not answered yet, and of answers that the client has not taken."""
        waiting = self.answering and not self.refused  # a refused one must not have others refused as well
        return self.body_bytes * waiting + self.transport.get_write_buffer_size()

    def _all(self) -> list[BoundedProtocol]:
        return cast("list[BoundedProtocol]", list(self.connections))

    def _made_room(self) -> bool:
        """Close the connection that has been silent for longest, of those whose request is not complete."""
        silent = [c for c in self._all() if c.in_body or not c.answering]
        if silent:
            longest = min(silent, key=lambda c: c.heard)
            longest.transport.abort()
            self.connections.discard(longest)
        return bool(silent)

    def _expect(self, seconds: int) -> None:
        """Give the client so many seconds from now on, unless it has been given the same before."""
        if seconds != self.seconds:
            self.seconds = seconds
            if self.sending:
                self.sending.cancel()
            self.sending = self.loop.call_later(seconds, self._too_slow) if seconds else None

    def _too_slow(self) -> None:
        if self.refused or not self.url:
            self.transport.abort()
        else:
            part = "body" if self.in_body else "head"
            self.refuse(408, f"the {part} was not complete after {self.seconds} seconds. Send the request again.")

    def _refuse_head(self) -> None:
        self.refuse(
            431,
            f"the head of the request has more than {HEAD_BYTES} bytes or {HEAD_LINES} lines, which is the limit. "
            "Send fewer headers, or cookies, or a shorter URL.",
        )


# For uvicorn.run and uvicorn.Config. No route upgrades to a WebSocket.
BOUNDS: dict[str, Any] = {"http": BoundedProtocol, "ws": "none", "backlog": 256, "timeout_graceful_shutdown": 3}
