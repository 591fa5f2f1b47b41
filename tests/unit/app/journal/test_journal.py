"""The journal's writer: nobody waits for it, and what it keeps is bounded, whatever the disk and the clock do."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Engine, insert
from sqlalchemy.exc import OperationalError

import app.journal.journal
from app.journal.journal import DAY, Clock, Journal
from app.monitoring.counts import Recorder
from app.serving.model_server import Predicted, Served
from app.settings import Settings
from penguins.inference import Prediction
from penguins.journal import tables
from penguins.journal.tables import (
    TABLES,
    JournalError,
    engine_of,
    feedback,
    file_of,
    make_file,
    make_tables,
    own,
    predictions,
)
from penguins.registry import PROJECT
from penguins.schema import EXAMPLE, FEATURES, NUMBERS, TARGET

Rows = Callable[[str], list[dict[str, Any]]]
FullDisk = Callable[[int], AbstractContextManager[None]]
SURE = Prediction(TARGET.example, {label: float(label == TARGET.example) for label in TARGET.values})

# A worker: it notes and writes rows until it is killed, and does not know of others.
WORKER = """
import sys
from app.journal.journal import Journal
from app.monitoring.counts import Recorder
from app.serving.model_server import Predicted, Served
from penguins.inference import Prediction
from penguins.schema import EXAMPLE
journal = Journal(sys.argv[1], Recorder(), days=30, max_rows=10**6)
made = Predicted(Served({"version": "v"}, None, None), [EXAMPLE], [Prediction("x", {})], batch=False)
for number in range(10**9):
    journal.predicted(made, f"{sys.argv[2]}-{number}")
    journal.flush()
    assert not journal._problem, journal._problem
