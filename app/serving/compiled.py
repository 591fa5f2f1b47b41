"""The pipeline as one ONNX graph: proven to predict the same, at a fraction of the cost.

The pickle is opened, compiled and proven in a separate process (`compiler.py`). So the service itself keeps neither
scikit-learn nor pandas in memory, and a swap does not hold up requests.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; telemetry keeps a file in the user's home
import onnxruntime

from app import SHARED_FOLDER
from penguins.inference import (
    ModelError,
    Prediction,
    Predictor,
    Record,
    check_columns,
    check_libraries,
    load_model,
    prove,
)
from penguins.schema import CATEGORIES, NUMBERS

SECONDS_TO_COMPILE = 120
# The graph's probabilities are float32 and proven within 1e-6. More digits mean nothing, and 0.99 reads better.
ROUNDING = 10**7


class CompileError(RuntimeError):
    """The pipeline cannot be compiled, or the graph predicts something else. The pipeline itself has to serve."""


class CompilerLostError(CompileError):
    """The compiler ended without an answer, or timed out."""


@dataclass(frozen=True)
class Compiled:
    """An ONNX graph, and by feature the value that its imputer puts in for null.

    The graph's inputs are `numbers`, float64 of shape (n_records, n_numbers), and `categories`, strings of shape
    (n_records, n_categories), each in the schema's order. An input without columns is left out.
    """

    graph: bytes
    fills: dict[str, Any]


Answer = Compiled | CompileError | ModelError


class CompiledModel:
    """Predicts from a compiled pipeline.

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
        self._inputs = [
            (name, dtype, [(c.name, compiled.fills.get(c.name, np.nan)) for c in columns])
            for name, dtype, columns in (("numbers", np.float64, NUMBERS), ("categories", object, CATEGORIES))
            if columns
        ]

    def predict(self, records: Sequence[Record]) -> list[Prediction]:
        """See `penguins.inference.Predictor`."""
        labels, probabilities = self.run(self.inputs(records))
        return [
            Prediction(label, dict(zip(self._classes, row, strict=True)))
            for label, row in zip(labels.tolist(), _rounded(probabilities), strict=True)
        ]

    def inputs(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """Return the graph's inputs, with nulls imputed."""
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

    def run(self, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return labels, shape (n_records,), and probabilities, shape (n_records, n_classes)."""
        session = self._one if len(next(iter(inputs.values()))) == 1 else self._many
        labels, probabilities = session.run(self._outputs, inputs)
        return labels, probabilities


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


def load(pickled: bytes, manifest: Mapping[str, Any]) -> tuple[Predictor, str | None]:
    """Open, compile and prove a pickle whose signature was verified.

    Returns
    -------
    model : Predictor
        The compiled pipeline, or the pipeline itself as a fallback.
    fallback : str or None
        Why the pipeline itself has to serve; None if it does not.

    Raises
    ------
    ModelError
        If the model cannot be trusted: see `penguins.inference.load_model`.
    """
    check_libraries(manifest)  # before starting a process for nothing
    check_columns(manifest)
    answer = _compile_once(pickled, manifest)
    if isinstance(answer, ModelError):
        raise answer
    if isinstance(answer, CompileError):
        return load_model(pickled, manifest), str(answer)
    model = CompiledModel(answer, manifest["classes"])
    prove(model, manifest["golden"])
    return model, None


def _compile_once(pickled: bytes, manifest: Mapping[str, Any]) -> Answer:
    """Run the compiler, or reuse the answer that it gave another worker."""
    if SHARED_FOLDER not in os.environ:
        return _compile_apart(pickled, manifest)
    folder = Path(os.environ[SHARED_FOLDER])
    name = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    found = folder / f"{name}.compiled"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if found.exists():
            return pickle.loads(found.read_bytes())  # noqa: S301 - from our own process, in a folder of our own
        answer = _compile_apart(pickled, manifest)
        if isinstance(answer, ModelError | CompilerLostError):  # may be temporary, so not shared
            return answer
        for older in folder.glob("*.compiled"):
            older.unlink()
        written = folder / "being-written"
        written.write_bytes(pickle.dumps(answer))
        written.replace(found)
    return answer


def _compile_apart(pickled: bytes, manifest: Mapping[str, Any]) -> Answer:
    """Run the compiler in a separate process."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "app.serving.compiler", str(os.getpid())],
            input=pickle.dumps((pickled, manifest)),
            capture_output=True,
            timeout=SECONDS_TO_COMPILE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=True,
        )
    except subprocess.TimeoutExpired:
        return CompilerLostError(f"compiling takes more than {SECONDS_TO_COMPILE} s")
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return CompilerLostError(f"the compiler ended with exit code {error.returncode} {' '.join(last)}".strip())
    return pickle.loads(done.stdout)  # noqa: S301 - from our own process
