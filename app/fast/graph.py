"""The pipeline as one ONNX graph, which predicts the same at a fraction of the cost. `compiler.py` makes it."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; telemetry keeps a file in the user's home
import onnxruntime

from penguins.inference import Prediction, Record
from penguins.schema import CATEGORIES, NUMBERS

# The graph's probabilities are float32 and proven within 1e-6. More digits mean nothing, and 0.99 reads better.
ROUNDING = 10**7


class CompileError(RuntimeError):
    """The pipeline cannot be compiled, or the graph predicts something else. The pipeline itself has to serve."""


@dataclass(frozen=True)
class Layout:
    """How a record becomes a row of a folded forest's input.

    Attributes
    ----------
    row : tuple of float
        What each column holds, unless a feature says otherwise.
    numbers : dict of str to int
        By name, the column that takes the number as it is.
    categories : dict of str to tuple
        By name, the columns that take the encoded value, and the encoding of each value; of None as well.
    """

    row: tuple[float, ...]
    numbers: dict[str, int]
    categories: dict[str, tuple[tuple[int, ...], dict[str | None, tuple[float, ...]]]]


@dataclass(frozen=True)
class Compiled:
    """An ONNX graph, and the imputer's fill value for each feature.

    Without a layout, the graph's inputs are `numbers`, float64 of shape (n_records, n_numbers), and `categories`,
    strings of shape (n_records, n_categories), each in the schema's order. An input without columns is left out.
    With a layout, it is a folded forest (`folding.py`): its input is `features`, float64 of shape
    (n_records, n_columns), and its answers are the votes of `trees` trees.
    """

    graph: bytes
    fills: dict[str, Any]
    layout: Layout | None = None
    trees: int = 1


Inputs = dict[str, np.ndarray]


class CompiledModel(ABC):
    """Predicts from a compiled pipeline. `compiled_model` makes the right kind.

    Parameters
    ----------
    compiled : Compiled
    classes : sequence of str
        In the order of the probability columns.
    """

    def __init__(self, compiled: Compiled, classes: Sequence[str]) -> None:
        self._one = _session(compiled.graph, threads=1)  # one row takes less time than handing it to another thread
        self._many = _session(compiled.graph, threads=0)  # one thread per core
        self._outputs = [output.name for output in self._one.get_outputs()]
        self._classes = tuple(classes)

    def predict(self, records: Sequence[Record]) -> list[Prediction]:
        """See `penguins.inference.Predictor`."""
        labels, probabilities = self.run(self.inputs(records))
        return [
            Prediction(label, dict(zip(self._classes, row, strict=True)))
            for label, row in zip(labels, _rounded(probabilities), strict=True)
        ]

    @abstractmethod
    def inputs(self, records: Sequence[Record]) -> Inputs:
        """Return the graph's inputs, with nulls imputed."""

    @abstractmethod
    def move(self, inputs: Inputs, numbers: np.ndarray, values: np.ndarray) -> Inputs:
        """Return other inputs: in each row, the number with that place in NUMBERS has another value."""

    @abstractmethod
    def run(self, inputs: Inputs) -> tuple[list[str], np.ndarray]:
        """Return labels, and probabilities of shape (n_records, n_classes)."""


def compiled_model(compiled: Compiled, classes: Sequence[str]) -> CompiledModel:
    return (FoldedForest if compiled.layout else CompiledGraph)(compiled, classes)


class CompiledGraph(CompiledModel):
    """Predicts from a graph of the whole pipeline, whatever its estimator."""

    def __init__(self, compiled: Compiled, classes: Sequence[str]) -> None:
        super().__init__(compiled, classes)
        self._inputs = [
            (name, dtype, [(c.name, compiled.fills.get(c.name, np.nan)) for c in columns])
            for name, dtype, columns in (("numbers", np.float64, NUMBERS), ("categories", object, CATEGORIES))
            if columns
        ]

    def inputs(self, records: Sequence[Record]) -> Inputs:
        return {
            name: np.array(
                [
                    fill if (value := record[column]) is None else value
                    for record in records
                    for column, fill in columns
                ],
                dtype,
            ).reshape(len(records), -1)
            for name, dtype, columns in self._inputs
        }

    def move(self, inputs: Inputs, numbers: np.ndarray, values: np.ndarray) -> Inputs:
        moved = inputs["numbers"].copy()
        moved[np.arange(len(values)), numbers] = values
        return {**inputs, "numbers": moved}

    def run(self, inputs: Inputs) -> tuple[list[str], np.ndarray]:
        session = self._one if len(next(iter(inputs.values()))) == 1 else self._many
        labels, probabilities = session.run(self._outputs, inputs)
        return labels.tolist(), probabilities


