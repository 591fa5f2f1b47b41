"""The journal of this process: requests leave lines in a queue, and a thread writes them."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from secrets import token_hex
from time import time_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import to_json
from starlette.responses import Response

from app.journal.labels import Labels
from app.journal.lookup import Lookup
from app.journal.writer import Appender, Bounds, Folder, prepare
from penguins.files import MEBIBYTE
from penguins.inference import Prediction, Record
from penguins.journal.files import ABSENT, FEEDBACK, PREDICTIONS, as_text, encoded
from penguins.schema import FEATURES, TARGET, Category

if TYPE_CHECKING:
    from app.monitoring.counts import Recorder
    from app.settings import Settings

log = logging.getLogger(__name__)

HEADER = "X-Request-ID"
_HEADER = HEADER.lower().encode()
# No comma and no quote, so that a line's second value is the id as it is.
_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_FEATURES = [c.name for c in FEATURES]
SECONDS_TO_WRITE = 0.25
SECONDS_TO_TIDY = 60
SECONDS_TO_STOP = 5
ROWS_AT_ONCE = 128  # made into lines within a third of a millisecond, with the code for it in the processor's cache
MOST_PIECES = 100_000 // ROWS_AT_ONCE  # some 15 MB, when the disk hangs
_NAMES = [*TARGET.values, *(value for c in FEATURES if isinstance(c, Category) for value in c.values)]
_ARE_PLAIN = not re.search(r'[][",\\\x00-\x1f]', "".join(_NAMES))  # no name that CSV or JSON would quote
Row = tuple[int, str, int | None, str, Mapping[str, Any], Prediction]


class Note(NamedTuple):
    """One request, for the journal to note what it was answered."""

    journal: Journal
    id: str

    def one(self, version: str, record: Record, prediction: Prediction) -> None:
        self.journal.put((time_ns(), self.id, None, version, record, prediction))

    def many(self, version: str, records: Sequence[Record], predictions: Iterable[Prediction], first: int = 0) -> None:
        """Note rows of a batch. Each has the request's id and its place, which begin with `first`."""
        now = time_ns()
        for place, (record, prediction) in enumerate(zip(records, predictions, strict=True), start=first):
            self.journal.put((now, self.id, place, version, record, prediction))

    @property
    def header(self) -> tuple[bytes, bytes]:
        return _HEADER, self.id.encode()

    def echo(self, response: Response) -> None:
        response.raw_headers.append(self.header)


class Journal:
    """Writes what it is given to files in a folder, a few times a second. No request waits for that, or fails."""

    def __init__(self, path: Path, bounds: Bounds, recorder: Recorder) -> None:
        self.path, self.bounds = path, bounds
        self.labels, self.lookup = Labels(path), Lookup(path)
        self._folder = Folder(path, bounds)
        self._predictions = Appender(self._folder, PREDICTIONS)
        self.feedback = Appender(self._folder, FEEDBACK)
        self._recorder = recorder
        self._rows: deque[Row] = deque()
        self._lines: deque[tuple[int, bytes]] = deque()  # and how many rows they are
        self._prefix, self._number = token_hex(8), count()
        self._formatting, self._writing = threading.Lock(), threading.Lock()
        self._stop = threading.Event()
        self._problem = ""

    @classmethod
    def of(cls, settings: Settings, recorder: Recorder) -> Journal | None:
        """Return the journal that the settings ask for, if any."""
        if not settings.journal_dir:
            return None
        bounds = Bounds(settings.journal_days, settings.journal_mb * MEBIBYTE)
        return cls(settings.journal_dir.absolute(), bounds, recorder)

    def note(self, headers: Iterable[tuple[bytes, bytes]]) -> Note:
        """Return a request's note, with the id that came, or one made here if none came that can be one."""
        given = [value for name, value in headers if name == _HEADER]
        if len(given) == 1 and _ID.fullmatch(given[0]):
            return Note(self, given[0].decode())
        return Note(self, f"{self._prefix}-{next(self._number)}")

    def put(self, row: Row) -> None:
        """Queue a row to be written, or count it as lost if there are too many."""
        if len(self._lines) >= MOST_PIECES:
            self._recorder.journal_lost(1)
            return
        self._rows.append(row)
        if len(self._rows) >= ROWS_AT_ONCE:
            self._format()

    def start(self) -> None:
        prepare(self.path)
        self._stop.clear()
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is queued, unless the disk takes too long."""
        self._stop.set()
        self._thread.join(SECONDS_TO_STOP)

    def flush(self) -> None:
        """Write what is queued now. Never raises: what cannot be written is lost, and counted."""
        self._format()
        with self._writing:
            for _ in range(len(self._lines)):
                rows, lines = self._lines.popleft()
                try:
                    self._predictions.append(lines)
                except Exception as error:  # the next ones may be written
                    self._recorder.journal_lost(rows)
                    self._say(f"predictions are lost, because {self.path} cannot be written to: {error}")
                else:
                    self._recorder.journal_written(rows)
                    self._say("")

    def _format(self) -> None:
        """Make lines of the rows, in the requests' threads: another would compete with them for Python's lock."""
        with self._formatting:
            if rows := [self._rows.popleft() for _ in range(len(self._rows))]:
                self._lines.append((len(rows), _lines_of(rows)))

    def _write(self) -> None:
        try:
            self.labels.refresh()  # after a restart, before it is asked for
        except OSError as error:
            log.error("the feedback in %s cannot be read: %s", self.path, error)
        while not self._stop.is_set():
            self._stop.wait(SECONDS_TO_WRITE)
            self.flush()
            self._look_after()
        self.flush()
        self._predictions.close()
        self.feedback.close()

    def _look_after(self) -> None:
        """Let go of files that are over, and of what is too old, also while nobody asks for predictions."""
        try:
            for appender in (self._predictions, self.feedback):
                appender.close_if_over()
            self._folder.tidy_after(SECONDS_TO_TIDY)
        except OSError as error:
            self._say(f"{self.path} cannot be tidied up: {error}")

    def _say(self, problem: str) -> None:
        """Log a problem once, until there is none or another."""
        if problem and problem != self._problem:
            log.error("%s", problem)
        elif self._problem and not problem:
            log.info("the journal is written again")
        self._problem = problem


def _lines_of(rows: Iterable[Row]) -> bytes:
    values = list(map(_values, rows))
    if not _ARE_PLAIN:
        return encoded(values)
    # JSON's lists are the same lines but for its brackets and quotes, and made in a third of the time.
    return to_json(values)[2:-2].replace(b"],[", b"\n").replace(b'"', b"") + b"\n"


def _values(row: Row) -> tuple[Any, ...]:
    nanoseconds, request_id, place, version, record, (label, probabilities) = row
    features = [record[name] for name in _FEATURES]
    if None in features:
        features = [ABSENT if value is None else value for value in features]
    prediction_id = request_id if place is None else f"{request_id}/{place}"
    found = [probabilities.get(name, ABSENT) for name in TARGET.values]
    return (as_text(nanoseconds), prediction_id, version, *features, label, *found)
