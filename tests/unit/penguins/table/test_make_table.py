"""`python -m penguins.table` on files that are written here: the right declaration is what is expected."""

from __future__ import annotations

import codecs
import gzip
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from penguins import column_types, schema
from penguins.column_types import Category, FileFormat, Ignored, Number, SchemaError
from penguins.data.text import SourceError
from penguins.table import __main__ as command_line
from penguins.table import reading
from penguins.table.__main__ import TableError, declare, main
from penguins.table.declaring import Declaration, written
from penguins.table.guessing import name_of, with_room
from penguins.table.reading import SAMPLED_ROWS

draw = random.Random(1)
ROWS = [(n, draw.uniform(0, 9), draw.choice(["a", "b", "c"])) for n in range(200)]


def lines(delimiter: str = ",", decimal: str = ".", header: str | None = None, end: str = "\n") -> str:
    """Return a table with a number, a category and a target that depends on the number."""
    texts = [header if header is not None else delimiter.join(("size", "kind", "class"))]
    for _, size, kind in ROWS:
        label = "big" if (size > 5) != (draw.random() < 0.1) else "small"
        texts.append(delimiter.join((f"{size:.2f}".replace(".", decimal), kind, label)))
    return "".join(text + end for text in texts if text)


def declared(path: Path, content: bytes | str, target: str = "class", task: str = "") -> Declaration:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return declare(path, target, task)[0]


DIALECTS: dict[str, tuple[bytes, FileFormat]] = {
    "as most programs write it": (lines().encode(), FileFormat()),
    "a byte order mark": (codecs.BOM_UTF8 + lines().encode(), FileFormat()),
    "CRLF": (lines(end="\r\n").encode(), FileFormat()),
    "semicolons, decimal commas": (lines(";", ",").encode(), FileFormat(delimiter=";", decimal=",")),
    "tabs, UTF-16": (lines("\t").encode("utf-16"), FileFormat(encoding="utf-16", delimiter="\t")),
    "UTF-16 without a mark": (lines("\t").encode("utf-16-le"), FileFormat(encoding="utf-16-le", delimiter="\t")),
    "Windows-1252": (lines(header="größe,kind,class").encode("cp1252"), FileFormat(encoding="cp1252")),
    "a bar": (lines("|").encode(), FileFormat(delimiter="|")),
    "blanks behind the commas": (lines(", ").encode(), FileFormat(padded=True)),
    "comments before the header": (("# by me\n# today\n" + lines()).encode(), FileFormat(skip=2)),
    "no header": (lines(header="").encode(), FileFormat(header=False)),
    "a blank last line": ((lines() + "\n\n").encode(), FileFormat()),
}


@pytest.mark.parametrize(("content", "form"), DIALECTS.values(), ids=DIALECTS)
def test_how_a_file_is_written_is_found_out_and_its_columns_are_the_same(
    tmp_path: Path, content: bytes, form: FileFormat
) -> None:
    found = declared(tmp_path / "a.csv", content, target="class" if form.header else "column 3")
    assert found.form == form
    size, kind, target = (guess.column for guess in found.guesses)
    assert isinstance(size, Number)
    assert isinstance(kind, Category)
    assert isinstance(target, Category)
    assert (size.minimum, size.maximum) == (0, 14)
    assert (sorted(kind.values), sorted(target.values)) == (["a", "b", "c"], ["big", "small"])
    assert [c.required for c in (size, kind, target)] == [False, False, True]
    assert found.missing == ()


def column(path: Path, values: list[str], header: str = "x") -> tuple[Number | Category | Ignored, list[str], Any]:
    """Return what a column of these values is taken for, what to look at again, and the declaration."""
    rows = [f"{value}\t{'yes' if draw.random() < 0.5 else 'no'}\t{draw.random()}\n" for value in values]
    found = declared(path, f"{header}\tclass\tother\n" + "".join(rows))
    return found.guesses[0].column, found.guesses[0].checks, found


