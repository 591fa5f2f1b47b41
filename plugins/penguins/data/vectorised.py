"""The check of a piece of the CSV with Arrow, at once instead of row by row.

It only ever says yes. A piece that Arrow cannot read, or that the rules do not accept, is left to `source.py`, which
goes through it row by row and words the problems. So is a piece where Arrow is more generous than the rules: with
quotes, with white space around a number, with infinity or NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, reduce

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from penguins.schema import COLUMNS, MISSING, NUMBERS, TARGET, Category, Number

# A value longer than csv.field_size_limit() is refused. Its line would fill one of these windows.
WINDOW = 2**16


@dataclass(frozen=True)
class Piece:
    """Rows that all match the schema.

    Attributes
    ----------
    rows : int
    class_counts : dict of str to int
        Rows of each class that have at least one measurement.
    values : list of set of str
        Of each column, values that it has: all of a category's, and of a number at least two if there are two.
    columns : list of pyarrow.Array
        The rows as `penguins.data.digest` takes them.
    """

    rows: int
    class_counts: dict[str, int]
    values: list[set[str]]
    columns: list[pa.Array]


def check_piece(piece: bytes, line_ending: str) -> Piece | None:
    """Return what is known of a piece of whole lines, or None if it has to be checked row by row."""
    if not _is_plain(piece, line_ending):
        return None
    try:
        table = _read(piece, {c.name: pa.float64() if isinstance(c, Number) else _CATEGORY for c in COLUMNS})
        # Arrow ignores white space around numbers. Only then is it worth to read them as text.
        if (b" " in piece or b"\t" in piece) and _padded(piece):
            return None
    except pa.ArrowInvalid:  # too few or too many values, no number, no UTF-8
        return None
    values = []
    for column in COLUMNS:
        of_column = table[column.name]
        found = _numbers(column, of_column, piece) if isinstance(column, Number) else _categories(column, of_column)
        if found is None:
            return None
        values.append(found)
    return Piece(table.num_rows, _class_counts(table), values, [_as_trained_on(c, table[c.name]) for c in COLUMNS])


_CATEGORY = pa.dictionary(pa.int32(), pa.string())


def _is_plain(piece: bytes, line_ending: str) -> bool:
    """Whether a record is a line, and a value what stands between two commas."""
    line_feeds, returns = piece.count(b"\n"), piece.count(b"\r")
    if b'"' in piece or returns != (0 if line_ending == "\n" else line_feeds) or returns != piece.count(b"\r\n"):
        return False
    return all(piece.find(b"\n", at, at + WINDOW) >= 0 for at in range(0, len(piece) - WINDOW, WINDOW))


def _read(piece: bytes, types: dict[str, pa.DataType]) -> pa.Table:
    return pacsv.read_csv(
        pa.BufferReader(piece),
        read_options=pacsv.ReadOptions(column_names=[c.name for c in COLUMNS], use_threads=False),
        parse_options=pacsv.ParseOptions(quote_char=False, ignore_empty_lines=False),
        convert_options=pacsv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=list(MISSING), strings_can_be_null=False
        ),
    )


@cache
def _number_as_text() -> dict[str, pa.DataType]:
    return {c.name: pa.string() for c in NUMBERS}


def _padded(piece: bytes) -> bool:
    if not NUMBERS:
        return False
    table = _read(piece, _number_as_text())
    return any(pc.any(pc.match_substring_regex(column, r"[ \t]")).as_py() for column in table.columns)


def _numbers(column: Number, values: pa.ChunkedArray, piece: bytes) -> set[str] | None:
    if column.required and values.null_count:
        return None
    if values.null_count == len(values):
        return set()
    if pc.any(pc.is_nan(values)).as_py():
        return None
    bounds = pc.min_max(values)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    if not column.minimum <= low <= high <= column.maximum:
        return None
    if low < high:
        return {repr(low), repr(high)}
    text = _read(piece, {column.name: pa.string()})[column.name]
    return set(pc.unique(text).to_pylist()).difference(MISSING)


def _categories(column: Category, values: pa.ChunkedArray) -> set[str] | None:
    found: set[str] = set()
    for chunk in values.chunks:
        found.update(chunk.dictionary.to_pylist())
    if not found.issubset(column.values if column.required else (*column.values, *MISSING)):
        return None
    return found.difference(MISSING)


def _as_trained_on(column: Number | Category, values: pa.ChunkedArray) -> pa.Array:
    if isinstance(column, Number):
        return pc.cast(values, pa.float32(), safe=False).combine_chunks()
    accepted = pa.array(column.values)
    indices = [pc.index_in(chunk.dictionary, accepted).take(chunk.indices) for chunk in values.chunks]
    return pa.concat_arrays(indices)


def _class_counts(table: pa.Table) -> dict[str, int]:
    targets = table[TARGET.name]
    if NUMBERS:
        measured = [pc.is_valid(table[c.name]) for c in NUMBERS]
        targets = targets.filter(reduce(pc.or_, measured))
    # Not by numpy: on its way there, pyarrow would import pandas.
    return {found["values"]: found["counts"] for found in pc.value_counts(targets).to_pylist()}
