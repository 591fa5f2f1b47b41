"""Hold a file against the declaration: `make check`, or `make check CSV=FILE`. Airflow is not needed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from penguins.column_types import SchemaError
from penguins.data.text import SourceError

DAGS = Path(__file__).parents[3] / "dags"


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=logging.WARNING)
    try:
        from penguins.data.source import check_source
        from penguins.schema import CSV_NAME

        path = Path(arguments[0]).expanduser() if arguments and arguments[0] else DAGS / CSV_NAME
        source = check_source(path, test_size=0.2)
    except (SourceError, SchemaError) as error:
        print(f"make check: {error}", file=sys.stderr)
        return 1
    classes = ", ".join(f"{name} {rows:,}" for name, rows in source.class_counts.items())
    print(f"{path}: {source.rows:,} rows fit the declaration. {classes}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
