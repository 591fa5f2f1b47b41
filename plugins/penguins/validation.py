"""What a trained pipeline is worth: its scores, how it compares with the serving one, and its manifest's facts."""

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
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline

from penguins.gate import (
    ALL_KEYS,
    Accuracy,
    Comparison,
    Predictions,
    Rival,
    compare_kept,
    judge,
    serving_manifest,
    wilson,
)
from penguins.inference import Model, ModelError, golden_rows, library_versions, load_model, to_frame
from penguins.inspection import inspect
from penguins.progress import Progress
from penguins.registry import Registry, RegistryError
from penguins.schema import CATEGORIES, FEATURES, NUMBERS, TARGET
from penguins.training import FOLDS, distinct_rows, feature_frame, label_codes, row_keys

# Cross-validation's ten more fits are cheap up to here; above, the trees' own out-of-bag rows serve instead.
ROWS_TO_CROSS_VALIDATE = 10_000
ROWS_KEPT = 100_000
ROWS_AT_ONCE = 50_000
HISTOGRAM_BINS = 10
GOLDEN_PER_CLASS = 5


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
    """Score a run's model, judge it against the serving one, and gather what its manifest says.

    Parameters
    ----------
    pickled : bytes
        The run's own pickle: it is opened here, so its checksum must have been compared with the train task's.

    Returns
    -------
    dict
        `metrics` (with the verdict as `gate`), `classes`, `rows`, `columns`, `estimator`, `libraries`, `golden`,
        `histograms`, `importance`, `calibration`; and what does not belong into the manifest: `points`, which are for
        the report, and `predictions`, bytes, which the version keeps beside its pickle for the next gate.
    """
    pipeline = pickle.loads(pickled)  # noqa: S301
    classes = [str(c) for c in pipeline.classes_]
    metrics = score(pipeline, test)
    unseen, beyond = predict_unseen(pipeline, train, test, random_state)
    held_out = Accuracy("held-out", sum(row[i] for i, row in enumerate(metrics["confusion_matrix"])), test.num_rows)
    headline = max(unseen.accuracy, held_out, key=lambda accuracy: accuracy.rows)  # the more rows, the surer
    gate = judge(
        headline,
        compare_with_serving(registry, unseen),
        min_accuracy=min_accuracy,
        max_accuracy_drop=max_accuracy_drop,
    )
    return {
        "metrics": {**metrics, **beyond, "headline": headline.facts(), "gate": asdict(gate)},
        "classes": classes,
        "rows": {"train": train.num_rows, "test": test.num_rows},
        "columns": [{"kind": type(c).__name__.lower(), **asdict(c)} for c in FEATURES],
        "estimator": type(pipeline[-1]).__name__,
        "libraries": library_versions(),
        "golden": golden_rows(Model(pipeline, tuple(classes)), golden_records(test)),
        "histograms": histograms(train),
        **inspect(pipeline, test, random_state),
        "predictions": unseen.predictions.to_bytes(),
    }


def compare_with_serving(registry: Registry, unseen: Unseen) -> Rival:
    """Compare with the serving version on the rows that neither was trained on."""
    manifest, rival = serving_manifest(registry)
    if manifest is None:
        return rival
    version, new = manifest["version"], unseen.predictions
    if "predictions_sha256" not in manifest:
        return Rival(
            version, note=f"{version} was published before versions kept what a comparison needs; this one does"
        )
    try:
        kept = Predictions.from_bytes(registry.predictions(version))
    except RegistryError as error:
        return Rival(version, note=f"the serving version cannot be judged: {error}")
    comparison, unknown_to_serving = compare_kept(new, kept)
    unknown = np.flatnonzero(unknown_to_serving & new.judged)
    if len(unknown) == 0:
        return Rival(version, comparison=comparison)
    rows = unseen.rows.take(unknown)
    try:
        pipeline = load_model(registry.read(version)[1], manifest).pipeline
    except (RegistryError, ModelError) as error:
        note = f"on {len(unknown):,} rows that are new to {version} it cannot be judged: {error}"
        return Rival(version, note=note, comparison=comparison)
    right = _predicted_codes(pipeline, rows) == label_codes(rows)
    return Rival(
        version,
        note=_other_rows(version, kept.right[kept.judged], right),
        comparison=comparison.with_new_rows(Comparison.of(new.right[unknown], right)),
    )


def _other_rows(version: str, kept: np.ndarray, new: np.ndarray) -> str:
    """Say so where a version is surely less often right on new rows than it was on its own."""
    (low, _), (_, high) = wilson(int(kept.sum()), len(kept)), wilson(int(new.sum()), len(new))
    if high >= low:
        return ""
    return (
        f"{version} is right on {new.mean():.1%} of the {len(new):,} rows that are new to it, and was on "
        f"{kept.mean():.1%} of its own: the new rows differ from those. If the world has not changed, the file is wrong"
    )


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


@dataclass(frozen=True)
class Unseen:
    """What models said of rows that they had not seen.

    Attributes
    ----------
    predictions : Predictions
    rows : pyarrow.Table
        The rows of `predictions`, in their order.
    accuracy : Accuracy
        With identical rows counted each.
    """

    predictions: Predictions
    rows: pa.Table
    accuracy: Accuracy


def predict_unseen(
    pipeline: Pipeline, train: pa.Table, test: pa.Table, random_state: int
) -> tuple[Unseen, dict[str, Any]]:
    """Predict each row by models that were not trained on it, and return that, and what the metrics say of it.

    Up to 10,000 training rows, cross-validation does it for all rows. Above, a sample of 100,000 is predicted by the
    trees that were not shown the row, or by the whole model where the row was held out. One split of a few hundred rows
    proves little: with another seed it may well give 1.0.
    """
    if train.num_rows > ROWS_TO_CROSS_VALIDATE:
        return _out_of_bag(pipeline, train, test)
    return _cross_validate(pipeline, pa.concat_tables([train, test]), random_state)


