"""Validate a CSV file against the schema, before anything else happens to the data."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from penguins.data.progress import Progress
from penguins.data.records import Lines, SourceError, check_header, records
from penguins.files import opened
from penguins.schema import COLUMNS, MISSING, TARGET, Category, Number

if TYPE_CHECKING:
    import pyarrow as pa

PROBLEMS_SHOWN = 20
# Each of the ten folds of cross-validation needs at least one row of each class.
MIN_ROWS_PER_CLASS = 10
CHUNK_ROWS = 10_000
CHUNK_BYTES = 2**20
MAX_LINE_BYTES = 2**20  # bytes: one without an end would fill the memory
CACHED_VALUES = 100_000

# What Python, MySQL and SQLite all read as the same number: no "1_000", no "nan", no padding.
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Source:
    """A file that matches the schema.

    Attributes
    ----------
    path : str
    rows : int
        Records, without the header.
    sha256 : str
        Of the file's bytes.
    rows_sha256 : str
        Of the rows as they are trained on: `penguins.data.digest`.
    line_ending : str
        ``"\\n"`` or ``"\\r\\n"``, the same on every line.
    class_counts : dict of str to int
        Rows of each class that have at least one measurement.
    constant : dict of str to (str or None)
        Columns with a single value, and that value; None if it is missing in every row.
    """

    path: str
    rows: int
    sha256: str
    rows_sha256: str
    line_ending: str
    class_counts: dict[str, int]
    constant: dict[str, str | None]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, reading it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_through(path: Path) -> tuple[str, int]:
    """Return the SHA-256 of a file, and its number of line feeds."""
    digest, lines = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
            lines += piece.count(b"\n")
    return digest.hexdigest(), lines


def _is_number(column: Number, text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and column.minimum <= float(text) <= column.maximum


def check_source(path: Path, test_size: float) -> Source:
    """Check each value of a file against its column: a piece at a time, and row by row where a piece does not fit.

    Parameters
    ----------
    path : Path
        A UTF-8 CSV file with a header. A byte order mark and CRLF line endings are accepted.
    test_size : float
        Fraction of the rows to be held out, to check that the classes can be split.

    Returns
    -------
    Source

    Raises
    ------
    SourceError
        With the first 20 problems and the number of others.
    """
    from penguins.data import vectorised  # Arrow, which the tasks that only need a `Source` do without

    try:
        with opened(path, os.O_RDONLY) as file:
            line_ending = "\r\n" if file.readline(MAX_LINE_BYTES).endswith(b"\r\n") else "\n"
    except OSError as error:
        raise SourceError(
            f"cannot read {path}: {error.strerror or error}. Set the param csv_path to the path of a CSV file."
        ) from error

    sha256, line_count = _read_through(path)
    found = _Findings()
    progress = Progress("checked", max(line_count - 1, 1), "lines")
    with path.open("rb") as file:
        lines = Lines(path, file, line_ending)
        check_header(path, lines)
        while piece := lines.take(CHUNK_BYTES):
            if columns := vectorised.columns_of_piece(piece, line_ending):
                found.add(columns)
            else:
                one_by_one = records(path, lines, until=lines.put_back(piece))
                while rows := list(islice(one_by_one, CHUNK_ROWS)):
                    found.check(rows)
            progress.at(found.rows)
    if problems := found.problems():
        raise SourceError(
            f"{path} does not match the schema. Nothing was dropped or loaded. Correct these:\n" + "\n".join(problems)
        )
    class_counts = found.class_counts
    _check_classes(path, class_counts, test_size)
    progress.done()
    return Source(
        path=str(path),
        rows=found.rows,
        sha256=sha256,
        rows_sha256=found.digest.hexdigest(),
        line_ending=line_ending,
        class_counts={name: class_counts[name] for name in TARGET.values if class_counts[name]},
        constant=found.constant(),
    )


def read_records(source: Source) -> Iterator[list[str]]:
    """Yield the values of each record of a checked file, in the file's order."""
    path = Path(source.path)
    with path.open("rb") as file:
        lines = Lines(path, file, source.line_ending)
        check_header(path, lines)
        for _, values in records(path, lines):
            yield values


