"""The predictions whose truth is known, as rows of the DAG's CSV."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO
from zlib import crc32

from penguins.data.records import Lines, check_header, records
from penguins.journal.files import FEEDBACK, HEADERS, encoded, files, is_of_other_columns, pieces, rows_of
from penguins.schema import COLUMNS

# Rows of one part are in memory at once, in three times as many bytes.
PART_BYTES = 16 * 2**20
MOST_PARTS = 256  # open files; a part grows beyond 16 MiB from 4 GiB of feedback on
_TIME, _ID = 0, 1
_PLACES = [HEADERS[FEEDBACK].index(c.name) for c in COLUMNS]


class JournalError(ValueError):
    """There is no journal to read, or nothing in it."""


def of_other_columns(folder: Path) -> list[Path]:
    """Return the feedback that was given under another declaration of the columns, and is left out."""
    return [path for path in files(folder, FEEDBACK) if is_of_other_columns(path, FEEDBACK)]


def base_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a CSV, without its header, which must be the schema's. SourceError or OSError if it is not."""
    with path.open("rb") as file:
        line_ending = "\r\n" if file.readline().endswith(b"\r\n") else "\n"
        file.seek(0)
        lines = Lines(path, file, line_ending)
        check_header(path, lines)
        for _, values in records(path, lines):
            yield values


def labelled_rows(folder: Path) -> Iterator[list[str]]:
    """Yield one row for each prediction that feedback was given about, with the last truth, in the CSV's columns.

    Memory does not grow with the journal: rows go into temporary files, those of an id into the same one, and these are
    read one by one.
    """
    paths = files(folder, FEEDBACK)
    parts = min(sum(path.stat().st_size for path in paths) // PART_BYTES + 1, MOST_PARTS)
    with ExitStack() as stack:
        parted = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(parts)]
        for path in paths:
            for _, lines in pieces(path, FEEDBACK):
                _deal(rows_of(lines, FEEDBACK), parted)
        for part in parted:
            for row in _last_by_id(part):
                yield [row[place] for place in _PLACES]


def _deal(rows: Iterable[list[str]], parted: Sequence[IO[bytes]]) -> None:
    dealt: dict[int, list[list[str]]] = {}
    for row in rows:
        dealt.setdefault(crc32(row[_ID].encode()) % len(parted), []).append(row)
    for number, some in dealt.items():
        parted[number].write(encoded(some))


def _last_by_id(part: IO[bytes]) -> Iterator[list[str]]:
    part.seek(0)
    last: dict[str, tuple[str, bytes]] = {}
    while lines := part.readlines(PART_BYTES // 16):
        for row in rows_of(b"".join(lines), FEEDBACK):
            if row[_ID] not in last or last[row[_ID]][0] < row[_TIME]:
                last[row[_ID]] = row[_TIME], encoded([row])
    for _, line in last.values():
        yield from rows_of(line, FEEDBACK)


def write_csv(file: IO[str], rows: Iterable[list[str]]) -> int:
    """Write rows, and return how many they were."""
    writer, count = csv.writer(file, lineterminator="\n"), 0
    for row in rows:
        writer.writerow(row)
        count += 1
    return count
