"""What a column is taken for: a number, a category, or nothing to predict from."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from penguins.column_types import RESERVED_IN_ANSWERS, RESERVED_IN_TABLE, Category, Ignored, Number
from penguins.table.reading import MISSING, MISSING_IN_NUMBERS, Seen, as_number

MAX_CATEGORIES = 50  # of a feature
MIN_SHARE_KEPT = 0.5  # of the rows, that one of these must have; else it is free text or an id
MAX_CLASSES = 20  # whole numbers as classes
MAX_CODES = 5  # whole numbers as categories
YEARS = 1900, 2100
_ID = re.compile(r"(^|[^A-Za-z])(?i:id|nr|no|num|number|code|key|index|uuid)$|[a-z](Id|ID)$")
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}([T ].*)?|\d{8}")


@dataclass
class Guess:
    """A column, and what a person should look at again."""

    column: Number | Category | Ignored
    seen: Seen
    missing: int
    checks: list[str] = field(default_factory=list)


def name_of(header: str, taken: set[str]) -> str:
    """Return a name for the database and requests: ``Área (m2)`` becomes ``area_m2``."""
    ascii_only = unicodedata.normalize("NFKD", header).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9]+", "_", ascii_only).strip("_").lower() or "column"
    name = (name if name[0].isalpha() else f"c_{name}")[:60].rstrip("_")
    unique, number = name, 2
    while unique in taken or unique in (RESERVED_IN_TABLE, *RESERVED_IN_ANSWERS):
        unique, number = f"{name}_{number}", number + 1
    taken.add(unique)
    return unique


def missing_of(columns: Sequence[Seen], style: tuple[str, str]) -> tuple[str, ...]:
    """Return the texts that mean, in this file, that there is no value."""
    found = {text for c in columns for text in MISSING if text in c.values}
    for column in columns:
        words = column.words[style] - set(MISSING)
        if words and words.issubset(MISSING_IN_NUMBERS) and style in column.low:
            found |= words
    return tuple(sorted(found))


def guess(seen: Seen, name: str, missing: tuple[str, ...], style: tuple[str, str]) -> Guess:
    """Return what a feature is taken for."""
    values = {text: count for text, count in seen.values.most_common() if text not in missing}
    lacking = sum(seen.values[text] for text in missing)
    result = Guess(Ignored(name=name, header=seen.header), seen, lacking)
    is_number = style in seen.low and seen.words[style].issubset(missing)
    if not values and not seen.many:
        result.checks.append("it is empty")
    elif len(values) == 1 and not seen.many:
        result.checks.append(f"it is always {next(iter(values))!r}")
    elif is_number and (_is_year(seen, style) or not _is_code(seen, values, style)):
        if _is_id(seen, values, style):
            result.checks.append("it numbers the rows, or names them")
        else:
            result.column = number(seen, name, style)
    elif all(_DATE.fullmatch(text) for text in list(values)[:100]):
        result.checks.append("it holds dates")
    elif seen.many or (len(values) > MAX_CATEGORIES and _share_of_kept(values) < MIN_SHARE_KEPT):
        result.checks.append(f"it holds {len(values)}{' or more' if seen.many else ''} different texts")
    else:
        result.column = category(seen, name, values)
        if result.column.rest:
            rarer = len(values) - MAX_CATEGORIES
            result.checks.append(f"{rarer} rarer texts count as {result.column.rest!r}")
    return result


def _share_of_kept(values: dict[str, int]) -> float:
    """Return in how many of the rows one of the most frequent values stands."""
    return sum(list(values.values())[:MAX_CATEGORIES]) / sum(values.values())


def _is_code(seen: Seen, values: dict[str, int], style: tuple[str, str]) -> bool:
    """Whether a few whole numbers stand for something else."""
    few = len(values) <= 2 or (len(values) <= MAX_CODES and seen.rows > 20 * len(values))
    return style not in seen.fractions and not seen.many and few


def _is_year(seen: Seen, style: tuple[str, str]) -> bool:
    """Whether they are years: next year's is none of those that are there."""
    first, last = YEARS
    return style not in seen.fractions and first <= seen.low[style] and seen.high[style] <= last


def _is_id(seen: Seen, values: dict[str, int], style: tuple[str, str]) -> bool:
    """Whether whole numbers go from one to the next, or are all different, or as good as, and are called an id."""
    if style in seen.fractions or max(values.values(), default=0) > 1:
        return False
    runs = seen.high[style] - seen.low[style] + 1 == seen.rows
    return runs or bool(_ID.search(seen.header))


def number(seen: Seen, name: str, style: tuple[str, str]) -> Number:
    minimum, maximum = YEARS if _is_year(seen, style) else with_room(seen.low[style], seen.high[style])
    example = next(text for text, _ in seen.values.most_common() if text not in seen.words[style])
    return Number(
        name=name,
        header=seen.header,
        description="" if seen.header == name else seen.header,
        unit="",
        minimum=minimum,
        maximum=maximum,
        example=_tidy(as_number(example, style)),
    )


def category(seen: Seen, name: str, values: dict[str, int], *, required: bool = False) -> Category:
    """Return the values as a category, the most frequent first: of many, those that are kept, and a rest."""
    kept, rest = list(values), ""
    if len(kept) > MAX_CATEGORIES and not required:
        kept = kept[:MAX_CATEGORIES]
        rest = next(text for text in ("other", "others", "OTHER", "(other)", "…") if text in kept or text not in values)
        kept += [] if rest in kept else [rest]
    return Category(
        name=name,
        header=seen.header,
        description="" if seen.header == name else seen.header,
        values=tuple(kept),
        example=kept[0],
        required=required,
        rest=rest,
    )


def with_room(low: float, high: float) -> tuple[float, float]:
    """Return a range with room to spare on both sides, in numbers that a person would choose. None changes its sign."""
    room = (high - low) / 2 or abs(high) or 1
    digits = min(-math.floor(math.log10(room)), 300)
    step = 10.0**-digits
    minimum = min(round(math.floor((low - room) / step) * step, digits), low)
    maximum = max(round(math.ceil((high + room) / step) * step, digits), high)
    return _tidy(max(minimum, 0.0) if low >= 0 else minimum), _tidy(min(maximum, 0.0) if high <= 0 else maximum)


def _tidy(value: float) -> float:
    return int(value) if value.is_integer() else value
