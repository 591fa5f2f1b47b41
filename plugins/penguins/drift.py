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
from penguins.schema import FEATURES, TARGET, Number
from penguins.source import Source

if TYPE_CHECKING:
    import pyarrow as pa

# A lower share counts as this one: the index of an empty bin would be infinite, and that of one nearly empty a matter
# of chance. Both sides are raised alike, so that two equal spreads give 0.
LEAST_SHARE = 0.005
SAMPLE = 100_000


class DataChangedError(ValueError):
    """The file fits the schema, and yet is not like the one that the serving model was trained on."""


def check_data(source: Source, manifest: Mapping[str, Any], *, min_rows_share: float) -> None:
    """Hold a checked file against the facts of the serving version, before anything is dropped.

    Raises
    ------
    DataChangedError
        If the file has less than `min_rows_share` of the rows, a class has vanished, or a column has become constant
        or wholly missing. All of them are named, with both figures.
    """
    version, before = manifest["version"], manifest["data"]
    problems = []
    if source.rows < min_rows_share * before["rows"]:
        problems.append(
            f"it has {source.rows:,} rows, {version} was trained on a file of {before['rows']:,}: less than "
            f"min_rows_share {min_rows_share:g} of them. Trigger with a smaller min_rows_share if that is meant"
        )
    for name in manifest["classes"]:
        if name not in source.class_counts:
            # A version from before these facts were kept says that there were some, and not how many.
            rows = before.get("class_counts", {}).get(name)
            problems.append(
                f"no row has the {TARGET.name} {name}, "
                f"{version} was trained on {f'{rows:,} of them' if rows else 'some'}"
            )
    for column in FEATURES:
        values_then = _values_counted(manifest["histograms"][column.name]["counts"])
        if column.name not in source.constant:
            continue
        if (value := source.constant[column.name]) is None:
            if values_then:
                problems.append(
                    f"the column {column.name} is missing in every row, {version} was trained on rows of which "
                    f"{manifest['histograms'][column.name]['missing']:,} lacked it"
                )
        elif values_then > 1:
            problems.append(
                f"the column {column.name} is {value} in every row that has it, {version} was trained on more values"
            )
    if problems:
        raise DataChangedError(
            f"{source.path} is not like the file that the serving version was trained on. Nothing was dropped or "
            f"loaded. Correct the file; if a class or a column is no more, take it out of plugins/penguins/schema.py:\n"
            + "\n".join(problems)
        )


def _values_counted(counts: Mapping[str, int] | Sequence[int]) -> int:
    """Return how many values or bins of a training histogram hold a row: none, one, or more."""
    return sum(count > 0 for count in (counts.values() if isinstance(counts, Mapping) else counts))


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