MANY = 300
KINDS: dict[str, tuple[list[str], str, str]] = {
    "0 and 1": (["0", "1"] * 150, "category", ""),
    "codes": (["1", "2", "3", "4"] * 75, "category", ""),
    "a year": (["2007", "2008", "2009"] * 100, "number", ""),
    "booleans": (["true", "false", "true"] * 100, "category", ""),
    "whole numbers": ([str(n % 50) for n in range(MANY)], "number", ""),
    "thousands": ([f"{n * 977:,}" for n in range(MANY)], "number", ""),
    "exponents": ([f"{n}e-3" for n in range(MANY)], "number", ""),
    "numbers and what says missing": ([("-", "x", "?", "12.5", "3")[n % 5] for n in range(MANY)], "number", ""),
    "a running number": ([str(n) for n in range(7, 7 + MANY)], "ignored", "it numbers the rows"),
    "free text": ([f"{n} is the number" for n in range(MANY)], "ignored", "it holds 300 different texts"),
    "dates": ([f"2026-01-{n % 28 + 1:02}" for n in range(MANY)], "ignored", "it holds dates"),
    "one value": (["same"] * MANY, "ignored", "it is always 'same'"),
    "nothing": (["NA"] * MANY, "ignored", "it is empty"),
    "100 towns": ([f"town {min(n % 100, n % 7)}" for n in range(MANY)], "category", ""),
    "a few rare ones": (
        [f"t{n % 40 if n < 200 else n}" for n in range(MANY)],
        "category",
        "rarer texts count as 'other'",
    ),
}


@pytest.mark.parametrize(("values", "kind", "said"), KINDS.values(), ids=KINDS)
def test_what_a_column_is_taken_for(tmp_path: Path, values: list[str], kind: str, said: str) -> None:
    found, checks, _ = column(tmp_path / "a.tsv", values)
    assert type(found).__name__.lower() == kind
    assert said in " ".join(checks) if said else not checks, checks


def test_different_whole_numbers_are_an_id_if_they_are_called_one(tmp_path: Path) -> None:
    values = [str(1000 + 7 * n) for n in range(MANY)]
    for header, kind in (("customer_id", Ignored), ("CustomerID", Ignored), ("code", Ignored), ("paid", Number)):
        assert isinstance(column(tmp_path / "a.tsv", values, header)[0], kind), header


def test_of_more_than_fifty_values_the_most_frequent_are_kept_and_the_others_are_a_rest(tmp_path: Path) -> None:
    values = [f"t{n % 40 if n < 240 else n}" for n in range(MANY)]
    found, _, _ = column(tmp_path / "a.tsv", values)
    assert isinstance(found, Category)
    assert (len(found.values), found.rest, found.values[-1]) == (51, "other", "other")
    assert set(found.values[:40]) == {f"t{n}" for n in range(40)}


def test_only_markers_that_occur_say_missing_and_they_are_named_for_all_columns(tmp_path: Path) -> None:
    values = [("?", "\\N", "N/A", "", "low", "high")[n % 6] for n in range(MANY)]
    found, _, declaration = column(tmp_path / "a.tsv", values)
    assert isinstance(found, Category)
    assert (sorted(found.values), sorted(declaration.missing)) == (["high", "low"], ["", "?", "N/A", "\\N"])
    assert declaration.guesses[0].missing == 200


def test_what_tells_the_target_alone_or_repeats_another_is_pointed_out(tmp_path: Path) -> None:
    rows = [f"{n % 7},{n % 7},{'alive' if n % 3 else 'dead'},{'yes' if n % 3 else 'no'}\n" for n in range(MANY)]
    guesses = declared(tmp_path / "a.csv", "age,years,alive,class\n" + "".join(rows)).guesses
    assert [type(g.column) for g in guesses] == [Number, Ignored, Category, Category]
    assert guesses[1].checks == ["it repeats 'age'"]
    assert "it alone tells the target" in guesses[2].checks[0]


