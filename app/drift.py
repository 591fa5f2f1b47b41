"""How far what the service is asked has moved from what its model was trained on.

The measure is the population stability index: over a feature's bins, the sum of (a - e) * ln(a / e), where e is the
bin's share of the training rows and a its share of the rows asked. Up to 0.1 is noise, over 0.25 another population.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
    each of its values; what is missing has the last.
    """

    def __init__(self, histograms: Mapping[str, Any]) -> None:
        self._trained: dict[str, list[int]] = {}
        self._features: list[tuple[str, Callable[[Any], int], list[int]]] = []  # name, what gives a value's bin, counts
        self._edges: dict[str, np.ndarray] = {}
        for column in FEATURES:
            spread = histograms[column.name]
            place: Callable[[Any], int]
            if isinstance(column, Number):
                between = spread["edges"][1:-1]
                place, counts = partial(bisect_right, between), spread["counts"]
                self._edges[column.name] = np.array(between)
            else:
                place = {value: number for number, value in enumerate(column.values)}.__getitem__
                counts = [spread["counts"].get(value, 0) for value in column.values]
            self._trained[column.name] = [*counts, spread["missing"]]
            self._features.append((column.name, place, [0] * (len(counts) + 1)))

    @property
    def counts(self) -> dict[str, list[int]]:
        """The rows asked by feature and bin."""
        return {name: list(counts) for name, _, counts in self._features}

    def add(self, record: Record) -> None:
        """Count one record. It runs with each request, and takes half a microsecond."""
        for name, place, counts in self._features:
            value = record[name]
            counts[-1 if value is None else place(value)] += 1

    def add_counts(self, found: Mapping[str, Sequence[int]]) -> None:
        for name, _, counts in self._features:
            counts[:] = map(int.__add__, counts, found[name])

    def counts_of(self, records: Sequence[Record]) -> dict[str, list[int]]:
        """Return the counts of many records, faster than one by one; for `add_counts`."""
        found = {}
        for column in FEATURES:
            values = [record[column.name] for record in records]
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
