"""Compile a pickled pipeline into a proven ONNX graph. `loader.py` runs `python -m app.fast.compiler PARENT`.

Reads the pickled (pickle, manifest) from standard input and writes the pickled answer to standard output: a `Compiled`,
a CompileError if the pipeline itself has to serve, or a ModelError if the model must not serve at all. Before that, it
answers each None with one byte.
"""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import dropwhile
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from app.fast.folding import fold
from app.fast.graph import Compiled, CompiledModel, CompileError, compiled_model
from app.fast.loader import Answer
from penguins.compatibility import ModelError
from penguins.inference import TOLERANCE, Model, load_model, to_frame
from penguins.schema import CATEGORIES, FEATURES, NUMBERS, Number

# scikit-learn's trees round float64 input to float32; other estimators do not. The graph must do the same: these casts
# are tried before the estimator until one passes the proof. Cast back to float64, a forest's probabilities add up to
# 1.0 instead of 0.9999993, but skl2onnx supports that for some tree models only.
CASTS_OF_TREES: tuple[tuple[type, ...], ...] = ((np.float32, np.float64), (np.float32,), ())
CASTS_OF_OTHERS: tuple[tuple[type, ...], ...] = ((), (np.float32,))
RANDOM_ROWS = 1000
JUMPS = 300
BISECTIONS = 64  # from an interval down to two adjacent floats


def compile_model(model: Model, golden: Mapping[str, Any]) -> Compiled:
    """Compile the pipeline, and prove that it predicts the same.

    Raises
    ------
    CompileError
        If there is no graph for it, or none with the same labels and, within 1e-6, the same probabilities.
    """
    reasons = []
    try:
        columns, fills = _without_imputers(model.pipeline)
        rounds = _rounds_to_float32(model.pipeline)
    except CompileError:
        raise
    except Exception as error:
        raise CompileError(f"the pipeline cannot be compiled: {error!r}") from error
    attempts: list[Callable[[], Compiled]] = [
        lambda: fold(model.pipeline, fills),
        *(
            partial(_compile, model.pipeline, columns, fills, c)
            for c in (CASTS_OF_TREES if rounds else CASTS_OF_OTHERS)
        ),
    ]
    for attempt in attempts:
        try:
            compiled = attempt()
            _prove_same(model, compiled_model(compiled, model.classes), golden)
        except CompileError as error:
            reasons.append(str(error))
        except Exception as error:  # skl2onnx and ONNX Runtime may raise anything
            reasons.append(f"the pipeline cannot be compiled: {' '.join(str(error).split())[:300]}")
        else:
            return compiled
    raise CompileError("; ".join(reasons))


def _without_imputers(pipeline: Pipeline) -> tuple[ColumnTransformer, dict[str, Any]]:
    """Return the first step without its SimpleImputers, its columns by position, and the fill value of each column.

    ONNX has no imputer for strings, and its imputer for numbers takes float32 only.
    """
    positions = {c.name: position for position, c in enumerate((*NUMBERS, *CATEGORIES))}
    fills: dict[str, Any] = {}
    transformers = []
    for name, transformer, names in pipeline[0].transformers_:
        if not len(names):
            continue
        steps = transformer.steps if isinstance(transformer, Pipeline) else [(name, transformer)]
        # What takes other frames leaves a request's values as they are, or else the proof fails.
        steps = list(dropwhile(lambda step: isinstance(step[1], FunctionTransformer), steps)) or steps
        imputer = steps[0][1]
        if isinstance(imputer, SimpleImputer) and not imputer.add_indicator:
            fills |= zip(names, imputer.statistics_.tolist(), strict=True)
            steps = steps[1:]
        transformers.append((name, Pipeline(steps) if steps else "passthrough", [positions[n] for n in names]))
    columns = copy.copy(pipeline[0])
    columns.transformers_ = transformers
    for column in CATEGORIES:
        if not (column.required or isinstance(fills.get(column.name), str)):
            raise CompileError(f"no fill value is known for the nulls of {column.name}")
    return columns, fills


def _rounds_to_float32(pipeline: Pipeline) -> bool:
    rows = pipeline[:-1].transform(to_frame(_random_records(np.random.default_rng(0))))
    rounded = rows.astype(np.float32).astype(np.float64)
    return np.array_equal(pipeline[-1].predict_proba(rows), pipeline[-1].predict_proba(rounded))


