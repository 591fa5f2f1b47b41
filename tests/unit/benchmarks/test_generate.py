"""The generated tables are like the real one, whatever their size."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import generate as module
from benchmarks.generate import generate
from penguins.data.source import check_source
from penguins.registry import PROJECT
from penguins.schema import CATEGORIES, COLUMNS, CSV_NAME, MISSING, NUMBERS, TARGET

REAL = PROJECT / "dags" / CSV_NAME
ROWS = 20_000


def frame_at(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, na_values=MISSING, keep_default_na=False)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generated") / "penguins.csv"
    generate(ROWS, path)
    return path


def test_the_same_seed_writes_the_same_file_and_another_one_another(tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        generate(500, tmp_path / name, seed)
    first, again, other = ((tmp_path / name).read_bytes() for name in ("first", "again", "other"))
    assert first == again != other


def test_the_header_is_the_schemas(generated: Path) -> None:
    with generated.open() as file:
        assert file.readline() == ",".join(c.name for c in COLUMNS) + "\n"


def test_a_file_of_any_size_and_seed_passes_the_check(generated: Path, tmp_path: Path) -> None:
    assert check_source(generated, test_size=0.2).rows == ROWS
    for seed in range(3):
        generate(344, tmp_path / "x.csv", seed)
        assert check_source(tmp_path / "x.csv", test_size=0.2).rows == 344, seed


def test_a_file_that_is_written_in_pieces_has_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 100)
    for rows in (99, 100, 101, 250):
        generate(rows, tmp_path / "x.csv")
        assert len(frame_at(tmp_path / "x.csv")) == rows


def test_numbers_stay_in_range_where_many_lie_at_its_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JITTER", 100)
    generate(1000, tmp_path / "x.csv")
    assert check_source(tmp_path / "x.csv", test_size=0.2).rows == 1000


def test_categories_and_what_is_missing_are_as_common_as_they_are(generated: Path) -> None:
    real, made = frame_at(REAL), frame_at(generated)
    for category in (TARGET, *CATEGORIES):
        shares, expected = (f[category.name].value_counts(normalize=True, dropna=False) for f in (made, real))
        # Five standard deviations of a share of 20,000 rows.
        assert shares.to_dict() == pytest.approx(expected.to_dict(), abs=5 * 0.5 / ROWS**0.5, nan_ok=True)
    for column in NUMBERS:
        share, expected = (f[column.name].isna().mean() for f in (made, real))
        assert 0 < share == pytest.approx(expected, abs=5 * (expected / ROWS) ** 0.5)


def test_numbers_are_moved_a_little(generated: Path) -> None:
    """A forest that has seen every value again and again would be smaller than a real table's."""
    real, made = frame_at(REAL), frame_at(generated)
    for column in NUMBERS:
        assert made[column.name].nunique() > 2 * real[column.name].nunique()
        assert made[column.name].mean() == pytest.approx(real[column.name].mean(), abs=real[column.name].std() / 20)
        assert made[column.name].std() == pytest.approx(real[column.name].std(), rel=0.05)
