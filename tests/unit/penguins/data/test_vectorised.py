"""The vectorised check and the one row by row find the same: the same facts, and the same problems, word for word."""

from __future__ import annotations

import codecs
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penguins.data import source as module
from penguins.data import vectorised
from penguins.data.records import header_line
from penguins.data.source import SourceError, check_source
from penguins.data.vectorised import columns_of_piece
from penguins.registry import PROJECT
from penguins.schema import COLUMNS, CSV_NAME, Number

CSV = (PROJECT / "dags" / CSV_NAME).read_bytes()
HEADER, *ROWS = CSV.splitlines(keepends=True)
# Numbers that one of the two may take for one, or not: the rule is `source._NUMBER`.
NUMBERS = (
    *("39.1", "+39.1", "39.", ".391e2", "3.91E+1", "391e-1", "0039.10", "1e2", "1e400", "-1e400", "39,1", "3_9.1"),
    *(
        " 39.1",
        "39.1 ",
        "\t39.1",
        "39.1\t",
        "nan",
        "NaN",
        "-nan",
        "inf",
        "Infinity",
        "0x27",
        "39.1f",
        "-",
        "+",
        ".",
        "e5",
    ),
    *(
        "NA",
        "na",
        "NA ",
        "N/A",
        "null",
        "NULL",
        "",
        "39.1\x00",
        "٣٩",
        "39\u00a0",
        "99.99999999999999",
        "100.00000000000001",
    ),
    *("10", "9.999999999999999999999", "100", "1" * 400, "-0", "39.1e", "1e-400", "--39.1", "true"),
)
CATEGORIES = (
    "Adelie",
    "adelie",
    " Adelie",
    "Adelie ",
    "Gentoo",
    "Biscoe",
    "FEMALE",
    "NA",
    ".",
    "",
    "Dödo",
    "a\x00",
    "\ufeff",
)
FIELDS = st.sampled_from((*NUMBERS, *CATEGORIES)) | st.text(max_size=5)


def found(content: bytes, bytes_at_once: int, with_arrow: bool) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.csv")
        path.write_bytes(content)
        check = columns_of_piece if with_arrow else lambda *_: None
        with patch.object(vectorised, "columns_of_piece", check), patch.object(module, "CHUNK_BYTES", bytes_at_once):
            try:
                source = check_source(path, test_size=0.2)
            except SourceError as error:
                return str(error).replace(folder, "")
            return source.rows, source.class_counts, source.constant, source.sha256, source.line_ending


def assert_same(content: bytes, bytes_at_once: int = 300) -> None:
    assert found(content, bytes_at_once, True) == found(content, 2**22, False)


@st.composite
def rows_of(draw: st.DrawFn) -> bytes:
    """Good rows of the penguins, some of which were changed: a field, the number of fields, a quote, some bytes."""
    rows = list(draw(st.lists(st.sampled_from(ROWS), min_size=1, max_size=12)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(rows) - 1))
        fields = rows[place].rstrip(b"\r\n").split(b",")
        ending = b"\n"
        match draw(st.sampled_from(("field", "quoted", "more", "fewer", "bytes", "ending", "cut"))):
            case "field":
                fields[draw(st.integers(0, len(fields) - 1))] = draw(FIELDS).encode(errors="replace")
            case "quoted":
                where = draw(st.integers(0, len(fields) - 1))
                fields[where] = b'"' + fields[where] + draw(st.sampled_from((b'"', b'""', b'"x', b"\n", b'\n"', b"")))
            case "more":
                fields.append(draw(FIELDS).encode(errors="replace"))
            case "fewer":
                fields = fields[: draw(st.integers(0, len(fields) - 1))]
            case "bytes":
                fields[draw(st.integers(0, len(fields) - 1))] += draw(st.binary(max_size=3))
            case "ending":
                ending = draw(st.sampled_from((b"\r\n", b"\r", b"\n\n", b"", b" \n", b"\n\r")))
            case "cut":
                fields[-1] = fields[-1][:1]
        rows[place] = b",".join(fields) + ending
    return b"".join(rows)


@settings(max_examples=1000, deadline=None)
@given(rows=rows_of(), good=st.booleans(), crlf=st.booleans(), bom=st.booleans(), bytes_at_once=st.integers(150, 1500))
@example(rows=b"", good=True, crlf=True, bom=True, bytes_at_once=2**22)
@example(rows=ROWS[0].rstrip(), good=True, crlf=False, bom=False, bytes_at_once=1)
def test_generated_files_are_judged_alike(rows: bytes, good: bool, crlf: bool, bom: bool, bytes_at_once: int) -> None:
    content = HEADER + (b"".join(ROWS[::6]) if good else b"") + rows
    if crlf:
        content = content.replace(b"\n", b"\r\n")
    assert_same((codecs.BOM_UTF8 if bom else b"") + content, bytes_at_once)


