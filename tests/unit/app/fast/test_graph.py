"""The compiled pipeline predicts as the pickled one does, whatever estimator a fork puts into it."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lookalikes
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

import app.fast.compiler
import app.fast.folding
import app.fast.graph
import app.fast.loader
import tables
from app import SHARED_FOLDER
from app.fast.compiler import compile_model
from app.fast.graph import CompiledGraph, CompiledModel, CompileError, FoldedForest, compiled_model
from app.fast.loader import CompilerLostError, _compile_apart, cool_down, load, warm_up
from penguins import inference
from penguins.compatibility import ModelError
from penguins.evaluation.evaluate import golden_records
from penguins.inference import TOLERANCE, Model, Record, golden_rows, to_frame, unpickle
from penguins.schema import CATEGORIES, EXAMPLE, FEATURES, NUMBERS, TARGET, Number
from penguins.training import pipeline as training
from penguins.training import rows as training_rows
from penguins.training.pipeline import build_pipeline, fit
from penguins.training.rows import feature_frame
from support import ROOT

Trained = tuple[bytes, dict[str, Any]]
Frames = tuple[pd.DataFrame, pd.DataFrame]
Tables = tuple[pa.Table, pa.Table]


def fitted(table: pa.Table, estimator: ClassifierMixin | None = None) -> Model:
    pipeline = build_pipeline(n_estimators=100, max_samples=100_000, random_state=42, rows=table.num_rows)
    if estimator is not None:
        pipeline.steps[-1] = ("estimator", estimator)
        pipeline.fit(to_frame(feature_frame(table)), table[TARGET.name].to_pylist())
    else:
        pipeline = unpickle(fit(pipeline, table))
    return Model(pipeline, tuple(str(name) for name in pipeline.classes_))


@pytest.fixture(scope="module")
def forest(penguins_tables: Tables) -> Model:
    """The forest of the DAG's defaults."""
    return fitted(penguins_tables[0])


@pytest.fixture(scope="module")
def golden(forest: Model, penguins_tables: Tables) -> dict[str, Any]:
    return golden_rows(forest, golden_records(penguins_tables[1]))


@pytest.fixture(scope="module")
def compiled(forest: Model, golden: dict[str, Any]) -> CompiledModel:
    return compiled_model(compile_model(forest, golden), forest.classes)


def difference(model: Model, compiled: CompiledModel, records: Sequence[Record]) -> tuple[int, float]:
    """Return how many labels differ, and the largest difference of a probability."""
    expected, came = model.predict(records), compiled.predict(records)
    probabilities = [np.array([list(p.probabilities.values()) for p in side]) for side in (expected, came)]
    labels = sum(e.label != c.label for e, c in zip(expected, came, strict=True))
    return labels, float(np.abs(probabilities[0] - probabilities[1]).max())


def drawn(rows: int, seed: int = 0, *, nulls: float = 0) -> list[dict[str, Any]]:
    """Return records drawn uniformly from all that the API accepts, with a share of nulls where they are allowed."""
    random = np.random.default_rng(seed)
    records = [
        dict(zip([c.name for c in FEATURES], values, strict=True))
        for values in zip(
            *(
                random.uniform(c.minimum, c.maximum, rows).tolist()
                if isinstance(c, Number)
                else random.choice(c.values, rows).tolist()
                for c in FEATURES
            ),
            strict=True,
        )
    ]
    for record in records:
        for column in FEATURES:
            if not column.required and random.random() < nulls:
                record[column.name] = None
    return records


def around_thresholds(forest: Model, rows: int) -> list[dict[str, Any]]:
    """Return records of which one number lies within one float of a threshold, once scaled: on it or on either side."""
    random = np.random.default_rng(0)
    scaler = forest.pipeline[0].named_transformers_["numbers"][-1]
    trees = [tree.tree_ for tree in forest.pipeline[-1].estimators_]
    feature = np.concatenate([t.feature for t in trees])
    threshold = np.concatenate([t.threshold for t in trees]).astype(np.float32)
    numbers = np.flatnonzero((feature >= 0) & (feature < len(NUMBERS)))
    records = drawn(rows)
    for record, node in zip(records, random.choice(numbers, rows), strict=True):
        column = feature[node]
        towards = np.float32(random.choice([-np.inf, np.inf]))
        scaled = threshold[node] if random.random() < 1 / 3 else np.nextafter(threshold[node], towards)
        value = float(scaled) * scaler.scale_[column] + scaler.mean_[column]
        if random.random() < 0.5:
            value = np.nextafter(value, random.choice([-np.inf, np.inf]))
        record[NUMBERS[column].name] = float(value)
    return records


