"""The check of a piece of the CSV with Arrow, at once instead of row by row.

It only ever says yes. A piece that Arrow cannot read, or that the rules do not accept, is left to `source.py`, which
goes through it row by row and words the problems. So is a piece where Arrow is more generous than the rules: with
quotes, with white space around a number, with infinity or NaN.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from penguins.data.digest import indices_of
from penguins.schema import COLUMNS, FILE, MISSING, TRAINED, Category, Number

# A value longer than csv.field_size_limit() is refused. Its line would fill one of these windows.
WINDOW = 2**16
_CATEGORY = pa.dictionary(pa.int32(), pa.string())
_BLANKS = " \t".replace(FILE.delimiter, "")
_PADDED = re.compile(
    rf"^[{_BLANKS}]|[{_BLANKS}]([\r\n{re.escape(FILE.delimiter)}]|\Z)|[\n{re.escape(FILE.delimiter)}][{_BLANKS}]".encode()
)


def columns_of_piece(piece: bytes, line_ending: str, names: Sequence[str]) -> list[pa.Array] | None:
    """Return a piece of whole lines as `Digest.add` takes it, or None if it has to be checked row by row.

    `names` are those of all columns, in the file's order.
    """
    if not _is_plain(piece, line_ending):
        return None
    try:
        table = _read(piece, names)
        if len(TRAINED) < len(COLUMNS):
            piece.decode()  # Arrow does not look into the others
    except (pa.ArrowInvalid, UnicodeDecodeError):  # too few or too many values, no number, no UTF-8
        return None
    columns = []
    for column in TRAINED:
        values = table[column.name]
        fitting = _numbers(column, values) if isinstance(column, Number) else _categories(column, values)
        if fitting is None:
            return None
        columns.append(fitting)
    return columns


def _is_plain(piece: bytes, line_ending: str) -> bool:
    """Whether a record is a line, and a value what stands between two commas, with no white space around it."""
    line_feeds, returns = piece.count(b"\n"), piece.count(b"\r")
    if (
        FILE.thousands
        or FILE.quote.encode() in piece
        or returns != (0 if line_ending == "\n" else line_feeds)
        or returns != piece.count(b"\r\n")
    ):
        return False
    if any(blank.encode() in piece for blank in _BLANKS) and _PADDED.search(piece):
        return False
    return all(piece.find(b"\n", at, at + WINDOW) >= 0 for at in range(0, len(piece) - WINDOW, WINDOW))


def _read(piece: bytes, names: Sequence[str]) -> pa.Table:
    types = {c.name: pa.float64() if isinstance(c, Number) else _CATEGORY for c in TRAINED}
    return pacsv.read_csv(
        pa.BufferReader(piece),
        read_options=pacsv.ReadOptions(column_names=list(names), use_threads=False),
        parse_options=pacsv.ParseOptions(delimiter=FILE.delimiter, quote_char=False, ignore_empty_lines=False),
        convert_options=pacsv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=list(MISSING),
            strings_can_be_null=False,
            decimal_point=FILE.decimal,
        ),
    )


def _numbers(column: Number, values: pa.ChunkedArray) -> pa.Array | None:
    bounds = pc.min_max(values)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    if column.required and values.null_count:
        return None
    if (low is not None and not column.minimum <= low <= high <= column.maximum) or pc.any(pc.is_nan(values)).as_py():
        return None
    return pc.cast(values, pa.float32(), safe=False).combine_chunks()


def _categories(column: Category, values: pa.ChunkedArray) -> pa.Array | None:
    indices = []
    for chunk in values.chunks:
        found = set(chunk.dictionary.to_pylist())
        missing = found.intersection(MISSING)
        if (missing and column.required) or not all(map(column.accepts, found - missing)):
            return None
        indices.append(indices_of(column, chunk.dictionary).take(chunk.indices))
    return pa.concat_arrays(indices)
