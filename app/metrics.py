"""What Prometheus reads at /metrics.

Requests are only noted, and counted some hundred together or when somebody asks: a prediction takes microseconds, and
prometheus_client's own counters as many. Several workers write theirs to a shared folder once a second, and the one
that is asked adds up its own and what the others wrote last.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.compiled import SHARED_FOLDER
from penguins.drift import Drift
from penguins.inference import Record
from penguins.schema import TARGET

if TYPE_CHECKING:
    from app.serving import ModelServer, Served

log = logging.getLogger(__name__)

SECONDS_TO_SHARE = 1.0
# Upper bounds of the latencies' bins, in seconds; what takes longer falls into one more.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
NANOSECONDS = tuple(round(bound * 1e9) for bound in BOUNDS)
AT_ONCE = 256  # requests, counted together within a quarter of a millisecond
OTHER = "other"  # every path that is none of the service's, so that nobody can make series by asking for paths


def _no_answers() -> list[int]:
    return [0] * (len(BOUNDS) + 2)


@dataclass
class Counts:
    """What one worker counts, or several together."""

    # By endpoint and status: the answers in each of the latencies' bins, and at last their nanoseconds.
    answers: dict[tuple[str, int], list[int]] = field(default_factory=lambda: defaultdict(_no_answers))
    predictions: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(TARGET.values, 0)))
    loads: int = 0
    rejections: int = 0
    # The rows asked of `version`, by feature and bin.
    version: str | None = None
    drift: dict[str, list[int]] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        for key, found in other.answers.items():
            self.answers[key] = _sum(self.answers[key], found)
        self.predictions.update(other.predictions)
        self.loads += other.loads
        self.rejections += other.rejections
        if self.version == other.version:
            self.drift = {name: _sum(counts, other.drift[name]) for name, counts in self.drift.items()}


def _sum(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


class Metrics(Collector):
    """The service's counts, and what Prometheus reads of them and of the model server's state."""

    def __init__(self, server: ModelServer) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._server = server
        self._counts = Counts()
        # What was noted and is yet to be counted; a deque takes and gives from several threads without a lock.
        self._answered: deque[tuple[str, int, int]] = deque()
        self._predicted: deque[tuple[Drift, Record, str]] = deque()
        self._lock = threading.Lock()  # batches, and what the pipeline predicts, are counted by other threads
        folder = os.environ.get(SHARED_FOLDER)
        # Not named by the process: a later one may get its number, and counts must not go back.
        self._file = Path(folder, f"{uuid4().hex}.counts") if folder else None

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
            self._counts.answers[key] = _sum(self._counts.answers[key], [*bins, sum(times)])

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

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format, summed up over the workers."""
        return generate_latest(self.registry)

    def share(self, stop: threading.Event) -> None:
        """Write the counts for the other workers every second, if there are any, until `stop` is set."""
        while self._file and not stop.wait(SECONDS_TO_SHARE):
            try:
                written = self._file.with_suffix(".part")
                written.write_bytes(pickle.dumps(self._own(self._server.served)))
                written.replace(self._file)
            except OSError:
                log.exception("the other workers cannot read this one's counts; the next time they may")

    def _own(self, served: Served | None) -> Counts:
        """Return a copy of what this worker counts, for the version that serves."""
        counts = Counts()
        with self._lock:
            self._count_noted()
            counts.add(self._counts)
            if served:
                counts.version, counts.drift = served.version, served.drift.counts()
        return counts

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as `prometheus_client` asks for them."""
        served, refused = self._server.served, self._server.refused
        counts = self._own(served)
        if self._file:
            for file in self._file.parent.glob("*.counts"):
                if file != self._file:
                    counts.add(pickle.loads(file.read_bytes()))  # noqa: S301 - from our own workers

        requests = CounterMetricFamily(
            "modelo_penguin_requests", "Requests answered, by endpoint and status", labels=["endpoint", "status"]
        )
        durations = HistogramMetricFamily(
            "modelo_penguin_request_duration_seconds", "Until the answer was sent, by endpoint", labels=["endpoint"]
        )
        by_endpoint: dict[str, list[int]] = defaultdict(_no_answers)
        for (endpoint, status), found in sorted(counts.answers.items()):
            requests.add_metric([endpoint, str(status)], sum(found[:-1]))
            by_endpoint[endpoint] = _sum(by_endpoint[endpoint], found)
        for endpoint, (*found, nanoseconds) in by_endpoint.items():
            buckets = zip([*map(str, BOUNDS), "+Inf"], map(float, accumulate(found)), strict=True)
            durations.add_metric([endpoint], list(buckets), nanoseconds / 1e9)
        yield from (requests, durations)

        predictions = CounterMetricFamily("modelo_penguin_predictions", "Rows predicted, by class", labels=["class"])
        for label, count in counts.predictions.items():
            predictions.add_metric([label], count)
        yield predictions

        yield CounterMetricFamily(
            "modelo_penguin_model_loads", "Versions that took over, counted by each worker", value=counts.loads
        )
        yield CounterMetricFamily(
            "modelo_penguin_model_rejections", "Versions that were refused, counted by each worker", counts.rejections
        )
        yield GaugeMetricFamily("modelo_penguin_ready", "1 while a proven model serves", value=served is not None)
        yield GaugeMetricFamily(
            "modelo_penguin_rejected", "1 while the version asked for is refused", value=refused is not None
        )
        yield GaugeMetricFamily(
            "modelo_penguin_fallback",
            "1 while the pipeline itself predicts, because it could not be compiled",
            value=bool(served and served.fallback),
        )
        if served:
            created = datetime.fromisoformat(served.manifest["created_at"]).timestamp()
            yield GaugeMetricFamily("modelo_penguin_model_created_timestamp_seconds", "When it was trained", created)
            accuracy = served.manifest["metrics"]["accuracy"]
            yield GaugeMetricFamily("modelo_penguin_model_accuracy", "On the held-out rows", accuracy)
            info = GaugeMetricFamily("modelo_penguin_model_info", "The version that serves", labels=["version"])
            info.add_metric([served.version], 1)
            yield info
            rows = sum(next(iter(counts.drift.values())))
            yield GaugeMetricFamily("modelo_penguin_drift_rows", "Rows asked since the version took over", rows)
            drift = GaugeMetricFamily(
                "modelo_penguin_drift_psi", "Population stability index against training", labels=["feature"]
            )
            for feature, index in served.drift.indices(counts.drift).items() if rows else ():
                drift.add_metric([feature], index)
            yield drift


class CountRequests:
    """ASGI middleware that counts requests by endpoint: those of `endpoints`, those left out, and others as one."""

    def __init__(self, app: ASGIApp, metrics: Metrics, endpoints: Sequence[str], left_out: Sequence[str]) -> None:
        self.app = app
        self.metrics = metrics
        self.labels = {path: path for path in endpoints} | dict.fromkeys(left_out)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.labels.get(scope["path"], OTHER) is None:
            await self.app(scope, receive, send)
            return
        status = 0  # of a client that went away before it was answered
        started = time.perf_counter_ns()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception:
            status = 500  # by which Starlette answers, outside of all middleware
            raise
        finally:
            if status:
                # A body that is too large is refused before the router has found the route: that has the path alone.
                path = scope["route"].path if "route" in scope else scope["path"]
                self.metrics.answered(self.labels.get(path) or OTHER, status, time.perf_counter_ns() - started)
