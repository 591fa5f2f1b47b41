"""Hold a new file against the one that the serving model was trained on, before anything is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penguins.data.source import Source
from penguins.schema import FEATURES, TARGET


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
