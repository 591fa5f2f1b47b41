"""Writes a declaration between the dashed lines of `schema.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from penguins.column_types import FileFormat
from penguins.table.guessing import Guess

SCHEMA = Path(__file__).parents[1] / "schema.py"
_DASHES = "# ------------------------------------------------------------------ "
FROM, TO = f"{_DASHES}your own table: replace from here\n", f"{_DASHES}to here\n"
MAX_LINE = 120


@dataclass(frozen=True)
class Declaration:
    """What stands between the two lines."""

    name: str
    csv_name: str
    form: FileFormat
    missing: tuple[str, ...]
    table: str
    target: str
    min_accuracy: float
    guesses: Sequence[Guess]

    def text(self) -> str:
        columns = "".join(_column(guess) for guess in self.guesses)
        return (
            f"# How the file marks a missing value.\n{_assigned('MISSING', self.missing)}\n\n"
            f"# Of the DAG, its asset, the API and its model.\n{_assigned('NAME', self.name)}\n"
            f"{_assigned('CSV_NAME', self.csv_name)}\n{_form(self.form)}\n"
            f"TABLE = {_literal(self.table)}\nTARGET_NAME = {_literal(self.target)}\n\n"
            "# Accuracy below which a run fails, unless it is triggered with another min_accuracy.\n"
            f"MIN_ACCURACY = {self.min_accuracy}\n\n"
            "# The file may have them in any order.\n"
            f"COLUMNS: tuple[Number | Category | Ignored, ...] = (\n{columns})\n"
        )


def written(declaration: Declaration, schema: str) -> str:
    """Return the text of `schema.py` with another declaration. ValueError if its two lines are not there."""
    before, start, rest = schema.partition(FROM)
    _, end, after = rest.partition(TO)
    if not start or not end:
        raise ValueError(f"{SCHEMA} has lost the two dashed lines that a declaration stands between")
    return f"{before}{FROM}\n{declaration.text()}\n{TO}{after}"


def _column(guess: Guess) -> str:
    column, lines = guess.column, []
    default = {f.name: f.default for f in fields(column)}
    for name in [f.name for f in fields(column) if f.name != "header"]:
        value = getattr(column, name)
        if value != default[name]:
            lines.append(_argument(name, value))
        if name == "name" and column.header != column.name:
            lines.append(_argument("header", column.header))
    checks = "".join(f"    # check: {check}\n" for check in guess.checks)
    return f"{checks}    {type(column).__name__}(\n{''.join(lines)}    ),\n"


def _argument(name: str, value: Any) -> str:
    line = f"        {name}={_literal(value)},\n"
    if len(line) <= MAX_LINE + 1:
        return line
    if not isinstance(value, tuple):
        return f"{line.rstrip()}  # noqa: E501\n"
    return f"        {name}=(\n" + "".join(f"            {_literal(v)},\n" for v in value) + "        ),\n"


def _assigned(name: str, value: Any) -> str:
    return f"{name} = {_literal(value)}"


def _form(form: FileFormat) -> str:
    other = [f for f in fields(form) if getattr(form, f.name) != f.default]
    return f"FILE = FileFormat({', '.join(f'{f.name}={_literal(getattr(form, f.name))}' for f in other)})"


def _literal(value: Any) -> str:
    """Return a value as the project's formatter writes it."""
    if isinstance(value, tuple):
        inner = ", ".join(map(_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if not isinstance(value, str):
        return repr(value)
    return repr(value) if '"' in value and "'" not in value else json.dumps(value, ensure_ascii=False)
