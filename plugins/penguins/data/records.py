"""The records of a file of the declared table."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from penguins.column_types import FileFormat
from penguins.data.text import Lines, SourceError, opened_lines, raw_records
from penguins.schema import COLUMNS, FILE, MISSING, Number

MAX_LISTED = 20  # columns that a message names
_GROUPED = re.compile(rf"[+-]?[0-9]{{1,3}}({re.escape(FILE.thousands)}[0-9]{{3}})+({re.escape(FILE.decimal)}[0-9]*)?")


@contextmanager
def lines_of(path: Path) -> Iterator[tuple[Lines, list[str]]]:
    """Open a file. Yield its lines behind the header, and the names of the columns in the file's order."""
    with opened_lines(path, FILE) as lines:
        if not FILE.header:
            yield lines, [c.name for c in COLUMNS]
            return
        _, header = next(raw_records(path, lines, FILE), (1, None))
        yield lines, _columns_of(path, header)


def header_line() -> str:
    """Return the header of a file that matches the schema, without its line ending."""
    line = io.StringIO()
    _writer(line, "").writerow([c.header for c in COLUMNS])
    return line.getvalue()


def writer_of(file: IO[str]) -> Any:
    """Return what writes records into a file that matches the schema. Up to the header, it is written."""
    file.write("\n" * FILE.skip)
    writer = _writer(file, "\n")
    if FILE.header:
        writer.writerow([c.header for c in COLUMNS])
    return writer


def _writer(file: IO[str], ending: str) -> Any:
    return csv.writer(file, delimiter=FILE.delimiter, quotechar=FILE.quote, lineterminator=ending)


def headers_of(header: Sequence[str], form: FileFormat) -> list[str]:
    """Return the headers as a declaration has them. A column without one is called by its place, from 1."""
    texts = [unicodedata.normalize("NFC", text.strip() if form.padded else text) for text in header]
    return [text or f"column {place}" for place, text in enumerate(texts, 1)]


def _columns_of(path: Path, header: Sequence[str] | None) -> list[str]:
    where = f"{path}, line {FILE.skip + 1}"
    if header is None:
        raise SourceError(f"{where}: the header is nothing: the file is empty; expected {header_line()}")
    found = headers_of(header, FILE)
    names = {c.header: c.name for c in COLUMNS}
    missing, new = [h for h in names if h not in found], [text for text in found if text not in names]
    twice = sorted({text for text in found if found.count(text) > 1})
    if not (missing or new or twice):
        return [names[text] for text in found]
    known = len(names) - len(missing)
    if known < len(names) / 2:  # then it may be anything, and is not told
        raise SourceError(
            f"{where}: the header is not that of this table: {known} of its {len(names)} names are there, and "
            f"{len(found)} values. FILE says that {FILE.delimiter!r} is between the values, that the encoding is "
            f"{FILE.encoding} and that {FILE.skip} lines come before; expected {header_line()}"
        )
    said = [("lacks", missing), ("has, and the declaration does not,", new), ("has more than once", twice)]
    raise SourceError(
        f"{where}: the header {'; it '.join(f'{what} {_listed(texts)}' for what, texts in said if texts)}. Correct the "
        "file, or COLUMNS in plugins/penguins/schema.py; the order does not matter"
    )


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else ""
    return ", ".join(ascii(t[:60]) if not t.isprintable() else repr(t[:60]) for t in texts[:MAX_LISTED]) + more


def records(
    path: Path, lines: Lines, columns: Sequence[str], until: int | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values) of each record, up to the one that ends with or after the line `until`.

    The values stand in the order of the declaration, unless there are too many or too few.
    """
    places = [columns.index(c.name) for c in COLUMNS]
    in_order = places == list(range(len(places)))
    for line, values in raw_records(path, lines, FILE, until):
        if not values:  # a blank line
            lines.alike = False
            continue
        found = [value.strip() for value in values] if FILE.padded else values
        yield line, found if in_order or len(found) != len(places) else [found[place] for place in places]


def plain(values: Sequence[str]) -> list[str]:
    """Return the values of a record with its numbers as Python and the databases read them."""
    if FILE.spells_numbers:
        return list(values)
    return [plain_number(v) if isinstance(c, Number) else v for c, v in zip(COLUMNS, values, strict=True)]


def plain_number(text: str) -> str:
    """Return a number in the file's spelling as Python reads it. What is no number there is none afterwards either."""
    if text in MISSING or FILE.spells_numbers:
        return text
    grouped = FILE.thousands and FILE.thousands in text
    if (grouped and not _GROUPED.fullmatch(text)) or (FILE.decimal != "." and "." in text.replace(FILE.thousands, "")):
        return f"{text} is none"
    return text.replace(FILE.thousands, "").replace(FILE.decimal, ".") if grouped else text.replace(FILE.decimal, ".")
