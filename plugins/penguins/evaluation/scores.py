"""A fitted pipeline's scores: on the held-out rows, and on all rows by models that had not seen them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.base import clone
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline

from penguins.data.progress import Progress
from penguins.evaluation.accuracy import Accuracy
from penguins.evaluation.predictions import ALL_KEYS, Predictions
from penguins.inference import to_frame
from penguins.schema import TARGET
from penguins.training.rows import FOLDS, distinct_rows, feature_frame, label_codes, row_keys

# Up to here, the ten extra fits of cross-validation are cheap. Above, the out-of-bag rows are used instead.
ROWS_TO_CROSS_VALIDATE = 10_000
ROWS_KEPT = 100_000
CHUNK_ROWS = 50_000


def score(pipeline: Pipeline, test: pa.Table) -> dict[str, Any]:
    """Return accuracy, macro_f1, per_class and confusion_matrix (rows are the true classes) on held-out rows."""
    classes = [str(c) for c in pipeline.classes_]
    codes = [TARGET.values.index(name) for name in classes]
    truth, predicted = label_codes(test), predicted_codes(pipeline, test)
    report = classification_report(
        truth, predicted, labels=codes, target_names=classes, output_dict=True, zero_division=0
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
        "confusion_matrix": confusion_matrix(truth, predicted, labels=codes).tolist(),
    }


def warnings_of(metrics: dict[str, Any]) -> list[str]:
    """Return what an accuracy does not tell: classes that are never found, and no gain over always saying the same.

    Parameters
    ----------
    metrics : dict
        From `score`.
    """
    rows = {name: found["rows"] for name, found in metrics["per_class"].items()}
    warnings = [
        f"the class {name} is never found: none of its {count} held-out rows is predicted as {name}"
        for name, count in rows.items()
        if count and not metrics["per_class"][name]["recall"]
    ]
    commonest = max(rows, key=lambda name: rows[name])
    share = rows[commonest] / sum(rows.values())
    if metrics["accuracy"] <= share:
        warnings.append(
            f"always answering {commonest} is right in {share:.4f} of the held-out rows; the model is no better"
        )
    return warnings


def predicted_codes(pipeline: Pipeline, table: pa.Table) -> np.ndarray:
    """Return each row's predicted target as an index into the schema's values, predicted in pieces on every core."""
    progress = Progress("scored", table.num_rows)
    code_of = {name: code for code, name in enumerate(TARGET.values)}

    def predict(start: int) -> list[int]:
        labels = pipeline.predict(to_frame(feature_frame(table.slice(start, CHUNK_ROWS))))
        return [code_of[str(label)] for label in labels]

    codes: list[int] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for piece in pool.map(predict, range(0, table.num_rows, CHUNK_ROWS)):
            codes += piece
            progress.at(len(codes))
    return np.array(codes)


@dataclass(frozen=True)
class Unseen:
    """The predictions of models for rows that they had not seen.

    Attributes
    ----------
    predictions : Predictions
    rows : pyarrow.Table
        The rows of `predictions`, in the same order.
    accuracy : Accuracy
        Identical rows are counted one by one.
    """

    predictions: Predictions
    rows: pa.Table
    accuracy: Accuracy


def predict_unseen(
    pipeline: Pipeline, train: pa.Table, test: pa.Table, random_state: int
) -> tuple[Unseen, dict[str, Any]]:
    """Predict each row with models that were not trained on it, and return the predictions and their metrics.

    Up to 10,000 training rows, all rows are cross-validated. Above, a sample of 100,000 rows is predicted: training
    rows by the trees that were not trained on them, held-out rows by the whole model. One split of a few hundred rows
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
    # With so few rows, growing a tree is faster than handing it to a thread.
    unfitted = clone(pipeline).set_params(forest__n_jobs=None)
    features, labels = feature_frame(rows), np.array(TARGET.values)[codes]
    predicted = np.empty_like(labels)
    for number in range(FOLDS):  # not in threads: trees this small hold Python's lock most of the time
        held_out = fold == number
        fitted = clone(unfitted).fit(features[~held_out], labels[~held_out])
        predicted[held_out] = fitted.predict(features[held_out])
    right = predicted == labels
    by_fold = np.array([right[fold == number].mean() for number in range(FOLDS)])
    every_row = np.ones(len(right), dtype=bool)
    kept = _deduplicate(rows, row_keys(rows), right, every_row, ALL_KEYS)
    unseen = Unseen(*kept, Accuracy("cross-validation", int(right.sum()), len(right)))
    metrics = {"folds": FOLDS, "mean": float(by_fold.mean()), "sd": float(by_fold.std(ddof=1))}
    return unseen, {"cross_validation": metrics}


def _deduplicate(
    rows: pa.Table, keys: np.ndarray, right: np.ndarray, judged: np.ndarray, limit: int
) -> tuple[Predictions, pa.Table]:
    """Return each distinct row once: right if most of its judged copies were predicted correctly."""
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
    right_in_test = predicted_codes(pipeline, held_out) == label_codes(held_out)
    kept = _deduplicate(
        pa.concat_tables([train.take(in_train), held_out]),
        np.concatenate([keys[0][in_train], keys[1][in_test]]),
        np.concatenate([right_in_train, right_in_test]),
        np.concatenate([voted, np.ones(len(in_test), dtype=bool)]),
        limit,
    )
    accuracy = Accuracy("out-of-bag", int(right_in_train[voted].sum()), int(voted.sum()))
    # No rows are left if every row has so many copies that each tree was trained on one.
    return Unseen(*kept, accuracy), {"out_of_bag_accuracy": accuracy.value} if accuracy.rows else {}


def out_of_bag(
    pipeline: Pipeline, train: pa.Table, sample: np.ndarray, keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Predict training rows with the trees that were trained on neither the row nor a copy of it.

    scikit-learn's own `oob_score` predicts every row with nearly every tree. For ten million rows that takes longer
    than the fit.

    Parameters
    ----------
    sample : numpy.ndarray of int, shape (n_sampled,)
        Indices of the rows to predict.
    keys : numpy.ndarray of uint64, shape (n_rows,)
        One for every training row.

    Returns
    -------
    numpy.ndarray of bool, shape (n_sampled,)
        Whether any tree was left to predict the row.
    numpy.ndarray of bool, shape (n_sampled,)
        Whether it was predicted correctly.
    """
    forest = pipeline.named_steps["forest"]
    rows = train.take(sample)
    features = pipeline[:-1].transform(feature_frame(rows)).astype(np.float32, copy=False)
    # Rows with equal features form one group; rows without a copy in the sample form the last group.
    distinct, group_of_sampled = np.unique(keys[sample], return_inverse=True)
    group = np.searchsorted(distinct, keys).clip(max=len(distinct) - 1)
    group[distinct[group] != keys] = len(distinct)
    votes = np.zeros((len(sample), len(pipeline.classes_)))
    progress = Progress("scored out of bag", len(forest.estimators_), "trees")
    for done, (tree, samples) in enumerate(zip(forest.estimators_, forest.estimators_samples_, strict=True), start=1):
        in_bag = np.zeros(len(distinct) + 1, dtype=bool)
        in_bag[group[samples]] = True
        oob = ~in_bag[group_of_sampled]
        if oob.any():
            votes[oob] += tree.predict_proba(features[oob])
        progress.at(done)
    class_codes = np.array([TARGET.values.index(str(name)) for name in pipeline.classes_])
    return np.any(votes, axis=1), np.equal(class_codes[votes.argmax(axis=1)], label_codes(rows))
