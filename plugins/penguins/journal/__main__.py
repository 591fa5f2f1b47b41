"""The journal's command line: `python -m penguins.journal`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from sqlalchemy import Engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from penguins.data.records import SourceError
from penguins.journal.export import all_of, labelled, write_csv, write_parquet
from penguins.journal.tables import TABLES, URL, JournalError, engine_of, file_of, make_file


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return its exit code: 1 if there is nothing to export, or it cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m penguins.journal", description="Read the service's journal.")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write the predictions whose truth is known as a CSV for the DAG")
    export.add_argument("file", nargs="?", type=Path, metavar="FILE", help="where to, as Parquet if it is called so")
    export.add_argument("--base", type=Path, metavar="CSV", help="a CSV of the DAG whose rows come first")
    export.add_argument(
        "--table", choices=[table.name for table in TABLES], help="write all columns of a table instead"
    )
    take = commands.add_parser("import", help="take over the files that an earlier release has kept")
    take.add_argument("folder", type=Path, metavar="DIR", help="what was API_JOURNAL_DIR")
    for command in (export, take):
        command.add_argument("--url", help=f"the journal's database; without it, {URL} says which")
    chosen = parser.parse_args(arguments)
    try:
        engine = _journal(chosen.url or os.environ.get(URL), new=chosen.command == "import")
        if chosen.command == "import":
            from penguins.journal.earlier import take_over

            print(take_over(engine, chosen.folder), file=sys.stderr)
        else:
            print(_export(engine, chosen.file, chosen.table, chosen.base), file=sys.stderr)
    except (JournalError, SourceError, SQLAlchemyError) as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # of `| head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"{error.filename or 'the file'}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _journal(url: str | None, *, new: bool) -> Engine:
    if not url:
        raise JournalError(f"which journal? Set {URL} to its database, or name it with --url")
    engine = engine_of(url)
    path = file_of(engine)
    if path and new:
        make_file(path)
    elif path and not path.is_file():
        raise JournalError(f"{path} is not there; it must be the one that the service has as {URL}")
    found = inspect(engine).get_table_names()
    if not new and TABLES[0].name not in found:
        raise JournalError(f"there is no journal in {engine.url} yet: the service makes it with the first prediction")
    if others := [name for name in found if name.rpartition("_")[0] in [table.name for table in TABLES]]:
        print(f"left out, because they are for other columns: {', '.join(others)}", file=sys.stderr)
    return engine


def _export(engine: Engine, target: Path | None, table: str | None, base: Path | None) -> str:
    columns = all_of(table) if table else labelled()
    beside = target.with_name(f"{target.name}.new") if target else None
    before = 0
    try:
        if beside and beside.stem.endswith(".parquet"):
            if base:
                raise JournalError("--base is for a CSV, and cannot be put into Parquet")
            count = write_parquet(beside, engine, columns)
        elif beside:
            with beside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                count, before = write_csv(file, engine, columns, base)
        else:
            count, before = write_csv(sys.stdout, engine, columns, base)
        if not count and not table:
            raise JournalError(f"nobody gave feedback about a prediction in {engine.url} yet: POST /feedback does")
        if target and beside:
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(target)
        sys.stdout.flush()
    finally:
        if beside:
            beside.unlink(missing_ok=True)
    return f"{count:,} {'rows' if table else 'predictions whose truth is known'}" + (
        f", after {before:,} rows of {base}" if base else ""
    )


if __name__ == "__main__":
    sys.exit(main())
