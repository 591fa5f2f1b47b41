"""The journal's files: whole lines, within bounds, whatever happens to the disk, the clock and the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd
import pytest

import app.journal.journal
import app.journal.writer
from app.journal.journal import ROWS_AT_ONCE, Journal
from app.journal.writer import Appender, Bounds, Folder, FolderError, prepare
from app.monitoring.counts import Recorder
from penguins.inference import Prediction
from penguins.journal.files import FEEDBACK, HEADERS, PREDICTIONS, encoded, files, header
from penguins.registry import PROJECT
from penguins.schema import EXAMPLE, FEATURES, NUMBERS, TARGET

Rows = Callable[[str], list[list[str]]]
FullDisk = Callable[[int], AbstractContextManager[None]]
DAY = 86_400
MONTH = Bounds(days=30, max_bytes=2**28)
SMALL = Bounds(days=30, max_bytes=2**20)
SURE = Prediction(TARGET.example, {label: float(label == TARGET.example) for label in TARGET.values})

# A worker: it appends lines until it is killed, and does not know of others.
WORKER = """
import sys
from pathlib import Path
from app.journal.writer import Appender, Bounds, Folder
from penguins.journal.files import HEADERS, PREDICTIONS, encoded
appender = Appender(Folder(Path(sys.argv[1]), Bounds(30, 2**28)), PREDICTIONS)
for number in range(10**9):
    row = ["2026-01-01T00:00:00.000000", f"{sys.argv[2]}-{number}", *["x" * 40] * (len(HEADERS[PREDICTIONS]) - 2)]
    appender.append(encoded([row]))
