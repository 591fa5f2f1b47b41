"""The shortcut answers as the ordinary route does, byte for byte."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.fast import batches, shortcut
from app.fast.shortcut import FastPredict
from app.main import create_app
from app.settings import Settings
from penguins.registry import Registry
from penguins.schema import EXAMPLE, FEATURES

LIMIT = 20_000
JSON = (b"content-type", b"application/json")
Answer = list[Message]


class Both:
    """One service, with the shortcut and without. `ordinary` counts what reached the ordinary routes."""

    def __init__(self, app: FastAPI) -> None:
        server = app.state.model_server
        self.ordinary = 0
        plain = create_app(Settings(max_body_bytes=LIMIT), server.registry)
        plain.state.model_server = server
        plain.middleware_stack = plain.build_middleware_stack()
        self.plain = plain

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self.ordinary += 1
            await plain(scope, receive, send)

        self.fast = FastPredict(counted, server, plain.state.observed, lambda *_: None, LIMIT)

    def same(self, body: bytes | list[bytes], headers: Any = None, path: str = "/predict", **scope: Any) -> Answer:
        """Send it to both, compare what they answer, and return that."""
        pieces = body if isinstance(body, list) else [body]
        if headers is None:
            headers = [JSON, (b"content-length", b"%d" % sum(map(len, pieces)))]
        answers = [asyncio.run(_exchange(app, pieces, headers, path, scope)) for app in (self.fast, self.plain)]
        assert answers[0] == answers[1], f"{path} {scope} {headers}: {b''.join(pieces)[:300]!r}"
        return answers[0]

    def is_short(self, *args: Any, **kwargs: Any) -> bool:
        before = self.ordinary
        assert self.same(*args, **kwargs)[0]["status"] == 200
        return self.ordinary == before


async def _exchange(
    app: ASGIApp, pieces: list[bytes], headers: list[tuple[bytes, bytes]], path: str, changes: dict[str, Any]
) -> Answer:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"service"), *headers],
        "client": ("127.0.0.1", 1234),
        "server": ("127.0.0.1", 8989),
        **changes,
    }
    coming: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, start=1)
    ]
    answer: Answer = []

    async def receive() -> Message:
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answer.append(message)

    await app(scope, receive, send)
    return answer


@pytest.fixture(scope="module")
def both(published: Registry) -> Iterator[Both]:
    app = create_app(Settings(max_body_bytes=LIMIT), published)
    with TestClient(app):
        yield Both(app)


def text(record: dict[str, Any] | None = None, **changes: Any) -> bytes:
    return json.dumps({**(EXAMPLE if record is None else record), **changes}).encode()


def with_number(number: str) -> bytes:
    return text(body_mass_g="X").replace(b'"X"', number.encode())


GOOD = {
    "the example": text(),
    "compact": json.dumps(EXAMPLE, separators=(",", ":")).encode(),
    "indented": json.dumps(EXAMPLE, indent=4).encode(),
    "white space around": b" \r\n\t" + text() + b"\n ",
    "keys in another order": text(dict(reversed(EXAMPLE.items()))),
    "escaped": text().replace(b"Biscoe", b"\\u0042iscoe").replace(b"island", b"\\u0069sland"),
    "a key twice": text()[:-1] + b', "island": "Dream"}',
    "a key twice, first wrong": b'{"island": "Mars", ' + text()[1:],
    **{f"without {c.name}": text(**{c.name: None}) for c in FEATURES if not c.required},
    "only one number": text(dict.fromkeys(EXAMPLE) | {"island": "Dream", "body_mass_g": 4000}),
    **{
        f"the number {number}": with_number(number)
        for number in (
            *("4500", "4500.0", "4.5e3", "4.5E+3", "45000e-1", "4500.000000000000000000000000000001", "1000"),
            *("10000", "1e3", "4500.1234567890123456789", "9999.999999999999", "1.0000000000000001e3"),
        )
    },
}
BAD = {
    "empty": b"",
    "no JSON": b"penguin",
    "cut off": text()[:-1],
    "more after it": text() + b"}",
    "two records": text() + text(),
    "an array": b"[" + text() + b"]",
    "null": b"null",
    "an extra field": text(year=2007),
    "a missing key": text({"island": "Dream"}),
    "all null": text(dict.fromkeys(EXAMPLE) | {"island": "Dream"}),
    "required null": text(island=None),
    "unknown category": text(island="Mars"),
    "category as a number": text(island=1),
    "number as text": text(body_mass_g="4500"),
    "true": text(body_mass_g=True),
    "a list": text(body_mass_g=[4500]),
    "no UTF-8": text().replace(b"Biscoe", b"Bisco\xe9"),
    "half a character": text().replace(b"Biscoe", b"\\ud800"),
    "control character": text().replace(b"Biscoe", b"Bis\x01coe"),
    "single quotes": text().replace(b'"', b"'"),
    "a trailing comma": text()[:-1] + b",}",
    "a comment": text() + b"// penguin",
    "deep": b'{"island":' * 2000 + b"1" + b"}" * 2000,
    "too large": text() + b" " * LIMIT,
    "a key twice, last wrong": text()[:-1] + b', "island": "Mars"}',
    **{
        f"the number {number}": with_number(number)
        for number in (
            *("NaN", "Infinity", "-Infinity", "1e999", "-1", "0", "999.9999", "10000.000001", "04500", "+4500"),
            *("4500.", ".5e4", "0x1194", "4_500", "1" * 400, "1" * 5000, "-0.0", "4500e", "4,5"),
        )
    },
}


def test_a_good_record_takes_the_shortcut_to_the_same_answer(both: Both) -> None:
    for name, record in GOOD.items():
        assert both.is_short(record), name
        assert both.is_short(b'{"records": [%s, %s]}' % (record, text()), path="/predict/batch"), name


def test_a_good_record_in_another_encoding_takes_the_ordinary_route(both: Both) -> None:
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert not both.is_short(text().decode().encode(encoding)), encoding


def test_a_bad_record_gets_the_same_error(both: Both) -> None:
    for name, record in BAD.items():
        assert both.same(record)[0]["status"] in (400, 413, 422), name
        batch = both.same(b'{"records": [%s, %s]}' % (text(), record), path="/predict/batch")
        assert batch[0]["status"] >= 400, name


def test_parameters_of_a_batch_are_the_ordinary_routes(both: Both) -> None:
    body = b'{"records": [%s]}' % text()
    for query, status in ((b"counted=false", 200), (b"counted=perhaps", 422)):
        assert both.same(body, path="/predict/batch", query_string=query)[0]["status"] == status
    assert not both.is_short(body, path="/predict/batch", query_string=b"counted=false")
    assert both.is_short(text(), query_string=b"counted=false")  # /predict has none


def test_a_bad_batch_gets_the_same_error(both: Both) -> None:
    for records in ("[]", "null", "{}", f"[{','.join(['null'] * 300)}]", '"text"'):
        answer = both.same(f'{{"records": {records}}}'.encode(), path="/predict/batch")
        assert answer[0]["status"] == 422, records


def test_a_batch_that_is_cut_into_pieces_is_answered_alike(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "PIECE_BYTES", 1)  # one record a piece
    for name, record in GOOD.items():
        assert both.is_short(b'{"records": [%s , %s,\n%s]}' % (text(), record, text()), path="/predict/batch"), name
    for name, record in (BAD | {"a cut in a text": text(island="Biscoe},{Dream")}).items():
        batch = both.same(b'{"records": [%s, %s, %s]}' % (text(), record, text()), path="/predict/batch")
        assert batch[0]["status"] >= 400, name
    two = b"%s,%s" % (text(), text())
    for body, status in {
        b'{"records":[%s],"records":[%s]}' % (two, text()): 200,
        b'{"records":[%s],"more":[%s]}' % (two, two): 422,
        b'{"records":[[%s]]}' % two: 422,
        b'\x0b{"records":[%s]}' % two: 422,
        b'{"records":[%s,]}' % two: 422,
        b'{"records":[,%s]}' % two: 422,
        b"[%s]" % two: 422,
    }.items():
        assert both.same(body, path="/predict/batch")[0]["status"] == status, body


def test_a_batch_of_too_many_records_gets_the_same_error(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_RECORDS", 2)
    assert not both.is_short(b'{"records":[%s,%s,%s]}' % (text(), text(), text()), path="/predict/batch")


def test_one_batch_is_computed_at_a_time_and_single_requests_pass_by(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, started, go_on = [0], [0], threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> bytes:
        running[0] += 1
        most[0] = max(most[0], running[0])
        started.set()
        assert go_on.wait(30)
        running[0] -= 1
        return batches.answer_batch(*arguments)

    monkeypatch.setattr(shortcut, "answer_batch", slowly)
    body = b'{"records":[%s]}' % text()

    async def exchange() -> list[Answer]:
        def send(content: bytes, path: str) -> asyncio.Task[Answer]:
            headers = [JSON, (b"content-length", b"%d" % len(content))]
            return asyncio.create_task(_exchange(both.fast, [content], headers, path, {}))

        several = [send(body, "/predict/batch") for _ in range(3)]
        assert await asyncio.to_thread(started.wait, 30)
        single = await send(text(), "/predict")  # while a batch is computed
        go_on.set()
        return [single, *await asyncio.gather(*several)]

    answers = asyncio.run(exchange())
    assert [answer[0]["status"] for answer in answers] == [200] * 4
    assert most == [1]


def test_a_body_in_pieces_is_put_together(both: Both) -> None:
    pieces = [text()[:10], b"", text()[10:30], text()[30:], b""]
    assert both.is_short(pieces)
    assert both.same([*pieces, b"}"])[0]["status"] == 422


def test_a_body_longer_than_it_says_and_than_is_allowed_is_refused(both: Both) -> None:
    pieces = [text(), *[b" " * (LIMIT // 3)] * 10]
    for length in (b"100", b"0" * 20 + b"50000135"):
        assert both.same(pieces, [JSON, (b"content-length", length)])[0]["status"] == 413, length


LENGTH = (b"content-length", b"%d" % len(text()))
HEADERS: dict[str, list[tuple[bytes, bytes]]] = {
    "none": [],
    "no type": [LENGTH],
    "no length": [JSON],
    "a charset": [(b"content-type", b"application/json; charset=utf-8"), LENGTH],
    "another case": [(b"content-type", b"Application/JSON"), LENGTH],
    "a subtype": [(b"content-type", b"application/penguin+json"), LENGTH],
    "text": [(b"content-type", b"text/plain"), LENGTH],
    "a form": [(b"content-type", b"application/x-www-form-urlencoded"), LENGTH],
    "type twice": [JSON, (b"content-type", b"text/plain"), LENGTH],
    "type twice, turned round": [(b"content-type", b"text/plain"), JSON, LENGTH],
    "a length too large": [JSON, (b"content-length", b"999999999")],
    "a length of 5,000 digits": [JSON, (b"content-length", b"9" * 5000)],
    "zeros before the length": [JSON, (b"content-length", b"0" * 20 + b"%d" % len(text()))],
    "cookies": [JSON, LENGTH, (b"cookie", b"a=1"), (b"cookie", b"b=2")],
    "an origin": [JSON, LENGTH, (b"origin", b"http://elsewhere")],
    "accept": [JSON, LENGTH, (b"accept", b"text/html")],
}


def test_headers_make_no_difference_between_the_two(both: Both) -> None:
    for headers in HEADERS.values():
        both.same(text(), headers)
        both.same(BAD["unknown category"], headers)


REQUESTS: list[dict[str, Any]] = [
    {"method": "GET"},
    {"method": "HEAD"},
    {"method": "OPTIONS"},
    {"method": "PUT"},
    {"path": "/predict/"},
    {"path": "/Predict"},
    {"path": "/predict/batch"},
    {"path": "/behind/predict", "root_path": "/behind"},
    {"path": "/predict", "root_path": "/predict"},
    {"query_string": b"island=Dream"},
    {"http_version": "1.0"},
]


def test_other_requests_are_answered_alike(both: Both) -> None:
    for changes in REQUESTS:
        both.same(text(), **{"path": "/predict", **changes})


@given(
    name=st.sampled_from([*(c.name for c in FEATURES), "year"]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.floats(1000, 10_000) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    batch=st.booleans(),
)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_in_any_field_is_answered_alike(both: Both, name: str, value: Any, batch: bool) -> None:
    body = text(**{name: value})
    both.same(b'{"records":[%s]}' % body if batch else body, path="/predict/batch" if batch else "/predict")


@given(body=st.binary(max_size=60), position=st.integers(0, len(text())), cut=st.integers(0, 3))
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_in_any_place_are_answered_alike(both: Both, body: bytes, position: int, cut: int) -> None:
    both.same(text()[:position] + body + text()[position + cut :])


def test_without_a_model_or_with_one_that_is_not_compiled_the_ordinary_route_answers(
    both: Both, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = both.plain.state.model_server.served
    slow = replace(served, fallback="not compiled")
    monkeypatch.setattr(both.plain.state.model_server, "served", slow)
    assert not both.is_short(text())
    assert not both.is_short(b'{"records": [%s]}' % text(), path="/predict/batch")
    monkeypatch.setattr(both.plain.state.model_server, "served", None)
    assert both.same(text())[0]["status"] == 503


def test_the_shortcut_is_in_the_application_and_changes_nothing_in_its_openapi(both: Both) -> None:
    app = create_app(registry=both.plain.state.model_server.registry)
    assert isinstance(app.middleware_stack, FastPredict)
    assert app.openapi() == both.plain.openapi()
