"""What feedback said last about each prediction, from the files of all processes."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from penguins.journal.files import FEEDBACK, files, pieces, rows_of
from penguins.schema import TARGET

_PLACE = {label: place for place, label in enumerate(TARGET.values)}
_NO_DIGITS = str.maketrans("", "", "-:T.")
_BITS = 32


class Outcome(NamedTuple):
    """What a version predicted, and what was true."""

    version: str
    predicted: str
    truth: str


class Label(NamedTuple):
    """What feedback said, and when."""

    time: datetime
    truth: str


class Labels:
    """Reads what was appended to the feedback files since the last look, and counts outcomes as it goes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._read: dict[Path, tuple[int, int]] = {}  # the inode, and how far it was read
        # By the hash of the id: its digits of time, then the truth, so that all replicas agree on which is the last,
        # then the place of its outcome, all in one number. There may be millions.
        self._last: dict[int, int] = {}
        self._places: dict[Outcome, int] = {}
        self._counts: list[int] = []

    def refresh(self) -> None:
        """Read what is new. If a file was deleted or edited, read all of them again."""
        with self._lock:
            found = {path: path.stat() for path in files(self._folder, FEEDBACK)}
            for path, (inode, end) in self._read.items():
                if path not in found or found[path].st_ino != inode or found[path].st_size < end:
                    self._forget()
                    break
            for path, stat in found.items():
                _, end = self._read.get(path, (0, 0))
                if stat.st_size > end:
                    for start, lines in pieces(path, FEEDBACK, end):
                        for row in rows_of(lines, FEEDBACK):
                            self._add(row)
                        end = start + len(lines)
                self._read[path] = stat.st_ino, end

    def _add(self, row: list[str]) -> None:
        outcome = Outcome(row[2], row[-2], row[-1])
        digits = row[0].translate(_NO_DIGITS)
        if outcome.truth not in _PLACE or len(digits) != 20 or not digits.isdecimal():
            return
        place = self._places.setdefault(outcome, len(self._places))
        if place == len(self._counts):
            self._counts.append(0)
        entry = (int(digits) << _BITS | _PLACE[outcome.truth]) << _BITS | place
        key = hash(row[1])
        if (before := self._last.get(key, -1)) < entry:
            if before >= 0:
                self._counts[before & (1 << _BITS) - 1] -= 1
            self._counts[place] += 1
            self._last[key] = entry

    def last(self, prediction_id: str) -> Label | None:
        """Return what feedback said last about a prediction."""
        with self._lock:
            if (entry := self._last.get(hash(prediction_id))) is None:
                return None
        time = datetime.strptime(f"{entry >> 2 * _BITS:020d}", "%Y%m%d%H%M%S%f")  # noqa: DTZ007 - as in the file
        return Label(time, TARGET.values[entry >> _BITS & (1 << _BITS) - 1])

    def counts(self) -> Counter[Outcome]:
        """Return how many predictions had which outcome, of all versions."""
        with self._lock:
            return Counter(dict(zip(self._places, self._counts, strict=True)))


def after(label: Label) -> datetime:
    """Return the first moment after a label, whatever the clock says."""
    return label.time + timedelta(microseconds=1)
