"""The check of the CSV: what is accepted, and what each refusal names."""

from __future__ import annotations

import codecs
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penguins.data import source as module
from penguins.data.source import Source, SourceError, check_source, read_records, sha256_of
from penguins.registry import PROJECT
from penguins.schema import CSV_NAME, MISSING
from tables import digest_of, table_of

CSV = PROJECT / "dags" / CSV_NAME
HEADER = "species,island,culmen_length_mm,culmen_depth_mm,flipper_length_mm,body_mass_g,sex"
ADELIE = "Adelie,Torgersen,39.1,18.7,181,3750,MALE"
CHINSTRAP = "Chinstrap,Dream,46.5,17.9,192,3500,FEMALE"
GENTOO = "Gentoo,Biscoe,46.1,13.2,211,4500,FEMALE"
GOOD = [*[ADELIE] * 10, *[CHINSTRAP] * 10, *[GENTOO] * 10]

Check = Callable[..., Source]
Refusal = Callable[..., str]


def text_of(*rows: str, header: str = HEADER) -> str:
    return "".join(f"{line}\n" for line in (header, *rows))


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Check a file of that content."""

    def check(content: str | bytes, test_size: float = 0.2) -> Source:
        path = tmp_path / "file.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return check_source(path, test_size)

    return check


@pytest.fixture
def refusal(check: Check, tmp_path: Path) -> Refusal:
    """Return what is said of a file that must be refused; the path is always said."""

    def refusal(content: str | bytes, test_size: float = 0.2) -> str:
        try:
            check(content, test_size)
        except SourceError as error:
            said = str(error)
        else:
            raise AssertionError(f"accepted: {content!r}")  # which of a test's files it was
        assert str(tmp_path / "file.csv") in said
        return said

    return refusal


# What is accepted.


def test_the_checksum_is_that_of_the_bytes_however_many(check: Check, tmp_path: Path) -> None:
    content = text_of(*GOOD)
    assert check(content).sha256 == hashlib.sha256(content.encode()).hexdigest()
    large = b"penguin" * 100_000
    (tmp_path / "large").write_bytes(large)
    assert sha256_of(tmp_path / "large") == hashlib.sha256(large).hexdigest()


def test_the_projects_file_fits() -> None:
    """Two of its rows have no measurement: they are in no class count."""
    assert check_source(CSV, test_size=0.2) == Source(
        path=str(CSV),
        rows=344,
        sha256="aa728597b2228a2637e39c6f08e40a80971f4cdac7faf7bc21ff4481ee3e3ae9",
        rows_sha256=digest_of(line.split(",") for line in CSV.read_text(encoding="utf-8").splitlines()[1:]),
        line_ending="\n",
        class_counts={"Adelie": 151, "Chinstrap": 68, "Gentoo": 123},
        constant={},
        columns=HEADER.split(","),
    )


def test_records_are_every_value_of_every_line_in_order() -> None:
    records = list(read_records(check_source(CSV, test_size=0.2)))
    assert [",".join(values) for values in records] == CSV.read_text(encoding="utf-8").splitlines()[1:]


def test_bom_and_crlf_give_the_same_records(check: Check) -> None:
    plain = list(read_records(check_source(CSV, test_size=0.2)))
    windows = check(codecs.BOM_UTF8 + CSV.read_bytes().replace(b"\n", b"\r\n"))
    assert (windows.rows, windows.line_ending) == (344, "\r\n")
    assert list(read_records(windows)) == plain


def test_a_last_line_without_an_end_counts(check: Check) -> None:
    source = check(text_of(*GOOD).rstrip("\n"))
    assert source.rows == 30
    assert list(read_records(source))[-1] == GENTOO.split(",")


def test_quoted_values_are_unquoted(check: Check) -> None:
    quoted = ",".join(f'"{value}"' for value in ADELIE.split(","))
    assert next(read_records(check(text_of(quoted, *GOOD)))) == ADELIE.split(",")


def test_a_number_may_be_written_in_any_way_that_the_databases_read(check: Check) -> None:
    numbers = ("39", "39.", "39.10", "+39.1", "3.91e1", "391E-1", "0039.1")
    assert check(text_of(*[ADELIE.replace("39.1", number) for number in numbers], *GOOD)).rows == 37


def test_the_bounds_of_a_range_are_included(check: Check) -> None:
    assert check(text_of(ADELIE.replace("39.1", "10"), ADELIE.replace("39.1", "100"), *GOOD)).rows == 32


def test_values_may_be_missing_and_a_row_without_any_measurement_is_not_counted(check: Check) -> None:
    assert MISSING == ("NA", ".", "")
    for token in MISSING:
        some = check(text_of(f"Gentoo,Biscoe,{token},13.2,{token},4500,{token}", *GOOD))
        assert (some.rows, some.class_counts["Gentoo"]) == (31, 11), token
        every = check(text_of(f"Gentoo,Biscoe,{token},{token},{token},{token},MALE", *GOOD))
        assert (every.rows, every.class_counts) == (31, {"Adelie": 10, "Chinstrap": 10, "Gentoo": 10}), token


def test_a_column_of_one_value_or_none_is_named(check: Check) -> None:
    rows = [row.rsplit(",", 2) for row in GOOD]
    for cells, expected in (
        (["NA"], {"body_mass_g": None}),
        (["NA", "."], {"body_mass_g": None}),
        (["3750"], {"body_mass_g": "3750"}),
        (["3750", "NA"], {"body_mass_g": "3750"}),
        (["3750", "3750.0", "3.75e3"], {"body_mass_g": "3750"}),  # one number, however it is written
        (["3750", "3751"], {}),
    ):
        changed = [f"{first},{cells[n % len(cells)]},{sex}" for n, (first, _, sex) in enumerate(rows)]
        found = check(text_of(*changed)).constant
        assert {name: value for name, value in found.items() if name == "body_mass_g"} == expected, cells


# The file itself, its lines and quotes.


def test_a_file_that_cannot_be_read_is_named_with_the_param(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.csv", "No such file"), (tmp_path, "it is a folder, not a file")):
        with pytest.raises(SourceError, match=f"{said}.*csv_path") as caught:
            check_source(path, test_size=0.2)
        assert f"cannot read {path}: {said}" in str(caught.value)


def test_line_ends_may_differ_but_then_no_database_reads_the_file_by_itself(check: Check) -> None:
    """MySQL takes one for the whole file, and would keep any other as part of the last value."""
    plain = list(read_records(check(text_of(*GOOD))))
    for first, other in (("\n", "\r\n"), ("\r\n", "\n"), ("\n", "\r\r\n"), ("\r\n", "\r\r\n")):
        lines = text_of(*GOOD).replace("\n", first).split(first)
        source = check(first.join(lines[:5]) + other + first.join(lines[5:]))
        assert not source.as_it_is
        assert list(read_records(source)) == plain
    source = check(text_of(*GOOD).removesuffix("\n") + "\r")
    assert not source.as_it_is
    assert list(read_records(source)) == plain


def test_blank_lines_are_no_rows(check: Check) -> None:
    for content in (
        text_of(*GOOD) + "\n\n",
        text_of(*GOOD[:5], "", *GOOD[5:]),
        text_of(*GOOD, "").replace("\n", "\r\n"),
    ):
        source = check(content)
        assert (source.rows, source.as_it_is) == (30, False)
        assert len(list(read_records(source))) == 30


def test_a_cr_within_a_line_is_refused_by_line(refusal: Refusal) -> None:
    good = text_of(*GOOD)
    for content, line in (
        (good.replace("\n", "\r"), 1),
        (text_of(ADELIE, ADELIE.replace("Torgersen", "Torger\rsen"), *GOOD), 3),
    ):
        said = refusal(content)
        assert f"starts at line {line}: a line ends with CR alone" in said
        assert "save the file with LF, or with CRLF" in said


def test_quotes_that_do_not_match_are_named_by_the_line_where_they_open(refusal: Refusal) -> None:
    for rows, said in (
        ([ADELIE, ADELIE.replace("Torgersen", '"Torgersen'), *GOOD], "line 3: unexpected end of data"),
        ([ADELIE, ADELIE.replace("Torgersen", '"Torger"sen'), *GOOD], "line 3: "),
        ([ADELIE.replace("Torgersen", '"Torgersen'), *GOOD * 200], "line 2: field larger than field limit"),
    ):
        found = refusal(text_of(*rows))
        assert f"the record that starts at {said}" in found
        assert """with '"' in pairs""" in found


# The header.


def test_a_header_is_matched_by_name_and_what_differs_is_named(check: Check, refusal: Refusal) -> None:
    for header, said in (
        (
            HEADER.replace("body_mass_g", "body_mass_kg"),
            "the header lacks 'body_mass_g'; it has, and the declaration does not, 'body",
        ),
        (HEADER.removesuffix(",sex"), "the header lacks 'sex'. Correct"),
        (f"{HEADER},year,", "the header has, and the declaration does not, 'year', 'column 9'. Correct"),
        (HEADER.replace("sex", " sex"), "the header lacks 'sex'; it has, and the declaration does not, ' sex'"),
        (HEADER + ",sex", "the header has more than once 'sex'"),
    ):
        assert f"line 1: {said}" in refusal(text_of(*GOOD, header=header)), header
    rows = [",".join(row.split(",")[::-1]) for row in GOOD]
    turned = check(text_of(*rows, header=",".join(HEADER.split(",")[::-1])))
    assert turned.columns == HEADER.split(",")[::-1]
    assert turned.as_it_is
    assert list(read_records(turned)) == list(read_records(check(text_of(*GOOD))))


def test_a_header_of_another_table_is_not_told(refusal: Refusal) -> None:
    for header in (HEADER.upper(), HEADER.replace(",", ";"), "", ADELIE):
        said = refusal(text_of(*GOOD, header=header))
        assert "line 1: the header is not that of this table" in said or "it is empty" in said
        assert f"expected {HEADER}" in said
    assert f"expected {HEADER}" in refusal(text_of(*GOOD).encode("utf-16"))


def test_an_empty_file_is_said_to_be_empty(refusal: Refusal) -> None:
    for content in (b"", codecs.BOM_UTF8):
        said = refusal(content)
        assert "line 1: the header is nothing: the file is empty" in said
        assert f"expected {HEADER}" in said


# The rows.


def test_a_row_with_another_number_of_values_is_named_by_line(refusal: Refusal) -> None:
    for row, count in (
        (ADELIE.removesuffix(",MALE"), 6),
        (f"{ADELIE},2007", 8),
        (" ", 1),
        (ADELIE.replace(",", ";"), 1),
    ):
        said = refusal(text_of(ADELIE, row, *GOOD))
        assert said.splitlines()[1:] == [f"line 3: {count} values; the rule is 7, one for each column"]
        assert "Nothing was dropped or loaded" in said


CULMEN = ("culmen_length_mm", "a number from 10 to 100 mm")
BODY_MASS = ("body_mass_g", "a number from 1000 to 10000 g")
BAD_VALUES = [
    ("Adelie", "adelie", "species", "one of Adelie, Chinstrap, Gentoo"),
    ("Adelie", "Emperor", "species", "one of Adelie, Chinstrap, Gentoo"),
    ("Torgersen", "Mars", "island", "one of Biscoe, Dream, Torgersen"),
    ("Torgersen", "Torgersen ", "island", "one of Biscoe, Dream, Torgersen"),
    ("MALE", "M", "sex", "one of FEMALE, MALE"),
    *[("39.1", new, *CULMEN) for new in ("long", "nan", "inf", "-Infinity", "1e999", "0x27", "39mm")],
    *[("39.1", new, *CULMEN) for new in (" 39.1", "39.1 ", "9.99", "100.01")],
    ("18.7", "-18.7", "culmen_depth_mm", "a number from 5 to 50 mm"),
    ("181", "99", "flipper_length_mm", "a number from 100 to 300 mm"),
    *[("3750", new, *BODY_MASS) for new in ("1_000", "10001", "٣٧٥٠", "na")],
    *[("Adelie", new, "species", "that a value must be present (one of Adelie, Chinstrap, Gentoo)") for new in MISSING],
    ("Torgersen", "NA", "island", "that a value must be present (one of Biscoe, Dream, Torgersen)"),
]


def test_a_bad_value_is_named_with_line_column_value_and_rule(refusal: Refusal) -> None:
    for old, new, column, rule in BAD_VALUES:
        said = refusal(text_of(*GOOD, ADELIE.replace(old, new)))
        hint = "; if it means a missing value, add it to MISSING" if new in ("nan", "na") else ""
        assert said.splitlines()[1:] == [f"line 32, column {column}: {new!a}; the rule is {rule}{hint}"]


def test_every_bad_value_of_a_row_is_named(refusal: Refusal) -> None:
    said = refusal(text_of("Emperor,Mars,1,18.7,181,3750,X", *GOOD))
    assert [line.split(":")[0] for line in said.splitlines()[1:]] == [
        "line 2, column species",
        "line 2, column island",
        "line 2, column culmen_length_mm",
        "line 2, column sex",
    ]


def test_lines_are_counted_in_the_file_and_not_in_records(refusal: Refusal) -> None:
    over_two_lines = ADELIE.replace("Torgersen", '"Torger\nsen"')
    said = refusal(text_of(over_two_lines, ADELIE.replace("39.1", "long"), *GOOD))
    assert r"line 2, column island: 'Torger\nsen'" in said
    assert "line 4, column culmen_length_mm: 'long'" in said


def test_a_long_value_is_cut_in_the_message(refusal: Refusal) -> None:
    said = refusal(text_of(*GOOD, ADELIE.replace("MALE", "M" * 1000)))
    assert f"column sex: '{'M' * 57}...'; the rule" in said


def test_bytes_that_are_not_utf_8_are_named_by_line_and_column(refusal: Refusal) -> None:
    rule = "the rule is UTF-8; save the file in that encoding, or name its own in FILE"
    said = refusal(text_of(*GOOD, ADELIE.replace("Torgersen", "Torgersön")).encode("latin-1"))
    assert rf"line 32, column island: 'Torgers\udcf6n'; {rule}" in said
    said = refusal(text_of(*GOOD).encode().replace(b"3750", b"37\xb750", 1))
    assert rf"line 2, column body_mass_g: '37\udcb750'; {rule}" in said


# The rows, a chunk at a time.


BAD_ROWS = [
    ADELIE.replace("39.1", "long"),
    ADELIE.replace("Torgersen", "Mars"),
    ADELIE.replace("Adelie", "NA"),
    "Emperor,Mars,1,18.7,181,3750,X",
    ADELIE.removesuffix(",MALE"),
    f"{ADELIE},2007",
]
OTHER_ROWS = [
    "Gentoo,Biscoe,NA,NA,NA,NA,MALE",
    "Gentoo,Biscoe,,13.2,.,4500,.",
    CHINSTRAP.replace("46.5", "46.50"),
]


def test_a_problem_in_any_chunk_is_named_as_it_is_in_the_first(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bad in BAD_ROWS:
        for before in (2, 3, 4, 5, 6):  # the last row of a chunk, each row of the next one, the first of the third
            content = text_of(*[ADELIE] * before, bad, *GOOD)
            expected = refusal(content)
            assert f"line {before + 2}" in expected.splitlines()[1]
            with monkeypatch.context() as patch:
                patch.setattr(module, "CHUNK_ROWS", 3)
                assert refusal(content) == expected


@pytest.mark.parametrize("chunk_rows", [10_000, 3])
def test_what_is_wrong_is_listed_by_column_and_value_with_counts(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    """A column that is spelled differently throughout does not hide another one."""
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk_rows)
    rows = [ADELIE.replace("MALE", "male").replace("39.1", f"-{number}") for number in range(1, 31)]
    said = refusal(text_of(*rows, *GOOD, ADELIE.replace("MALE", "N/A"))).splitlines()
    culmen = "the rule is a number from 10 to 100 mm"
    assert said[1:] == [
        *(f"line {number + 1}, column culmen_length_mm: '-{number}'; {culmen}" for number in range(1, 6)),
        "... and 25 more in column culmen_length_mm",
        "line 2, column sex: 'male'; the rule is one of FEMALE, MALE (in 30 rows)",
        "line 62, column sex: 'N/A'; the rule is one of FEMALE, MALE; if it means a missing value, add it to MISSING",
    ]


def test_classes_are_counted_over_all_chunks(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 7)
    assert check(CSV.read_bytes()).class_counts == {"Adelie": 151, "Chinstrap": 68, "Gentoo": 123}


def test_a_value_that_fits_one_column_is_not_taken_to_fit_another(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """181 was remembered as the length of a flipper; a culmen is at most 100 mm long."""
    monkeypatch.setattr(module, "CHUNK_ROWS", 3)
    said = refusal(text_of(*GOOD, ADELIE.replace("39.1", "181")))
    assert "line 32, column culmen_length_mm: '181'; the rule is a number from 10 to 100 mm" in said


def result_of(rows: list[str], **changed: int) -> str:
    """What the check says of rows: the source, or the refusal; without the path, which is another one each time."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in changed.items():
            patch.setattr(module, name, value)
        path = Path(folder, "file.csv")
        path.write_text(text_of(*rows), encoding="utf-8")
        try:
            return repr(check_source(path, test_size=0.2)).replace(folder, "")
        except SourceError as error:
            return str(error).replace(folder, "")


