"""From a record to a prediction, and the check that a loaded model predicts as it did in training."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from penguins.compatibility import ModelError, check_columns, check_libraries
from penguins.schema import FEATURES, Number

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-6

Record = Mapping[str, Any]


class Prediction(NamedTuple):
    """The predicted class, and the probability of each class by its name."""

    label: str
    probabilities: dict[str, float]


class Predictor(Protocol):
    """Predicts records of the schema's features, with None for missing values, and answers in the same order."""

    def predict(self, records: Sequence[Record]) -> list[Prediction]: ...


@dataclass(frozen=True)
class Model:
    """A fitted pipeline.

    Attributes
    ----------
    pipeline : sklearn.pipeline.Pipeline
    classes : tuple of str
        In the order of `predict_proba`'s columns.
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
    """Return the features in the form that the pipeline expects.

    Returns
    -------
    pandas.DataFrame, shape (n_records, n_features)
        In the schema's order: float64 for numbers, object for categories, NaN for missing values.
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


def unpickle(pickled: bytes) -> Any:
    """Return what a version's `model.pkl` holds. This runs code: never pass bytes that were not verified."""
    import joblib  # it imports much, and the service itself gets by without

    return joblib.load(io.BytesIO(pickled))  # a plain pickle, which older versions have, as well


def load_model(pickled: bytes, manifest: Mapping[str, Any]) -> Model:
    """Unpickle a model whose signature was verified, and check it on its golden rows.

    Parameters
    ----------
    pickled : bytes
        As read and verified by the registry. Unpickling runs code: never pass unverified bytes.
    manifest : mapping
        Verified together with the pickle: `libraries`, `columns`, `classes` and `golden` are used.

    Raises
    ------
    ModelError
        If a library or the table differs from training, the pickle does not open, or a golden row is predicted
        differently.
    """
    check_libraries(manifest)
    check_columns(manifest)
    try:
        pipeline = unpickle(pickled)
        model = Model(pipeline, tuple(str(name) for name in pipeline.classes_))
    except Exception as error:
        raise ModelError(f"the pickle does not open as a classifier: {error!r}") from error
    if list(model.classes) != manifest["classes"]:
        raise ModelError(f"the pickle's classes are {list(model.classes)}, the manifest's {manifest['classes']}")
    prove(model, manifest["golden"])
    return model


def golden_rows(model: Predictor, records: Sequence[Record]) -> dict[str, Any]:
    """Return records with the model's predictions for them: the manifest's `golden`."""
    predictions = model.predict(records)
    return {
        "records": [dict(r) for r in records],
        "labels": [p.label for p in predictions],
        "probabilities": [list(p.probabilities.values()) for p in predictions],
    }


def prove(model: Predictor, golden: Mapping[str, Any]) -> None:
    """Raise ModelError unless every golden row gets its label, and its probabilities within 1e-6."""
    try:
        predictions = model.predict(golden["records"])
    except Exception as error:
        raise ModelError(f"the golden rows cannot be predicted: {error!r}") from error
    expected = zip(golden["labels"], golden["probabilities"], strict=True)
    for number, (prediction, (label, probabilities)) in enumerate(zip(predictions, expected, strict=True), start=1):
        actual = list(prediction.probabilities.values())
        if prediction.label != label or not np.allclose(actual, probabilities, rtol=0, atol=TOLERANCE):
            raise ModelError(
                f"golden row {number} gives {prediction.label} {actual}; in training it gave {label} {probabilities}"
            )
