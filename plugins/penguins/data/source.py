"""Validate a CSV file against the schema, before anything else happens to the data."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from penguins.data.progress import Progress
from penguins.data.records import lines_of, plain, plain_number, records
from penguins.data.text import UTF8, SourceError, check_is_text
from penguins.schema import COLUMNS, FILE, MISSING, TARGET, TRAINED, Category, Ignored, Number

if TYPE_CHECKING:
    import pyarrow as pa

PROBLEMS_SHOWN = 20
VALUES_SHOWN = 5  # of a column, so that one does not hide the others
# Each of the ten folds of cross-validation needs at least one row of each class.
MIN_ROWS_PER_CLASS = 10
CHUNK_ROWS = 10_000
CHUNK_BYTES = 2**20
LOOK_MISSING = ("", "na", "n/a", "nan", "null", "none", "nil", "?", "-", "--", "\\n", "#n/a", "unknown", "missing")
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
        ``"\\n"`` or ``"\\r\\n"``, of line 1.
    class_counts : dict of str to int
        Rows of each class that have at least one measurement.
    constant : dict of str to (str or None)
        Columns with a single value, and that value; None if it is missing in every row.
    columns : sequence of str
        All columns, in the file's order.
    first_row : int
        The line at which the records begin.
    as_it_is : bool
        Whether a database's own loader reads the same values from the file as the check did.
    """

    path: str
    rows: int
    sha256: str
    rows_sha256: str
    line_ending: str
    class_counts: dict[str, int]
    constant: dict[str, str | None]
    columns: Sequence[str] = tuple(c.name for c in COLUMNS)
    first_row: int = 2
    as_it_is: bool = True


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

    check_is_text(path)
    sha256, line_count = _read_through(path)
    found = _Findings()
    progress = Progress("checked", max(line_count - 1, 1), "lines")
    with lines_of(path) as (lines, columns):
        first_row = lines.number + 1
        while piece := lines.take(CHUNK_BYTES):
            if fitting := vectorised.columns_of_piece(piece, lines.ending, columns):
                found.add(fitting)
            else:
                one_by_one = records(path, lines, columns, until=lines.put_back(piece))
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
        line_ending=lines.ending,
        class_counts={name: class_counts[name] for name in TARGET.values if class_counts[name]},
        constant=found.constant(),
        columns=columns,
        first_row=first_row,
        as_it_is=lines.alike and FILE.encoding in UTF8 and FILE.spells_numbers and first_row > 1,
    )


def read_records(source: Source) -> Iterator[list[str]]:
    """Yield the values of each record of a checked file, in the file's order, with plain numbers."""
    path = Path(source.path)
    with lines_of(path) as (lines, columns):
        for _, values in records(path, lines, columns):
            yield plain(values)