class FoldedForest(CompiledModel):
    """Predicts from a forest with the preprocessing folded into it.

    A single row is written into one array in place, and the graph writes its answer into two others: nothing is
    allocated, and little memory is touched. With cold caches that counts for more than the arithmetic does.
    """

    def __init__(self, compiled: Compiled, classes: Sequence[str]) -> None:
        super().__init__(compiled, classes)
        assert compiled.layout
        layout, fills = compiled.layout, compiled.fills
        self._numbers = [(name, column, fills.get(name, np.nan)) for name, column in layout.numbers.items()]
        self._categories = [(name, list(columns), codes) for name, (columns, codes) in layout.categories.items()]
        self._scale = ROUNDING / compiled.trees
        self._trees = compiled.trees
        self._constants = np.array(layout.row)
        self._row = self._constants.reshape(1, -1).copy()
        self._label, self._votes = np.zeros(1, np.int64), np.zeros((1, self._one.get_outputs()[1].shape[1]), np.float32)
        self._cells: Any = memoryview(self._row[0])  # quicker to write to than an array
        self._lock = threading.Lock()  # a batch of one record comes from another thread
        self._bound = self._one.io_binding()
        self._bound.bind_input("features", "cpu", 0, np.float64, self._row.shape, self._row.ctypes.data)
        answers: tuple[np.ndarray, ...] = (self._label, self._votes)
        for name, array in zip(self._outputs, answers, strict=True):
            self._bound.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def predict(self, records: Sequence[Record]) -> list[Prediction]:
        if len(records) != 1:
            return super().predict(records)
        record, cells = records[0], self._cells
        with self._lock:
            for name, column, fill in self._numbers:
                value = record[name]
                cells[column] = fill if value is None else value
            for name, columns, codes in self._categories:
                for column, code in zip(columns, codes[record[name]], strict=True):
                    cells[column] = code
            self._one.run_with_iobinding(self._bound)
            label, votes = self._classes[self._label[0]], self._votes[0].tolist()[: len(self._classes)]
        scale = self._scale
        return [Prediction(label, {n: round(v * scale) / ROUNDING for n, v in zip(self._classes, votes, strict=True)})]

    def inputs(self, records: Sequence[Record]) -> Inputs:
        rows = np.tile(self._constants, (len(records), 1))
        for name, column, fill in self._numbers:
            values = np.array([record[name] for record in records], np.float64)  # None becomes NaN
            rows[:, column] = np.where(np.isnan(values), fill, values)
        for name, columns, codes in self._categories:
            rows[:, columns] = [codes[record[name]] for record in records]
        return {"features": rows}

    def move(self, inputs: Inputs, numbers: np.ndarray, values: np.ndarray) -> Inputs:
        moved = inputs["features"].copy()
        moved[np.arange(len(values)), np.array([column for _, column, _ in self._numbers])[numbers]] = values
        return {"features": moved}

    def run(self, inputs: Inputs) -> tuple[list[str], np.ndarray]:
        labels, votes = self._many.run(self._outputs, inputs)
        votes = votes[:, : len(self._classes)].astype(np.float64)  # without the class that stands in beside two
        return [self._classes[label] for label in labels.tolist()], votes / self._trees


def _rounded(probabilities: np.ndarray) -> list[list[float]]:
    if len(probabilities) == 1:  # plain Python is faster than numpy on one row
        return [[round(p * ROUNDING) / ROUNDING for p in probabilities[0].tolist()]]
    return (np.rint(probabilities.astype(np.float64) * ROUNDING) / ROUNDING).tolist()


def _session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must cost nothing
    options.log_severity_level = 3  # errors only: the proof covers what the warnings are about
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
