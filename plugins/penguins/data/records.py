"""The lines and records of a CSV file, each known by its line."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from penguins.schema import COLUMNS

MAX_HEADER_CHARS = 4096  # characters of it that a message quotes


class SourceError(ValueError):
    """The file does not match the schema. The message names line, column, value and rule."""


class Lines:
    """The lines of a file as text, all of which must end alike; or whole pieces of it as they are.

    Attributes
    ----------
    number : int
        Lines given so far.
    """

    def __init__(self, path: Path, file: BinaryIO, line_ending: str) -> None:
        self.number = 0
        self._path, self._file, self._line_ending = path, file, line_ending
        self._again = io.BytesIO()

    def take(self, size: int) -> bytes:
        """Return the next lines, of `size` bytes and what is missing to the end of the last one."""
        piece = self._file.read(size)
        if piece and not piece.endswith(b"\n"):
            piece += self._file.readline()
        self.number += _count_lines(piece)
        return piece

    def put_back(self, piece: bytes) -> int:
        """Give a piece again, line by line. Return the number of its last line."""
        end = self.number
        self.number -= _count_lines(piece)
        self._again = io.BytesIO(piece)
        return end

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._again.readline() or self._file.readline()
        if not line:
            raise StopIteration
        self.number += 1
        # Bytes that are not UTF-8 become lone surrogates, so that the check can name their line and column.
        text = line.decode("utf-8-sig" if self.number == 1 else "utf-8", errors="surrogateescape")
        if not text:  # of a byte order mark and nothing else
            raise StopIteration
        # MySQL takes one line ending for the whole file, and would keep any other as part of the last value.
        if "\r" in text.removesuffix(self._line_ending) or (
            text.endswith("\n") and not text.endswith(self._line_ending)
        ):
            raise SourceError(
                f"{self._path}, line {self.number}: the line ending differs from line 1's. "
                "Save the file with LF throughout, or with CRLF throughout."
            )
        return text


def _count_lines(piece: bytes) -> int:
    return piece.count(b"\n") + (not piece.endswith(b"\n") and piece != b"")


def header_line() -> str:
    """Return the first line of a file that matches the schema, without its line ending."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([c.header for c in COLUMNS])
    return line.getvalue()


def check_header(path: Path, lines: Lines) -> None:
    _, header = next(records(path, lines), (1, None))
    names = [c.header for c in COLUMNS]
    found = [unicodedata.normalize("NFC", text) for text in header or ()]
    if found == names:
        return
    actual, known = ",".join(map(repr, header or ())), len(set(found) & set(names))
    if header is None:
        actual = "nothing: the file is empty"
    elif not known or len(actual) > MAX_HEADER_CHARS:  # then it may be anything, and is not told
        actual = f"not that of this table: {known} of its names are there"
    raise SourceError(f"{path}, line 1: the header is {actual}; expected {header_line()}")


def records(path: Path, lines: Lines, until: int | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values) of each record, up to the one that ends with or after the line `until`."""
    reader = csv.reader(lines, strict=True)
    while until is None or lines.number < until:
        line = lines.number + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SourceError(
                f"{path}, the record that starts at line {line}: {error}. "
                "Values must be separated by commas, with double quotes in pairs."
            ) from error
        yield line, values
