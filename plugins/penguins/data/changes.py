"""Compare a new file with the one that the serving model was trained on, before anything is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penguins.data.source import Source
from penguins.schema import FEATURES, TARGET


class DataChangedError(ValueError):
    """The file matches the schema, but differs too much from the one that the serving model was trained on."""


def check_data(source: Source, manifest: Mapping[str, Any], *, min_rows_share: float) -> None:
    """Compare a checked file with the data of the serving version, before anything is dropped.

    Raises
    ------
    DataChangedError
        If the file has less than `min_rows_share` of the rows, a class has vanished, or a column has become constant
        or entirely missing. The message names every problem, with both figures.
    """
    version, before = manifest["version"], manifest["data"]
    problems = []
    if source.rows < min_rows_share * before["rows"]:
        problems.append(
            f"it has {source.rows:,} rows, but {version} was trained on a file of {before['rows']:,}: less than "
            f"min_rows_share {min_rows_share:g} of them. If this is intended, trigger with a smaller min_rows_share"
        )
    for name in manifest["classes"]:
        if name not in source.class_counts:
            # Older versions did not keep these counts: they only tell that there were some.
            rows = before.get("class_counts", {}).get(name)
            problems.append(
                f"no row has the {TARGET.in_file} {name}, "
                f"but {version} was trained on {f'{rows:,} of them' if rows else 'some'}"
            )
    for column in FEATURES:
        values_then = _nonempty_bins(manifest["histograms"][column.name]["counts"])
        if column.name not in source.constant:
            continue
        if (value := source.constant[column.name]) is None:
            if values_then:
                problems.append(
                    f"the column {column.in_file} is missing in every row, but {version} was trained on rows of which "
                    f"{manifest['histograms'][column.name]['missing']:,} lacked it"
                )
        elif values_then > 1:
            problems.append(
                f"the column {column.in_file} is {value} in every row that has it, but {version} was trained on several"
            )
    if problems:
        raise DataChangedError(
            f"{source.path} differs too much from the file that the serving version was trained on. Nothing was "
            f"dropped or loaded. Correct the file; if a class or column is gone, remove it from "
            f"plugins/penguins/schema.py:\n" + "\n".join(problems)
        )


def _nonempty_bins(counts: Mapping[str, int] | Sequence[int]) -> int:
    """Return how many values or bins of a training histogram are not empty."""
    return sum(count > 0 for count in (counts.values() if isinstance(counts, Mapping) else counts))