def _compile(pipeline: Pipeline, first: ColumnTransformer, fills: dict[str, Any], casts: tuple[type, ...]) -> Compiled:
    # Half a second, which a forest that is folded does without.
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType, StringTensorType
    from skl2onnx.sklapi import CastTransformer

    to = [(f"to_{cast.__name__}", CastTransformer(dtype=cast)) for cast in casts]
    steps = [("columns", first), *pipeline.steps[1:-1], *to, pipeline.steps[-1]]
    kinds = (("numbers", DoubleTensorType, NUMBERS), ("categories", StringTensorType, CATEGORIES))
    inputs = [(name, kind([None, len(columns)])) for name, kind, columns in kinds if columns]
    # Without zipmap, the probabilities come as one array.
    graph = to_onnx(Pipeline(steps), initial_types=inputs, options={id(pipeline[-1]): {"zipmap": False}})
    return Compiled(graph.SerializeToString(), fills)


def _prove_same(model: Model, compiled: CompiledModel, golden: Mapping[str, Any]) -> None:
    """Compare both on the golden rows, on random rows with and without nulls, and on both sides of thresholds."""
    random = np.random.default_rng(1)
    complete, with_nulls = _random_records(random), _random_records(random)
    for record in with_nulls:
        for column in FEATURES:
            if not column.required and random.random() < 0.2:
                record[column.name] = None
    tried = {"the golden rows": golden["records"], "random rows": complete, "rows with nulls": with_nulls}
    if NUMBERS:
        tried["rows around the thresholds"] = _records_at_jumps(compiled, random)
    for what, records in tried.items():
        expected = model.predict(records)
        singly = [compiled.predict([record])[0] for record in records]  # not the code path of batches
        for came in (singly, compiled.predict(records)):
            labels = sum(e.label != c.label for e, c in zip(expected, came, strict=True))
            largest = np.abs(
                np.array([list(e.probabilities.values()) for e in expected])
                - np.array([list(c.probabilities.values()) for c in came])
            ).max(initial=0)
            if labels or not largest <= TOLERANCE:
                raise CompileError(
                    f"the compiled pipeline differs on {what}: {labels} of {len(records)} labels, "
                    f"probabilities by up to {largest:.1g}"
                )


def _random_records(random: np.random.Generator, rows: int = RANDOM_ROWS) -> list[dict[str, Any]]:
    drawn = {
        c.name: (
            random.uniform(c.minimum, c.maximum, rows) if isinstance(c, Number) else random.choice(c.values, rows)
        ).tolist()
        for c in FEATURES
    }
    return [dict(zip(drawn, values, strict=True)) for values in zip(*drawn.values(), strict=True)]


def _records_at_jumps(compiled: CompiledModel, random: np.random.Generator) -> list[dict[str, Any]]:
    """Return rows on both sides of thresholds. They are found by jumps in the probabilities, so for any estimator.

    Between two random rows that differ in one number, bisection finds two adjacent floats with a jump between them, if
    there is one.
    """
    records = _random_records(random, JUMPS)
    inputs = compiled.inputs(records)
    rows, moved = np.arange(JUMPS), random.integers(len(NUMBERS), size=JUMPS)

    def probabilities(values: np.ndarray) -> np.ndarray:
        return compiled.run(compiled.move(inputs, moved, values))[1]

    low = np.array([record[NUMBERS[m].name] for record, m in zip(records, moved, strict=True)])
    high = random.uniform([NUMBERS[m].minimum for m in moved], [NUMBERS[m].maximum for m in moved])
    before = probabilities(low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = probabilities(middle)
        jumped = np.abs(found - before).max(axis=1) > TOLERANCE
        high = np.where(jumped, middle, high)
        low = np.where(jumped, low, middle)
        before[~jumped] = found[~jumped]
    further = np.nextafter(low, 2 * low - high)
    return [
        {**records[row], NUMBERS[moved[row]].name: float(side[row])} for side in (further, low, high) for row in rows
    ]


def _exit_with(parent: int) -> None:
    """Exit when the parent service is gone. If this process hangs, nothing else would end it."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def main() -> None:
    threading.Thread(target=_exit_with, args=(int(sys.argv[1]),), daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as answer_to:
        os.dup2(2, 1)  # anything else that is printed must not corrupt the answer
        while (given := pickle.load(sys.stdin.buffer)) is None:  # noqa: S301 - from the service, which verified it
            answer_to.write(b"!")  # it asks whether this process is there
            answer_to.flush()
        pickled, manifest = given
        answer: Answer
        try:
            answer = compile_model(load_model(pickled, manifest), manifest["golden"])
        except (CompileError, ModelError) as error:
            answer = error
        pickle.dump(answer, answer_to)


if __name__ == "__main__":
    main()
