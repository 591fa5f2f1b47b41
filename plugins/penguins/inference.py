"""From a record to a prediction, and the proof that a loaded model predicts as the trained one did."""

from __future__ import annotations

import pickle
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from penguins.schema import FEATURES, TARGET, Number

if TYPE_CHECKING:
    import pandas as pd

# A pickle means the same only under the libraries that made it.
LIBRARIES = ("scikit-learn", "numpy", "pandas")
TOLERANCE = 1e-6

Record = Mapping[str, Any]


class ModelError(RuntimeError):
    """The model cannot be trusted here: other libraries, no model at all, or other predictions than in training."""


class Prediction(NamedTuple):
    """The predicted class, and the probability of each class by its name."""

    label: str
    probabilities: dict[str, float]


class Predictor(Protocol):
    """What predicts records of the schema's features, None for what is missing; the answers in the same order."""

    def predict(self, records: Sequence[Record]) -> list[Prediction]: ...


@dataclass(frozen=True)
class Model:
    """A pipeline as it was trained.

    Attributes
    ----------
    pipeline : sklearn.pipeline.Pipeline
    classes : tuple of str
        In the order of the probabilities' columns.
    """

    pipeline: Any
    classes: tuple[str, ...]

    def predict(self, records: Sequence[Record]) -> list[Prediction]:
        """See `Predictor`. The label is the pipeline's own: an SVC's is not always its most probable class."""
        frame = to_frame(records)
        labels, probabilities = self.pipeline.predict(frame), self.pipeline.predict_proba(frame)
        return [
            Prediction(str(label), dict(zip(self.classes, row, strict=True)))
            for label, row in zip(labels, probabilities.tolist(), strict=True)
        ]


def to_frame(records: Sequence[Record] | pd.DataFrame) -> pd.DataFrame:
    """Return the features as the pipeline takes them.

    Returns
    -------
    pandas.DataFrame, shape (n_records, n_features)
        In the schema's order: float64 for numbers, object for categories, NaN for what is missing.
    """
    import pandas as pd

    names = [c.name for c in FEATURES]
    frame = pd.DataFrame(records, columns=names)
    for column in FEATURES:
        values = frame[column.name]
        if isinstance(column, Number):
            frame[column.name] = values.astype("float64")
        else:
            frame[column.name] = values.astype(object).where(values.notna(), np.nan)
    return frame


def library_versions() -> dict[str, str]:
    """Return what a model is trained under: Python's version and that of each library that the pickle needs."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def check_libraries(manifest: Mapping[str, Any]) -> None:
    """Raise ModelError if a library differs from the one that trained the manifest's model."""
    here = library_versions()
    differing = [
        f"{name} {manifest['libraries'].get(name)}, here is {here[name]}"
        for name in LIBRARIES
        if manifest["libraries"].get(name) != here[name]
    ]
    if differing:
        raise ModelError(f"trained under {'; '.join(differing)}. Train again, or install those versions.")


def check_columns(manifest: Mapping[str, Any]) -> None:
    """Raise ModelError if the manifest's model was trained on another table than the schema's.

    Ranges and descriptions may change. Names, order, kinds, categories and classes are what a pipeline is fitted to.
    """
    trained = [_fitted_to(c["name"], c["kind"], c.get("values", ())) for c in manifest["columns"]]
    here = [_fitted_to(c.name, type(c).__name__.lower(), getattr(c, "values", ())) for c in FEATURES]
    if trained == here and set(manifest["classes"]) <= set(TARGET.values):
        return
    trained += [f"the class {name}" for name in manifest["classes"]]
    here += [f"the class {name}" for name in TARGET.values]
    only_trained, only_here = (
        ", ".join(what for what in these if what not in those) or "nothing but another order"
        for these, those in ((trained, here), (here, trained))
    )
    raise ModelError(
        f"trained on another table than plugins/penguins/schema.py declares. Only the model has {only_trained}; only "
        f"the schema has {only_here}. Trigger the DAG modelo_penguin, which trains on the schema's."
    )


def _fitted_to(name: str, kind: str, values: Sequence[str]) -> str:
    return f"{name} ({' '.join([kind, *values])})"


def load_model(pickled: bytes, manifest: Mapping[str, Any]) -> Model:
    """Open a pickle whose signature was verified, and prove it on its golden rows.

    Parameters
    ----------
    pickled : bytes
        As read and verified by the registry. Unpickling runs code: nothing unverified may come in here.
    manifest : mapping
        The manifest that was verified with it: `libraries`, `columns`, `classes` and `golden` are used.

    Raises
    ------
    ModelError
        If a library differs from the one that trained the model, or the table does, the pickle does not open, or a
        golden row comes out differently.
    """
    check_libraries(manifest)
    check_columns(manifest)
    try:
        pipeline = pickle.loads(pickled)  # noqa: S301 - its signature and sha256 were verified
        model = Model(pipeline, tuple(str(name) for name in pipeline.classes_))
    except Exception as error:
        raise ModelError(f"the pickle does not open as a classifier: {error!r}") from error
    if list(model.classes) != manifest["classes"]:
        raise ModelError(f"the pickle's classes are {list(model.classes)}, the manifest's {manifest['classes']}")
    prove(model, manifest["golden"])
    return model


def golden_rows(model: Predictor, records: Sequence[Record]) -> dict[str, Any]:
    """Return records and what the model says of them: the manifest's `golden`."""
    predictions = model.predict(records)
    return {
        "records": [dict(r) for r in records],
        "labels": [p.label for p in predictions],
        "probabilities": [list(p.probabilities.values()) for p in predictions],
    }


def prove(model: Predictor, golden: Mapping[str, Any]) -> None:
    """Raise ModelError unless every golden row has its label, and its probabilities within 1e-6."""
    try:
        predictions = model.predict(golden["records"])
    except Exception as error:
        raise ModelError(f"the golden rows cannot be predicted: {error!r}") from error
    expected = zip(golden["labels"], golden["probabilities"], strict=True)
    for number, (prediction, (label, probabilities)) in enumerate(zip(predictions, expected, strict=True), start=1):
        came = list(prediction.probabilities.values())
        if prediction.label != label or not np.allclose(came, probabilities, rtol=0, atol=TOLERANCE):
            raise ModelError(
                f"golden row {number} gives {prediction.label} {came}; in training it gave {label} {probabilities}"
            )