def test_a_long_file_is_seen_to_its_end_and_judged_on_some_rows(tmp_path: Path) -> None:
    rows = [f"{n % 977},{'yes' if n % 977 > 400 else 'no'}\n" for n in range(3 * SAMPLED_ROWS)]
    found = declared(tmp_path / "a.csv", "x,class\n" + "".join(rows) + "99999,no\n" + "12,yes\n" * 3)
    assert isinstance(found.guesses[0].column, Number)
    assert found.guesses[0].column.maximum > 99999
    assert found.guesses[0].seen.rows == 3 * SAMPLED_ROWS + 4


@pytest.mark.parametrize("target", ["Precio ($)", "precio ($)", " PRECIO ($) ", "precio"])
def test_the_target_is_found_by_its_header_or_its_name_however_it_is_spelled(tmp_path: Path, target: str) -> None:
    assert declared(tmp_path / "a.csv", lines(header="size,kind,Precio ($)"), target).target == "precio"


NUMBER = "x,class\n" + "".join(f"{draw.random()},{n / 3:.2f}\n" for n in range(100))
CODES = "x,class\n" + "".join(f"{draw.random()},{n % 30}\n" for n in range(900))
MISTAKES: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "class", "a.csv is empty"),
    "a blank line": (b"\n", "class", "a.csv"),
    "Excel": (b"PK\x03\x04" + b"\0" * 100, "class", "an Excel workbook or a zip: save the sheet as CSV"),
    "gzip": (gzip.compress(lines().encode()), "class", "compressed by gzip: unpack it with `gunzip`"),
    "Parquet": (b"PAR1" + b"\0" * 100, "class", "Parquet: `pandas.read_parquet(FILE).to_csv(NEW, index=False)`"),
    "one column": (b"class\n" + b"a\nb\n" * 50, "class", "has one column"),
    "a name twice": (lines(header="size,size,class").encode(), "class", "has two columns of one name: 'size'"),
    "no such target": (lines().encode(), "sort", "no column 'sort'. Set TARGET to one of 'size', 'kind', 'class'"),
    "no target": (lines().encode(), "", "no column to predict was named. Set TARGET to one of 'size', 'kind'"),
    "a number": (NUMBER.encode(), "class", "'class' is a number from 0 to 33"),
    "many codes": (CODES.encode(), "class", "TASK=class takes each different number for a class"),
    "an id": ("".join(f"{n},t{n}\n" for n in range(2000)).encode(), "column 2", "it is an id or free text, no class"),
    "one value": (lines().replace("big", "small").encode(), "class", "'class' has one value, 'small'"),
    "a class of three": (
        (lines() + "1,a,odd\n" * 3).encode(),
        "class",
        "too few rows are of odd (3): each class needs 10",
    ),
    "rows that lack the target": ((lines() + "1,a,\n" * 3).encode(), "class", "3 rows lack the target 'class'"),
    "a long row": ((lines() + "1,a,big,4\n").encode(), "class", "line 202: 4 values, but the rows before have 3"),
    "a short row": (
        lines().replace("\n", "\n1,a\n", 1).encode(),
        "class",
        "line 2: 2 values, but the rows before have 3",
    ),
    "two encodings": (
        (lines() + "1,é,big\n").encode() + b"1,\xe9,big\n",
        "class",
        "line 202 is UTF-8, and line 203 is not",
    ),
    "nothing to predict from": (
        ("day,class\n" + "".join(f"2026-01-{n % 28 + 1},{'ab'[n % 2]}\n" for n in range(99))).encode(),
        "class",
        "no column to predict 'class' from",
    ),
}


@pytest.mark.parametrize(("content", "target", "said"), MISTAKES.values(), ids=MISTAKES)
def test_what_cannot_be_declared_is_refused_with_what_to_do(
    tmp_path: Path, content: bytes, target: str, said: str
) -> None:
    with pytest.raises((TableError, SourceError, SchemaError)) as caught:
        declared(tmp_path / "a.csv", content, target)
    assert said in str(caught.value)


