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


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    for name in ("first", "again"):
        generate(500, tmp_path / name, seed=3)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()


def test_another_seed_writes_another_file(tmp_path: Path) -> None:
    for seed in (3, 4):
        generate(500, tmp_path / str(seed), seed)
    assert (tmp_path / "3").read_bytes() != (tmp_path / "4").read_bytes()


def test_a_large_file_passes_the_check(generated: Path) -> None:
    assert check_source(generated, test_size=0.2).rows == ROWS


@pytest.mark.parametrize("seed", range(5))
def test_a_file_of_any_seed_passes_the_check(tmp_path: Path, seed: int) -> None:
    generate(344, tmp_path / "x.csv", seed)
    assert check_source(tmp_path / "x.csv", test_size=0.2).rows == 344


@pytest.mark.parametrize("rows", [99, 100, 101, 250])
def test_a_file_that_is_written_in_pieces_has_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 100)
    generate(rows, tmp_path / "x.csv")
    assert len(frame_at(tmp_path / "x.csv")) == rows


def test_numbers_stay_in_range_where_many_lie_at_its_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JITTER", 100)
    generate(1000, tmp_path / "x.csv")
    assert check_source(tmp_path / "x.csv", test_size=0.2).rows == 1000


@pytest.mark.parametrize("category", [TARGET, *CATEGORIES], ids=lambda c: c.name)
def test_categories_and_their_nulls_are_as_common_as_they_are(generated: Path, category: object) -> None:
    name = category.name  # type: ignore[attr-defined]
    real, made = (frame_at(path)[name].value_counts(normalize=True, dropna=False) for path in (REAL, generated))
    # Five standard deviations of a share of 20,000 rows.
    assert made.to_dict() == pytest.approx(real.to_dict(), abs=5 * 0.5 / ROWS**0.5, nan_ok=True)


@pytest.mark.parametrize("column", NUMBERS, ids=lambda c: c.name)
def test_numbers_are_missing_as_often_as_they_are(generated: Path, column: object) -> None:
    name = column.name  # type: ignore[attr-defined]
    real, made = (frame_at(path)[name].isna().mean() for path in (REAL, generated))
    assert 0 < made == pytest.approx(real, abs=5 * (real / ROWS) ** 0.5)


def test_numbers_are_moved_a_little(generated: Path) -> None:
    """A forest that has seen every value again and again would be smaller than a real table's."""
    real, made = frame_at(REAL), frame_at(generated)
    for column in NUMBERS:
        assert made[column.name].nunique() > 2 * real[column.name].nunique()
        assert made[column.name].mean() == pytest.approx(real[column.name].mean(), abs=real[column.name].std() / 20)
        assert made[column.name].std() == pytest.approx(real[column.name].std(), rel=0.05)


def test_the_header_is_the_schemas(generated: Path) -> None:
    with generated.open() as file:
        assert file.readline() == ",".join(c.name for c in COLUMNS) + "\n"
