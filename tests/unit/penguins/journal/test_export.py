"""The journal's command line: a CSV that the DAG takes, in flat memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from penguins.data.source import check_source, read_records
from penguins.journal import export
from penguins.journal.__main__ import main
from penguins.journal.export import labelled_rows
from penguins.journal.files import ABSENT, DIRECTORY, FEEDBACK, HEADERS, PREDICTIONS, encoded, header, pieces, rows_of
from penguins.registry import PROJECT
from penguins.schema import COLUMNS, CSV_NAME, EXAMPLE, FEATURES, TARGET

Command = Callable[..., tuple[int, str, str]]
CSV = PROJECT / "dags" / CSV_NAME


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run the command line on the journal in tmp_path; return exit code, output, errors."""
    monkeypatch.setenv(DIRECTORY, str(tmp_path))

    def command(*arguments: object) -> tuple[int, str, str]:
        code = main(["export", *map(str, arguments)])
        return (code, *capsys.readouterr())

    return command


def label(name: str, truth: str, second: int = 0, **changed: Any) -> list[str]:
    """Return a row of feedback."""
    record = {**EXAMPLE, **changed}
    values = [ABSENT if record[c.name] is None else str(record[c.name]) for c in FEATURES]
    return [f"2026-01-01T00:00:{second:02d}.000000", name, "v", *values, TARGET.values[0], truth]


def give(folder: Path, name: str, rows: Iterable[list[str]]) -> Path:
    file = folder / f"feedback-{name}.csv"
    file.write_bytes(header(FEEDBACK) + encoded(rows))
    return file


def test_the_dag_takes_what_is_exported_behind_its_own_rows(command: Command, tmp_path: Path) -> None:
    optional = [c.name for c in FEATURES if not c.required]
    missing: list[dict[str, Any]] = [{optional[n % len(optional)]: None} for n in range(len(TARGET.values))]
    rows = [label(f"{n}", truth, **missing[n]) for n, truth in enumerate(TARGET.values)]
    give(tmp_path, "a", rows)
    target = tmp_path / "all.csv"
    assert command(target, "--base", CSV) == (0, "", f"3 predictions whose truth is known, after 344 rows of {CSV}\n")
    base, both = check_source(CSV, test_size=0.2), check_source(target, test_size=0.2)
    assert list(read_records(both))[:344] == list(read_records(base))
    exported = list(read_records(both))[344:]
    expected = [dict(zip(HEADERS[FEEDBACK], row, strict=True)) for row in rows]
    assert exported == [[row[c.name] for c in COLUMNS] for row in expected]
    assert sum(value == ABSENT for row in exported for value in row) == 3
    assert not list(tmp_path.glob("*.new"))


def test_the_last_truth_counts_whichever_file_it_is_in(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PART_BYTES", 200)  # so that there are several parts
    first, second, third = TARGET.values
    give(tmp_path, "a", [label("x", first, 5), label("y", first, 1), label("x", second, 4)])
    give(tmp_path, "b", [label("y", third, 2), label("x", third, 3), *[label(f"z{n}", second) for n in range(40)]])
    code, output, _ = command()
    assert code == 0
    lines = output.splitlines()
    assert lines[0] == CSV.read_text().splitlines()[0]
    assert sorted(line.split(",")[0] for line in lines[1:]) == sorted([first, third, *[second] * 40])


def test_a_line_that_was_cut_off_does_not_count_wherever_it_was(tmp_path: Path) -> None:
    for kind in (PREDICTIONS, FEEDBACK):
        file = tmp_path / f"{kind}-a.csv"
        rows = [[f"{n}", *["x"] * (len(HEADERS[kind]) - 1)] for n in range(2)]
        whole = header(kind) + encoded(rows)
        for length in range(len(whole) + 1):
            file.write_bytes(whole[:length])
            read = [row for _, lines in pieces(file, kind) for row in rows_of(lines, kind)]
            assert read == rows[: max(whole[:length].count(b"\n") - 1, 0)]


def test_pieces_continue_where_the_last_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penguins.journal.files.PIECE_BYTES", 100)
    file = give(tmp_path, "a", [label(str(n), TARGET.values[0]) for n in range(5)])
    found = list(pieces(file, FEEDBACK))
    assert len(found) > 2
    assert b"".join(lines for _, lines in found) == file.read_bytes().removeprefix(header(FEEDBACK))
    for number, (start, _) in enumerate(found):
        rest = b"".join(lines for _, lines in found[number:])
        assert b"".join(lines for _, lines in pieces(file, FEEDBACK, start)) == rest


def test_memory_does_not_grow_with_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PART_BYTES", 2**16)
    monkeypatch.setattr("penguins.journal.files.PIECE_BYTES", 2**14)

    def peak(rows: int) -> int:
        # Half of them correct an earlier label.
        give(tmp_path, "a", (label(str(n // 2), TARGET.values[n % 2], n % 2) for n in range(rows)))
        tracemalloc.start()
        try:
            assert sum(1 for _ in labelled_rows(tmp_path)) == rows // 2
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(8_000) < 1.5 * peak(2_000)


def test_what_cannot_be_exported_is_said(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "all.csv"
    target.write_text("before")
    code, _, errors = command(target)
    assert (code, target.read_text()) == (1, "before")
    assert "nobody gave feedback about a prediction in" in errors
    give(tmp_path, "a", [label("x", TARGET.values[0])])
    (tmp_path / "feedback-b.csv").write_text("time,id,other\n")
    assert "feedback-b.csv is left out: it was written for other columns" in command(target)[2]
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n")
    before = target.read_text()
    assert "the header is not that of this table: 0 of its names are there" in command(target, "--base", wrong)[2]
    assert f"{tmp_path}/none.csv: No such file" in command(target, "--base", tmp_path / "none.csv")[2]
    assert "none/all.csv.new: No such file" in command(tmp_path / "none" / "all.csv")[2]
    assert "none is no folder" in command("--dir", tmp_path / "none")[2]
    assert target.read_text() == before
    monkeypatch.delenv(DIRECTORY)
    assert command() == (1, "", f"which journal? Set {DIRECTORY} to its folder, or name it with --dir\n")


def test_names_that_the_columns_have_already_get_an_underscore() -> None:
    from penguins.journal.files import _unlike

    taken = {"id", "time", "time_"}
    assert list(_unlike(["Time", "id", "version", "probability_a", "probability_A"], taken)) == [
        "Time__",
        "id_",
        "version",
        "probability_a",
        "probability_A_",
    ]
