"""Declare the table of a CSV file: `make table CSV=FILE TARGET=COLUMN`.

Writes `plugins/penguins/schema.py` and copies the file beside the DAG. Nothing is written if anything is wrong.
"""

from __future__ import annotations

import argparse
import filecmp
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from penguins.column_types import Category, Ignored, Number, SchemaError
from penguins.data.source import MIN_ROWS_PER_CLASS
from penguins.data.text import SourceError
from penguins.files import replace_file
from penguins.table.declaring import SCHEMA, Declaration, written
from penguins.table.guessing import MAX_CLASSES, Guess, category, guess, missing_of, name_of
from penguins.table.judging import features_of, judge, min_accuracy_of
from penguins.table.reading import Seen, observe, sniff

PROJECT = SCHEMA.parents[2]
DAGS = PROJECT / "dags"
MAX_CANDIDATES = 200  # for the target, that a message names


class TableError(ValueError):
    """The file cannot be declared. Nothing was changed."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m penguins.table", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--target", default="", help="the column to predict, by its header or its name")
    parser.add_argument("--task", choices=["class", "number"], default="", help="what the target is")
    parser.add_argument("--check", action="store_true", help="only look: write nothing")
    parser.add_argument("--force", action="store_true", help="overwrite a declaration that git does not have")
    given = parser.parse_args(arguments)
    if given.file == Path():  # as make hands it on where CSV is not set
        print("make table: which file? make table CSV=FILE TARGET=COLUMN", file=sys.stderr)
        return 1
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 120)
    try:
        path = given.file.expanduser().resolve()
        declaration, base, reached = declare(path, given.target, given.task)
        show(console, declaration, base, reached)
        if not given.check:
            write(console, path, declaration, force=given.force)
    except (TableError, SourceError, SchemaError, OSError) as error:
        print(f"make table: {error} Nothing was changed.", file=sys.stderr)
        return 1
    return 0


def declare(path: Path, target: str, task: str) -> tuple[Declaration, float, float]:
    """Return the declaration of a file, and how often the most frequent class and a quick forest are right."""
    form, columns, rows = observe(path, sniff(path))
    style = (form.thousands, form.decimal)
    if len(columns) < 2:
        raise TableError(f"{path} has one column, {columns[0].header!r}: there is nothing to predict it from.")
    if twice := sorted({c.header for c in columns if sum(c.header == o.header for o in columns) > 1}):
        raise TableError(f"{path} has two columns of one name: {', '.join(map(repr, twice))}. Rename one in the file.")
    taken: set[str] = set()
    names = [name_of(column.header, taken) for column in columns]
    place = _place_of(target, columns, names)
    missing = missing_of(columns, style)
    guesses = [guess(column, name, missing, style) for column, name in zip(columns, names, strict=True)]
    guesses[place] = _target(columns[place], names[place], missing, style, task)
    _find_duplicates(guesses)
    known = [row for row in rows if row[place].strip() not in missing]
    features = features_of(known, guesses, missing, style)
    features.pop(names[place])
    if not features:
        raise TableError(f"{path} has no column to predict {columns[place].header!r} from.")
    base, reached, telling = judge(features, [row[place].strip() for row in known])
    for found in guesses:
        if found.column.name in telling:
            found.checks.append("it alone tells the target: is it known before?")
    name, least = name_of(path.stem, set())[:50], min_accuracy_of(base, reached)
    declaration = Declaration(name, path.name, form, missing, f"{name}_raw", names[place], least, guesses)
    return declaration, base, reached


def _place_of(target: str, columns: Sequence[Seen], names: Sequence[str]) -> int:
    spelled = [{c.header, c.header.casefold(), name} for c, name in zip(columns, names, strict=True)]
    for text in (target, target.strip().casefold(), name_of(target, set())):
        if found := [place for place, spellings in enumerate(spelled) if target and text in spellings]:
            return found[0]
    listed = ", ".join(repr(c.header) for c in columns[:MAX_CANDIDATES])
    came = f"there is no column {target!r}" if target else "no column to predict was named"
    raise TableError(f"{came}. Set TARGET to one of {listed}.")


def _target(seen: Seen, name: str, missing: tuple[str, ...], style: tuple[str, str], task: str) -> Guess:
    values = {text: count for text, count in seen.values.most_common() if text not in missing}
    lacking = sum(seen.values[text] for text in missing)
    is_number = style in seen.low and seen.words[style].issubset(missing)
    is_amount = is_number and (seen.many or len(values) > MAX_CLASSES or style in seen.fractions)
    if task == "number" and not is_number:
        raise TableError(f"TASK=number, but {seen.header!r} holds texts. Leave TASK out: it is a class.")
    if task == "number" or (not task and is_amount):
        raise TableError(
            f"{seen.header!r} is a number from {seen.low.get(style):g} to {seen.high.get(style):g}, and only classes "
            "can be predicted yet. TASK=class takes each different number for a class."
        )
    if seen.many or len(values) > 200:
        raise TableError(
            f"{seen.header!r} has {len(values)} different values or more: it is an id or free text, no class."
        )
    if len(values) < 2:
        raise TableError(f"{seen.header!r} has one value, {next(iter(values), '')!r}: there is nothing to predict.")
    found = Guess(category(seen, name, values, required=True), seen, lacking)
    if lacking:
        raise TableError(
            f"{lacking} rows lack the target {seen.header!r}. A model can neither learn nor be judged from them: "
            "remove them from the file."
        )
    few = {text: count for text, count in values.items() if count < MIN_ROWS_PER_CLASS}
    if few:
        listed = ", ".join(f"{text} ({count})" for text, count in few.items())
        raise TableError(
            f"of {seen.header!r}, too few rows are of {listed}: each class needs {MIN_ROWS_PER_CLASS}. Add rows, merge "
            "the class with another in the file, or remove its rows."
        )
    return found


def _find_duplicates(guesses: Sequence[Guess]) -> None:
    first: dict[bytes, str] = {}
    for found in guesses:
        if isinstance(found.column, Category) and found.column.required:
            first[found.seen.digest.digest()] = found.seen.header
    for found in guesses:
        digest = found.seen.digest.digest()
        if digest in first and first[digest] != found.seen.header and not isinstance(found.column, Ignored):
            found.column = Ignored(name=found.column.name, header=found.seen.header)
            found.checks.append(f"it repeats {first[digest]!r}")
        first.setdefault(digest, found.seen.header)


def show(console: Console, declaration: Declaration, base: float, reached: float) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("column", "is", "values", "missing", "check"):
        table.add_column(heading, overflow="fold")
    for found in declaration.guesses:
        column = found.column
        if isinstance(column, Number):
            kind, values = "number", f"{column.minimum} to {column.maximum}"
        elif isinstance(column, Category):
            kind = "target, a class" if column.name == declaration.target else "category"
            values = ", ".join(column.values[:6]) + (
                f" and {len(column.values) - 6} more" if len(column.values) > 6 else ""
            )
        else:
            kind, values = "ignored", ""
        named = column.name if column.header == column.name else f"{column.name} ({column.header})"
        share = f"{found.missing / found.seen.rows:.1%}" if found.missing else ""
        table.add_row(named, kind, values, share, "; ".join(found.checks))
    console.print(table)
    console.print(
        f"\nAlways answering the most frequent class is right in {base:.1%} of the rows, a quick forest in "
        f"{reached:.1%}: MIN_ACCURACY = {declaration.min_accuracy}."
    )


def write(console: Console, path: Path, declaration: Declaration, *, force: bool) -> None:
    """Write the declaration, and copy the file beside the DAG."""
    undo, keep = _undo(force)
    text = written(declaration, SCHEMA.read_text(encoding="utf-8"))
    target = DAGS / path.name
    beside = target.with_name(f".{target.name}.part")
    if target != path:
        _check_place(path, target, force)
        try:
            shutil.copyfile(path, beside)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        undo += f" && rm {shlex.quote(str(target.relative_to(PROJECT)))}"
    if keep:
        shutil.copyfile(SCHEMA, keep)
    replace_file(SCHEMA, text.encode(), mode=0o644, like=SCHEMA.stat())
    say = partial(console.print, soft_wrap=True)
    say(f"\nDeclared in {SCHEMA.relative_to(PROJECT)}; the file is {target.relative_to(PROJECT)}.")
    say("Look at what is marked # check, then `make run`, or `docker compose up --build -d --wait`.")
    say(f"To undo it: {undo}")


def _check_place(path: Path, target: Path, force: bool) -> None:
    if not force and target.exists() and not filecmp.cmp(path, target, shallow=False):
        raise TableError(f"{target} is there already, and is another file. Rename yours, or set FORCE=1.")
    size, free = path.stat().st_size, shutil.disk_usage(DAGS).free
    if free < size * 1.1:
        raise TableError(f"{path} has {size:,} bytes, but only {free:,} are free in {DAGS}. Make room there.")


def _undo(force: bool) -> tuple[str, Path | None]:
    """Return the command that brings the declaration back, and where to keep it first, if git does not have it."""
    schema = SCHEMA.relative_to(PROJECT)
    git = shutil.which("git")
    command = [git or "", "diff", "--quiet", "HEAD", "--", str(SCHEMA)]
    differs = subprocess.run(command, cwd=PROJECT, capture_output=True, check=False).returncode if git else 128
    if not differs:
        return f"git checkout {schema}", None
    kept = SCHEMA.with_name(f"{SCHEMA.name}.before")
    if differs == 1 and not force:
        raise TableError(
            f"git does not have {schema} as it is now. Commit it, or set FORCE=1, which keeps it as {kept.name}."
        )
    if kept.exists() and not force:
        raise TableError(f"{kept.relative_to(PROJECT)} is there already. Remove it, or set FORCE=1.")
    return f"mv {kept.relative_to(PROJECT)} {schema}", kept


if __name__ == "__main__":
    sys.exit(main())
