"""How often the serving version was right, as far as feedback says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.journal.labels import Labels
from penguins.evaluation.gate import wilson
from penguins.schema import TARGET

if TYPE_CHECKING:
    from app.serving.model_server import ModelServer

log = logging.getLogger(__name__)

NAME = "modelo_penguin_feedback"


class FeedbackMetrics(Collector):
    """Accuracy over all classes and by class. All replicas read the same files, and say the same."""

    def __init__(self, labels: Labels, server: ModelServer) -> None:
        self._labels = labels
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; `prometheus_client` calls this."""
        try:
            self._labels.refresh()
        except OSError as error:  # the other metrics are wanted all the more
            log.error("the feedback cannot be read: %s", error)
        served = self._server.served
        version = served.version if served else None
        labels, right, others = dict.fromkeys(TARGET.values, 0), dict.fromkeys(TARGET.values, 0), 0
        for outcome, count in self._labels.counts().items():
            if outcome.version != version:
                others += count
                continue
            labels[outcome.truth] += count
            right[outcome.truth] += count if outcome.predicted == outcome.truth else 0

        yield GaugeMetricFamily(f"{NAME}_other_labels", "Labels of predictions by versions that do not serve", others)
        yield GaugeMetricFamily(f"{NAME}_labels", "Labels of the serving version's predictions", sum(labels.values()))
        yield from _accuracy(NAME, "all labels", {(): (sum(right.values()), sum(labels.values()))}, [])
        by_class = GaugeMetricFamily(f"{NAME}_class_labels", "The same labels, by true class", labels=["class"])
        for label, count in labels.items():
            by_class.add_metric([label], count)
        yield by_class
        yield from _accuracy(
            f"{NAME}_class", "the labels of a class", {(c,): (right[c], labels[c]) for c in labels}, ["class"]
        )


def _accuracy(
    name: str, of: str, found: dict[tuple[str, ...], tuple[int, int]], labels: list[str]
) -> Iterator[GaugeMetricFamily]:
    """Yield the share that was right, with the bounds of Wilson's 95 % interval, where there are labels at all."""
    share = GaugeMetricFamily(f"{name}_accuracy", f"Share of {of} that were predicted", labels=labels)
    lower = GaugeMetricFamily(f"{name}_accuracy_lower", "Lower bound of its 95 % interval", labels=labels)
    upper = GaugeMetricFamily(f"{name}_accuracy_upper", "Upper bound of its 95 % interval", labels=labels)
    for values, (right, rows) in found.items():
        if rows:
            low, high = wilson(right, rows)
            share.add_metric(values, right / rows)
            lower.add_metric(values, low)
            upper.add_metric(values, high)
    yield from (share, lower, upper)