def _cross_validate(pipeline: Pipeline, rows: pa.Table, random_state: int) -> tuple[Unseen, dict[str, Any]]:
    codes, (groups, first) = label_codes(rows), distinct_rows(rows)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=random_state)
    fold_of_group = np.empty(len(first), dtype=int)
    for number, (_, in_fold) in enumerate(folds.split(first, codes[first])):
        fold_of_group[in_fold] = number
    fold = fold_of_group[groups]
    # A tree of so few rows is grown sooner than it is handed to a thread.
    unfitted = clone(pipeline).set_params(forest__n_jobs=None)
    features, labels = feature_frame(rows), np.array(TARGET.values)[codes]
    predicted = np.empty_like(labels)
    for number in range(FOLDS):
        kept_out = fold == number
        fitted = clone(unfitted).fit(features[~kept_out], labels[~kept_out])
        predicted[kept_out] = fitted.predict(features[kept_out])
    right = predicted == labels
    by_fold = np.array([right[fold == number].mean() for number in range(FOLDS)])
    every_row = np.ones(len(right), dtype=bool)
    kept = _by_key(rows, row_keys(rows), right, every_row, ALL_KEYS)
    unseen = Unseen(*kept, Accuracy("cross-validation", int(right.sum()), len(right)))
    metrics = {"folds": FOLDS, "mean": float(by_fold.mean()), "sd": float(by_fold.std(ddof=1))}
    return unseen, {"cross_validation": metrics}


def _by_key(
    rows: pa.Table, keys: np.ndarray, right: np.ndarray, judged: np.ndarray, limit: int
) -> tuple[Predictions, pa.Table]:
    """Return each distinct row once: right if most of its judged copies were predicted right."""
    distinct, first, group = np.unique(keys, return_index=True, return_inverse=True)
    copies_judged, copies_right = (np.bincount(group, weights=of) for of in (judged, judged & right))
    return Predictions(distinct, copies_right * 2 > copies_judged, copies_judged > 0, limit), rows.take(first)


def _out_of_bag(pipeline: Pipeline, train: pa.Table, test: pa.Table) -> tuple[Unseen, dict[str, Any]]:
    keys = [row_keys(train), row_keys(test)]
    every_key = np.concatenate(keys)
    limit = ALL_KEYS
    if len(every_key) > ROWS_KEPT:
        limit = int(np.partition(every_key, ROWS_KEPT - 1)[ROWS_KEPT - 1])
    in_train, in_test = (np.flatnonzero(k <= np.uint64(limit)) for k in keys)
    held_out = test.take(in_test)
    voted, right_in_train = out_of_bag(pipeline, train, in_train, keys[0])
    right_in_test = _predicted_codes(pipeline, held_out) == label_codes(held_out)
    kept = _by_key(
        pa.concat_tables([train.take(in_train), held_out]),
        np.concatenate([keys[0][in_train], keys[1][in_test]]),
        np.concatenate([right_in_train, right_in_test]),
        np.concatenate([voted, np.ones(len(in_test), dtype=bool)]),
        limit,
    )
    accuracy = Accuracy("out-of-bag", int(right_in_train[voted].sum()), int(voted.sum()))
    # Where every row has many copies, each tree was shown one of each.
    return Unseen(*kept, accuracy), {"out_of_bag_accuracy": accuracy.value} if accuracy.rows else {}


def out_of_bag(
    pipeline: Pipeline, train: pa.Table, sample: np.ndarray, keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Predict rows of the training table by the trees that were shown neither the row nor a copy of it.

    scikit-learn's own `oob_score` predicts every row with nearly every tree: at ten million rows that takes longer than
    the fit.

    Parameters
    ----------
    sample : numpy.ndarray of int, shape (n_sampled,)
        Which rows.
    keys : numpy.ndarray of uint64, shape (n_rows,)
        Of every training row.

    Returns
    -------
    numpy.ndarray of bool, shape (n_sampled,)
        Whether any tree was left to predict the row.
    numpy.ndarray of bool, shape (n_sampled,)
        Whether it was predicted right.
    """
    forest = pipeline.named_steps["forest"]
    rows = train.take(sample)
    features = pipeline[:-1].transform(feature_frame(rows)).astype(np.float32, copy=False)
    # Rows with equal features are one group; the group of rows without a copy in the sample is the last.
    distinct, group_of_sampled = np.unique(keys[sample], return_inverse=True)
    group = np.searchsorted(distinct, keys).clip(max=len(distinct) - 1)
    group[distinct[group] != keys] = len(distinct)
    votes = np.zeros((len(sample), len(pipeline.classes_)))
    progress = Progress("scored out of bag", len(forest.estimators_), "trees")
    for done, (tree, shown) in enumerate(zip(forest.estimators_, forest.estimators_samples_, strict=True), start=1):
        was_shown = np.zeros(len(distinct) + 1, dtype=bool)
        was_shown[group[shown]] = True
        not_shown = ~was_shown[group_of_sampled]
        if not_shown.any():
            votes[not_shown] += tree.predict_proba(features[not_shown])
        progress.at(done)
    places = np.array([TARGET.values.index(str(name)) for name in pipeline.classes_])
    return np.any(votes, axis=1), np.equal(places[votes.argmax(axis=1)], label_codes(rows))


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
