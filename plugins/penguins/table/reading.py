"""How a file is written, and what each of its columns holds."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import NamedTemporaryFile
from typing import Any

from penguins.column_types import FileFormat
from penguins.data.records import headers_of
from penguins.data.text import SourceError, check_is_text, opened_lines, raw_records

SNIFFED_BYTES = 2**22
CHUNK_ROWS = 10_000
SAMPLED_ROWS = 5_000
MAX_SKIPPED = 50  # lines before a header
SHARE_PADDED = 0.9  # of the delimiters, that have a blank behind them: then it belongs to them
MAX_VALUES = 1_000  # distinct ones of a column that are counted; one with more is no category
# Whatever the column, these mean that there is no value. In a column of numbers, so do those of the second line.
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "\\N", "?", ".")
MISSING_IN_NUMBERS = ("-", "--", "na", "none", "None", "missing", "unknown", "x", "X")
# As people write numbers: by a point with commas between thousands, or the other way round.
STYLES = (("", "."), (",", "."), ("", ","), (".", ","))


def _pattern(thousands: str, decimal: str) -> re.Pattern[str]:
    whole = rf"[0-9]{{1,3}}({re.escape(thousands)}[0-9]{{3}})+" if thousands else "[0-9]+"
    return re.compile(
        rf"[+-]?(({whole}|[0-9]+)({re.escape(decimal)}[0-9]*)?|{re.escape(decimal)}[0-9]+)([eE][+-]?[0-9]+)?"
    )


_NUMBERS = {style: _pattern(*style) for style in STYLES}


@dataclass
class Seen:
    """What a column holds.

    Attributes
    ----------
    header : str
    rows : int
    values : Counter of str
        How often each value occurs, of the first `MAX_VALUES` different ones, missing ones included.
    many : bool
        Whether there are more.
    low, high : dict
        By style of writing, the smallest and the largest number.
    words : dict
        By style, the values that are no number in it. With more than `MAX_VALUES`, others are not looked at in it.
    fractions : set
        The styles in which a number is no whole one.
    padded : bool
        Whether there are blanks around a value.
    digest : hash
        Of all values in their order.
    """

    header: str
    rows: int = 0
    values: Counter[str] = field(default_factory=Counter)
    many: bool = False
    low: dict[tuple[str, str], float] = field(default_factory=dict)
    high: dict[tuple[str, str], float] = field(default_factory=dict)
    words: dict[tuple[str, str], set[str]] = field(default_factory=lambda: {style: set() for style in STYLES})
    fractions: set[tuple[str, str]] = field(default_factory=set)
    padded: bool = False
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, texts: Sequence[str]) -> None:
        """Take the next rows' values."""
        stripped = [text.strip() for text in texts]
        self.padded, texts = self.padded or stripped != list(texts), stripped
        self.digest.update("\0".join(texts).encode(errors="surrogatepass") + b"\0")
        found = Counter(texts)
        new = found.keys() - self.values.keys()
        self.rows += found.total()
        styles = [style for style, words in self.words.items() if len(words) <= MAX_VALUES]
        for text in new:
            plain: dict[str, float | None] = {}  # by the decimal sign: what it is without thousands
            for style in styles:
                thousands, decimal = style
                if not thousands or thousands in text or decimal not in plain:
                    number = as_number(text, style) if _NUMBERS[style].fullmatch(text) else None
                else:
                    number = plain[decimal]
                if not thousands:
                    plain[decimal] = number
                self._note(text, number, style)
        if (room := max(MAX_VALUES - len(self.values), 0)) < len(new):
            self.many = True
            counted = {*self.values, *islice(new, room), *MISSING, *MISSING_IN_NUMBERS}
            found = Counter({text: count for text, count in found.items() if text in counted})
        self.values.update(found)

    def _note(self, text: str, number: float | None, style: tuple[str, str]) -> None:
        if number is None:
            self.words[style].add(text)
            return
        self.low[style] = min(number, self.low.get(style, number))
        self.high[style] = max(number, self.high.get(style, number))
        if not number.is_integer():
            self.fractions.add(style)


def as_number(text: str, style: tuple[str, str]) -> float:
    thousands, decimal = style
    return float((text.replace(thousands, "") if thousands else text).replace(decimal, "."))