def test_every_spelling_in_every_column_is_judged_alike() -> None:
    for place in range(len(COLUMNS)):
        for text in (*NUMBERS, *CATEGORIES):
            for form in (text, f'"{text}"'):
                fields = ROWS[0].rstrip().decode().split(",")
                fields[place] = form
                row = ",".join(fields).encode() + b"\n"
                assert_same(HEADER + b"".join(ROWS[::6]) + row, 2500)  # beside a piece that fits


def test_a_piece_that_fits_is_not_gone_through_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    bad = b"Dodo" + ROWS[0][6:]
    path.write_bytes(HEADER + b"".join(ROWS) * 5 + bad + b"".join(ROWS) * 5)
    gone_through: list[int] = []
    check_rows = module._Findings.check

    def check(self: module._Findings, rows: list[tuple[int, list[str]]]) -> None:
        gone_through.append(len(rows))
        check_rows(self, rows)

    with (
        patch.object(module._Findings, "check", check),
        patch.object(module, "CHUNK_BYTES", 1000),
        pytest.raises(SourceError, match=rf"line {2 + 5 * len(ROWS)}, column species: 'Dodo'"),
    ):
        check_source(path, test_size=0.2)
    assert 0 < sum(gone_through) < 50


@pytest.mark.parametrize("column", [c for c in COLUMNS if isinstance(c, Number)][:1])
def test_a_column_of_one_value_is_named_however_it_is_spelled(column: Number) -> None:
    place = COLUMNS.index(column)

    def with_value(row: bytes, text: bytes) -> bytes:
        fields = row.rstrip().split(b",")
        fields[place] = text
        return b",".join(fields) + b"\n"

    for spellings in ((b"40", b"40.0", b"4e1"), (b"NA", b"", b"."), (b"40", b"NA"), (b"40", b"41")):
        rows = [with_value(row, spellings[n % len(spellings)]) for n, row in enumerate(ROWS)]
        assert_same(HEADER + b"".join(rows), 2000)
    assert found(HEADER + b"".join(with_value(r, b"40") for r in ROWS), 2000, True)[2] == {column.name: "40"}


def test_a_value_longer_than_csv_takes_is_refused_alike() -> None:
    fields = ROWS[0].split(b",")
    fields[2] = b"0" * 140_000 + b"39.1"
    assert_same(HEADER + b"".join(ROWS) + b",".join(fields), 2**22)
    assert "field larger than field limit" in found(HEADER + b"".join(ROWS) + b",".join(fields), 2**22, True)


def test_another_header_is_what_both_take_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, header in ((0, "Espèce"), (2, "Culmen Length (mm)"), (3, 'depth/"top", mm')):
        monkeypatch.setitem(vars(COLUMNS[place]), "header", header)  # as if it were declared
    assert header_line().startswith('Espèce,island,Culmen Length (mm),"depth/""top"", mm",flipper_length_mm')
    rows = b"".join(ROWS)
    bad = b"Emperor,Biscoe,long,1,211,4500,FEMALE\n"
    of_species = "one of Adelie, Chinstrap, Gentoo"
    for header in (header_line(), header_line().replace("è", "e\u0300")):  # a letter, or a letter and an accent
        for start in (b"", codecs.BOM_UTF8):
            content = start + header.encode() + b"\n" + rows
            assert found(content, 2000, True)[0] == len(ROWS)
            assert_same(content)
            assert_same(content + bad)
            assert found(content + bad, 2000, True).splitlines()[1:] == [
                f"line {len(ROWS) + 2}, column Espèce: 'Emperor'; the rule is {of_species}",
                f"line {len(ROWS) + 2}, column 'Culmen Length (mm)': 'long'; the rule is a number from 10 to 100 mm",
                f"""line {len(ROWS) + 2}, column 'depth/"top", mm': '1'; the rule is a number from 5 to 50 mm""",
            ]
    refused = found(HEADER + rows, 2000, True)
    assert """line 1: the header lacks 'Espèce', 'Culmen Length (mm)', 'depth/"top", mm'; it has""" in refused
    assert "'species', 'culmen_length_mm', 'culmen_depth_mm'" in refused
    assert_same(HEADER + rows)
    none = found(header_line().encode() + b"\n", 2000, True)
    assert "rows with a measurement by Espèce are Adelie: 0" in none
