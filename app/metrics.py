"""What Prometheus reads at /metrics."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector


class Metrics:
    """The service's counters. Several workers share theirs through the files of PROMETHEUS_MULTIPROC_DIR."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.loads = Counter(
            "modelo_penguin_model_loads", "Versions that took over, counted by each worker", registry=self.registry
        )
        self.rejections = Counter(
            "modelo_penguin_model_rejections",
            "Versions that were refused, counted by each worker",
            registry=self.registry,
        )
        self.fallback = Gauge(
            "modelo_penguin_fallback",
            "1 while the pipeline itself predicts, because it could not be compiled",
            registry=self.registry,
            multiprocess_mode="mostrecent",
        )

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format, summed up over the workers."""
        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)