# The forest


def test_no_label_differs_from_the_pickles_and_probabilities_agree(
    forest: Model, compiled: CompiledModel, penguins_frames: Frames
) -> None:
    data = pd.concat(penguins_frames)[[c.name for c in FEATURES]].astype(object)
    for what, records in {
        "the data": data.where(data.notna(), None).to_dict("records"),
        "random rows": drawn(100_000),
        "rows within one float of a threshold": around_thresholds(forest, 50_000),
        "rows with nulls": drawn(20_000, nulls=0.3),
    }.items():
        labels, largest = difference(forest, compiled, records)
        print(f"{what}: {len(records)} rows, {labels} labels different, probabilities by at most {largest:.1e}")
        assert labels == 0, what
        assert largest <= TOLERANCE, what


def test_without_the_cast_to_float32_the_same_rows_show_it(forest: Model, golden: dict[str, Any]) -> None:
    columns, fills = app.fast.compiler._without_imputers(forest.pipeline)
    other = compiled_model(app.fast.compiler._compile(forest.pipeline, columns, fills, ()), forest.classes)
    labels, largest = difference(forest, other, around_thresholds(forest, 5000))
    assert labels > 0
    assert largest > TOLERANCE
    with pytest.raises(CompileError, match="differs on rows around the thresholds"):
        app.fast.compiler._prove_same(forest, other, golden)


def test_probabilities_are_floats_of_every_class_that_sum_to_one(compiled: CompiledModel) -> None:
    for prediction in compiled.predict(drawn(100)):
        assert tuple(prediction.probabilities) == TARGET.values
        assert {type(p) for p in prediction.probabilities.values()} == {float}
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert compiled.predict([EXAMPLE])[0].probabilities[TARGET.example] == 1


def test_one_record_is_predicted_as_among_many(compiled: CompiledModel) -> None:
    records = drawn(200, nulls=0.2)
    assert [compiled.predict([record])[0] for record in records] == compiled.predict(records)


# What a fork may put in its place


