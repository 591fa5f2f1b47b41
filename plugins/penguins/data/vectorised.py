"""The check of a piece of the CSV with Arrow, at once instead of row by row.

It only ever says yes. A piece that Arrow cannot read, or that the rules do not accept, is left to `source.py`, which
goes through it row by row and words the problems. So is a piece where Arrow is more generous than the rules: with
quotes, with white space around a number, with infinity or NaN.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from penguins.schema import COLUMNS, MISSING, Category, Number

# A value longer than csv.field_size_limit() is refused. Its line would fill one of these windows.
WINDOW = 2**16
_CATEGORY = pa.dictionary(pa.int32(), pa.string())
_PADDED = re.compile(rb"^[ \t]|[ \t](?:[,\r\n]|\Z)|[,\n][ \t]")


def columns_of_piece(piece: bytes, line_ending: str) -> list[pa.Array] | None:
    """Return a piece of whole lines as `Digest.add` takes it, or None if it has to be checked row by row."""
    if not _is_plain(piece, line_ending):
        return None
    try:
        table = _read(piece)
    except pa.ArrowInvalid:  # too few or too many values, no number, no UTF-8
        return None
    columns = []
    for column in COLUMNS:
        values = table[column.name]
        fitting = _numbers(column, values) if isinstance(column, Number) else _categories(column, values)
        if fitting is None:
            return None
        columns.append(fitting)
    return columns


def _is_plain(piece: bytes, line_ending: str) -> bool:
    """Whether a record is a line, and a value what stands between two commas, with no white space around it."""
    line_feeds, returns = piece.count(b"\n"), piece.count(b"\r")
    if b'"' in piece or returns != (0 if line_ending == "\n" else line_feeds) or returns != piece.count(b"\r\n"):
        return False
    if (b" " in piece or b"\t" in piece) and _PADDED.search(piece):
        return False
    return all(piece.find(b"\n", at, at + WINDOW) >= 0 for at in range(0, len(piece) - WINDOW, WINDOW))


def _read(piece: bytes) -> pa.Table:
    types = {c.name: pa.float64() if isinstance(c, Number) else _CATEGORY for c in COLUMNS}
    return pacsv.read_csv(
        pa.BufferReader(piece),
        read_options=pacsv.ReadOptions(column_names=list(types), use_threads=False),
        parse_options=pacsv.ParseOptions(quote_char=False, ignore_empty_lines=False),
        convert_options=pacsv.ConvertOptions(column_types=types, null_values=list(MISSING), strings_can_be_null=False),
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
    accepted, indices = pa.array(column.values), []
    for chunk in values.chunks:
        found = set(chunk.dictionary.to_pylist())
        if not found.issubset(column.values if column.required else (*column.values, *MISSING)):
            return None
        indices.append(pc.index_in(chunk.dictionary, accepted).take(chunk.indices))
    return pa.concat_arrays(indices)
