"""The metrics that Prometheus scrapes at /metrics.

With several workers, each writes its counts to a shared folder once a second. The one that is scraped adds the others'
latest counts to its own.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app import SHARED_FOLDER
from app.monitoring.counts import BOUNDS, Counts, Recorder, add_up, no_answers
from penguins.schema import NAME

if TYPE_CHECKING:
    from app.serving.model_server import ModelServer

log = logging.getLogger(__name__)

SECONDS_TO_SHARE = 1.0


class _Labelled(CollectorRegistry):
    """A registry whose metrics all say which model they are of: their names are the same for any table."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample._replace(labels={"model": NAME, **sample.labels}) for sample in metric.samples]
            yield metric


class Metrics(Collector):
    """The counts of all workers and the model server's state, for Prometheus."""

    def __init__(self, server: ModelServer, recorder: Recorder, *, by_key: bool = False, journal: bool = False) -> None:
        self.registry = _Labelled()
        self.registry.register(self)
        self._server = server
        self._recorder = recorder
        self._by_key = by_key
        self._journal = journal
        self._stop = threading.Event()
        folder = os.environ.get(SHARED_FOLDER)
        # Not named after the PID: a later process may reuse it, and counters must not decrease.
        self._file = Path(folder, f"{uuid4().hex}.counts") if folder else None

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format, summed over the workers."""
        return generate_latest(self.registry)

    def start(self) -> None:
        """If there are other workers, write the counts for them every second until `stop`."""
        self._stop.clear()
        if self._file:
            threading.Thread(target=self._share, args=(self._file,), name="metrics", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _share(self, file: Path) -> None:
        while not self._stop.wait(SECONDS_TO_SHARE):
            try:
                written = file.with_suffix(".part")
                written.write_bytes(pickle.dumps(self._counts()))
                written.replace(file)
            except OSError:
                log.exception("could not share this worker's counts with the others; trying again in a second")

    def _counts(self) -> Counts:
        """Return this worker's counts."""
        counts = self._recorder.counts(self._server.served)
        counts.loads, counts.rejections = self._server.loads, self._server.rejections
        return counts

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; `prometheus_client` calls this."""
        served, refused = self._server.served, self._server.refused
        counts = self._counts()
        if self._file:
            for file in self._file.parent.glob("*.counts"):
                if file != self._file:
                    counts.add(pickle.loads(file.read_bytes()))  # noqa: S301 - from our own workers

        labels = ["endpoint", "status", *(["key"] if self._by_key else [])]
        requests = CounterMetricFamily("model_requests", "Requests answered, by endpoint and status", labels=labels)
        durations = HistogramMetricFamily(
            "model_request_duration_seconds",
            "Time until the response was sent, by endpoint",
            labels=["endpoint"],
        )
        by_endpoint: dict[str, list[int]] = defaultdict(no_answers)
        for (endpoint, status, key), found in sorted(counts.answers.items()):
            requests.add_metric([endpoint, str(status), key][: len(labels)], sum(found[:-1]))
            by_endpoint[endpoint] = add_up(by_endpoint[endpoint], found)
        for endpoint, (*found, nanoseconds) in by_endpoint.items():
            buckets = zip([*map(str, BOUNDS), "+Inf"], map(float, accumulate(found)), strict=True)
            durations.add_metric([endpoint], list(buckets), nanoseconds / 1e9)
        yield from (requests, durations)

        predictions = CounterMetricFamily("model_predictions", "Rows predicted, by class", labels=["class"])
        for label, count in counts.predictions.items():
            predictions.add_metric([label], count)
        yield predictions

        yield CounterMetricFamily("model_loads", "Versions that took over, counted by each worker", value=counts.loads)
        yield CounterMetricFamily(
            "model_rejections", "Versions that were refused, counted by each worker", counts.rejections
        )
        if self._journal:
            yield CounterMetricFamily("model_journal_rows", "Predictions written to the journal", counts.journal_rows)
            yield CounterMetricFamily(
                "model_journal_rows_lost",
                "Predictions that the journal lost: its database was away, full or too slow",
                counts.journal_rows_lost,
            )
        yield GaugeMetricFamily(
            "model_registry_seen_timestamp_seconds",
            "When the registry last had a pointer that can be trusted",
            self._server.seen,
        )
        yield GaugeMetricFamily("model_ready", "1 while a proven model serves", value=served is not None)
        yield GaugeMetricFamily(
            "model_rejected", "1 while the version that `current` names is refused", value=refused is not None
        )
        yield GaugeMetricFamily(
            "model_fallback",
            "1 while the pipeline itself predicts, because it could not be compiled",
            value=bool(served and served.fallback),
        )
        if served:
            created = datetime.fromisoformat(served.manifest["created_at"]).timestamp()
            yield GaugeMetricFamily("model_created_timestamp_seconds", "When it was trained", created)
            accuracy = served.manifest["metrics"]["accuracy"]
            yield GaugeMetricFamily("model_accuracy", "Accuracy on the held-out rows", accuracy)
            if headline := served.manifest["metrics"].get("headline"):  # older versions have none
                yield GaugeMetricFamily(
                    "model_validation_accuracy",
                    "Accuracy that the gate judged, on more rows if they could be had",
                    headline["accuracy"],
                )
                yield GaugeMetricFamily(
                    "model_validation_accuracy_lower",
                    "Lower bound of its 95 % interval",
                    headline["interval"][0],
                )
            info = GaugeMetricFamily("model_info", "The version that serves", labels=["version"])
            info.add_metric([served.version], 1)
            yield info
            rows = sum(next(iter(counts.drift.values())))
            yield GaugeMetricFamily("model_drift_rows", "Rows predicted since the version took over", rows)
            drift = GaugeMetricFamily(
                "model_drift_psi", "Population stability index against the training rows", labels=["feature"]
            )
            for feature, index in self._recorder.drift_of(served).indices(counts.drift).items() if rows else ():
                drift.add_metric([feature], index)
            yield drift
