"""What clients may take of a service process: bytes of a head, seconds, connections, time at its end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import psutil
import pytest

from app.guards.connections import CONNECTIONS, HEAD_BYTES, HEAD_LINES, PIPELINED
from penguins.schema import EXAMPLE
from support import ROOT, Service, empty_registry, free_port

MB = 2**20
BODY = json.dumps(EXAMPLE).encode()
GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
HEAD = POST + b"Content-Length: %d\r\n\r\n" % len(BODY)
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
# Sets constants of app.guards.connections, then becomes `python -m app`.
SHORTER = """
import runpy, sys, app.guards.connections
vars(app.guards.connections).update({constants})
runpy.run_module("app", run_name="__main__", alter_sys=True)
"""

Trained = tuple[bytes, dict[str, Any]]


class Running(NamedTuple):
    service: Service
    metrics_port: int

    def connect(self, port: int = 0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port or self.service.port), timeout=60)

    def ask(self, *pieces: bytes, port: int = 0) -> bytes:
        """Send the pieces as far as they are taken. Return all that comes back until the connection is closed."""
        with self.connect(port) as connection:
            try:
                for piece in pieces:
                    connection.sendall(piece)
            except OSError:
                pass  # the service answered and hung up
            return rest(connection)

    def process(self) -> psutil.Process:
        return psutil.Process(self.service.process.pid)

    def established(self) -> int:
        found = self.process().net_connections("tcp")
        return sum(c.status == "ESTABLISHED" and c.laddr.port == self.service.port for c in found)


def rest(connection: socket.socket) -> bytes:
    received = bytearray()
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return bytes(received)


@contextmanager
def running(trained: Trained, folder: Path, workers: int = 1, **constants: float) -> Iterator[Running]:
    """Start the service with a model and a port for /metrics."""
    registry = empty_registry(folder)
    registry.publish(*trained)
    port, metrics_port = free_port(), free_port()
    env = os.environ | {
        "MODELS_DIR": str(registry.root),
        "MODEL_PUBLIC_KEYS_FILE": str(registry.keys.public),
        "PYTHONPATH": str(ROOT / "plugins"),
        "API_PORT": str(port),
        "API_METRICS_PORT": str(metrics_port),
        "API_WORKERS": str(workers),
    }
    program = ["-c", SHORTER.format(constants=constants)] if constants else ["-m", "app"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *program], cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, text=True
        )
    try:
        service = Service(process, port)
        service.wait(lambda: service.client.get("/health/ready").is_success)
        yield Running(service, metrics_port)
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def service(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The service, with less patience and less memory to give than it has."""
    folder = tmp_path_factory.mktemp("connections")
    with running(trained, folder, HEAD_SECONDS=5, BODY_SECONDS=6, HELD_BYTES=4 * MB) as found:
        yield found


FLOODS: dict[str, tuple[bytes, bytes]] = {
    "header lines": (GET, b"a: b\r\n" * 10_000),
    "one header": (GET + b"a: ", b"b" * 65536),
    "a header's name": (GET, b"a" * 65536),
    "a URL": (b"GET /", b"a" * 65536),
    "trailers": (CHUNKED + b"1\r\n{\r\n0\r\n", b"a: b\r\n" * 10_000),
    "a chunk's extension": (CHUNKED + b"1;a=", b"b" * 65536),
    "blank lines": (b"", b"\r\n" * 32768),
}