"""


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def journal(folder: Path, recorder: Recorder) -> Journal:
    """A journal whose thread does not run: it writes in `flush`."""
    return Journal(folder, MONTH, recorder)


def note(journal: Journal, number: int = 1) -> None:
    for _ in range(number):
        journal.note([]).one("v", EXAMPLE, SURE)


def counted(recorder: Recorder) -> tuple[int, int]:
    counts = recorder.counts(None, None)
    return counts.journal_rows, counts.journal_rows_lost


def as_number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def line(kind: str, name: str) -> bytes:
    return encoded([["2026-01-01T00:00:00.000000", name, *["x" * 100] * (len(HEADERS[kind]) - 2)]])


def test_pandas_reads_what_was_written(folder: Path, journal: Journal) -> None:
    sex = FEATURES[-1].name
    journal.note([(b"x-request-id", b"mine")]).one("v1", {**EXAMPLE, sex: None}, SURE)
    journal.note([(b"x-request-id", b"many")]).many("v1", [EXAMPLE] * 2, [SURE] * 2, first=7)
    journal.flush()
    (file,) = files(folder, PREDICTIONS)
    frame = pd.read_csv(file, parse_dates=["time"])
    assert list(frame["id"]) == ["mine", "many/7", "many/8"]
    assert abs(frame["time"][0] - pd.Timestamp.now("UTC").tz_localize(None)) < pd.Timedelta(days=1)
    assert frame[sex].isna().tolist() == [True, False, False]
    for column in NUMBERS:
        assert frame[column.name].tolist() == [EXAMPLE[column.name]] * 3
    assert set(frame[f"predicted_{TARGET.name}"]) == {TARGET.example}
    assert frame[[f"probability_{label}" for label in TARGET.values]].sum(axis=1).tolist() == [1.0] * 3


def test_a_request_id_is_taken_or_made(journal: Journal) -> None:
    for good in (b"a", b"x" * 128, b"1-67891233:abc/def+_.=@"):
        assert journal.note([(b"host", b"h"), (b"x-request-id", good)]).id == good.decode()
    made = set()
    for bad in ([b""], [b"x" * 129], [b"a,b"], [b'"a"'], [b"a b"], [b"a\n"], ["ä".encode()], [b"a", b"a"], []):
        made.add(journal.note([(b"x-request-id", value) for value in bad]).id)
    assert len(made) == 9
    assert all(len(one) < 40 for one in made)


def test_on_a_full_disk_rows_are_lost_and_counted_and_no_line_is_cut(
    folder: Path,
    journal: Journal,
    recorder: Recorder,
    rows: Rows,
    full_disk: FullDisk,
    caplog: pytest.LogCaptureFixture,
) -> None:
    note(journal, 2)
    journal.flush()
    (file,) = files(folder, PREDICTIONS)
    before = file.read_bytes()
    with full_disk(len(before) + 50):  # in the middle of the next line
        for _ in range(3):
            note(journal, 5)
            journal.flush()
    assert file.read_bytes() == before
    assert counted(recorder) == (2, 15)
    assert [r.message for r in caplog.records if "are lost" in r.message] == [
        f"predictions are lost, because {folder} cannot be written to: [Errno 27] File too large"
    ]
    note(journal)
    journal.flush()
    assert counted(recorder) == (3, 15)
    assert len(rows(PREDICTIONS)) == 3
    assert files(folder, PREDICTIONS) == [file]


def test_where_not_even_a_header_fits_no_files_pile_up(
    folder: Path, journal: Journal, recorder: Recorder, full_disk: FullDisk
) -> None:
    with full_disk(10):
        for _ in range(3):
            note(journal)
            journal.flush()
    assert counted(recorder) == (0, 3)
    assert len(files(folder, PREDICTIONS)) == 1
    note(journal)
    journal.flush()
    (file,) = files(folder, PREDICTIONS)
    assert file.read_bytes().startswith(header(PREDICTIONS))
    assert counted(recorder) == (1, 3)


def test_lines_are_those_that_csv_makes(
    folder: Path, journal: Journal, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {**EXAMPLE, FEATURES[-1].name: None, NUMBERS[0].name: 0.1 + 0.2, NUMBERS[1].name: 4500}
    tiny = Prediction(TARGET.example, dict(zip(TARGET.values, [1e-7, 1 / 3, 0.0], strict=True)))
    for is_plain in (True, False):
        monkeypatch.setattr(app.journal.journal, "_ARE_PLAIN", is_plain)
        for name in (b"a:b/c+d=e@f._-", b"2"):
            journal.note([(b"x-request-id", name)]).one("v", record, tiny)
        journal.flush()
    quick, other, *by_csv = ([as_number(value) for value in row[1:]] for row in rows(PREDICTIONS))
    assert [quick, other] == by_csv
    assert len(quick) == len(HEADERS[PREDICTIONS]) - 1


def test_a_queue_that_nobody_empties_is_bounded(
    journal: Journal, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.journal.journal, "MOST_PIECES", 2)
    note(journal, 2 * ROWS_AT_ONCE + 3)
    assert counted(recorder) == (0, 3)
    journal.flush()
    assert counted(recorder) == (2 * ROWS_AT_ONCE, 3)


def test_the_thread_writes_and_the_end_of_the_service_loses_nothing(
    journal: Journal, recorder: Recorder, rows: Rows
) -> None:
    journal.start()
    note(journal)
    deadline = time.monotonic() + 60
    while not rows(PREDICTIONS):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    note(journal, 250)
    journal.stop()
    assert len(rows(PREDICTIONS)) == 251
    assert counted(recorder) == (251, 0)


def test_workers_do_not_interleave_and_a_killed_one_loses_no_line_that_was_written(folder: Path, rows: Rows) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "plugins")])}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(folder), f"w{number}"], env=env) for number in range(5)
    ]
    try:
        deadline = time.monotonic() + 60
        while len(found := files(folder, PREDICTIONS)) < 5 or any(f.stat().st_size < 20_000 for f in found):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
    numbers: dict[str, list[int]] = {}
    for row in rows(PREDICTIONS):
        worker_name, _, number = row[1].partition("-")
        numbers.setdefault(worker_name, []).append(int(number))
    assert set(numbers) == {f"w{number}" for number in range(5)}
    for written in numbers.values():
        assert written == list(range(len(written)))


def test_the_oldest_predictions_go_before_there_are_too_many_bytes_and_feedback_stays(folder: Path, rows: Rows) -> None:
    both = Folder(folder, SMALL)
    predictions, feedback = Appender(both, PREDICTIONS), Appender(both, FEEDBACK)
    feedback.append(line(FEEDBACK, "kept"))
    feedback.close()
    lines = b"".join(line(PREDICTIONS, str(n)) for n in range(10))
    for _ in range(4 * SMALL.max_bytes // len(lines)):
        predictions.append(lines)
        assert sum(f.stat().st_size for f in folder.iterdir()) <= SMALL.max_bytes
    assert sum(f.stat().st_size for f in folder.iterdir()) > SMALL.max_bytes // 2
    assert all(f.stat().st_size <= SMALL.file_bytes for f in files(folder, PREDICTIONS))
    assert [row[1] for row in rows(FEEDBACK)] == ["kept"]
    for _ in range(2 * SMALL.max_bytes // len(lines)):  # alone, feedback is bounded as well
        feedback.append(b"".join(line(FEEDBACK, str(n)) for n in range(10)))
    assert sum(f.stat().st_size for f in folder.iterdir()) <= SMALL.max_bytes
    assert "kept" not in {row[1] for row in rows(FEEDBACK)}


def test_files_go_when_their_last_line_is_too_old_but_not_the_one_in_use(folder: Path, journal: Journal) -> None:
    old, young = folder / "predictions-a.csv", folder / "predictions-b.csv"
    other = folder / "notes.csv"
    note(journal)
    journal.flush()
    (own,) = files(folder, PREDICTIONS)
    for file, days in ((old, 31), (young, 29), (other, 99), (own, 99)):
        file.touch()
        os.utime(file, (time.time() - days * DAY,) * 2)
    Folder(folder, MONTH).tidy()  # of another process, for which none is in use
    assert set(folder.iterdir()) == {young, other}
    note(journal)  # into a new file, because the old one is gone
    journal.flush()
    (*_, new) = sorted(set(files(folder, PREDICTIONS)) - {young})
    os.utime(new, (time.time() - 99 * DAY,) * 2)
    journal._folder.tidy()
    assert new.exists()


def test_a_file_from_the_future_ages_from_now_on(folder: Path) -> None:
    file = folder / "feedback-20990101T000000Z-00000000.csv"
    file.touch()
    os.utime(file, (time.time() + 999 * DAY,) * 2)
    Folder(folder, MONTH).tidy()
    assert file.stat().st_mtime < time.time() + DAY


def test_a_clock_that_jumps_back_and_a_new_day_start_a_new_file(
    folder: Path, journal: Journal, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days in (10, 10, 7, 11):
        now = (20_000 + days) * DAY * 10**9
        monkeypatch.setattr(app.journal.writer, "time_ns", lambda now=now: now)
        note(journal)
        journal.flush()
        journal._look_after()
    assert len(files(folder, PREDICTIONS)) == 3
    assert len(rows(PREDICTIONS)) == 4


def test_a_file_that_somebody_deleted_is_followed_by_a_new_one(folder: Path, journal: Journal, rows: Rows) -> None:
    note(journal, 3)
    journal.flush()
    files(folder, PREDICTIONS)[0].unlink()
    note(journal)
    journal.flush()
    assert len(rows(PREDICTIONS)) == 1


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    prepare(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").stat().st_mode & 0o007 == 0
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match=r"API_JOURNAL_DIR is '.*file/x', which cannot be used: Not a directory"):
        prepare(tmp_path / "file" / "x")
