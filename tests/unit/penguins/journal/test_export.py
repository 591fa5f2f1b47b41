"""The journal's command line: files that the DAG and other tools take, and what an earlier release has kept."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Engine, insert, select

from penguins.data.source import check_source, read_records
from penguins.journal.__main__ import main
from penguins.journal.export import ABSENT, labelled, pieces
from penguins.journal.tables import ID, TABLES, TIME, URL, engine_of, feedback, make_tables, predictions
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


def test_tables_are_written_whole_as_csv_and_as_parquet(command: Command, engine: Engine, tmp_path: Path) -> None:
    give(engine, [label("a", SECOND), label("b", THIRD, 1, **{FEATURES[-1].name: None})])
    shares = dict.fromkeys(TARGET.values, 1 / 3)
    row = {key: value for key, value in label("c", "").items() if key != TARGET.name} | {"probabilities": shares}
    with engine.begin() as connection:
        connection.execute(insert(predictions), [row])
    for table, rows in (("feedback", 2), ("predictions", 1)):
        for form in ("csv", "parquet"):
            assert command("export", "--table", table, tmp_path / f"x.{form}") == (0, "", f"{rows} rows\n")
        frame = pd.read_parquet(tmp_path / "x.parquet")
        assert list(frame.columns) == list(pd.read_csv(tmp_path / "x.csv").columns)
        assert len(frame) == rows
        assert str(frame[TIME].dtype) == "datetime64[us, UTC]"
        assert [frame[c.name].dtype.kind for c in NUMBERS] == ["f"] * len(NUMBERS)
        assert frame[FEATURES[-1].name].isna().sum() == (rows == 2)
    assert frame["probabilities"].map(json.loads).tolist() == [pytest.approx(shares)]
    assert command("export", tmp_path / "labels.parquet")[0] == 0
    assert pd.read_parquet(tmp_path / "labels.parquet")[TARGET.header].tolist() == [SECOND, THIRD]
    refused = command("export", tmp_path / "labels.parquet", "--base", CSV)
    assert refused == (1, "", "--base is for a CSV, and cannot be put into Parquet\n")


def test_memory_does_not_grow_with_the_journal(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penguins.journal.export.ROWS_AT_ONCE", 200)

    def peak(rows: int) -> int:
        give(engine, (label(f"{rows}-{n}", FIRST, n) for n in range(rows)))
        tracemalloc.start()
        try:
            assert sum(map(len, pieces(engine, labelled()))) >= rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # what is only made once
    assert peak(8_000) < 1.5 * peak(1_000)


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
    assert "the header is not that of this table: 0 of its names are there" in said
    assert f"{tmp_path}/none.csv: No such file" in command("export", target, "--base", tmp_path / "none.csv")[2]
    assert "none/all.csv.new: No such file" in command("export", tmp_path / "none" / "all.csv")[2]
    assert f"{tmp_path}/none.db is not there" in command("export", "--url", f"sqlite:///{tmp_path}/none.db")[2]
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "empty.db").touch()
    assert "there is no journal in sqlite" in command("export", "--url", f"sqlite:///{tmp_path}/empty.db")[2]
    assert target.read_text() == before
    monkeypatch.delenv(URL)
    assert command("export") == (1, "", f"which journal? Set {URL} to its database, or name it with --url\n")


# What an earlier release has written, by its own code.
HEADER = f"time,id,version,{','.join(c.name for c in FEATURES)},predicted_{TARGET.name}"
RECORD = ",".join(str(EXAMPLE[c.name]) for c in FEATURES)
PREDICTED = f"2026-01-01T00:00:00.000001,a,v,{RECORD},{FIRST}"


def test_the_files_of_an_earlier_release_are_taken_over_once(command: Command, engine: Engine, tmp_path: Path) -> None:
    shares = ["0.5", ABSENT, "0.25"]
    kinds = ",".join(f"probability_{label}" for label in TARGET.values)
    lines = [
        f"{HEADER},{kinds}",
        f"{PREDICTED},{','.join(shares)}",
        f"{PREDICTED.replace(',a,', ',a/1,').replace(str(EXAMPLE[FEATURES[-1].name]), ABSENT)},{','.join(shares)}",
        PREDICTED,  # cut off
    ]
    (tmp_path / "predictions-20260101T000000Z-0123abcd.csv").write_text("\n".join(lines))
    (tmp_path / "predictions-20260102T000000Z-0123abcd.csv").write_text("time,id,other\n2026-01-01T00:00:00.0,a,b\n")
    corrected = PREDICTED.replace("00:00:00", "00:00:05")
    (tmp_path / "feedback-a.csv").write_text(f"{HEADER},{TARGET.name}\n{corrected},{SECOND}\n{PREDICTED},{THIRD}\n")
    (tmp_path / "feedback-b.csv").write_text(f"{HEADER},{TARGET.name}\n{PREDICTED},{FIRST}\n")
    for _ in range(2):
        code, _, said = command("import", tmp_path)
        assert code == 0
        assert "predictions-20260102T000000Z-0123abcd.csv: left out, because it is for other columns" in said
        with engine.connect() as connection:
            first, second = connection.execute(select(predictions)).mappings().all()
            (kept,) = connection.execute(select(feedback)).mappings().all()
    assert "predictions-20260101T000000Z-0123abcd.csv: 0 rows are taken over" in said
    assert (first[ID], second[ID], first["probabilities"]) == ("a", "a/1", {TARGET.values[0]: 0.5, THIRD: 0.25})
    assert first[TIME] == START + timedelta(microseconds=1)
    assert [first[c.name] for c in FEATURES] == [EXAMPLE[c.name] for c in FEATURES]
    assert second[FEATURES[-1].name] is None
    assert (kept[ID], kept[TARGET.name]) == ("a", SECOND)
    assert command("import", tmp_path / "none")[2].startswith("there are no files of a journal in")
    assert len(TABLES) == 2
