"""The counts of one worker.

Requests are queued, and counted a few hundred at a time or when the counts are read. A prediction takes microseconds,
and prometheus_client's own counters would take as long.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np

from app.serving.model_server import Predicted, Served
from penguins.data.drift import Drift
from penguins.inference import Record
from penguins.schema import TARGET

# Upper bounds of the latency buckets, in seconds. One more bucket holds what takes longer.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
NANOSECONDS = tuple(round(bound * 1e9) for bound in BOUNDS)
CHUNK_REQUESTS = 256  # requests, counted together within a quarter of a millisecond


def no_answers() -> list[int]:
    return [0] * (len(BOUNDS) + 2)


@dataclass
class Counts:
    """The counts of one worker, or of several added up."""

    # By endpoint, status and the key's name: the responses per latency bucket, then the sum of their nanoseconds.
    answers: dict[tuple[str, int, str], list[int]] = field(default_factory=lambda: defaultdict(no_answers))
    predictions: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(TARGET.values, 0)))
    loads: int = 0
    rejections: int = 0
    journal_rows: int = 0
    journal_rows_lost: int = 0
    # The rows that `version` predicted, by feature and bin.
    version: str | None = None
    drift: dict[str, list[int]] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        for key, found in other.answers.items():
            self.answers[key] = add_up(self.answers[key], found)
        self.predictions.update(other.predictions)
        self.loads += other.loads
        self.rejections += other.rejections
        self.journal_rows += other.journal_rows
        self.journal_rows_lost += other.journal_rows_lost
        if self.version == other.version:
            self.drift = {name: add_up(counts, other.drift[name]) for name, counts in self.drift.items()}


def add_up(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


class Recorder:
    """Records requests, predictions and versions, from any thread."""

    def __init__(self) -> None:
        self._counts = Counts()
        # Queued, not counted yet. A deque is thread-safe without a lock.
        self._answered: deque[tuple[str, int, str, int]] = deque()
        self._predicted: deque[tuple[Served, Record, str]] = deque()
        self._drifts: WeakKeyDictionary[Served, Drift] = WeakKeyDictionary()
        self._lock = threading.Lock()  # batches and the pipeline's own predictions are counted in other threads

    def answered(self, endpoint: str, status: int, nanoseconds: int, key: str = "") -> None:
        """Queue one request. Counting each on its own would take several microseconds."""
        self._answered.append((endpoint, status, key, nanoseconds))
        if len(self._answered) >= CHUNK_REQUESTS:
            with self._lock:
                self._count_queued()

    def predicted(self, predicted: Predicted, _: str | None = None) -> None:
        """Queue one prediction, which is counted together with its request; or count a batch."""
        served, records, predictions, batch = predicted
        if not batch:
            self._predicted.append((served, records[0], predictions[0].label))  # and nothing else stays in memory
            return
        drift, labels = self.drift_of(served), Counter(prediction.label for prediction in predictions)
        found = drift.counts_of(records)  # takes milliseconds, so outside the lock
        with self._lock:
            self._counts.predictions.update(labels)
            drift.add_counts(found)

    def _count_queued(self) -> None:
        """Count what is queued; the caller holds the lock."""
        predicted = [self._predicted.popleft() for _ in range(len(self._predicted))]
        self._counts.predictions.update([label for _, _, label in predicted])
        for served in {served for served, _, _ in predicted}:
            drift = self.drift_of(served)
            drift.add_counts(drift.counts_of([record for by, record, _ in predicted if by is served]))
        answered: dict[tuple[str, int, str], list[int]] = defaultdict(list)
        for endpoint, status, key, nanoseconds in [self._answered.popleft() for _ in range(len(self._answered))]:
            answered[endpoint, status, key].append(nanoseconds)
        for group, times in answered.items():
            bins = np.bincount(np.searchsorted(NANOSECONDS, times), minlength=len(BOUNDS) + 1).tolist()
            self._counts.answers[group] = add_up(self._counts.answers[group], [*bins, sum(times)])

    def drift_of(self, served: Served) -> Drift:
        """Return what was counted of a version's records since it took over."""
        return self._drifts.get(served) or self._drifts.setdefault(served, Drift(served.manifest["histograms"]))

    def journal_written(self, rows: int) -> None:
        with self._lock:
            self._counts.journal_rows += rows

    def journal_lost(self, rows: int) -> None:
        with self._lock:
            self._counts.journal_rows_lost += rows

    def counts(self, served: Served | None = None) -> Counts:
        """Return a copy of this worker's counts, with the drift of the serving version."""
        counts = Counts()
        with self._lock:
            self._count_queued()
            counts.add(self._counts)
            if served:
                counts.version, counts.drift = served.version, self.drift_of(served).counts()
        return counts