"""


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def journal(url: str, recorder: Recorder) -> Journal:
    """A journal whose thread does not run: it writes in `flush`."""
    return new(url, recorder)


def new(url: str, recorder: Recorder, rows: int = 10**6) -> Journal:
    journal = Journal.of(Settings(journal_url=url, journal_rows=rows), recorder)
    assert journal is not None
    return journal


def made(*records: dict[str, Any], version: str = "v") -> Predicted:
    """Return a prediction of one record, or a batch of several."""
    records = records or (EXAMPLE,)
    served: Any = Served({"version": version}, None, None)  # type: ignore[arg-type]
    return Predicted(served, records, [SURE] * len(records), batch=len(records) > 1)


def note(journal: Journal, number: int = 1) -> None:
    for _ in range(number):
        journal.predicted(made(), journal.request_id([]))


def counted(recorder: Recorder) -> tuple[int, int]:
    counts = recorder.counts()
    return counts.journal_rows, counts.journal_rows_lost


def put(journal: Journal, table: Any, count: int, when: datetime) -> None:
    """Put rows of that time into a table."""
    journal.prepare()
    others = {c.name: EXAMPLE[c.name] for c in FEATURES} | {f"predicted_{TARGET.name}": TARGET.example}
    if table is feedback:
        others[TARGET.name] = TARGET.example
    rows = [{"time": when, "id": f"{when}-{n}", "version": "v", **others} for n in range(count)]
    with journal.engine.begin() as connection:
        connection.execute(insert(table), rows)


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def test_pandas_reads_what_was_written(url: str, journal: Journal) -> None:
    sex = FEATURES[-1].name
    journal.predicted(made({**EXAMPLE, sex: None}), "mine")
    journal.predicted(made(EXAMPLE, EXAMPLE), "many")
    journal.flush()
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        frame = pd.read_sql("SELECT * FROM predictions", connection, parse_dates=["time"])
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert list(frame["id"]) == ["mine", "many/0", "many/1"]
    assert abs(frame["time"][0] - pd.Timestamp.now("UTC").tz_localize(None)) < pd.Timedelta(hours=1)
    assert frame[sex].isna().tolist() == [True, False, False]
    for column in NUMBERS:
        assert frame[column.name].tolist() == [EXAMPLE[column.name]] * 3
    assert set(frame[f"predicted_{TARGET.name}"]) == {TARGET.example}
    assert pd.DataFrame(frame["probabilities"].map(json.loads).tolist())[TARGET.example].tolist() == [1] * 3


def test_a_request_id_is_taken_or_made(journal: Journal) -> None:
    for good in (b"a", b"x" * 128, b"1-67891233:abc/def+_.=@"):
        assert journal.request_id([(b"host", b"h"), (b"x-request-id", good)]) == good.decode()
    made = set()
    for bad in ([b""], [b"x" * 129], [b"a,b"], [b'"a"'], [b"a b"], [b"a\n"], ["ä".encode()], [b"a", b"a"], []):
        made.add(journal.request_id([(b"x-request-id", value) for value in bad]))
    assert len(made) == 9
    assert all(len(one) < 40 for one in made)


def test_on_a_full_disk_rows_are_lost_and_counted_and_written_again_when_there_is_space(
    journal: Journal, recorder: Recorder, rows: Rows, full_disk: FullDisk, caplog: pytest.LogCaptureFixture
) -> None:
    note(journal, 2)
    journal.flush()
    path = file_of(journal.engine)
    assert path is not None
    with full_disk(path.with_name(f"{path.name}-wal").stat().st_size + 50):
        for _ in range(3):
            note(journal, 5)
            journal.flush()
    assert counted(recorder) == (2, 15)
    assert len([r for r in caplog.records if "predictions are lost, because the journal" in r.message]) == 1
    note(journal)
    journal.flush()
    assert counted(recorder) == (3, 15)
    assert len(rows("predictions")) == 3


def test_a_database_that_somebody_writes_to_for_too_long_costs_rows_and_no_more(
    url: str, journal: Journal, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SECONDS_TO_WAIT", 0.1)
    hasty = new(url, recorder)
    note(hasty)
    hasty.flush()
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN IMMEDIATE")
        note(hasty)
        hasty.flush()
        assert counted(recorder) == (1, 1)
    note(hasty)
    hasty.flush()
    assert counted(recorder) == (2, 1)


def test_a_file_that_somebody_deleted_and_a_table_that_somebody_dropped_are_made_again(
    url: str, recorder: Recorder, rows: Rows
) -> None:
    path, replicas = Path(url.removeprefix("sqlite:///")), [new(url, recorder), new(url, recorder)]
    for journal in replicas:
        note(journal, 3)
        journal.flush()
    path.unlink()
    for number, journal in enumerate(replicas, start=1):
        note(journal)
        journal.flush()
        assert len(rows("predictions")) == number
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE predictions")
    note(replicas[0])
    replicas[0].flush()
    assert counted(recorder) == (8, 1)
    note(replicas[0])
    replicas[0].flush()
    assert counted(recorder) == (9, 1)
    assert len(rows("predictions")) == 1


def test_a_request_and_the_thread_make_the_tables_once(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    makers: list[str] = []

    def make(_: Engine) -> None:
        makers.append(threading.current_thread().name)
        time.sleep(0.05)

    monkeypatch.setattr(app.journal.journal, "make_tables", make)
    threads = [threading.Thread(target=journal.prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(makers) == 1


def test_a_queue_that_nobody_empties_is_bounded(
    journal: Journal, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.journal.journal, "MAX_QUEUED_ROWS", 200)
    note(journal, 203)
    assert counted(recorder) == (0, 3)
    journal.flush()
    assert counted(recorder) == (200, 3)


def test_the_thread_writes_and_the_end_of_the_service_loses_nothing(
    journal: Journal, recorder: Recorder, rows: Rows
) -> None:
    journal.start()
    note(journal)
    deadline = time.monotonic() + 60
    while counted(recorder) == (0, 0):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    note(journal, 250)
    journal.stop()
    assert len(rows("predictions")) == 251
    assert counted(recorder) == (251, 0)


def test_workers_write_side_by_side_and_a_killed_one_loses_no_row_that_was_written(url: str, rows: Rows) -> None:
    make_file(Path(url.removeprefix("sqlite:///")))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "plugins")])}
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, url, f"w{number}"], env=env) for number in range(3)]
    numbers: dict[str, list[int]] = {}
    try:
        deadline = time.monotonic() + 120
        while len(numbers) < 3 or any(len(written) < 20 for written in numbers.values()):
            assert time.monotonic() < deadline
            assert all(worker.poll() is None for worker in workers)
            time.sleep(0.1)
            numbers = numbers_in(rows)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
    after = numbers_in(rows)
    for name, written in numbers.items():
        assert after[name][: len(written)] == written
        assert after[name] == list(range(len(after[name])))


def numbers_in(rows: Rows) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    with suppress(OperationalError):  # the tables are not there yet
        for row in rows("predictions"):
            name, _, number = row["id"].partition("-")
            numbers.setdefault(name, []).append(int(number))
    return numbers


def test_too_many_predictions_go_and_a_flood_of_feedback_pushes_none_out(
    url: str, recorder: Recorder, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.journal.journal, "TIDY_CHUNK_ROWS", 7)
    journal = new(url, recorder, rows=50)
    put(journal, predictions, 80, now())
    put(journal, feedback, 80, now())
    journal.tidy()
    for name in ("predictions", "feedback"):
        assert [int(row["id"].rpartition("-")[2]) for row in rows(name)] == list(range(30, 80))


def test_rows_go_when_they_are_too_old(journal: Journal, rows: Rows) -> None:
    for days in (31, 29, 0):
        for table in TABLES:
            put(journal, table, 3, now() - timedelta(days=days))
    journal.tidy()
    for name in ("predictions", "feedback"):
        assert len(rows(name)) == 6


def test_a_clock_that_has_jumped_deletes_nothing_until_it_has_gone_on_for_a_day(
    url: str, recorder: Recorder, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(datetime):
        ahead = timedelta()

        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + cls.ahead

    monkeypatch.setattr(app.journal.journal, "datetime", Later)
    journal = new(url, recorder)
    put(journal, predictions, 3, now())
    journal.tidy()
    Later.ahead = timedelta(days=400)
    journal.tidy()
    new(url, recorder).tidy()  # of a service that started after the jump
    assert len(rows("predictions")) == 3
    passed = time.monotonic()
    monkeypatch.setattr(app.journal.journal.time, "monotonic", lambda: passed + DAY.total_seconds() + 1)
    Later.ahead += DAY
    journal.tidy()
    assert rows("predictions") == []


def test_a_clock_is_judged_by_the_newest_row_and_then_by_the_time_that_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = 1000.0
    monkeypatch.setattr(app.journal.journal.time, "monotonic", lambda: passed)
    noon = datetime(2026, 1, 1, 12)  # noqa: DTZ001 - UTC, as in the tables
    assert Clock().is_steady(noon, noon - timedelta(hours=23))
    assert not Clock().is_steady(noon, noon - timedelta(hours=25))
    assert not Clock().is_steady(noon, noon + timedelta(hours=25))
    clock = Clock()
    assert clock.is_steady(noon, noon)
    passed += 60
    assert clock.is_steady(noon + timedelta(seconds=60), noon)
    assert not clock.is_steady(noon - timedelta(hours=1), noon)
    passed += 86_399
    assert not clock.is_steady(noon + timedelta(hours=23, seconds=-1), noon)
    passed += 1
    assert clock.is_steady(noon + timedelta(hours=23), noon)


def columns_of(url: str) -> dict[str, set[str]]:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: {row[1] for row in connection.execute(f"PRAGMA table_info({name})")} for name in names}


def test_tables_of_other_columns_are_kept_and_found_again(url: str, journal: Journal, recorder: Recorder) -> None:
    note(journal)
    journal.flush()
    first, last = FEATURES[0].name, FEATURES[-1].name
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:  # as another schema has made them
        for (index,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND sql != ''"
        ).fetchall():
            connection.execute(f"DROP INDEX {index}")
        connection.execute(f"ALTER TABLE predictions DROP COLUMN {last}")
        connection.execute("ALTER TABLE feedback ADD COLUMN more")
    changed = new(url, recorder)
    note(changed, 2)
    changed.flush()
    assert not changed._problem
    found = columns_of(url)
    (kept,) = (name for name in found if name.startswith("predictions_"))
    (labels,) = (name for name in found if name.startswith("feedback_"))
    assert last not in found[kept]
    assert "more" in found[labels]
    assert {first, last} <= found["predictions"]
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("predictions", kept)]
        assert counts == [2, 1]
        mine = tables._mark(predictions.columns.keys())
        connection.execute(f"ALTER TABLE predictions RENAME TO predictions_{mine}")  # the schema was another in between
        connection.execute(f"ALTER TABLE {kept} RENAME TO predictions")
    make_tables(engine_of(url))
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("predictions", kept)]
        assert counts == [2, 1]


def test_names_that_the_columns_have_already_get_an_underscore() -> None:
    assert own(FEATURES[0].name.upper()) == f"{FEATURES[0].name.upper()}_"
    assert own("time") == "time"


def test_what_is_no_database_is_named(tmp_path: Path, recorder: Recorder) -> None:
    for url in ("journal.db", "nosuch://x", "mysql+nosuch://x"):
        with pytest.raises(JournalError, match=r"API_JOURNAL_URL is no URL of a database: .* Accepted: sqlite:////"):
            new(url, recorder)
    (tmp_path / "file").touch()
    (tmp_path / "text.db").write_text("this is text, and long enough to be looked at as a database" * 100)
    for path in (tmp_path / "file" / "x.db", tmp_path / "text.db"):
        with pytest.raises(JournalError, match=rf"API_JOURNAL_URL names {path}, which cannot be written: "):
            new(f"sqlite:///{path}", recorder)
    new(f"sqlite:///{tmp_path}/new/folder/x.db", recorder)
    assert (tmp_path / "new" / "folder" / "x.db").stat().st_mode & 0o777 == 0o660
