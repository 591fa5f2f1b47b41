"""How often the serving version was right, as far as feedback says."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from app.serving.model_server import ModelServer
from penguins.evaluation.accuracy import wilson
from penguins.journal.tables import PREDICTED, SEQ, VERSION, feedback
from penguins.schema import TARGET

log = logging.getLogger(__name__)

NAME = "model_feedback"
LABELS_COUNTED = 20_000  # the last ones: the interval is narrow by then, and a scrape must not take long


class FeedbackMetrics(Collector):
    """Accuracy over all classes and by class. All replicas ask the same database, and say the same."""

    def __init__(self, engine: Engine, server: ModelServer) -> None:
        self._engine = engine
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; `prometheus_client` calls this."""
        served = self._server.served
        try:
            counts, others = outcomes(self._engine, served.version if served else "")
        except SQLAlchemyError as error:  # the other metrics are wanted all the more
            log.error("the feedback cannot be read: %s", error)
            return
        labels, right = dict.fromkeys(TARGET.values, 0), dict.fromkeys(TARGET.values, 0)
        for (predicted, truth), count in counts.items():
            labels[truth] += count
            right[truth] += count if predicted == truth else 0

        yield GaugeMetricFamily(f"{NAME}_other_labels", "Labels of predictions by versions that do not serve", others)
        yield GaugeMetricFamily(f"{NAME}_labels", "Labels of the serving version's predictions", sum(labels.values()))
        by_class = GaugeMetricFamily(f"{NAME}_class_labels", "The same labels, by true class", labels=["class"])
        for label, count in labels.items():
            by_class.add_metric([label], count)
        yield by_class
        yield from _accuracy(NAME, {(): (sum(right.values()), sum(labels.values()))})
        yield from _accuracy(f"{NAME}_class", {(c,): (right[c], labels[c]) for c in labels}, "class")


def _accuracy(name: str, found: dict[tuple[str, ...], tuple[int, int]], *labels: str) -> Iterator[Metric]:
    """Yield the share that was right, with the bounds of Wilson's 95 % interval, where there are labels at all."""
    share = GaugeMetricFamily(f"{name}_accuracy", "Share of the labels that were predicted", labels=labels)
    lower = GaugeMetricFamily(f"{name}_accuracy_lower", "Lower bound of its 95 % interval", labels=labels)
    upper = GaugeMetricFamily(f"{name}_accuracy_upper", "Upper bound of its 95 % interval", labels=labels)
    for values, (right, rows) in found.items():
        if rows:
            low, high = wilson(right, rows)
            share.add_metric(values, right / rows)
            lower.add_metric(values, low)
            upper.add_metric(values, high)
    yield from (share, lower, upper)


def outcomes(engine: Engine, version: str) -> tuple[dict[tuple[str, str], int], int]:
    """Return how often the version predicted a class where another, or the same, was true; and the others' labels.

    Returns
    -------
    dict of (predicted, truth) to int
        Of its last `LABELS_COUNTED` labels.
    int
        How many labels other versions have, as far as that.
    """
    columns, version_of = feedback.c, feedback.c[VERSION]
    last = select(columns[PREDICTED], columns[TARGET.name]).where(version_of == version)
    counted = last.order_by(columns[SEQ].desc()).limit(LABELS_COUNTED).subquery()
    # Not by !=, for which the whole index would be read.
    others = [
        select(1).where(is_other).limit(LABELS_COUNTED) for is_other in (version_of < version, version_of > version)
    ]
    with engine.connect() as connection:
        found = connection.execute(
            select(counted.c[0], counted.c[1], func.count()).group_by(counted.c[0], counted.c[1])
        ).all()
        return (
            {(predicted, truth): count for predicted, truth, count in found if truth in TARGET.values},
            sum(connection.scalar(select(func.count()).select_from(one.subquery())) or 0 for one in others),
        )
