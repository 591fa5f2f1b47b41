"""What a trained pipeline is worth: its scores, the gate before publishing, and the facts for its manifest."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.base import clone
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline

from penguins.inference import Model, golden_rows, library_versions, load_model, to_frame
from penguins.inspection import inspect
from penguins.progress import Progress
from penguins.registry import NoModelError, Registry
from penguins.schema import CATEGORIES, FEATURES, NUMBERS, TARGET
from penguins.training import feature_frame, label_codes

FOLDS = 10
# Cross-validation's ten more fits are cheap up to here; above, the trees' own out-of-bag rows serve instead.
ROWS_TO_CROSS_VALIDATE = 10_000
OUT_OF_BAG_ROWS = 100_000
ROWS_AT_ONCE = 50_000
HISTOGRAM_BINS = 10
GOLDEN_PER_CLASS = 5


class GateError(RuntimeError):
    """The model is not good enough to be published."""


def evaluate(
    pickled: bytes,
    train: pa.Table,
    test: pa.Table,
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
        `metrics` (with the verdict as `gate`), `classes`, `rows`, `columns`, `estimator`, `libraries`, `golden`,
        `histograms`, `importance`, `calibration`; and `points`, which are for the report and not for the manifest.
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
        "rows": {"train": train.num_rows, "test": test.num_rows},
        "columns": [{"kind": type(c).__name__.lower(), **asdict(c)} for c in FEATURES],
        "estimator": type(pipeline[-1]).__name__,
        "libraries": library_versions(),
        "golden": golden_rows(Model(pipeline, tuple(classes)), golden_records(test)),
        "histograms": histograms(train),
        **inspect(pipeline, test, random_state),
    }


def score_serving(registry: Registry, test: pa.Table) -> dict[str, Any]:
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


def score(pipeline: Pipeline, test: pa.Table) -> dict[str, Any]:
    """Return accuracy, macro_f1, per_class and confusion_matrix (rows are the true classes) on held-out rows."""
    classes = [str(c) for c in pipeline.classes_]
    places = [TARGET.values.index(name) for name in classes]
    truth, predicted = label_codes(test), _predicted_codes(pipeline, test)
    report = classification_report(
        truth, predicted, labels=places, target_names=classes, output_dict=True, zero_division=0
    )
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
        "confusion_matrix": confusion_matrix(truth, predicted, labels=places).tolist(),
    }


def _predicted_codes(pipeline: Pipeline, table: pa.Table) -> np.ndarray:
    """Return each row's predicted target as its place in the schema's values, a piece at a time on every core."""
    progress = Progress("scored", table.num_rows)
    places = {name: place for place, name in enumerate(TARGET.values)}

    def predict(start: int) -> list[int]:
        labels = pipeline.predict(to_frame(feature_frame(table.slice(start, ROWS_AT_ONCE))))
        return [places[str(label)] for label in labels]

    codes: list[int] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for piece in pool.map(predict, range(0, table.num_rows, ROWS_AT_ONCE)):
            codes += piece
            progress.at(len(codes))
    return np.array(codes)


def score_beyond_one_split(pipeline: Pipeline, train: pa.Table, test: pa.Table, random_state: int) -> dict[str, Any]:
    """Return how sure the accuracy is: 10-fold cross-validation of all rows, or the out-of-bag accuracy above 10,000.

    One split of a few hundred rows proves little: with another seed it may well give 1.0.
    """
    if train.num_rows > ROWS_TO_CROSS_VALIDATE:
        return {"out_of_bag_accuracy": out_of_bag_accuracy(pipeline, train)}
    rows = pa.concat_tables([train, test])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=random_state)
    # A tree of so few rows is grown sooner than it is handed to a thread.
    unfitted = clone(pipeline).set_params(forest__n_jobs=None)
    labels = np.array(TARGET.values)[label_codes(rows)]
    scores = cross_val_score(unfitted, feature_frame(rows), labels, cv=folds, scoring="accuracy")
    return {"cross_validation": {"folds": FOLDS, "mean": float(scores.mean()), "sd": float(scores.std(ddof=1))}}


def out_of_bag_accuracy(pipeline: Pipeline, train: pa.Table) -> float:
    """Return the accuracy of trees on rows that they were not shown, over the first 100,000 training rows.

    They are a random sample, as the split shuffles. scikit-learn's own `oob_score` predicts every row with nearly every
    tree: at ten million rows that takes longer than the fit.
    """
    forest = pipeline.named_steps["forest"]
    sample = train.slice(0, OUT_OF_BAG_ROWS)
    features = pipeline[:-1].transform(feature_frame(sample)).astype(np.float32, copy=False)
    votes = np.zeros((sample.num_rows, len(pipeline.classes_)))
    progress = Progress("scored out of bag", len(forest.estimators_), "trees")
    for done, (tree, shown) in enumerate(zip(forest.estimators_, forest.estimators_samples_, strict=True), start=1):
        out_of_bag = np.ones(sample.num_rows, dtype=bool)
        out_of_bag[shown[shown < sample.num_rows]] = False
        votes[out_of_bag] += tree.predict_proba(features[out_of_bag])
        progress.at(done)
    places = np.array([TARGET.values.index(str(name)) for name in pipeline.classes_])
    voted = votes.any(axis=1)
    return float(accuracy_score(label_codes(sample)[voted], places[votes[voted].argmax(axis=1)]))


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


def golden_records(table: pa.Table) -> list[dict[str, Any]]:
    """Return a few records of each class, as they are and with every nullable feature missing in turn."""
    names = [c.name for c in FEATURES]
    nullable = [c.name for c in FEATURES if not c.required]
    codes = label_codes(table)
    records: list[dict[str, Any]] = []
    for code in np.unique(codes):
        rows = table.select(names).take(np.flatnonzero(codes == code)[:GOLDEN_PER_CLASS])
        records += [{name: _as_written(value) for name, value in row.items()} for row in rows.to_pylist()]
        records += [{**records[-1], name: None} for name in nullable]
    return records


def _as_written(value: Any) -> Any:
    # 39.1, whose nearest float32 is 39.0999984741, is 39.1 again: the shortest number with the same float32.
    return float(str(np.float32(value))) if isinstance(value, float) else value


def histograms(train: pa.Table) -> dict[str, Any]:
    """Return how each feature is spread in training: bin edges and counts, or counts of categories; and missing."""
    spread: dict[str, Any] = {}
    for column in NUMBERS:
        values = train[column.name].drop_null().to_numpy()
        # Rounded before rows are counted, not after: a value that is an edge belongs above it, then and later.
        quantiles = np.quantile(values, np.linspace(0, 1, HISTOGRAM_BINS + 1)) if len(values) else np.zeros(1)
        edges = np.unique(quantiles.astype(np.float32))
        # Few values make few quantiles, or a single one: then each value has a bin, so that a change of shares shows.
        if len(edges) <= HISTOGRAM_BINS and 1 < len(few := np.unique(values)) <= HISTOGRAM_BINS:
            edges = np.append(few, few[-1])  # np.histogram's last bin holds both its edges
        counts = np.histogram(values, bins=edges)[0] if len(edges) > 1 else np.array([len(values)])
        spread[column.name] = {"edges": [_as_written(edge) for edge in edges.tolist()], "counts": counts.tolist()}
    for category in CATEGORIES:
        indices = train[category.name].combine_chunks().indices.drop_null().to_numpy()
        found = np.bincount(indices, minlength=len(category.values)).tolist()
        spread[category.name] = {"counts": dict(zip(category.values, found, strict=True))}
    for feature in FEATURES:
        spread[feature.name]["missing"] = train[feature.name].null_count
    return spread