def test_a_text_is_no_number_whatever_the_task_says(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="TASK=number, but 'class' holds texts"):
        declared(tmp_path / "a.csv", lines(), task="number")


def test_many_blank_lines_hide_no_row_behind_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_ROWS", 10)
    half = lines().splitlines(keepends=True)
    content = "".join([*half[:101], *["\n"] * 30, *half[101:]])
    assert declared(tmp_path / "a.csv", content).guesses[0].seen.rows == len(ROWS)


def test_task_class_takes_each_number_for_a_class(tmp_path: Path) -> None:
    found = declared(tmp_path / "a.csv", CODES, task="class").guesses[1].column
    assert isinstance(found, Category)
    assert len(found.values) == 30


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Área (m2)", "area_m2"),
        ("  Precio ($) ", "precio"),
        ("2024", "c_2024"),
        ("価格", "column"),
        ("", "column"),
        ("ID", "id_2"),
        ("row_id", "row_id_2"),
        ("x" * 100, "x" * 60),
    ],
)
def test_names_are_made_of_headers(header: str, name: str) -> None:
    assert name_of(header, set()) == name
    assert name_of(header, {name}) != name


@given(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12))
def test_a_range_has_room_to_spare_and_keeps_the_sign(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assume(low < high)
    minimum, maximum = with_room(low, high)
    assert minimum <= low <= high <= maximum
    assert minimum < maximum
    assert (minimum >= 0) >= (low >= 0)
    assert (maximum <= 0) >= (high <= 0)


AWKWARD = ['o\'clock "now"', "back\\slash", "日本", "a,b", "ÄÖ'", "x" * 130]


def test_what_is_written_means_what_was_found(tmp_path: Path) -> None:
    rows = [
        f'"{draw.choice(AWKWARD).replace(chr(34), chr(34) * 2)}",{draw.random()},{"yn"[n % 2]}\n' for n in range(200)
    ]
    found = declared(tmp_path / 'the "file".csv', '"it\'s ""so""",Precio,class\n' + "".join(rows))
    names = {**vars(column_types), "annotations": None}
    exec(found.text(), names)
    assert names["COLUMNS"] == tuple(guess.column for guess in found.guesses)
    assert (names["FILE"], names["MISSING"], names["CSV_NAME"]) == (found.form, found.missing, 'the "file".csv')
    assert (names["NAME"], names["TABLE"], names["TARGET_NAME"]) == ("the_file", "the_file_raw", "class")


# What is written where


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout that git knows, with a declaration and a folder for the file."""
    root = tmp_path / "project"
    (root / "plugins" / "penguins").mkdir(parents=True)
    (root / "dags").mkdir()
    shutil.copy(str(schema.__file__), root / "plugins" / "penguins" / "schema.py")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "a")
    monkeypatch.setattr(command_line, "SCHEMA", root / "plugins" / "penguins" / "schema.py")
    monkeypatch.setattr(command_line, "PROJECT", root)
    monkeypatch.setattr(command_line, "DAGS", root / "dags")
    return root


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=root, check=True, timeout=60)


def tree(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and ".git/" not in str(path))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "my table.csv"
    path.write_text(lines())
    return path


def test_the_declaration_is_written_the_file_copied_and_both_can_be_undone(
    project: Path, csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(project)
    assert main([str(csv), "--target", "class"]) == 0
    assert (project / "dags" / csv.name).read_bytes() == csv.read_bytes()
    assert 'NAME = "my_table"' in (project / "plugins/penguins/schema.py").read_text()
    undo = capsys.readouterr().out.rpartition("To undo it: ")[2]
    subprocess.run(["sh", "-ec", undo], cwd=project, check=True, timeout=60)
    assert tree(project) == before


def test_a_header_is_shown_as_it_is(project: Path, csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv.write_text(lines(header="Area [m2],kind :warning:,class"))
    assert main([str(csv), "--target", "class", "--check"]) == 0
    said = capsys.readouterr().out
    assert "area_m2 (Area [m2])" in said
    assert "kind :warning:" in said


def test_only_looking_writes_nothing(project: Path, csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(project)
    assert main([str(csv), "--target", "class", "--check"]) == 0
    assert "a quick forest in" in capsys.readouterr().out
    assert tree(project) == before


def test_a_declaration_that_git_does_not_have_is_only_overwritten_on_demand(
    project: Path, csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project / "plugins" / "penguins" / "schema.py"
    file.write_text(mine := file.read_text().replace("MIN_ACCURACY = ", "MIN_ACCURACY = 0.5 * "))
    before = tree(project)
    assert main([str(csv), "--target", "class"]) == 1
    assert (
        "git does not have plugins/penguins/schema.py as it is now. Commit it, or set FORCE=1"
        in capsys.readouterr().err
    )
    assert tree(project) == before
    assert main([str(csv), "--target", "class", "--force"]) == 0
    undo = capsys.readouterr().out.rpartition("To undo it: ")[2]
    assert file.read_text() != mine
    subprocess.run(["sh", "-ec", undo], cwd=project, check=True, timeout=60)
    assert file.read_text() == mine


def test_where_there_is_no_git_the_declaration_is_kept(
    project: Path, csv: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line.shutil, "which", lambda _: None)
    before = tree(project)
    assert main([str(csv), "--target", "class"]) == 0
    said = capsys.readouterr().out
    assert "To undo it: mv plugins/penguins/schema.py.before plugins/penguins/schema.py" in said
    assert main([str(csv), "--target", "class"]) == 1
    assert "schema.py.before is there already. Remove it, or set FORCE=1" in capsys.readouterr().err
    subprocess.run(["sh", "-ec", said.rpartition("To undo it: ")[2]], cwd=project, check=True, timeout=60)
    assert tree(project) == before


def test_another_file_of_the_same_name_is_not_overwritten(
    project: Path, csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "dags" / csv.name).write_text("mine")
    before = tree(project)
    assert main([str(csv), "--target", "class"]) == 1
    assert "is there already, and is another file. Rename yours" in capsys.readouterr().err
    assert tree(project) == before


def test_a_file_that_lies_there_already_is_left_where_it_is(project: Path, csv: Path) -> None:
    (project / "dags" / csv.name).write_bytes(csv.read_bytes())
    assert main([str(project / "dags" / csv.name), "--target", "class"]) == 0
    assert (project / "dags" / csv.name).read_bytes() == csv.read_bytes()


def test_where_the_disk_is_too_small_nothing_is_written(
    project: Path, csv: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(project)
    monkeypatch.setattr(command_line.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    before = tree(project)
    assert main([str(csv), "--target", "class"]) == 1
    assert "but only 1,000 are free in" in capsys.readouterr().err
    assert tree(project) == before


@pytest.mark.parametrize(
    ("make", "said"),
    [(lambda path: None, "No such file or directory"), (os.mkdir, "it is a folder, not a file")],
    ids=["no such file", "a folder"],
)
def test_what_is_no_file_is_said(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None], said: str
) -> None:
    make(tmp_path / "it")
    assert main([str(tmp_path / "it"), "--target", "class"]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.rstrip().endswith("Nothing was changed.")


def test_without_a_file_it_says_how_to_name_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["", "--target", ""]) == 1
    assert "make table CSV=FILE TARGET=COLUMN" in capsys.readouterr().err


def test_a_schema_without_its_dashed_lines_is_left_alone(tmp_path: Path, csv: Path) -> None:
    with pytest.raises(ValueError, match="has lost the two dashed lines"):
        written(declared(csv, csv.read_bytes()), "MISSING = ()\n")
