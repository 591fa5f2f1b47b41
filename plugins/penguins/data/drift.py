"""How far other rows have moved from those that a model was trained on: a new file's, or those the service is asked.

The measure is the population stability index: over a feature's bins, the sum of (a - e) * ln(a / e), where e is the
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

# A lower share counts as this one: the index of an empty bin would be infinite, and that of one nearly empty a matter
# of chance. Both sides are raised alike, so that two equal spreads give 0.
LEAST_SHARE = 0.005
SAMPLE = 100_000
HISTOGRAM_BINS = 10


def drift_of(train: pa.Table, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return `version`, and as `psi` each feature's stability index of new training rows against that version's."""
    drift = Drift(manifest["histograms"])
    return {"version": manifest["version"], "psi": drift.indices(drift.counts_in(train.slice(0, SAMPLE)))}


def stability_index(trained: Sequence[int], asked: Sequence[int]) -> float:
    """Return the population stability index of two counts by bin, neither of them without a row."""
    shares = [np.maximum(np.divide(counts, sum(counts)), LEAST_SHARE) for counts in (trained, asked)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


class Drift:
    """Counts, for one version, into which bins of its training histograms the values asked fall.

    A number has its histogram's bins, of which the first and the last are open to the outside, a category has one for
    each of its values; what is missing has the last. Not to be used by two threads at once, but for `counts_of`.
    """

    def __init__(self, histograms: Mapping[str, Any]) -> None:
        self._trained: dict[str, list[int]] = {}
        self._edges: dict[str, np.ndarray] = {}
        for column in FEATURES:
            spread = histograms[column.name]
            if isinstance(column, Number):
                self._edges[column.name] = np.array(spread["edges"][1:-1])
                counts = spread["counts"]
            else:
                counts = [spread["counts"].get(value, 0) for value in column.values]
            self._trained[column.name] = [*counts, spread["missing"]]
        self._counts = {name: [0] * len(counts) for name, counts in self._trained.items()}

    def add_counts(self, found: Mapping[str, Sequence[int]]) -> None:
        for name, counts in self._counts.items():
            counts[:] = map(int.__add__, counts, found[name])

    def counts(self) -> dict[str, list[int]]:
        """Return the rows asked by feature and bin."""
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
        """Return the counts of a table's rows, as the database gives them; at least one."""
        found = {}
        for column in FEATURES:
            values, last = table[column.name].combine_chunks(), len(self._trained[column.name]) - 1
            if isinstance(column, Number):
                # Numbers are float32 there: 39.1 is 39.099998, which must not fall under an edge of 39.1.
                edges = self._edges[column.name].astype(np.float32)
                bins = edges.searchsorted(values.drop_null().to_numpy(), "right")
            else:
                bins = values.indices.drop_null().to_numpy()
            found[column.name] = [*np.bincount(bins, minlength=last).tolist(), values.null_count]
        return found

    def indices(self, counts: Mapping[str, Sequence[int]]) -> dict[str, float]:
        """Return each feature's index for counts of one row or more."""
        return {name: stability_index(trained, counts[name]) for name, trained in self._trained.items()}


def histograms(train: pa.Table) -> dict[str, Any]:
    """Return how each feature is spread in training: bin edges and counts, or counts of categories; and missing."""
    spread: dict[str, Any] = {}
    for column in NUMBERS:
        values = train[column.name].drop_null().to_numpy()
        # Rounded before rows are counted, not after: a value that is an edge belongs above it, then and later.
        quantiles = np.quantile(values, np.linspace(0, 1, HISTOGRAM_BINS + 1)) if len(values) else np.zeros(1)
        edges = np.unique(quantiles.astype(np.float32))
        # Few values make few quantiles, or a single one: then each value has a bin, so that a change of shares shows.
        if len(edges) <= HISTOGRAM_BINS and 1 < len(few := np.unique(values)) <= HISTOGRAM_BINS:
            edges = np.append(few, few[-1])  # np.histogram's last bin holds both its edges
        counts = np.histogram(values, bins=edges)[0] if len(edges) > 1 else np.array([len(values)])
        spread[column.name] = {"edges": [as_written(edge) for edge in edges.tolist()], "counts": counts.tolist()}
    for category in CATEGORIES:
        indices = train[category.name].combine_chunks().indices.drop_null().to_numpy()
        found = np.bincount(indices, minlength=len(category.values)).tolist()
        spread[category.name] = {"counts": dict(zip(category.values, found, strict=True))}
    for feature in FEATURES:
        spread[feature.name]["missing"] = train[feature.name].null_count
    return spread


def as_written(value: Any) -> Any:
    # 39.1, whose nearest float32 is 39.0999984741, is 39.1 again: the shortest number with the same float32.
    return float(str(np.float32(value))) if isinstance(value, float) else value
