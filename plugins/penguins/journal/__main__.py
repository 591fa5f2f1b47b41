"""The journal's command line: `python -m penguins.journal`."""

from __future__ import annotations

import argparse
import os
import sys
from io import TextIOWrapper
from pathlib import Path

from sqlalchemy import Engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from penguins.data.text import UTF8
from penguins.journal.export import write_csv
from penguins.journal.tables import URL, JournalError, engine_of, feedback, file_of
from penguins.schema import FILE


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return its exit code: 1 if there is nothing to export, or it cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m penguins.journal", description="Read the service's journal.")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write the predictions whose truth is known as a CSV for the DAG")
    export.add_argument("file", nargs="?", type=Path, metavar="FILE", help="where to; without it, to the output")
    export.add_argument("--base", type=Path, metavar="CSV", help="a CSV of the DAG whose rows come first")
    export.add_argument("--url", help=f"the journal's database; without it, {URL} says which")
    chosen = parser.parse_args(arguments)
    try:
        print(_export(_journal(chosen.url or os.environ.get(URL)), chosen.file, chosen.base), file=sys.stderr)
    except (JournalError, SQLAlchemyError) as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # of `| head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"{error.filename or 'the file'}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _journal(url: str | None) -> Engine:
    if not url:
        raise JournalError(f"which journal? Set {URL} to its database, or name it with --url")
    engine = engine_of(url)
    if (path := file_of(engine)) and not path.is_file():
        raise JournalError(f"{path} is not there; it must be the one that the service has as {URL}")
    found = inspect(engine).get_table_names()
    if feedback.name not in found:
        raise JournalError(f"there is no journal in {engine.url} yet: the service makes it with the first prediction")
    if others := [name for name in found if name.startswith(f"{feedback.name}_")]:
        print(f"left out, because they are for other columns: {', '.join(others)}", file=sys.stderr)
    return engine


def _export(engine: Engine, target: Path | None, base: Path | None) -> str:
    beside = target.with_name(f"{target.name}.new") if target else None
    try:
        if beside:
            with beside.open("w", encoding=FILE.encoding, errors="surrogateescape", newline="") as file:
                count, before = write_csv(file, engine, base)
                file.flush()
                os.fsync(file.fileno())
        else:
            if FILE.encoding not in UTF8 and isinstance(sys.stdout, TextIOWrapper):
                sys.stdout.reconfigure(encoding=FILE.encoding)
            count, before = write_csv(sys.stdout, engine, base)
            sys.stdout.flush()
        if not count:
            raise JournalError(f"nobody gave feedback about a prediction in {engine.url} yet: POST /feedback does")
        if target and beside:
            beside.replace(target)
    finally:
        if beside:
            beside.unlink(missing_ok=True)
    return f"{count:,} predictions whose truth is known" + (f", after {before:,} rows of {base}" if base else "")


if __name__ == "__main__":
    sys.exit(main())