@settings(max_examples=50, deadline=None, derandomize=True)
@given(rows=st.lists(st.sampled_from([ADELIE, CHINSTRAP, GENTOO, *OTHER_ROWS, *BAD_ROWS]), max_size=40))
def test_neither_chunks_nor_remembered_values_change_what_is_said(rows: list[str]) -> None:
    """One row at a time, with nothing remembered, each value is checked against its column."""
    expected = result_of([*rows, *GOOD], CHUNK_ROWS=1, CACHED_VALUES=0)
    assert result_of([*rows, *GOOD], CHUNK_ROWS=3) == expected
    assert result_of([*rows, *GOOD], CACHED_VALUES=2) == expected
    assert result_of([*rows, *GOOD], CACHED_VALUES=0) == expected


# The classes.


def test_two_classes_are_enough_and_one_or_none_is_too_few(check: Check, refusal: Refusal) -> None:
    assert check(text_of(*[ADELIE] * 10, *[GENTOO] * 10)).class_counts == {"Adelie": 10, "Gentoo": 10}
    for rows in ([GENTOO] * 30, []):
        said = refusal(text_of(*rows))
        assert f"species are Adelie: 0, Chinstrap: 0, Gentoo: {len(rows)}" in said
        assert "two classes or more" in said


def test_a_class_with_nine_rows_is_too_small_and_rows_without_a_measurement_do_not_help(refusal: Refusal) -> None:
    said = refusal(text_of(*[ADELIE] * 20, *[CHINSTRAP] * 9, *[GENTOO] * 10))
    assert "Adelie: 20, Chinstrap: 9, Gentoo: 10" in said
    assert "needs 10; too few rows are of Chinstrap" in said
    empty = "Chinstrap,Dream,NA,NA,NA,NA,MALE"
    assert "too few rows are of Chinstrap" in refusal(text_of(*[ADELIE] * 20, *[CHINSTRAP] * 9, empty))


def test_a_test_size_needs_a_row_of_each_class_in_both_parts(check: Check, refusal: Refusal) -> None:
    assert check(text_of(*GOOD), test_size=0.1).rows == 30
    for test_size, held_out in ((0.05, 2), (0.95, 29)):
        said = refusal(text_of(*GOOD), test_size=test_size)
        assert f"a test_size of {test_size} holds out {held_out} of 30 rows" in said
        assert "at least one row of each of the 3 classes" in said


def test_what_the_check_accepts_can_be_split(check: Check) -> None:
    """The smallest part that is accepted is one that the stratified split can make."""
    from penguins.training.pipeline import split

    table = table_of(read_records(check(text_of(*GOOD), test_size=0.1)))
    train, test = split(table, test_size=0.1, random_state=0)
    assert set(test["species"].to_pylist()) == set(train["species"].to_pylist()) == {"Adelie", "Chinstrap", "Gentoo"}