@pytest.mark.parametrize("metrics", [False, True], ids=["api", "metrics"])
@pytest.mark.parametrize("flood", FLOODS)
def test_a_head_without_an_end_is_refused_and_memory_stays_flat(service: Running, flood: str, metrics: bool) -> None:
    begin, piece = FLOODS[flood]
    before = service.process().memory_info().rss
    answer = service.ask(begin, *[piece] * (16 * MB // len(piece)), port=service.metrics_port if metrics else 0)
    head, _, body = answer.partition(b"\r\n\r\n")
    if begin.startswith(POST) and metrics:
        assert head.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 431 "))  # which waits for no body
    else:
        assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
        assert f"more than {HEAD_BYTES} bytes or {HEAD_LINES} lines" in json.loads(body)["detail"]
    assert service.process().memory_info().rss - before < 30 * MB


def test_the_head_has_a_limit_to_the_byte_and_to_the_line(service: Running) -> None:
    line = b"a: " + b"b" * 30_000 + b"\r\nConnection: close\r\n"
    for path, key in (("/health/live", "detail"), ("/v2/health/live", "error")):
        begin = b"GET %b HTTP/1.1\r\n" % path.encode()
        assert service.ask(begin + line + b"\r\n").startswith(b"HTTP/1.1 200 ")
        assert service.ask(begin + b"a: b\r\n" * 99 + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        for more in (line + b"c: " + b"d" * 3_000 + b"\r\n", b"a: b\r\n" * 101):
            refused = service.ask(begin + more + b"\r\n")
            assert refused.startswith(b"HTTP/1.1 431 ")
            assert list(json.loads(refused.partition(b"\r\n\r\n")[2])) == [key]


def test_what_is_no_http_is_answered_as_json(service: Running) -> None:
    answer = service.ask(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert "http://" in json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]


def test_unusual_requests_are_answered_as_usual(service: Running) -> None:
    ok = b"HTTP/1.1 200 OK"
    chunk = b"%x;an=extension\r\n%b\r\n" % (len(BODY), BODY)
    last = GET + b"Connection: close\r\n\r\n"
    assert service.ask(CHUNKED + chunk + b"0\r\nA-Trailer: 1\r\n\r\n" + last).count(ok) == 2
    assert service.ask((HEAD + BODY) * PIPELINED + last).count(ok) == PIPELINED + 1
    upgrade = b"Connection: close, upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    assert service.ask(GET + upgrade).startswith(ok)
    with service.connect() as connection:
        connection.sendall(HEAD.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue\r\nConnection: close"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert rest(connection).startswith(ok)


def test_requests_that_do_not_wait_for_an_answer_end_the_connection_and_memory_stays_flat(service: Running) -> None:
    before = service.process().memory_info().rss
    service.ask(*[(GET + b"\r\n") * 2_000] * 30)
    assert service.process().memory_info().rss - before < 30 * MB
    assert service.service.client.get("/health/live").is_success


def test_half_a_request_is_given_up(service: Running) -> None:
    v2 = POST.replace(b"/predict", b"/v2/models/modelo_penguin/infer")
    halves: dict[bytes, bytes] = {
        b"": b"",
        b"GE": b"",
        GET: b'{"detail": "the head was not complete after 5 seconds',
        v2: b'{"error": "the head was not complete after 5 seconds',
        HEAD + BODY + b"\r\n": b'{"species"',
        HEAD + BODY + GET: b'{"species"',
        HEAD: b'{"detail": "the body was not complete after 6 seconds',
        CHUNKED + b"1\r\n{\r\n": b'{"detail": "the body was not complete after 6 seconds',
        HEAD + BODY + HEAD + BODY[:10]: b'{"detail": "the body was not complete after 6 seconds',
        POST + b"Content-Length: 99999999\r\n\r\n": b'{"detail":"the body has 99999999 bytes',
    }
    with ExitStack() as stack:
        connections = [stack.enter_context(service.connect()) for _ in halves]
        for connection, half in zip(connections, halves, strict=True):
            connection.sendall(half)
        answers = [rest(connection) for connection in connections]
    for (half, said), answer in zip(halves.items(), answers, strict=True):
        assert said in answer.rpartition(b"\r\n\r\n")[2], half
    for port in (0, service.metrics_port):
        assert drip(service, GET, b"a", port).startswith(b"HTTP/1.1 408 ")
    assert drip(service, CHUNKED, b"1\r\n \r\n").startswith(b"HTTP/1.1 408 ")


def drip(service: Running, begin: bytes, piece: bytes, port: int = 0) -> bytes:
    """Send a piece five times a second, for up to a minute. Return the answer."""
    with service.connect(port) as connection:
        connection.sendall(begin)
        connection.settimeout(0.2)
        for _ in range(300):
            try:
                return connection.recv(65536)
            except TimeoutError:
                connection.sendall(piece)
    raise AssertionError("nothing came back")


def test_more_connections_than_fit_leave_room_for_whoever_asks(service: Running) -> None:
    with ExitStack() as stack:
        for number in range(CONNECTIONS + 100):
            connection = stack.enter_context(service.connect())
            connection.sendall((b"", GET, HEAD)[number % 3])
        url = f"http://127.0.0.1:{service.service.port}"
        for _ in range(20):
            assert httpx2.get(f"{url}/health/live", timeout=60).is_success
            assert service.established() <= CONNECTIONS  # all of the above are accepted by now
            assert httpx2.post(f"{url}/predict", json=EXAMPLE, timeout=60).is_success
        assert httpx2.get(f"http://127.0.0.1:{service.metrics_port}/metrics", timeout=60).is_success
    service.service.wait(lambda: service.established() <= 1)  # this test's client


def test_half_sent_bodies_together_have_a_limit(service: Running) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(service.connect()) for _ in range(6)]
        head = POST.replace(b"/predict", b"/predict/batch") + b"Content-Length: %d\r\n\r\n" % (2 * MB)
        for connection in connections:
            connection.sendall(head)
        for _ in range(16):  # in turns, so that all have sent much when the limit is reached
            for connection in connections:
                with suppress(OSError):  # refused long ago
                    connection.sendall(b" " * (MB // 16))
        assert service.service.client.post("/predict", json=EXAMPLE).is_success
        answers = [rest(connection) for connection in connections]
    statuses = [answer[:13] for answer in answers]
    assert set(statuses) == {b"HTTP/1.1 408 ", b"HTTP/1.1 503 "}
    assert statuses.count(b"HTTP/1.1 408 ") >= 4  # as many as fit were waited for
    assert b"is the limit. Try again" in b"".join(answers)


def test_clients_that_do_not_take_their_answers_are_given_up(trained: Trained, tmp_path: Path) -> None:
    with running(trained, tmp_path, CONNECTIONS=3, ANSWER_SECONDS=15) as service, ExitStack() as stack:
        service.service.client.close()
        service.service.wait(lambda: service.established() == 0)
        for _ in range(3):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", service.service.port))
            connection.sendall(b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(9) == b"HTTP/1.1 "
        last = GET + b"Connection: close\r\n\r\n"
        full = service.ask(last)
        assert full.startswith(b"HTTP/1.1 503 ")
        assert json.loads(full.partition(b"\r\n\r\n")[2])["detail"].startswith("3 requests are being answered")
        service.service.wait(lambda: service.ask(last).startswith(b"HTTP/1.1 200 "))


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_ends_it_whatever_is_half_sent(trained: Trained, tmp_path: Path, workers: int) -> None:
    with running(trained, tmp_path, workers) as service, ExitStack() as stack:
        for half in (b"", GET, HEAD, HEAD + BODY[:10], HEAD + BODY + HEAD) * 4:
            for port in (0, service.metrics_port):
                stack.enter_context(service.connect(port)).sendall(half)
        answered = stack.enter_context(service.connect())
        answered.sendall(HEAD + BODY)
        assert answered.recv(100).startswith(b"HTTP/1.1 200 ")
        family = service.process().children(recursive=True)
        service.service.process.terminate()
        service.service.process.wait(timeout=30)
        _, alive = psutil.wait_procs(family, timeout=30)
        assert alive == []
    assert "Traceback" not in (tmp_path / "log").read_text()