class _Findings:
    """What is known of the rows checked so far."""

    def __init__(self) -> None:
        from penguins.data.digest import Digest

        self.rows = 0
        self.digest = Digest()
        self.class_counts: Counter[str] = Counter()
        # Of each column, values that it has: of a number at least two if there are two, of a category all.
        self._seen: list[set[float | int]] = [set() for _ in TRAINED]
        self._broken_rules = [lru_cache(CACHED_VALUES)(partial(_broken_rule, column)) for column in COLUMNS]
        # By column, then by what is wrong: its first line, and in how many rows.
        self._problems: dict[str, dict[str, list[int]]] = {}
        self._others: Counter[str] = Counter()

    def add(self, columns: list[pa.Array]) -> None:
        """Take rows that fit the schema, as `Digest.add` does."""
        import pyarrow as pa
        import pyarrow.compute as pc

        from penguins.data.cleaning import clean

        self.rows += len(columns[0])
        self.digest.add(columns)
        rows = pa.RecordBatch.from_arrays(columns, [c.name for c in TRAINED])
        # Not by numpy: on its way there, pyarrow would import pandas.
        for found in pc.value_counts(clean(rows)[TARGET.name]).to_pylist():
            self.class_counts[TARGET.values[found["values"]]] += found["counts"]
        for column, seen, values in zip(TRAINED, self._seen, columns, strict=True):
            some = pc.min_max(values).values() if isinstance(column, Number) else pc.unique(values)
            seen.update(value.as_py() for value in some if value.is_valid)

    def check(self, records: list[tuple[int, list[str]]]) -> None:
        """Go through records, each given with its line."""
        from penguins.data.digest import columns_of

        fitting = []
        for line, values in records:
            if problems := self._problems_of(values):
                self.rows += 1
                for column, problem in problems:
                    self._note(line, column, problem)
            else:
                fitting.append(plain(values))
        if fitting:
            self.add(columns_of(fitting))

    def _problems_of(self, values: list[str]) -> list[tuple[str, str]]:
        if len(values) != len(COLUMNS):
            return [("", f"{len(values)} values; the rule is {len(COLUMNS)}, one for each column")]
        return [
            (column.in_file, f"{_shown(value)}; the rule is {rule}")
            for column, broken_rule, value in zip(COLUMNS, self._broken_rules, values, strict=True)
            # Long values are not worth a cache's memory: a file may hold any number of them.
            if (rule := broken_rule(value) if len(value) <= 100 else _broken_rule(column, value))
        ]

    def _note(self, line: int, column: str, problem: str) -> None:
        known = self._problems.setdefault(column, {})
        if problem in known:
            known[problem][1] += 1
        elif len(known) < VALUES_SHOWN and len(self._problems) <= PROBLEMS_SHOWN:
            known[problem] = [line, 1]
        else:
            self._others[column] += 1

    def problems(self) -> list[str]:
        """Return what is wrong, each once, with its first line; and how much more there is of each column."""
        listed = []
        for column, problems in self._problems.items():
            for problem, (line, rows) in problems.items():
                where = f"line {line}, column {column}" if column else f"line {line}"
                listed.append(f"{where}: {problem}" + (f" (in {rows:,} rows)" if rows > 1 else ""))
            if more := self._others[column]:
                listed.append(f"... and {more:,} more" + (f" in column {column}" if column else ""))
        return listed

    def constant(self) -> dict[str, str | None]:
        """Return the columns with a single value, which is given as text, or with none."""
        return {
            column.name: next((_text(column, value) for value in seen), None)
            for column, seen in zip(TRAINED, self._seen, strict=True)
            if len(seen) <= 1
        }


def _text(column: Number | Category, value: float | int) -> str:
    return f"{value:.7g}" if isinstance(column, Number) else column.values[int(value)]


def _broken_rule(column: Number | Category | Ignored, value: str) -> str | None:
    if not value.isascii() and any("\udc80" <= c <= "\udcff" for c in value):
        return f"{FILE.encoding.upper()}; save the file in that encoding, or name its own in FILE"
    if isinstance(column, Ignored):
        return None
    if value in MISSING:
        return f"that a value must be present ({column.rule})" if column.required else None
    fits = column.accepts(value) if isinstance(column, Category) else _is_number(column, plain_number(value))
    if fits:
        return None
    return f"{column.rule}; if it means a missing value, add it to MISSING" if _looks_missing(value) else column.rule


def _looks_missing(value: str) -> bool:
    return value.strip().strip("()<>").lower() in LOOK_MISSING


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
            f"each class that occurs needs {MIN_ROWS_PER_CLASS}; too few rows are of {', '.join(few)}. Add rows, "
            "merge such a class with another in the file, or remove its rows"
        )
    rows = counts.total()
    held_out = math.ceil(rows * test_size)
    if min(held_out, rows - held_out) < len(present):
        raise SourceError(
            f"{path}: a test_size of {test_size:g} holds out {held_out} of {rows} rows; "
            f"both parts need at least one row of each of the {len(present)} classes"
        )
