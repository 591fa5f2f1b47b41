"""What a column of `schema.py` takes, and what a declaration must not say."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

# Beyond this, training in float32 would overflow, and an OpenAPI document cannot hold infinity.
MAX_NUMBER = 1e15
# MySQL reads this as missing, whatever the declaration says.
NULL = "NULL"
# Names that the table and the API's answers already use.
RESERVED_IN_TABLE, RESERVED_IN_ANSWERS = "row_id", ("probabilities", "model_version", "id")
# What a parameter of a column must be, by its annotation below. A tuple is checked where it is looked into.
_TYPES: dict[Any, tuple[str, tuple[type, ...]]] = {
    "str": ("a string", (str,)),
    "bool": ("True or False", (bool,)),
    "float": ("a number", (int, float)),
}


class SchemaError(ValueError):
    """A declaration that contradicts itself.

    Attributes
    ----------
    message : str
        What was declared, and what is accepted.
    column : str or None
        The column's name, where it is about one column.
    setting : str or None
        Otherwise which of the other names is wrong, such as ``TABLE``.
    """

    def __init__(self, message: str, *, column: str | None = None, setting: str | None = None) -> None:
        super().__init__(f"column {column}: {message}" if column else message)
        self.message, self.column, self.setting = message, column, setting


def _identifier_problem(name: object) -> str | None:
    fits = isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", name)
    return None if fits else f"{name!r}: it must be a letter, then up to 62 letters, digits or underscores"


def _tuple_problem(values: object) -> str | None:
    if isinstance(values, tuple):  # ("unknown") is a string, and `in` would search its letters
        return None
    return f"{values!r}; this must be a tuple: is a comma missing, as in ('S',)?"


@dataclass(frozen=True, kw_only=True)
class Column:
    """The fields of every column.

    Parameters
    ----------
    name : str
        Letters, digits and underscores: it becomes an SQL identifier and a JSON key.
    description : str
        Shown in the API's documentation.
    required : bool
        Whether a value must be present. Otherwise missing values are imputed.
    header : str
        What the column is called in the file, any text on one line. Without it, the name.
    """

    name: str
    description: str
    required: bool = False
    header: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            what, accepted = _TYPES.get(field.type, ("", (object,)))
            if not isinstance(value, accepted) or (what == "a number" and isinstance(value, bool)):
                raise self._wrong(f"{field.name} is {value!r}; it must be {what}")
        if problem := _identifier_problem(self.name):
            raise self._wrong(f"column name {problem}")
        if "\n" in self.header or "\r" in self.header:
            raise self._wrong(f"its header is {self.header!r}; it must be on one line, in the file as well")
        # One accented letter may be one character or two, which look the same: macOS writes two.
        object.__setattr__(self, "header", unicodedata.normalize("NFC", self.header or self.name))

    def _wrong(self, message: str) -> SchemaError:
        return SchemaError(message, column=str(self.name))

    @property
    def in_file(self) -> str:
        """The header as messages about the file name it."""
        return _quoted(self.header)


@dataclass(frozen=True, kw_only=True)
class Number(Column):
    """A measurement in `unit`, between `minimum` and `maximum`, both included."""

    unit: str
    minimum: float
    maximum: float
    example: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -MAX_NUMBER <= self.minimum < self.maximum <= MAX_NUMBER:
            raise self._wrong(
                f"minimum is {self.minimum} and maximum {self.maximum}; the minimum must "
                f"be below the maximum, both from {-MAX_NUMBER:g} to {MAX_NUMBER:g}"
            )
        if not self.minimum <= self.example <= self.maximum:
            raise self._wrong(f"the example is {self.example}; it must be {self.rule}")

    @property
    def rule(self) -> str:
        # Not :g, which would print 1.23457e+06 for 1234567.
        return f"a number from {self.minimum:.15g} to {self.maximum:.15g} {self.unit}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Category(Column):
    """One of a few known strings. Any other text counts as `rest`, which is one of them; without it, it is refused."""

    values: tuple[str, ...]
    example: str
    rest: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if problem := _tuple_problem(self.values):
            raise self._wrong(f"its values are {problem}")
        duplicates = [value for value, count in Counter(self.values).items() if count > 1]
        wrong = duplicates + [value for value in self.values if value == NULL or not isinstance(value, str)]
        if not self.values or wrong:
            raise self._wrong(
                f"its values are {self.values}; they must be one or more distinct strings, none of them {NULL}. "
                f"Wrong here: {wrong or 'no value'}"
            )
        for what, value in (("example", self.example), ("rest", self.rest or self.example)):
            if value not in self.values:
                raise self._wrong(f"the {what} is {value!r}; it must be one of {self._listed}")

    @property
    def _listed(self) -> str:
        return ", ".join(map(_quoted, self.values))

    @property
    def rule(self) -> str:
        return f"one of {self._listed}" + (f"; any other text counts as {_quoted(self.rest)}" if self.rest else "")

    def accepts(self, text: str) -> bool:
        return bool(self.rest) or text in self.values

    @property
    def meanings(self) -> dict[float, str]:
        """The values that look like a number or a boolean, by what they look like: ``{0: "0", 1: "1"}``.

        CSV readers and JSON clients easily send one for the other. Values that look the same, such as "1", "01" and
        "true", are left out: True is 1 in Python.
        """
        found = [(_meaning(value), value) for value in self.values]
        count = Counter(meaning for meaning, _ in found)
        return {meaning: value for meaning, value in found if meaning is not None and count[meaning] == 1}


@dataclass(frozen=True, kw_only=True)
class Ignored(Column):
    """What the file has and nobody asks for: an id, free text, a date. The raw table keeps it as it is."""

    description: str = ""


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """How the file is written. What is not said here is as most programs write it.

    Parameters
    ----------
    encoding : str
        As Python names it.
    delimiter, quote : str
        What stands between two values, and around a value that holds one of both.
    decimal, thousands : str
        How numbers are written: ``","`` and ``"."`` for 1.234,5.
    skip : int
        Lines before the header.
    header : bool
        Whether a line names the columns. Without it, they come as they are declared.
    padded : bool
        Whether blanks around a value mean nothing.
    """

    encoding: str = "utf-8"
    delimiter: str = ","
    quote: str = '"'
    decimal: str = "."
    thousands: str = ""
    skip: int = 0
    header: bool = True
    padded: bool = False

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "encoding", codecs.lookup(self.encoding).name)
        except LookupError:
            raise SchemaError(
                f"FILE names the encoding {self.encoding!r}, which Python does not know", setting="FILE"
            ) from None
        for name in ("delimiter", "quote", "decimal"):
            if len(value := getattr(self, name)) != 1 or not value.isascii():
                raise SchemaError(f"FILE: {name} is {value!r}; it must be one ASCII character", setting="FILE")
        if self.decimal == self.thousands or self.quote == self.delimiter:
            raise SchemaError(f"{self}: one character has two meanings", setting="FILE")

    @property
    def spells_numbers(self) -> bool:
        """Whether a number is written as Python and the databases read it."""
        return self.decimal == "." and not self.thousands and not self.padded


def _meaning(text: str) -> float | None:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    with suppress(ValueError):
        return int(text)  # which keeps all digits
    with suppress(ValueError):
        return float(text) if isfinite(float(text)) else None
    return None


def _quoted(text: str) -> str:
    """Return a text that stands in a message, in quotes if it could be taken for more than one word."""
    return text if re.fullmatch(r"[^\s,'\"]+", text) else repr(text)


def checked_target(
    columns: tuple[Number | Category | Ignored, ...],
    target_name: str,
    *,
    name: str,
    table: str,
    csv_name: str,
    missing: tuple[str, ...],
    min_accuracy: float,
) -> Category:
    """Return the column to predict. Raise SchemaError if the declaration of a table contradicts itself."""
    if problem := _identifier_problem(name):
        raise SchemaError(f"NAME {problem}", setting="NAME")
    if problem := _identifier_problem(table):
        raise SchemaError(f"TABLE {problem}", setting="TABLE")
    if not isinstance(csv_name, str) or not csv_name:
        raise SchemaError(f"CSV_NAME is {csv_name!r}; it must be the name of a file in dags/", setting="CSV_NAME")
    if not isinstance(min_accuracy, int | float) or not 0 <= min_accuracy <= 1:
        raise SchemaError(f"MIN_ACCURACY is {min_accuracy!r}; it must be from 0 to 1", setting="MIN_ACCURACY")
    _check_missing(missing)
    _check_columns(columns, missing)
    target = next((c for c in columns if c.name == target_name), None)
    if not isinstance(target, Category) or not target.required or target_name in RESERVED_IN_ANSWERS:
        candidates = [c.name for c in columns if isinstance(c, Category) and c.required]
        raise SchemaError(
            f"TARGET_NAME is {target_name!r}; it must be the name of a Category with required=True that is not "
            f"called one of {', '.join(RESERVED_IN_ANSWERS)}. Candidates here: {', '.join(candidates) or 'none'}",
            setting="TARGET_NAME",
        )
    if not [c for c in columns if c is not target and not isinstance(c, Ignored)]:
        raise SchemaError(
            f"there is no column to predict {target_name} from; declare one or more besides it", setting="COLUMNS"
        )
    return target


def _check_missing(missing: tuple[str, ...]) -> None:
    if problem := _tuple_problem(missing):
        raise SchemaError(f"MISSING is {problem}", setting="MISSING")
    if unsafe := [t for t in missing if not isinstance(t, str) or re.search(r"[\r\n]", t)]:
        raise SchemaError(
            f"MISSING holds {unsafe}; it must hold strings without line breaks",
            setting="MISSING",
        )


def _check_columns(columns: tuple[Number | Category | Ignored, ...], missing: tuple[str, ...]) -> None:
    if problem := _tuple_problem(columns):
        raise SchemaError(f"COLUMNS is {problem}", setting="COLUMNS")
    names, headers = {RESERVED_IN_TABLE}, set()
    for column in columns:
        if not isinstance(column, Number | Category | Ignored):
            raise SchemaError(
                f"COLUMNS holds {column!r}; each must be a Number, a Category or Ignored", setting="COLUMNS"
            )
        # Column names are case-insensitive in MySQL and SQLite.
        if (name := column.name.lower()) in names:
            raise SchemaError(
                f"the name is taken, by {'the table itself' if name == RESERVED_IN_TABLE else 'another column'}: "
                "capitals do not make it another one",
                column=column.name,
            )
        if column.header in headers:
            raise SchemaError(f"another column has the header {column.header!r} as well", column=column.name)
        if isinstance(column, Category) and (both := sorted(set(column.values) & set(missing))):
            raise SchemaError(
                f"its values are {column.values}, but MISSING, which is {missing}, holds {both} as well",
                column=column.name,
            )
        names.add(name)
        headers.add(column.header)
