"""A CSV file as lines and records, each known by its line in the file as it was delivered. It knows no columns."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from penguins.column_types import FileFormat
from penguins.files import opened

UTF8 = ("utf-8", "utf-8-sig")
# What begins so is no CSV.
MAGIC = {
    b"PK\x03\x04": "an Excel workbook or a zip: save the sheet as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV",
    b"\x1f\x8b": "compressed by gzip: unpack it with `gunzip`",
    b"BZh": "compressed by bzip2: unpack it with `bunzip2`",
    b"\xfd7zXZ": "compressed by xz: unpack it with `unxz`",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it with `unzstd`",
    b"PAR1": "Parquet: `pandas.read_parquet(FILE).to_csv(NEW, index=False)` writes a CSV",
    b"SQLite format 3": "an SQLite database: export the table as CSV",
    b"%PDF": "a PDF",
}


class SourceError(ValueError):
    """The file does not match the schema. The message names line, column, value and rule."""


def check_is_text(path: Path) -> None:
    """Raise SourceError if a file cannot be read, or is no CSV."""
    try:
        with opened(path, os.O_RDONLY) as file:
            head = file.read(64)
    except OSError as error:
        raise SourceError(
            f"cannot read {path}: {error.strerror or error}. Name a CSV file, in a run by the param csv_path."
        ) from error
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            raise SourceError(f"{path} is no CSV file, but {kind}.")


class _Recoded(io.RawIOBase):
    """A text file as UTF-8. What its encoding does not have comes out as no UTF-8, which the check names."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._text = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._text.read(max(1, len(buffer) // 4)).encode(errors="surrogateescape")
        buffer[: len(piece)] = piece
        return len(piece)


class Lines:
    """The lines of a file as text, or whole pieces of it as UTF-8.

    Attributes
    ----------
    number : int
        Lines given so far.
    ending : str
        That of the first line.
    alike : bool
        Whether all records end so, and none is a blank line: that is all that a database reads by itself.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.number = 0
        self.ending = ""
        self.alike = True
        self.last = ""
        self._file = file
        self._again = io.BytesIO()

    def take(self, size: int) -> bytes:
        """Return the next lines, of `size` bytes and what is missing to the end of the last one."""
        piece = self._file.read(size)
        if piece and not piece.endswith(b"\n"):
            piece += self._file.readline()
        self.number += _count_lines(piece)
        self.ending = self.ending or ("\r\n" if b"\r\n" in piece else "\n")
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
        self.last = line.decode("utf-8-sig" if self.number == 1 else "utf-8", errors="surrogateescape")
        if not self.last:  # of a byte order mark and nothing else
            raise StopIteration
        self.ending = self.ending or ("\r\n" if self.last.endswith("\r\n") else "\n")
        return self.last


def _count_lines(piece: bytes) -> int:
    return piece.count(b"\n") + (not piece.endswith(b"\n") and piece != b"")


@contextmanager
def opened_lines(path: Path, form: FileFormat) -> Iterator[Lines]:
    """Open a file, behind the lines that it begins with."""
    with path.open("rb") as file:
        lines = Lines(file if form.encoding in UTF8 else io.BufferedReader(_Recoded(file, form.encoding), 2**20))
        for _ in range(form.skip):
            next(lines, None)
        yield lines


def raw_records(
    path: Path, lines: Lines, form: FileFormat, until: int | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values) of each record, up to the one that ends with or after the line `until`."""
    reader = csv.reader(
        lines, strict=True, delimiter=form.delimiter, quotechar=form.quote, skipinitialspace=form.padded
    )
    while until is None or lines.number < until:
        line = lines.number + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "new-line" in str(error):
                error = csv.Error("a line ends with CR alone; save the file with LF, or with CRLF")
            raise SourceError(
                f"{path}, the record that starts at line {line}: {error}. Values must be separated by "
                f"{form.delimiter!r}, with {form.quote!r} in pairs."
            ) from error
        if lines.last.removesuffix(lines.ending).endswith(("\r", "\n")):
            lines.alike = False
        yield line, values
