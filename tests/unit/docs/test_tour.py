"""The tour follows one penguin: what it says of the bird and of the way is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from app.schemas import Record
from penguins.inference import Model, unpickle
from penguins.schema import COLUMNS, FEATURES, MISSING, Number
from penguins.training.pipeline import build_pipeline, fit
from penguins.training.rows import feature_frame

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "docs" / name for name in ("tour.md", "tour.es.md")]
TOUR = PAGES[0].read_text(encoding="utf-8")
LINE = 338
MAX_ROAD_LINES = 1500  # lines: what a first reader reads in an hour


@pytest.fixture(scope="module")
def bird() -> dict[str, Any]:
    """The line of the CSV, as a record."""
    line = (ROOT / "dags" / "penguins_size.csv").read_text().splitlines()[LINE - 1]
    assert f"```\n{line}\n```" in TOUR
    assert f"line {LINE}" in TOUR
    values = zip(COLUMNS, line.split(","), strict=True)
    return {
        c.name: None if value in MISSING else float(value) if isinstance(c, Number) else value for c, value in values
    }


def test_the_bird_is_held_out_and_predicted_as_the_tour_says(
    bird: dict[str, Any], penguins_tables: tuple[pa.Table, pa.Table]
) -> None:
    train, test = penguins_tables
    assert f"puts {test.num_rows} of the {train.num_rows + test.num_rows} birds aside" in TOUR
    same = [
        pc.equal(test[name], pa.scalar(bird[name]).cast(test[name].type))
        for name in ("body_mass_g", "flipper_length_mm")
    ]
    held_out = test.filter(pc.and_(*same))
    assert held_out.num_rows == 1

    pipeline = unpickle(
        fit(build_pipeline(n_estimators=100, max_samples=100_000, random_state=42, rows=train.num_rows), train)
    )
    numbers = pipeline[:-1].transform(feature_frame(held_out))[0]
    said = re.search(r"^(-?\d\.\d{3} .*)$", TOUR, re.MULTILINE)
    assert said
    assert [float(n) for n in said[1].split()] == [round(float(n), 3) for n in numbers]

    record = Record.model_validate_json(re.search(r"-d '(\{.*?\})'", TOUR, re.DOTALL)[1])  # type: ignore[index]
    assert vars(record) == {c.name: bird[c.name] for c in FEATURES}
    (label, probabilities) = Model(pipeline, tuple(map(str, pipeline.classes_))).predict([vars(record)])[0]
    answer = re.search(r'^\{"species":.*\}$', TOUR, re.MULTILINE)
    assert answer
    shown = ",".join(f'"{name}":{p}' for name, p in probabilities.items())
    assert answer[0].startswith(f'{{"species":"{label}","probabilities":{{{shown}}}')
    assert label == bird["species"]


def counted(tour: str) -> str:
    """Return a tour with the lines of its files, and their sum, as they are now.

    `PYTHONPATH=.:plugins .venv/bin/python tests/unit/docs/test_tour.py` writes them into both pages.
    """
    together = 0

    def count(row: re.Match[str]) -> str:
        nonlocal together
        lines = len((ROOT / row[2]).read_text(encoding="utf-8").splitlines())
        together += lines
        return f"{row[1]}{lines} |"

    tour = re.sub(r"^(\| \d \| `([^`]+)` \| )\d+ \|$", count, tour, flags=re.MULTILINE)
    return re.sub(r"^(\| \| [^`|]+ \| )\d+ \|$", rf"\g<1>{together} |", tour, flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_road_is_as_long_as_it_says(page: Path) -> None:
    tour = page.read_text(encoding="utf-8")
    assert tour == counted(tour)
    assert len(re.findall(r"^\| \d \| `[^`]+` \| \d+ \|$", tour, re.MULTILINE)) == 8
    together = re.search(r"^\| \| [^`|]+ \| (\d+) \|$", tour, re.MULTILINE)
    assert together
    assert int(together[1]) <= MAX_ROAD_LINES


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(counted(page.read_text(encoding="utf-8")), encoding="utf-8")
