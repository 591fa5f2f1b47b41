"""The journal's command line: `python -m penguins.journal`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import IO

from penguins.data.records import SourceError, header_line
from penguins.journal.export import JournalError, base_rows, labelled_rows, of_other_columns, write_csv
from penguins.journal.files import DIRECTORY


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return its exit code: 1 if there is nothing to export, or it cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m penguins.journal", description="Read the service's journal.")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write the predictions whose truth is known as a CSV for the DAG")
    export.add_argument("file", nargs="?", type=Path, metavar="FILE", help="where to; without it, to standard output")
    export.add_argument("--base", type=Path, metavar="CSV", help="a CSV of the DAG whose rows come first")
    export.add_argument("--dir", metavar="DIR", help=f"the journal's folder; without it, {DIRECTORY} says which")
    chosen = parser.parse_args(arguments)
    try:
        _export(_folder(chosen.dir or os.environ.get(DIRECTORY)), chosen.file, chosen.base)
    except (JournalError, SourceError) as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # of `| head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"{error.filename or chosen.file or 'standard output'}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _folder(name: str | None) -> Path:
    if not name:
        raise JournalError(f"which journal? Set {DIRECTORY} to its folder, or name it with --dir")
    if not Path(name).is_dir():
        raise JournalError(f"{name} is no folder; it must be the one that the service has as {DIRECTORY}")
    return Path(name)


def _export(folder: Path, target: Path | None, base: Path | None) -> None:
    for path in of_other_columns(folder):
        print(
            f"{path} is left out: it was written for other columns than plugins/penguins/schema.py has", file=sys.stderr
        )
    if target is None:
        said = _write(sys.stdout, folder, base)
    else:
        beside = target.with_name(f"{target.name}.new")
        try:
            with beside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                said = _write(file, folder, base)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    print(said, file=sys.stderr)


def _write(file: IO[str], folder: Path, base: Path | None) -> str:
    file.write(header_line() + "\n")
    before = write_csv(file, base_rows(base)) if base else 0
    labelled = write_csv(file, labelled_rows(folder))
    if not labelled:
        raise JournalError(f"nobody gave feedback about a prediction in {folder} yet: POST /feedback does")
    file.flush()
    return f"{labelled:,} predictions whose truth is known" + (f", after {before:,} rows of {base}" if base else "")


if __name__ == "__main__":
    sys.exit(main())
