"""How far what the service is asked has moved from what its model was trained on.

The measure is the population stability index: over a feature's bins, the sum of (a - e) * ln(a / e), where e is the
bin's share of the training rows and a its share of the rows asked. Up to 0.1 is noise, over 0.25 another population.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from penguins.inference import Record
from penguins.schema import FEATURES, Number

# A lower share counts as this one: the index of an empty bin would be infinite, and that of one nearly empty a matter
# of chance. Both sides are raised alike, so that two equal spreads give 0.
LEAST_SHARE = 0.005


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

    def indices(self, counts: Mapping[str, Sequence[int]]) -> dict[str, float]:
        """Return each feature's index for counts of one row or more."""
        return {name: stability_index(trained, counts[name]) for name, trained in self._trained.items()}
