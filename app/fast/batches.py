"""A batch from bytes to bytes, in pieces: each is over in a millisecond or two, and then others get in between.

Parsing, predicting and serializing hold Python's lock. A whole batch at once would keep single requests waiting for
tens of milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic_core import to_json

from app.guards.admission import RECORD_BYTES
from app.schemas import MAX_RECORDS, RECORDS
from app.serving.answers import labels_of
from app.serving.model_server import Predicted, Served
from app.serving.observers import Observed
from penguins.inference import Prediction

PIECE_BYTES = 2**16  # some 460 penguins
_ENVELOPE = re.compile(
    rb'[ \t\r\n]*\{[ \t\r\n]*"records"[ \t\r\n]*:[ \t\r\n]*\[(.*)\][ \t\r\n]*\}[ \t\r\n]*', re.DOTALL
)
_BETWEEN = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*\{")
_records_of = RECORDS.validate_json


def answer_batch(body: bytearray, served: Served, observed: Observed) -> bytes:
    """Return the response body of /predict/batch, the same bytes as the ordinary route's.

    Nobody is told until every piece has turned out to be valid.

    Raises
    ------
    ValueError
        If this is not a valid batch, or none that can be cut into pieces: the ordinary route decides on it.
    """
    envelope = _ENVELOPE.fullmatch(body)
    if not envelope:
        raise ValueError("not the usual form of a batch")
    rows: list[dict[str, Any]] = []
    predictions: list[Prediction] = []
    answers: list[bytes] = []
    for piece in _pieces(envelope[1]):
        records = [vars(record) for record in _records_of(piece)]
        rows += records
        if not 0 < len(records) <= len(rows) <= MAX_RECORDS:
            raise ValueError("no records, or too many")
        found = served.predict(records).predictions
        predictions += found
        answers.append(to_json(labels_of(found))[1:-1])
    observed.tell(Predicted(served, rows, predictions))
    version = to_json(served.version)
    return b'{"predictions":[' + b",".join(answers) + b'],"model_version":' + version + b"}"


def _pieces(records: bytes) -> Iterator[bytes]:
    """Yield arrays of records. A cut in the middle of a text makes two that are no JSON, which are refused."""
    start = 0
    while cut := _BETWEEN.search(records, start + PIECE_BYTES):
        yield _piece(records[start : cut.start() + 1])
        start = cut.end() - 1
    yield _piece(records[start:])


def _piece(records: bytes) -> bytes:
    if len(records) > PIECE_BYTES + RECORD_BYTES:  # parsed here, nested values take a hundred times their bytes
        raise ValueError("no record is so large")
    return b"[%b]" % records
