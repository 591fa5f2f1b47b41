"""The journal's command line: a file that the DAG takes."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from penguins.column_types import FileFormat, Ignored
from penguins.data import records
from penguins.data.source import check_source, read_records
from penguins.journal import export
from penguins.journal.__main__ import main
from penguins.journal.export import ABSENT, write_csv
from penguins.journal.tables import ID, TIME, URL, engine_of, feedback, make_tables
from penguins.registry import PROJECT
from penguins.schema import COLUMNS, CSV_NAME, EXAMPLE, FEATURES, NUMBERS, TARGET

Command = Callable[..., tuple[int, str, str]]
CSV = PROJECT / "dags" / CSV_NAME
START = datetime(2026, 1, 1)  # noqa: DTZ001 - UTC, as in the tables
FIRST, SECOND, THIRD = TARGET.values


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/journal.db"


@pytest.fixture
def engine(url: str) -> Engine:
    """The journal in tmp_path, with its tables."""
    engine = engine_of(url)
    make_tables(engine)
    return engine


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str) -> Command:
    """Run the command line on that journal; return exit code, output, errors."""
    monkeypatch.setenv(URL, url)

    def command(*arguments: object) -> tuple[int, str, str]:
        code = main([*map(str, arguments)])
        return (code, *capsys.readouterr())

    return command


def label(name: str, truth: str, second: int = 0, **changed: Any) -> dict[str, Any]:
    """Return a row of feedback."""
    own = {TIME: START + timedelta(seconds=second), ID: name, "version": "v", f"predicted_{TARGET.name}": FIRST}
    return own | {c.name: {**EXAMPLE, **changed}[c.name] for c in FEATURES} | {TARGET.name: truth}


def give(engine: Engine, rows: Iterable[dict[str, Any]]) -> None:
    with engine.begin() as connection:
        connection.execute(insert(feedback), list(rows))


def test_the_dag_takes_what_is_exported_behind_its_own_rows(command: Command, engine: Engine, tmp_path: Path) -> None:
    optional = [c.name for c in FEATURES if not c.required]
    missing: list[dict[str, Any]] = [{optional[n % len(optional)]: None} for n in range(len(TARGET.values))]
    rows = [label(f"{n}", truth, **missing[n]) for n, truth in enumerate(TARGET.values)]
    give(engine, rows)
    target = tmp_path / "all.csv"
    said = f"3 predictions whose truth is known, after 344 rows of {CSV}\n"
    assert command("export", target, "--base", CSV) == (0, "", said)
    base, both = check_source(CSV, test_size=0.2), check_source(target, test_size=0.2)
    assert list(read_records(both))[:344] == list(read_records(base))
    exported = list(read_records(both))[344:]
    numbers = {c.name for c in NUMBERS}

    def text(name: str, value: Any) -> str:
        return ABSENT if value is None else f"{value:g}" if name in numbers else value

    assert exported == [[text(c.name, row[c.name]) for c in COLUMNS] for row in rows]
    assert sum(value == ABSENT for row in exported for value in row) == 3
    assert not list(tmp_path.glob("*.new"))
    code, output, _ = command("export")
    assert (code, output.splitlines()[1:]) == (0, target.read_text().splitlines()[345:])


def test_the_rows_of_the_base_are_copied_as_they_are(command: Command, engine: Engine, tmp_path: Path) -> None:
    give(engine, [label("x", FIRST)])
    base, target = tmp_path / "base.csv", tmp_path / "all.csv"
    header, row, *_ = CSV.read_text().splitlines()
    base.write_bytes(b"\xef\xbb\xbf" + f"{header}\r\n{row}\r\n".encode() + b"too short,\xff")
    assert command("export", target, "--base", base)[0] == 0
    written = target.read_bytes().splitlines()
    assert written[:3] == [header.encode(), row.encode(), b"too short,\xff"]
    assert len(written) == 4


def test_memory_does_not_grow_with_the_journal(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penguins.journal.export.CHUNK_ROWS", 200)

    def peak(rows: int) -> int:
        give(engine, (label(f"{rows}-{n}", FIRST, n) for n in range(rows)))
        tracemalloc.start()
        try:
            with Path(os.devnull).open("w") as nowhere:
                assert write_csv(nowhere, engine, None)[0] >= rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # what is only made once
    assert peak(8_000) < 1.5 * peak(1_000)


def test_the_file_is_written_as_the_declaration_says_that_the_tables_files_are(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FileFormat(encoding="utf-16", delimiter=";", decimal=",", skip=2)
    unused = Ignored(name="studied_by")
    for module in (records, export):
        monkeypatch.setattr(module, "FILE", form)
        monkeypatch.setattr(module, "COLUMNS", (unused, *COLUMNS))
    give(engine, [label("a", FIRST, culmen_length_mm=46.1, body_mass_g=4500.0)])
    path = tmp_path / "all.csv"
    with path.open("w", encoding=form.encoding, newline="") as file:
        assert write_csv(file, engine, None) == (1, 0)
    header, row = path.read_text(form.encoding).splitlines()[2:]
    assert header == f"studied_by;{';'.join(c.header for c in COLUMNS)}"
    assert row == f";{FIRST};Biscoe;46,1;13,2;211;4500;FEMALE"
    with records.lines_of(path) as (lines, columns):
        assert columns == ["studied_by", *(c.name for c in COLUMNS)]
        [(line, values)] = records.records(path, lines, columns)
    assert (line, values) == (4, row.split(";"))


def test_what_cannot_be_exported_is_said(
    command: Command, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "all.csv"
    target.write_text("before")
    code, _, errors = command("export", target)
    assert (code, target.read_text()) == (1, "before")
    assert "nobody gave feedback about a prediction in sqlite" in errors
    give(engine, [label("x", FIRST)])
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE feedback_0123abcd (id TEXT)")
    assert "left out, because they are for other columns: feedback_0123abcd" in command("export", target)[2]
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n")
    before = target.read_text()
    said = command("export", target, "--base", wrong)[2]
    assert f"{wrong}, line 1: the header is not that of this table: 0 of its 7 names are there" in said
    assert f"{tmp_path}/none.csv: No such file" in command("export", target, "--base", tmp_path / "none.csv")[2]
    assert "none/all.csv.new: No such file" in command("export", tmp_path / "none" / "all.csv")[2]
    assert f"{tmp_path}/none.db is not there" in command("export", "--url", f"sqlite:///{tmp_path}/none.db")[2]
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "empty.db").touch()
    assert "there is no journal in sqlite" in command("export", "--url", f"sqlite:///{tmp_path}/empty.db")[2]
    assert target.read_text() == before
    monkeypatch.delenv(URL)
    assert command("export") == (1, "", f"which journal? Set {URL} to its database, or name it with --url\n")
