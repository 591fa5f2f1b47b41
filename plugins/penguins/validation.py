"""What a trained pipeline is worth: its scores, the gate before publishing, and the facts for its manifest."""

from __future__ import annotations

import pickle
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline

from penguins.inference import Model, golden_rows, library_versions, load_model, to_frame
from penguins.registry import NoModelError, Registry
from penguins.schema import CATEGORIES, FEATURES, NUMBERS, TARGET
from penguins.training import ROWS_TO_CROSS_VALIDATE

FOLDS = 10
HISTOGRAM_BINS = 10
GOLDEN_PER_CLASS = 5


class GateError(RuntimeError):
    """The model is not good enough to be published."""


def evaluate(
    pickled: bytes,
    train: pd.DataFrame,
    test: pd.DataFrame,
    *,
    registry: Registry,
    min_accuracy: float,
    max_accuracy_drop: float,
    random_state: int,
) -> dict[str, Any]:
    """Score a run's model, judge it against the serving one on the same rows, and gather what its manifest says.

    Parameters
    ----------
    pickled : bytes
        The run's own pickle: it is opened here, so its checksum must have been compared with the train task's.

    Returns
    -------
    dict
        `metrics` (with the verdict as `gate`), `classes`, `rows`, `columns`, `libraries`, `golden`, `histograms`.
    """
    pipeline = pickle.loads(pickled)  # noqa: S301
    classes = [str(c) for c in pipeline.classes_]
    metrics = score(pipeline, test)
    gate = judge(
        metrics["accuracy"],
        min_accuracy=min_accuracy,
        max_accuracy_drop=max_accuracy_drop,
        **score_serving(registry, test),
    )
    beyond = score_beyond_one_split(pipeline, train, test, random_state)
    return {
        "metrics": {**metrics, **beyond, "gate": asdict(gate)},
        "classes": classes,
        "rows": {"train": len(train), "test": len(test)},
        "columns": [{"kind": type(c).__name__.lower(), **asdict(c)} for c in FEATURES],
        "libraries": library_versions(),
        "golden": golden_rows(Model(pipeline, tuple(classes)), golden_records(test)),
        "histograms": histograms(train),
    }


def score_serving(registry: Registry, test: pd.DataFrame) -> dict[str, Any]:
    """Return the serving version and its accuracy on `test`, or why there is none to compare with."""
    version = None
    try:
        version = registry.current()
        manifest, pickled = registry.read(version)
        accuracy = score(load_model(pickled, manifest).pipeline, test)["accuracy"]
    except NoModelError:
        return {"serving_note": "no version serves yet"}
    except Exception as error:  # whatever is wrong with the old model must not keep a good new one out
        return {"serving_version": version, "serving_note": f"the serving version cannot be scored: {error}"}
    return {"serving_version": version, "serving_accuracy": accuracy}


def score(pipeline: Pipeline, test: pd.DataFrame) -> dict[str, Any]:
    """Return accuracy, macro_f1, per_class and confusion_matrix (rows are the true classes) on held-out rows."""
    truth, predicted = test[TARGET.name], pipeline.predict(to_frame(test))
    classes = [str(c) for c in pipeline.classes_]
    report = classification_report(truth, predicted, labels=classes, output_dict=True, zero_division=0)
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "macro_f1": float(report["macro avg"]["f1-score"]),
        "per_class": {
            name: {
                "precision": float(report[name]["precision"]),
                "recall": float(report[name]["recall"]),
                "f1": float(report[name]["f1-score"]),
                "rows": int(report[name]["support"]),
            }
            for name in classes
        },
        "confusion_matrix": confusion_matrix(truth, predicted, labels=classes).tolist(),
    }


