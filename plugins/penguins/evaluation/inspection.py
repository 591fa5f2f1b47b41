"""Feature importance and calibration of a model, from a sample of the held-out rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state

from penguins.inference import to_frame
from penguins.schema import FEATURES, NUMBERS, TARGET
from penguins.training.rows import feature_frame, label_codes

REPEATS = 5
# All permutations of all features are predicted in one call, which limits the sample. This many rows take 0.5 s.
PERMUTED_ROWS = 100_000
CALIBRATION_BINS = 10
POINTS = 500


def inspect(pipeline: Pipeline, test: pa.Table, random_state: int) -> dict[str, Any]:
    """Return `importance`, `calibration` and `points` of the first held-out rows, which are a random sample.

    Parameters
    ----------
    random_state : int
        Seed of the permutations: the same rows and seed give the same facts.
    """
    sample = test.slice(0, max(PERMUTED_ROWS // (REPEATS * len(FEATURES)), 1))
    importance, predicted = permutation_importance(pipeline, sample, random_state)
    return {
        "importance": importance,
        "calibration": calibration(pipeline, sample, predicted),
        "points": points(sample, predicted, importance),
    }


def permutation_importance(
    pipeline: Pipeline, sample: pa.Table, random_state: int
) -> tuple[dict[str, dict[str, float]], np.ndarray]:
    """Return the importance of each feature, and the predicted codes of the unshuffled sample.

    The figures are those of scikit-learn's own `permutation_importance`, which makes a call for each feature and
    repeat: a call to a forest costs more than hundreds of rows in it.

    Returns
    -------
    dict
        By feature, the mean and sd over the repeats of the accuracy that is lost when its values are shuffled.
    numpy.ndarray, shape (n_rows,)
        Indices into the target's values.
    """
    rows = sample.num_rows
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max + 1)
    random, in_place = np.random.RandomState(seed), np.arange(rows)
    shuffled, order, orders = in_place.copy(), in_place, []
    for _ in range(REPEATS):  # each on top of the previous one, as in scikit-learn
        random.shuffle(shuffled)
        order = order[shuffled]
        orders.append(order)
    stacked = {}
    for index, column in enumerate(FEATURES):
        blocks = [in_place] * (1 + REPEATS * len(FEATURES))  # the first block is the sample itself
        blocks[1 + REPEATS * index : 1 + REPEATS * (index + 1)] = orders
        stacked[column.name] = sample[column.name].combine_chunks().take(pa.array(np.concatenate(blocks)))
    code_of = {name: code for code, name in enumerate(TARGET.values)}
    labels = pipeline.predict(to_frame(feature_frame(pa.table(stacked))))
    codes = np.array([code_of[str(label)] for label in labels]).reshape(-1, rows)
    accuracies = (codes == label_codes(sample)).mean(axis=1)
    lost = accuracies[0] - accuracies[1:].reshape(len(FEATURES), REPEATS)
    importance = {
        column.name: {"mean": float(values.mean()), "sd": float(values.std())}
        for column, values in zip(FEATURES, lost, strict=True)
    }
    return importance, codes[0]


def calibration(pipeline: Pipeline, sample: pa.Table, predicted: np.ndarray) -> list[dict[str, Any]]:
    """Return how often the predicted class was correct, by its predicted probability.

    Returns
    -------
    list of dict
        For each tenth of the probability range that has rows: `probability` (the mean), `rows` and `right`.
    """
    columns = {TARGET.values.index(str(name)): column for column, name in enumerate(pipeline.classes_)}
    probabilities = pipeline.predict_proba(to_frame(feature_frame(sample)))
    given = probabilities[np.arange(len(predicted)), [columns[code] for code in predicted.tolist()]]
    right = predicted == label_codes(sample)
    bins = np.minimum((given * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return [
        {
            "probability": float(given[bins == number].mean()),
            "rows": int((bins == number).sum()),
            "right": int(right[bins == number].sum()),
        }
        for number in np.unique(bins)
    ]


def points(sample: pa.Table, predicted: np.ndarray, importance: dict[str, dict[str, float]]) -> dict[str, Any] | None:
    """Return up to 500 rows by the two most important measurements: x, y, true and predicted code; None without two.

    Rows that lack one of the two are left out. `sampled` tells whether others are, too.
    """
    strongest = sorted(NUMBERS, key=lambda c: -importance[c.name]["mean"])[:2]
    if len(strongest) < 2:
        return None
    x, y = (sample[c.name].to_numpy() for c in strongest)
    complete = np.flatnonzero(~np.isnan(x) & ~np.isnan(y))
    truth = label_codes(sample)
    return {
        "x": strongest[0].name,
        "y": strongest[1].name,
        "sampled": len(complete) > POINTS,
        "rows": [[float(x[i]), float(y[i]), int(truth[i]), int(predicted[i])] for i in complete[:POINTS]],
    }
