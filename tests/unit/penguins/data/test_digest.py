"""The digest of rows: alike for the same rows however they come, and another for any other."""

from __future__ import annotations

import pyarrow as pa

from penguins.data.digest import Digest, columns_of
from penguins.data.source import check_source, read_records
from penguins.registry import PROJECT
from penguins.schema import COLUMNS, CSV_NAME, Number

SOURCE = check_source(PROJECT / "dags" / CSV_NAME, test_size=0.2)
RECORDS = list(read_records(SOURCE))


def digest_of(*pieces: list[pa.Array]) -> str:
    digest = Digest()
    for piece in pieces:
        digest.add(piece)
    return digest.hexdigest()


def numbers(*values: float | None) -> list[pa.Array]:
    """A piece with these in every column of numbers."""
    return [
        pa.array(values, pa.float32()) if isinstance(c, Number) else pa.array([0] * len(values), pa.int32())
        for c in COLUMNS
    ]


def test_the_pieces_in_which_rows_come_make_no_difference() -> None:
    whole = columns_of(RECORDS)
    assert digest_of(whole) == SOURCE.rows_sha256
    assert digest_of(*[columns_of(RECORDS[i : i + 7]) for i in range(0, 344, 7)]) == SOURCE.rows_sha256
    sliced = [[column.slice(start, 100) for column in whole] for start in range(0, 400, 100)]  # the last is short
    assert digest_of(*sliced, [column.slice(0, 0) for column in whole]) == SOURCE.rows_sha256


def test_order_and_what_is_missing_make_a_difference() -> None:
    found = [
        digest_of(columns_of(RECORDS[::-1])),
        digest_of(columns_of(RECORDS[1:])),
        digest_of(numbers(1, 2)),
        digest_of(numbers(2, 1)),
        digest_of(numbers(1, None)),
        digest_of(numbers(1, 0)),
        digest_of(numbers(1)),
        digest_of(numbers()),
    ]
    assert len({*found, SOURCE.rows_sha256}) == 9


def test_zero_has_no_sign() -> None:
    assert digest_of(numbers(0.0, 1)) == digest_of(numbers(-0.0, 1)) != digest_of(numbers(1, 0.0))