class _Findings:
    """What is known of the rows checked so far."""

    def __init__(self) -> None:
        from penguins.data.digest import Digest

        self.rows = 0
        self.digest = Digest()
        self.class_counts: Counter[str] = Counter()
        # Of each column, values that it has: of a number at least two if there are two, of a category all.
        self._seen: list[set[float | int]] = [set() for _ in COLUMNS]
        self._broken_rules = [lru_cache(CACHED_VALUES)(partial(_broken_rule, column)) for column in COLUMNS]
        self._problems: list[str] = []
        self._problem_count = 0

    def add(self, columns: list[pa.Array]) -> None:
        """Take rows that fit the schema, as `Digest.add` does."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from penguins.data.cleaning import clean

        self.rows += len(columns[0])
        self.digest.add(columns)
        rows = pa.RecordBatch.from_arrays(columns, [c.name for c in COLUMNS])
        # Not by numpy: on its way there, pyarrow would import pandas.
        for found in pc.value_counts(clean(rows)[TARGET.name]).to_pylist():
            self.class_counts[TARGET.values[found["values"]]] += found["counts"]
        for column, seen, values in zip(COLUMNS, self._seen, columns, strict=True):
            some = pc.min_max(values).values() if isinstance(column, Number) else pc.unique(values)
            seen.update(value.as_py() for value in some if value.is_valid)

    def check(self, records: list[tuple[int, list[str]]]) -> None:
        """Go through records, each given with its line."""
        from penguins.data.digest import columns_of

        fitting = []
        for line, values in records:
            if problems := self._problems_of(line, values):
                self.rows += 1
                self._problem_count += len(problems)
                self._problems += problems[: PROBLEMS_SHOWN - len(self._problems)]
            else:
                fitting.append(values)
        if fitting:
            self.add(columns_of(fitting))

    def _problems_of(self, line: int, values: list[str]) -> list[str]:
        if len(values) != len(COLUMNS):
            return [f"line {line}: {len(values)} values; the rule is {len(COLUMNS)}, one for each column"]
        return [
            f"line {line}, column {column.in_file}: {_shown(value)}; the rule is {rule}"
            for column, broken_rule, value in zip(COLUMNS, self._broken_rules, values, strict=True)
            # Long values are not worth a cache's memory: a file may hold any number of them.
            if (rule := broken_rule(value) if len(value) <= 100 else _broken_rule(column, value))
        ]

    def problems(self) -> list[str]:
        """Return the first problems, and how many more there are."""
        more = self._problem_count - len(self._problems)
        return [*self._problems, *([f"... and {more} more"] if more else [])]

    def constant(self) -> dict[str, str | None]:
        """Return the columns with a single value, which is given as text, or with none."""
        return {
            column.name: next((_text(column, value) for value in seen), None)
            for column, seen in zip(COLUMNS, self._seen, strict=True)
            if len(seen) <= 1
        }


def _text(column: Number | Category, value: float | int) -> str:
    return f"{value:.7g}" if isinstance(column, Number) else column.values[int(value)]


def _broken_rule(column: Number | Category, value: str) -> str | None:
    if value in MISSING:
        return f"that a value must be present ({column.rule})" if column.required else None
    if not value.isascii() and any("\udc80" <= c <= "\udcff" for c in value):
        return "UTF-8; save the file in that encoding"
    if isinstance(column, Category):
        return None if value in column.values else column.rule
    return None if _is_number(column, value) else column.rule


def _shown(value: str) -> str:
    return ascii(value if len(value) <= 60 else value[:57] + "...")


def _check_classes(path: Path, counts: Counter[str], test_size: float) -> None:
    listed = ", ".join(f"{name}: {counts[name]}" for name in TARGET.values)
    present = [name for name in TARGET.values if counts[name]]
    if len(present) < 2:
        raise SourceError(
            f"{path}: rows with a measurement by {TARGET.in_file} are {listed}; a classifier needs two classes or more"
        )
    few = [name for name in present if counts[name] < MIN_ROWS_PER_CLASS]
    if few:
        raise SourceError(
            f"{path}: rows with a measurement by {TARGET.in_file} are {listed}; "
            f"each class that occurs needs {MIN_ROWS_PER_CLASS}; too few rows are of {', '.join(few)}"
        )
    rows = counts.total()
    held_out = math.ceil(rows * test_size)
    if min(held_out, rows - held_out) < len(present):
        raise SourceError(
            f"{path}: a test_size of {test_size:g} holds out {held_out} of {rows} rows; "
            f"both parts need at least one row of each of the {len(present)} classes"
        )
