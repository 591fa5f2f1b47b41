"""Frames for the `.pkl`, as pandas makes them of categories that look like numbers and booleans."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lookalikes
import numpy as np
import pandas as pd
import pytest

import tables
from penguins import inference
from penguins.inference import to_frame, unpickle
from penguins.training import pipeline as training
from penguins.training import rows as training_rows
from support import ROOT, code_blocks

RUNNING = ROOT / "docs" / "running.md"


@pytest.fixture(scope="module", autouse=True)
def declared() -> Iterator[None]:
    with lookalikes.declared(training, training_rows, inference, tables):
        yield


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return lookalikes.customers()


@pytest.fixture(scope="module")
def pickled(rows: pd.DataFrame) -> bytes:
    return training.fit(
        training.build_pipeline(n_estimators=20, max_samples=100_000, random_state=0, rows=len(rows)),
        tables.table_of(rows),
    )


@pytest.fixture(scope="module")
def pipeline(pickled: bytes) -> Any:
    return unpickle(pickled)


@pytest.fixture
def some(rows: pd.DataFrame) -> pd.DataFrame:
    return to_frame(rows.head(300))


def without_warning(pipeline: Any, frame: pd.DataFrame) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return pipeline.predict_proba(frame)


def test_the_pages_snippet_predicts_as_the_schemas_text_does(
    pipeline: Any, pickled: bytes, rows: pd.DataFrame, tmp_path: Path
) -> None:
    """As it is written, on the frame that `read_csv` makes, where nothing of this project can be imported."""
    [snippet] = [block for block in code_blocks(RUNNING, "python") if "joblib" in block]
    for folder in ("models/VERSION", "dags"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "models" / "VERSION" / "model.pkl").write_bytes(pickled)
    rows.to_csv(tmp_path / "dags" / "penguins_size.csv", index=False, na_rep=lookalikes.MISSING[0])
    snippet += '\nframe.dtypes.to_csv("dtypes.csv")\nprobabilities.to_pickle("probabilities.pkl")\n'
    run = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", snippet],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.returncode, run.stderr) == (0, "")
    dtypes = pd.read_csv(tmp_path / "dtypes.csv", index_col=0).iloc[:, 0]
    assert dtypes[["senior", "zone", "level", "partner"]].tolist() == ["int64", "int64", "float64", "bool"]
    came = pd.read_pickle(tmp_path / "probabilities.pkl")
    assert came.columns.tolist() == list(lookalikes.TARGET.values)
    np.testing.assert_array_equal(came.to_numpy(), without_warning(pipeline, to_frame(rows)))
    assert len(came) == lookalikes.CUSTOMERS


def meant(series: pd.Series) -> pd.Series:
    """Return numbers and booleans in place of the text, as objects."""
    column = next(c for c in lookalikes.FEATURES if c.name == series.name)
    meaning = {text: number for number, text in column.meanings.items()}
    return series.map(lambda text: meaning.get(text, text)).astype(object)


Change = Callable[[pd.Series], pd.Series]


def meant_as(dtype: str) -> Change:
    return lambda s: meant(s).astype(dtype)


def text_as(dtype: str) -> Change:
    return lambda s: s.astype(dtype)


def missing_as(nothing: Any) -> Change:
    return lambda s: s.where(s.notna(), nothing)


WHOLE, NUMBERS, BOOLEANS = ["senior", "zone"], ["senior", "zone", "level"], ["partner", "paperless"]
# What a column of text, NaN where it is missing, may be to pandas instead.
FORMS: dict[str, tuple[list[str], Change]] = {
    **{dtype: (WHOLE, meant_as(dtype)) for dtype in ("int64", "uint8", "Int64", "int64[pyarrow]")},
    **{
        dtype: (NUMBERS, meant_as(dtype))
        for dtype in ("float64", "float32", "Float64", "double[pyarrow]", "category", "object")
    },
    "bool": (["partner"], meant_as("bool")),
    **{
        f"booleans as {dtype}": (BOOLEANS, meant_as(dtype))
        for dtype in ("boolean", "bool[pyarrow]", "category", "object", "Int64", "float64")
    },
    **{
        f"text as {dtype}": ([*NUMBERS, *BOOLEANS, "contract"], text_as(dtype))
        for dtype in ("object", "str", "string", "string[pyarrow]", "category")
    },
    **{f"{nothing!r} for what is missing": (["level", "paperless"], missing_as(nothing)) for nothing in (None, pd.NA)},
    "every second one as text": ([*NUMBERS, *BOOLEANS], lambda s: s.where(np.arange(len(s)) % 2 == 0, meant(s))),
    "integers of numpy": (["senior"], lambda s: pd.Series([np.int8(v) for v in s], s.index, object)),
    "booleans for 0 and 1": (["senior"], lambda s: s == "1"),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_pandas_makes_of_such_a_column_is_taken(pipeline: Any, some: pd.DataFrame, form: str) -> None:
    names, made = FORMS[form]
    frame = some.assign(**{name: made(some[name]) for name in names})
    np.testing.assert_array_equal(without_warning(pipeline, frame), without_warning(pipeline, some))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("senior", value) for value in (2, 0.5, -1, "2", "00", "0.0", " 0", np.inf, "None", pd.Timestamp(0))),
        *(("zone", value) for value in (3, 1.5, "1", "003")),
        *(("partner", value) for value in ("False", "true", 2)),
        *(("contract", value) for value in (True, 1, "none", "")),
        # Of a column that is required, as `read_csv` leaves a value such as "None" by default.
        *(("contract", nothing) for nothing in (np.nan, None, pd.NA)),
    ],
)
def test_what_no_value_stands_for_is_warned_of(pipeline: Any, some: pd.DataFrame, name: str, value: Any) -> None:
    with pytest.warns(UserWarning, match="Found unknown categories"):
        pipeline.predict(some.assign(**{name: value}))
    mixed = some.assign(**{name: [value, *some[name][1:]]})
    with pytest.warns(UserWarning, match="Found unknown categories"):
        came = pipeline.predict_proba(mixed)
    np.testing.assert_array_equal(came[1:], without_warning(pipeline, some)[1:])


def test_values_that_look_the_same_are_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`read_csv` makes the number 1 of both "1" and "01"."""
    column = lookalikes._category("code", "1", "01", "2")
    for module in (training, training_rows, tables, inference):
        for names in ("FEATURES", "CATEGORIES", "COLUMNS", "TRAINED"):
            if hasattr(module, names):
                before = tuple(c for c in getattr(module, names) if c.name != "contract")
                monkeypatch.setattr(module, names, (column, *before))
    rows = (
        lookalikes.customers()
        .drop(columns="contract")
        .assign(code=["1", "01", "2"] * (lookalikes.CUSTOMERS // 3) + ["2"])
    )
    pipeline = training.build_pipeline(n_estimators=2, max_samples=1000, random_state=0, rows=len(rows))
    pipeline = unpickle(training.fit(pipeline, tables.table_of(rows)))
    some = to_frame(rows.head(300))
    with pytest.warns(UserWarning, match="Found unknown categories"):
        pipeline.predict(some.assign(code=some["code"].astype(int)))
    twos = some.assign(code="2")
    np.testing.assert_array_equal(without_warning(pipeline, twos.assign(code=2)), without_warning(pipeline, twos))


@pytest.mark.parametrize("form", ["str", object, "category", "Float64", "double[pyarrow]"])
def test_numbers_as_text_are_taken_and_other_text_is_refused(pipeline: Any, some: pd.DataFrame, form: Any) -> None:
    expected = without_warning(pipeline, some)
    np.testing.assert_array_equal(without_warning(pipeline, some.assign(tenure=some["tenure"].astype(form))), expected)
    for text in ("1,5", "a year"):
        with pytest.raises(ValueError, match="could not convert string to float"):
            pipeline.predict(some.assign(tenure=text))


def test_the_names_of_what_the_forest_takes_are_told(pipeline: Any) -> None:
    names = pipeline[:-1].get_feature_names_out().tolist()
    assert names[:4] == ["numbers__tenure", "numbers__charges", "categories__senior_0", "categories__senior_1"]
