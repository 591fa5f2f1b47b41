"""How far other rows have drifted from a model's training rows: those of a new file, or those sent to the service.

The measure is the population stability index: the sum over a feature's bins of (a - e) * ln(a / e), where e is the
bin's share of the training rows and a its share of the other rows. Up to 0.1 is noise, over 0.25 another population.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from penguins.inference import Record
from penguins.schema import CATEGORIES, FEATURES, NUMBERS, Number

if TYPE_CHECKING:
    import pyarrow as pa

# Lower shares count as this one: an empty bin would make the index infinite, and a nearly empty one would make it a
# matter of chance. Both sides are raised alike, so that two equal distributions give 0.
MIN_SHARE = 0.005
SAMPLE = 100_000
HISTOGRAM_BINS = 10


def drift_of(train: pa.Table, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return `version`, and as `psi` each feature's stability index of new training rows against that version's own."""
    drift = Drift(manifest["histograms"])
    return {"version": manifest["version"], "psi": drift.indices(drift.counts_in(train.slice(0, SAMPLE)))}


def stability_index(trained: Sequence[int], asked: Sequence[int]) -> float:
    """Return the population stability index of two lists of counts by bin, each of at least one row."""
    shares = [np.maximum(np.divide(counts, sum(counts)), MIN_SHARE) for counts in (trained, asked)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


class Drift:
    """Counts, for one version, how the values of other rows fall into the bins of its training histograms.

    A number has its histogram's bins, with the first and the last open-ended. A category has a bin for each of its
    values. Missing values have the last bin. Not thread-safe, except for `counts_of`.
    """

    def __init__(self, histograms: Mapping[str, Any]) -> None:
        self._trained: dict[str, list[int]] = {}
        self._edges: dict[str, np.ndarray] = {}
        for column in FEATURES:
            histogram = histograms[column.name]
            if isinstance(column, Number):
                self._edges[column.name] = np.array(histogram["edges"][1:-1])
                counts = histogram["counts"]
            else:
                counts = [histogram["counts"].get(value, 0) for value in column.values]
            self._trained[column.name] = [*counts, histogram["missing"]]
        self._counts = {name: [0] * len(counts) for name, counts in self._trained.items()}

    def add_counts(self, found: Mapping[str, Sequence[int]]) -> None:
        for name, counts in self._counts.items():
            counts[:] = map(int.__add__, counts, found[name])

    def counts(self) -> dict[str, list[int]]:
        """Return the rows counted so far, by feature and bin."""
        return {name: list(counts) for name, counts in self._counts.items()}

    def counts_of(self, records: Sequence[Record]) -> dict[str, list[int]]:
        """Return the counts of these records alone."""
        found = {}
        for column in FEATURES:
            values = list(map(itemgetter(column.name), records))
            if isinstance(column, Number):
                numbers = np.array(values, np.float64)  # None becomes NaN
                edges, missing = self._edges[column.name], len(self._trained[column.name]) - 1
                bins = np.where(np.isnan(numbers), missing, edges.searchsorted(numbers, "right"))
                found[column.name] = np.bincount(bins, minlength=missing + 1).tolist()
            else:
                tally = Counter(values)
                found[column.name] = [tally[value] for value in (*column.values, None)]
        return found

    def counts_in(self, table: pa.Table) -> dict[str, list[int]]:
        """Return the counts of a table's rows, at least one, in the form that `Warehouse.read` returns."""
        found = {}
        for column in FEATURES:
            values, last = table[column.name].combine_chunks(), len(self._trained[column.name]) - 1
            if isinstance(column, Number):
                # Numbers are float32 there: 39.1 is 39.099998, which must not fall below an edge of 39.1.
                edges = self._edges[column.name].astype(np.float32)
                bins = edges.searchsorted(values.drop_null().to_numpy(), "right")
            else:
                bins = values.indices.drop_null().to_numpy()
            found[column.name] = [*np.bincount(bins, minlength=last).tolist(), values.null_count]
        return found

    def indices(self, counts: Mapping[str, Sequence[int]]) -> dict[str, float]:
        """Return each feature's index for counts of at least one row."""
        return {name: stability_index(trained, counts[name]) for name, trained in self._trained.items()}


def histograms(train: pa.Table) -> dict[str, Any]:
    """Return each feature's training histogram: bin edges and counts, or counts by category; and missing values."""
    spread: dict[str, Any] = {}
    for column in NUMBERS:
        values = train[column.name].drop_null().to_numpy()
        # Rounded before counting, not after: a value equal to an edge belongs above it, here and in `Drift`.
        quantiles = np.quantile(values, np.linspace(0, 1, HISTOGRAM_BINS + 1)) if len(values) else np.zeros(1)
        edges = np.unique(quantiles.astype(np.float32))
        # Few distinct values give few quantiles, or only one. Then each value has its own bin, so that a shift shows.
        if len(edges) <= HISTOGRAM_BINS and 1 < len(few := np.unique(values)) <= HISTOGRAM_BINS:
            edges = np.append(few, few[-1])  # np.histogram's last bin includes both its edges
        counts = np.histogram(values, bins=edges)[0] if len(edges) > 1 else np.array([len(values)])
        spread[column.name] = {"edges": [shortest_float(edge) for edge in edges.tolist()], "counts": counts.tolist()}
    for category in CATEGORIES:
        indices = train[category.name].combine_chunks().indices.drop_null().to_numpy()
        found = np.bincount(indices, minlength=len(category.values)).tolist()
        spread[category.name] = {"counts": dict(zip(category.values, found, strict=True))}
    for feature in FEATURES:
        spread[feature.name]["missing"] = train[feature.name].null_count
    return spread


def shortest_float(value: Any) -> Any:
    # The shortest decimal with the same float32: 39.1 again, instead of 39.0999984741.
    return float(str(np.float32(value))) if isinstance(value, float) else value