# With the reason why not, for those that are not compiled. All are small: ten trees take the same path as a hundred.
ESTIMATORS: dict[str, tuple[ClassifierMixin, str | None]] = {
    "extra trees": (ExtraTreesClassifier(10, random_state=0), None),
    "gradient boosting": (GradientBoostingClassifier(n_estimators=10, random_state=0), None),
    # skl2onnx 1.20 has no converter for it that works.
    "hist gradient boosting": (HistGradientBoostingClassifier(max_iter=5, random_state=0), "cannot be compiled"),
    "logistic regression": (LogisticRegression(max_iter=1000), None),
    "support vectors": (SVC(probability=True, random_state=0), None),
    "calibrated": (CalibratedClassifierCV(SVC(), cv=2), None),
    "calibrated forest": (CalibratedClassifierCV(RandomForestClassifier(10, random_state=0), cv=2), None),
    # Steps of the calibration are rounded differently.
    "calibrated by steps": (
        CalibratedClassifierCV(RandomForestClassifier(10, random_state=0), method="isotonic", cv=2),
        "differs on",
    ),
    # Neighbours at the same distance come in another order.
    "neighbours": (KNeighborsClassifier(), "differs on"),
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Predict in one thread: on a busy machine, several wait for each other for longer than they compute."""
    with threadpool_limits(1):
        yield


@pytest.mark.filterwarnings("ignore::FutureWarning")  # SVC's probability will go; forks still have it
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_compiled_and_proven_or_serves_itself(
    penguins_tables: Tables, trained: Trained, one_thread: None, name: str
) -> None:
    estimator, reason = ESTIMATORS[name]
    train, test = penguins_tables
    if name == "neighbours":
        train = train.take(list(range(0, train.num_rows, 8)))  # each prediction is compared with every row
    model = fitted(train, estimator)
    manifest = {
        **trained[1],
        "classes": list(model.classes),
        "golden": golden_rows(model, golden_records(test)),
    }
    loaded, fallback = load(pickle.dumps(model.pipeline), manifest)
    assert (fallback is None) == (reason is None), fallback
    assert (reason or "") in (fallback or "")
    assert isinstance(loaded, Model if reason else CompiledModel)
    records = drawn(3000, seed=7, nulls=0.1)
    expected, came = model.predict(records), loaded.predict(records)
    assert [c.label for c in came] == [e.label for e in expected]
    np.testing.assert_allclose(
        [list(c.probabilities.values()) for c in came],
        [list(e.probabilities.values()) for e in expected],
        rtol=0,
        atol=TOLERANCE,
    )


def test_a_table_of_one_kind_of_columns_is_compiled(penguins_tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = penguins_tables
    for what, kept in {"no categories": NUMBERS, "no numbers": CATEGORIES}.items():
        for module in (app.fast.compiler, inference, training_rows):
            monkeypatch.setattr(module, "FEATURES", kept)
        for module in (app.fast.graph, app.fast.compiler, app.fast.folding, training):
            monkeypatch.setattr(module, "NUMBERS", tuple(c for c in kept if isinstance(c, Number)))
            monkeypatch.setattr(module, "CATEGORIES", tuple(c for c in kept if not isinstance(c, Number)))
        model = fitted(train.select([TARGET.name, *(c.name for c in kept)]))
        records = [{c.name: record[c.name] for c in kept} for record in drawn(2000, nulls=0.1)]
        compiled = compiled_model(compile_model(model, golden_rows(model, records[:20])), model.classes)
        labels, largest = difference(model, compiled, records)
        assert labels == 0, what
        assert largest <= TOLERANCE, what


@pytest.fixture
def customers() -> Iterator[tuple[Model, list[dict[str, Any]]]]:
    """A model of a table whose categories look like numbers and booleans, and the table's records."""
    modules = (inference, training, training_rows, tables, app.fast.graph, app.fast.compiler, app.fast.folding)
    with lookalikes.declared(*modules):
        rows = lookalikes.customers().head(3000)
        model = fitted(tables.table_of(rows))
        yield model, rows.drop(columns=lookalikes.TARGET.name).to_dict("records")


def check_compiled(model: Model, records: list[dict[str, Any]], kind: type) -> None:
    compiled = compiled_model(compile_model(model, golden_rows(model, records[:20])), model.classes)
    labels, largest = difference(model, compiled, records)
    assert isinstance(compiled, kind)
    assert labels == 0
    assert largest <= TOLERANCE


def test_what_takes_other_frames_is_compiled_away(customers: Any) -> None:
    """A forest is still folded, another estimator still one graph."""
    model, records = customers
    check_compiled(model, records, FoldedForest)
    features = model.pipeline[:-1].transform(to_frame(records))
    last = LogisticRegression(max_iter=1000).fit(features, model.pipeline.predict(to_frame(records)))
    check_compiled(Model(Pipeline([model.pipeline.steps[0], ("last", last)]), model.classes), records, CompiledGraph)


def test_a_version_from_before_frames_were_taken_is_compiled_as_ever(customers: Any) -> None:
    model, records = customers
    categories = model.pipeline[0].named_transformers_["categories"]
    assert [type(step) for _, step in categories.steps] == [*[FunctionTransformer] * 3, SimpleImputer, OneHotEncoder]
    del categories.steps[:3]
    categories[-1].handle_unknown = "ignore"
    check_compiled(model, records, FoldedForest)


def test_a_pipeline_without_fills_or_of_another_make_is_not_compiled(forest: Model, golden: dict[str, Any]) -> None:
    columns = copy.copy(forest.pipeline[0])
    columns.transformers_ = [
        (name, make_pipeline(*(step for _, step in transformer.steps if not isinstance(step, SimpleImputer))), names)
        for name, transformer, names in columns.transformers_
    ]
    for steps, reason in {
        (("columns", columns), *forest.pipeline.steps[1:]): "no fill value is known for the nulls of sex",
        tuple(forest.pipeline.steps[1:]): "cannot be compiled",
    }.items():
        with pytest.raises(CompileError, match=reason):
            compile_model(Model(Pipeline(list(steps)), forest.classes), golden)


# load


def test_workers_compile_once_in_a_process_of_its_own(
    trained: Trained, compile_apart: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(SHARED_FOLDER, str(tmp_path))
    load(*trained)
    monkeypatch.setattr(app.fast.loader, "_compile_apart", lambda *_: pytest.fail("compiled again"))
    model, fallback = load(*trained)
    assert isinstance(model, CompiledModel)
    assert fallback is None
    pickled, facts = trained
    monkeypatch.setattr(app.fast.loader, "_compile_apart", lambda *_: CompileError("no graph"))
    for _ in range(2):
        assert load(pickled, {**facts, "dag_run_id": "another"})[1] == "no graph"
        monkeypatch.setattr(app.fast.loader, "_compile_apart", lambda *_: pytest.fail("compiled again"))
    assert len(list(tmp_path.glob("*.compiled"))) == 1


def test_a_model_that_must_not_serve_is_refused_with_its_reason(trained: Trained) -> None:
    pickled, facts = trained
    golden = copy.deepcopy(facts["golden"])
    golden["labels"][0] = "Gentoo"
    forged = {**facts, "golden": golden}
    with pytest.raises(ModelError, match="does not open as a classifier"):
        load(b"no pickle", facts)
    with pytest.raises(ModelError, match="golden row 1 gives"):
        load(pickled, forged)
    # The process answers with it, too. If it died of it, the pipeline would be opened here to find out.
    answer = _compile_apart(pickled, forged)
    assert isinstance(answer, ModelError)
    assert "golden row 1 gives" in str(answer)


def test_a_compiler_that_dies_or_takes_too_long_leaves_the_pipeline(
    trained: Trained, compile_apart: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "compiler"
    monkeypatch.setattr(app.fast.loader.sys, "executable", str(compiler))
    compiler.write_text("#!/bin/sh\necho killed by the test >&2\nkill -9 $$\n")
    compiler.chmod(0o755)
    model, fallback = load(*trained)
    assert isinstance(model, Model)
    assert fallback == "the compiler ended with exit code -9 killed by the test"
    compiler.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(app.fast.loader, "SECONDS_TO_COMPILE", 0.2)
    model, fallback = load(*trained)
    assert model.predict([EXAMPLE])[0].label == TARGET.example
    assert fallback == "compiling takes more than 0.2 s"


def test_a_compiler_that_was_lost_is_asked_again(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(SHARED_FOLDER, str(tmp_path))
    asked = []

    def lost(*_: Any) -> CompilerLostError:
        asked.append(1)
        return CompilerLostError("out of memory")

    monkeypatch.setattr(app.fast.loader, "_compile_apart", lost)
    for _ in range(2):
        assert load(*trained)[1] == "out of memory"
    assert len(asked) == 2


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """A compiler that waits for the first version."""
    monkeypatch.delenv(SHARED_FOLDER, raising=False)
    warm_up()
    yield psutil.Process(app.fast.loader._waiting[0].pid)
    cool_down()


def test_a_compiler_that_waits_is_used_once(
    trained: Trained, compile_apart: None, waiting: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = app.fast.loader._start
    monkeypatch.setattr(app.fast.loader, "_start", lambda: pytest.fail("another one was started"))
    model, fallback = load(*trained)
    assert isinstance(model, CompiledModel)
    assert fallback is None
    assert not waiting.is_running()
    monkeypatch.setattr(app.fast.loader, "_start", start)
    assert load(*trained)[1] is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_compiler_that_died_or_hangs_while_it_waits_is_only_a_new_start(
    trained: Trained,
    compile_apart: None,
    waiting: psutil.Process,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    waiting.send_signal(number)
    monkeypatch.setattr(app.fast.loader, "SECONDS_TO_ANSWER", 0.2)
    model, fallback = load(*trained)
    assert isinstance(model, CompiledModel)
    assert fallback is None
    assert not waiting.is_running()


def test_no_compiler_waits_if_none_can_be_started_or_several_workers_would_each_have_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(app.fast.loader.sys, "executable", str(tmp_path / "none"))
    warm_up()
    assert app.fast.loader._waiting == []
    monkeypatch.undo()
    monkeypatch.setenv(SHARED_FOLDER, str(tmp_path))
    warm_up()
    assert app.fast.loader._waiting == []
    cool_down()


def test_the_compiler_ends_with_the_service(tmp_path: Path) -> None:
    reading, writing = os.pipe()  # held open, so that it waits for input for ever
    service = (
        "import os, subprocess, sys\n"
        f"command = [sys.executable, '-m', 'app.fast.compiler', str(os.getpid())]\n"
        f"print(subprocess.Popen(command, stdin={reading}).pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", service],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "plugins")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[reading],
        text=True,
    ) as process:
        assert process.stdout
        compiler = psutil.Process(int(process.stdout.readline()))
        assert compiler.is_running()
        process.kill()
    _, alive = psutil.wait_procs([compiler], timeout=30)
    os.close(writing)
    os.close(reading)
    assert alive == []


def test_onnx_runtime_keeps_no_files_of_its_own_and_sends_nothing(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}"}
    subprocess.run([sys.executable, "-c", "import app.fast.loader"], env=env, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []
