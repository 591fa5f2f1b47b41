"""Write a CSV of any size from the penguins: `PYTHONPATH=plugins python -m benchmarks.generate ROWS FILE [SEED]`.

Rows are drawn with replacement, so the shares of the species and of missing values stay the same. Each number gets some
jitter, within its column's range.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.servers import ROOT
from penguins.data.records import header_line
from penguins.schema import COLUMNS, CSV_NAME, MISSING, Number

CHUNK_ROWS = 200_000
JITTER = 0.1  # its standard deviation, relative to the column's


def generate(rows: int, path: Path, seed: int = 0) -> None:
    """Write `rows` rows under the schema's header. The same seed gives the same file."""
    names = [c.name for c in COLUMNS]
    real = pd.read_csv(ROOT / "dags" / CSV_NAME, header=0, names=names, dtype=str, keep_default_na=False)
    draw = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(header_line() + "\n")
        for start in range(0, rows, CHUNK_ROWS):
            part = real.iloc[draw.integers(len(real), size=min(CHUNK_ROWS, rows - start))].reset_index(drop=True)
            for column in COLUMNS:
                if isinstance(column, Number):
                    part[column.name] = _with_jitter(column, real[column.name], part[column.name], draw)
            part.to_csv(file, header=False, index=False, lineterminator="\n")


def _with_jitter(column: Number, real: pd.Series, drawn: pd.Series, draw: np.random.Generator) -> pd.Series:
    missing = drawn.isin(MISSING)
    spread = pd.to_numeric(real[~real.isin(MISSING)]).std()
    moved = pd.to_numeric(drawn.mask(missing)) + draw.normal(0, JITTER * spread, len(drawn))
    text = moved.clip(column.minimum, column.maximum).round(2).astype(str)
    return text.mask(missing, MISSING[0])


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    generate(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