def encoding_of(path: Path) -> str:
    """Return the encoding of a file: UTF-8 or UTF-16, each with or without a mark at its beginning, or Windows-1252.

    Raises
    ------
    SourceError
        If some lines are UTF-8 and others are not.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if head[1::2].count(0) > len(head) // 4 or head[::2].count(0) > len(head) // 4:
        return "utf-16-le" if head[1::2].count(0) else "utf-16-be"
    utf8 = other = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.isascii():
                continue
            try:
                line.decode()
                utf8 = utf8 or number
            except UnicodeDecodeError:
                other = other or number
            if utf8 and other:
                raise SourceError(
                    f"{path} has two encodings: line {utf8} is UTF-8, and line {other} is not. Save it in one of them."
                )
    return "cp1252" if other else "utf-8"


def sniff(path: Path) -> FileFormat:
    """Return how a file is written, but for its numbers. SourceError if it is no table."""
    import duckdb

    check_is_text(path)
    form = FileFormat(encoding=encoding_of(path))
    with opened_lines(path, form) as lines, NamedTemporaryFile(suffix=".csv") as sample:
        sample.write(text := lines.take(SNIFFED_BYTES))
        sample.flush()
        if not text:
            raise SourceError(f"{path} is empty.")
        try:
            found = _sniffed(sample.name)
            # A single row with a value too many or too few leads it astray: to no delimiter, or behind that row.
            if found[0] not in text.decode(errors="replace") or found[2] > MAX_SKIPPED:
                found = _sniffed(sample.name, ", ignore_errors=true")
        except duckdb.Error as error:
            raise SourceError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}") from error
        delimiter, quote, skip, header = found
    return replace(
        form,
        delimiter=delimiter,
        quote=quote if len(quote) == 1 else '"',
        skip=int(skip),
        header=bool(header),
        padded=text.count(f"{delimiter} ".encode()) > text.count(delimiter.encode()) * SHARE_PADDED,
    )


def _sniffed(path: str, options: str = "") -> tuple[str, str, int, bool]:
    """Return delimiter, quote, lines before the header, and whether there is one."""
    import duckdb

    query = f"SELECT Delimiter, Quote, SkipRows, HasHeader FROM sniff_csv(?, sample_size=20480{options})"  # noqa: S608
    return duckdb.connect().execute(query, [path]).fetchall()[0]


class Sample:
    """A few rows, each as likely as any other to be among them, the same ones each time."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self._seen = 0
        self._random = Random(0)  # noqa: S311 - no secret

    def take(self, rows: list[list[str]]) -> None:
        for row in rows:
            self._seen += 1
            if len(self.rows) < SAMPLED_ROWS:
                self.rows.append(row)
            elif (place := self._random.randrange(self._seen)) < SAMPLED_ROWS:
                self.rows[place] = row


def observe(path: Path, form: FileFormat) -> tuple[FileFormat, list[Seen], list[list[str]]]:
    """Go through a file. Return how it is written, with its numbers, what each column holds, and some rows.

    Raises
    ------
    SourceError
        If there is no row, or one has more or fewer values than the first.
    """
    sample = Sample()
    with opened_lines(path, form) as lines:
        rows = raw_records(path, lines, form)
        _, first = next(rows, (0, []))
        if not first:
            raise SourceError(f"{path} has no row.")
        columns = [Seen(header) for header in headers_of(first if form.header else [""] * len(first), form)]
        chunk = [] if form.header else [first]
        rows = (row for row in rows if row[1])  # without blank lines
        while chunk := [*chunk, *_checked(path, rows, len(columns), CHUNK_ROWS)]:
            for column, values in zip(columns, zip(*chunk, strict=True), strict=True):
                column.add(values)
            sample.take(chunk)
            chunk = []
    styles = {c.header: [s for s in STYLES if c.low.get(s) is not None and not _texts(c, s)] for c in columns}
    # The plainest style in which most columns are numbers.
    thousands, decimal = max(STYLES, key=lambda style: sum(style in fitting for fitting in styles.values()))
    padded = form.padded or any(column.padded and not column.many for column in columns)
    form = replace(form, decimal=decimal, thousands=thousands, padded=padded)
    for column in columns:
        column.header = column.header.strip() if padded else column.header
    return form, columns, sample.rows


def _checked(path: Path, rows: Iterator[tuple[int, list[str]]], width: int, most: int) -> list[list[str]]:
    chunk = []
    for line, values in islice(rows, most):
        if len(values) != width:
            raise SourceError(
                f"{path}, line {line}: {len(values)} values, but the rows before have {width}. Correct the line, or "
                "quote values that hold a delimiter."
            )
        chunk.append(values)
    return chunk


def _texts(column: Seen, style: tuple[str, str]) -> set[str]:
    """Return what is neither a number nor missing."""
    return column.words[style].difference(MISSING, MISSING_IN_NUMBERS)
