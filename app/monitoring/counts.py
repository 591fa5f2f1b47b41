"""What one worker counts.

Requests are only noted, and counted some hundred together or when somebody asks: a prediction takes microseconds, and
prometheus_client's own counters as many.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from penguins.data.drift import Drift
from penguins.inference import Record
from penguins.schema import TARGET

# Upper bounds of the latencies' bins, in seconds; what takes longer falls into one more.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
NANOSECONDS = tuple(round(bound * 1e9) for bound in BOUNDS)
AT_ONCE = 256  # requests, counted together within a quarter of a millisecond


def no_answers() -> list[int]:
    return [0] * (len(BOUNDS) + 2)


@dataclass
class Counts:
    """What one worker counts, or several together."""

    # By endpoint and status: the answers in each of the latencies' bins, and at last their nanoseconds.
    answers: dict[tuple[str, int], list[int]] = field(default_factory=lambda: defaultdict(no_answers))
    predictions: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(TARGET.values, 0)))
    loads: int = 0
    rejections: int = 0
    # The rows asked of `version`, by feature and bin.
    version: str | None = None
    drift: dict[str, list[int]] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        for key, found in other.answers.items():
            self.answers[key] = add_up(self.answers[key], found)
        self.predictions.update(other.predictions)
        self.loads += other.loads
        self.rejections += other.rejections
        if self.version == other.version:
            self.drift = {name: add_up(counts, other.drift[name]) for name, counts in self.drift.items()}


def add_up(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


class Recorder:
    """Takes note of requests, predictions and versions, from any thread."""

    def __init__(self) -> None:
        self._counts = Counts()
        # What was noted and is yet to be counted; a deque takes and gives from several threads without a lock.
        self._answered: deque[tuple[str, int, int]] = deque()
        self._predicted: deque[tuple[Drift, Record, str]] = deque()
        self._lock = threading.Lock()  # batches, and what the pipeline predicts, are counted by other threads

    def answered(self, endpoint: str, status: int, nanoseconds: int) -> None:
        """Note one request, to be counted soon: one by one, that would cost each several microseconds."""
        self._answered.append((endpoint, status, nanoseconds))
        if len(self._answered) >= AT_ONCE:
            with self._lock:
                self._count_noted()

    def predicted(self, drift: Drift, record: Record, label: str) -> None:
        """Note one prediction, to be counted with the request that asked for it."""
        self._predicted.append((drift, record, label))

    def _count_noted(self) -> None:
        """Count what was noted; the caller holds the lock."""
        predicted = [self._predicted.popleft() for _ in range(len(self._predicted))]
        self._counts.predictions.update([label for _, _, label in predicted])
        for drift in {drift for drift, _, _ in predicted}:
            drift.add_counts(drift.counts_of([record for of, record, _ in predicted if of is drift]))
        answered: dict[tuple[str, int], list[int]] = defaultdict(list)
        for endpoint, status, nanoseconds in [self._answered.popleft() for _ in range(len(self._answered))]:
            answered[endpoint, status].append(nanoseconds)
        for key, times in answered.items():
            bins = np.bincount(np.searchsorted(NANOSECONDS, times), minlength=len(BOUNDS) + 1).tolist()
            self._counts.answers[key] = add_up(self._counts.answers[key], [*bins, sum(times)])

    def predicted_many(self, drift: Drift, records: Sequence[Record], labels: Sequence[str]) -> None:
        found, predictions = drift.counts_of(records), Counter(labels)  # milliseconds, in which others may count
        with self._lock:
            self._counts.predictions.update(predictions)
            drift.add_counts(found)

    def loaded(self) -> None:
        with self._lock:
            self._counts.loads += 1

    def rejected(self) -> None:
        with self._lock:
            self._counts.rejections += 1

    def counts(self, version: str | None, drift: Drift | None) -> Counts:
        """Return a copy of what this worker counts; `drift` is that of the version that serves."""
        counts = Counts()
        with self._lock:
            self._count_noted()
            counts.add(self._counts)
            if drift:
                counts.version, counts.drift = version, drift.counts()
        return counts