def score_beyond_one_split(
    pipeline: Pipeline, train: pd.DataFrame, test: pd.DataFrame, random_state: int
) -> dict[str, Any]:
    """Return how sure the accuracy is: 10-fold cross-validation of all rows, or the out-of-bag accuracy above 10,000.

    One split of a few hundred rows proves little: with another seed it may well give 1.0.
    """
    if len(train) > ROWS_TO_CROSS_VALIDATE:
        return {"out_of_bag_accuracy": float(pipeline.named_steps["forest"].oob_score_)}
    rows = pd.concat([train, test], ignore_index=True)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=random_state)
    # A tree of so few rows is grown sooner than it is handed to a thread.
    unfitted = clone(pipeline).set_params(forest__n_jobs=None)
    scores = cross_val_score(unfitted, to_frame(rows), rows[TARGET.name], cv=folds, scoring="accuracy")
    return {"cross_validation": {"folds": FOLDS, "mean": float(scores.mean()), "sd": float(scores.std(ddof=1))}}


@dataclass(frozen=True)
class Verdict:
    """What the gate says, and the figures that it compared on the same held-out rows."""

    passed: bool
    reason: str
    accuracy: float
    min_accuracy: float
    max_accuracy_drop: float
    serving_version: str | None
    serving_accuracy: float | None


def judge(
    accuracy: float,
    *,
    min_accuracy: float,
    max_accuracy_drop: float,
    serving_version: str | None = None,
    serving_accuracy: float | None = None,
    serving_note: str = "",
) -> Verdict:
    """Pass a model that reaches `min_accuracy` and is at most `max_accuracy_drop` under the serving one, if any.

    `serving_note` says why there is no `serving_accuracy`.
    """
    rounding = 1e-9  # 0.95 - 0.93 is a little more than 0.02
    if accuracy < min_accuracy:
        passed, reason = False, f"accuracy {accuracy:.4f} is under min_accuracy {min_accuracy:g}"
    elif serving_accuracy is not None and serving_accuracy - accuracy > max_accuracy_drop + rounding:
        passed = False
        reason = (
            f"accuracy {accuracy:.4f} is more than max_accuracy_drop {max_accuracy_drop:g} under the serving "
            f"version {serving_version}, which has {serving_accuracy:.4f} on the same rows"
        )
    else:
        rival = serving_note if serving_accuracy is None else f"{serving_version} has {serving_accuracy:.4f}"
        passed, reason = True, f"accuracy {accuracy:.4f}, min_accuracy {min_accuracy:g}; {rival}"
    return Verdict(
        passed=passed,
        reason=reason,
        accuracy=accuracy,
        min_accuracy=min_accuracy,
        max_accuracy_drop=max_accuracy_drop,
        serving_version=serving_version,
        serving_accuracy=serving_accuracy,
    )


def golden_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a few records of each class, as they are and with every nullable feature missing in turn."""
    names = [c.name for c in FEATURES]
    nullable = [c.name for c in FEATURES if not c.required]
    records: list[dict[str, Any]] = []
    for _, rows in frame.groupby(TARGET.name, sort=True):
        found = rows.head(GOLDEN_PER_CLASS)[names].astype(object)
        records += found.where(found.notna(), None).to_dict("records")
        records += [{**records[-1], name: None} for name in nullable]
    return records


def histograms(train: pd.DataFrame) -> dict[str, Any]:
    """Return how each feature is spread in training: bin edges and counts, or counts of categories; and missing."""
    spread: dict[str, Any] = {}
    for column in NUMBERS:
        values = train[column.name].dropna().to_numpy()
        edges = np.unique(np.quantile(values, np.linspace(0, 1, HISTOGRAM_BINS + 1))) if len(values) else np.zeros(1)
        counts = np.histogram(values, bins=edges)[0] if len(edges) > 1 else np.array([len(values)])
        spread[column.name] = {"edges": edges.tolist(), "counts": counts.tolist()}
    for category in CATEGORIES:
        found = train[category.name].value_counts()
        spread[category.name] = {"counts": {value: int(found.get(value, 0)) for value in category.values}}
    for feature in FEATURES:
        spread[feature.name]["missing"] = int(train[feature.name].isna().sum())
    return spread
