"""The journal of this process: requests leave rows in a queue, and a thread writes them."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, count
from secrets import token_hex
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Table, delete, insert, select

from app.monitoring.counts import Recorder
from app.serving.model_server import Predicted
from app.serving.observers import HEADER
from app.settings import Settings
from penguins.journal.tables import SEQ, TABLES, TIME, engine_of, file_of, make_file, make_tables, predictions
from penguins.schema import FEATURES

log = logging.getLogger(__name__)

_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_FEATURES = [c.name for c in FEATURES]
SECONDS_TO_WRITE, SECONDS_TO_TIDY, SECONDS_TO_STOP = 0.25, 60, 5
CHUNK_ROWS = 64  # requests wait a tenth of a millisecond for Python's lock
MAX_QUEUED_ROWS = 100_000  # queued, some 30 MB, when the database is slow
TIDY_CHUNK_ROWS = 5_000  # others write in between
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


class Journal:
    """Writes what it is given to a database, a few times a second. No request waits for that, or fails."""

    def __init__(self, url: str, recorder: Recorder, *, days: int, max_rows: int) -> None:
        self.engine, self.days, self.max_rows = engine_of(url), days, max_rows
        self._recorder = recorder
        self._rows: deque[tuple[Any, ...]] = deque()  # the values of `predictions`
        self._prefix, self._number = token_hex(8), count()
        self._lock, self._stop = threading.RLock(), threading.Event()
        self._has_tables, self._inode, self._problem = False, 0, ""
        self._clock = Clock()
        values = dict.fromkeys(predictions.columns.keys()[1:])
        statement = str(insert(predictions).inline().values(values).compile(self.engine))
        self._insert, _, self._one = statement.rpartition(" VALUES ")

    @classmethod
    def of(cls, settings: Settings, recorder: Recorder) -> Journal | None:
        """Return the journal that the settings ask for, if any. JournalError if there cannot be one."""
        if not settings.journal_url:
            return None
        journal = cls(settings.journal_url, recorder, days=settings.journal_days, max_rows=settings.journal_rows)
        if path := file_of(journal.engine):
            make_file(path)
        return journal

    def request_id(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the id that came with a request, or one made here if none came that can be one."""
        given = [value for name, value in headers if name == HEADER]
        if len(given) == 1 and _ID.fullmatch(given[0]):
            return given[0].decode()
        return f"{self._prefix}-{next(self._number)}"

    def predicted(self, predicted: Predicted, request_id: str | None) -> None:
        """Queue what was predicted, or count it as lost if too much is queued.

        The rows of a batch have the request's id, a slash and their place. They are made here, in the request's thread:
        another one would compete with it for Python's lock.
        """
        served, records, predictions, batch = predicted
        seconds, rest = divmod(time.time_ns(), 10**9)
        now = f"{_second(seconds)}.{rest // 1000:06d}"
        for place, (record, prediction) in enumerate(zip(records, predictions, strict=True)):
            if len(self._rows) >= MAX_QUEUED_ROWS:
                self._recorder.journal_lost(1)
                continue
            name = f"{request_id}/{place}" if batch else request_id
            values = [record[feature] for feature in _FEATURES]
            shares = to_json(prediction.probabilities).decode()
            self._rows.append((now, name, served.version, *values, prediction.label, shares))

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is queued, unless the database takes too long."""
        self._stop.set()
        self._thread.join(SECONDS_TO_STOP)
        self.engine.dispose()

    def prepare(self) -> None:
        """Make the tables, once, or again in another file if SQLite's was deleted or replaced."""
        with self._lock:
            if (path := file_of(self.engine)) and (not path.exists() or path.stat().st_ino != self._inode):
                self.engine.dispose()
                make_file(path)
                self._inode, self._has_tables = path.stat().st_ino, False
            if not self._has_tables:
                make_tables(self.engine)
                self._has_tables = True

    def flush(self) -> None:
        """Write what is queued now, in one transaction. Never raises: what cannot be written is lost, and counted."""
        with self._lock:
            if not (rows := [self._rows.popleft() for _ in range(len(self._rows))]):
                return
            try:
                self.prepare()
                with self.engine.begin() as connection:
                    for start in range(0, len(rows), CHUNK_ROWS):
                        some = rows[start : start + CHUNK_ROWS]
                        # One statement for all of them: between two, a thread waits for Python's lock.
                        statement = f"{self._insert} VALUES {', '.join([self._one] * len(some))}"
                        connection.exec_driver_sql(statement, tuple(chain.from_iterable(some)))
            except Exception as error:  # the next ones may be written
                self._has_tables = False  # they may be what is missing
                self._recorder.journal_lost(len(rows))
                self._say(f"predictions are lost, because the journal cannot be written: {error}")
            else:
                self._recorder.journal_written(len(rows))
                self._say("")

    def tidy(self) -> None:
        """Delete what is too old, if the clock can be trusted, and what is too much."""
        self.prepare()
        now = datetime.now(UTC).replace(tzinfo=None)
        with self.engine.connect() as connection:
            last = [select(table.c[TIME]).order_by(table.c[SEQ].desc()).limit(1) for table in TABLES]
            times = [connection.scalar(query) for query in last]
        steady = self._clock.is_steady(now, max((t for t in times if t), default=now))
        for table in TABLES:
            while self._tidied(table, now - timedelta(days=self.days) if steady else None):
                pass

    def _tidied(self, table: Table, oldest: datetime | None) -> bool:
        """Delete some of the first rows. Say whether there may be more."""
        seq = table.c[SEQ]
        with self.engine.begin() as connection:
            surplus = connection.scalar(select(seq).order_by(seq.desc()).offset(self.max_rows).limit(1)) or 0
            first = connection.execute(select(seq, table.c[TIME]).order_by(seq).limit(TIDY_CHUNK_ROWS))
            gone = [number for number, then in first if number <= surplus or (oldest and then < oldest)]
            if gone:
                connection.execute(delete(table).where(seq.in_(gone)))
        return len(gone) == TIDY_CHUNK_ROWS

    def _write(self) -> None:
        tidied = float("-inf")
        while not self._stop.wait(SECONDS_TO_WRITE):
            self.flush()
            if time.monotonic() - tidied >= SECONDS_TO_TIDY:
                tidied = time.monotonic()
                try:
                    self.tidy()
                except Exception as error:  # it is tried again
                    self._say(f"the journal cannot be tidied up: {error}")
        self.flush()

    def _say(self, problem: str) -> None:
        """Log a problem once, until there is none or another."""
        if problem != self._problem:
            log.log(logging.ERROR if problem else logging.INFO, problem or "the journal is written again")
        self._problem = problem


class Clock:
    """Says whether the clock can be trusted so far that rows are deleted for their age.

    One that has jumped ahead would make all of them old. It may also have jumped while the service was off, which looks
    as if nothing had been predicted for more than a day. In both cases, the clock has to go on evenly for a day first.
    """

    def __init__(self) -> None:
        self._zero: datetime | None = None  # when the machine's own time began
        self._even_since = -DAY

    def is_steady(self, now: datetime, newest: datetime) -> bool:
        """Judge the clock, at first by the time of the newest row, then by the time that has passed."""
        passed = timedelta(seconds=time.monotonic())
        expected, allowed = (newest, DAY) if self._zero is None else (self._zero + passed, MINUTE)
        if abs(now - expected) > allowed:
            self._even_since = passed
        self._zero = now - passed
        return passed - self._even_since >= DAY


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    """Return a time in UTC as SQLAlchemy keeps it in SQLite. `datetime` would take twice as long in each request."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
