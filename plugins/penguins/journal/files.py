"""The form of the journal's files, which the service writes: CSV, UTF-8, LF, with a header.

There are two kinds: predictions, and feedback about them. Each process writes files of its own, so only the last line
of a file can be cut off. Such a line has no line feed, and does not count.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from penguins.schema import COLUMNS, FEATURES, MISSING, TARGET

DIRECTORY = "API_JOURNAL_DIR"
PREDICTIONS, FEEDBACK = "predictions", "feedback"
KINDS = (PREDICTIONS, FEEDBACK)
ABSENT = "NA" if "NA" in MISSING else next(iter(MISSING), "")
PIECE_BYTES = 2**17  # some 1,000 rows: small enough that whoever reads lets others get in between


def _unlike(names: Iterable[str], taken: set[str]) -> Iterator[str]:
    """Yield the names, with an underscore where a column has that name already, capitals or not."""
    for name in names:
        while name.lower() in taken:
            name += "_"  # noqa: PLW2901
        taken.add(name.lower())
        yield name


_OWN = ("time", "id", "version", f"predicted_{TARGET.name}", *(f"probability_{label}" for label in TARGET.values))
_TIME, _ID, _VERSION, _PREDICTED, *_PROBABILITIES = _unlike(_OWN, {c.name.lower() for c in COLUMNS})
_BOTH = (_TIME, _ID, _VERSION, *(c.name for c in FEATURES), _PREDICTED)
HEADERS = {PREDICTIONS: (*_BOTH, *_PROBABILITIES), FEEDBACK: (*_BOTH, TARGET.name)}


def encoded(rows: Iterable[Sequence[Any]]) -> bytes:
    """Return rows as lines of a file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def header(kind: str) -> bytes:
    """Return the first line of the files of a kind."""
    return encoded([HEADERS[kind]])


def rows_of(lines: bytes, kind: str) -> Iterator[list[str]]:
    """Yield the rows of whole lines. What has not as many values as the header is no row."""
    columns = len(HEADERS[kind])
    # Not splitlines(): a value may have a line break in it.
    for row in csv.reader(io.StringIO(lines.decode(errors="replace"), newline="")):
        if len(row) == columns:
            yield row


def files(folder: Path, kind: str) -> list[Path]:
    """Return the files of a kind, by the time in their names."""
    return sorted(folder.glob(f"{kind}-*.csv"))


def pieces(path: Path, kind: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines of a file in pieces, each with its offset. No header, and nothing of other columns.

    Parameters
    ----------
    path : Path
    kind : str
    start : int
        The offset of a line, after what was read before.
    """
    first = header(kind)
    with path.open("rb") as file:
        if file.read(len(first)) != first:
            return
        offset = max(start, len(first))
        file.seek(offset)
        rest = b""
        while piece := file.read(PIECE_BYTES):
            lines, line_feed, rest = (rest + piece).rpartition(b"\n")
            if line_feed:
                yield offset, lines + line_feed
                offset += len(lines) + 1


def is_of_other_columns(path: Path, kind: str) -> bool:
    """Return whether a file was written for another declaration of the columns."""
    first = header(kind)
    with path.open("rb") as file:
        begins = file.read(len(first))
    return not first.startswith(begins)


def as_text(nanoseconds: int) -> str:
    """Return a time in UTC, without a zone, which MySQL would not read."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{_second(seconds)}.{rest // 1000:06d}"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
