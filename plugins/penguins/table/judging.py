"""How well the columns tell the target: from a quick cross-validation on some rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from penguins.column_types import Category, Ignored
from penguins.table.guessing import Guess
from penguins.table.reading import as_number

TELLS_ALL = 0.999  # share of rows that a column alone tells right


def features_of(
    rows: Sequence[Sequence[str]], guesses: Sequence[Guess], missing: tuple[str, ...], style: tuple[str, str]
) -> dict[str, np.ndarray]:
    """Return each feature of some rows as numbers, shape (rows, values): one column, or one for each category."""
    found = {}
    for place, guess in enumerate(guesses):
        texts = [row[place].strip() for row in rows]
        if isinstance(guess.column, Category):
            found[guess.column.name] = np.array(texts)[:, None] == np.array(guess.column.values)[None, :]
        elif not isinstance(guess.column, Ignored):
            known = [as_number(text, style) if text not in missing else np.nan for text in texts]
            found[guess.column.name] = np.array(known)[:, None]
    return found


def judge(features: dict[str, np.ndarray], labels: Sequence[str]) -> tuple[float, float, list[str]]:
    """Return how often the most frequent class is right, how often a forest is, and the columns that alone tell all.

    Parameters
    ----------
    features : dict of str to array
        As `features_of` returns them, without the target.
    labels : sequence of str
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    classes = Counter(labels)
    base = classes.most_common(1)[0][1] / len(labels)
    filled = {name: np.nan_to_num(values.astype(float), nan=-1e9) for name, values in features.items()}
    telling = [
        name
        for name, values in filled.items()
        if DecisionTreeClassifier(max_leaf_nodes=2 * len(classes)).fit(values, labels).score(values, labels)
        >= TELLS_ALL
    ]
    folds = min(3, *classes.values())
    if folds < 2:
        return base, base, telling
    forest = RandomForestClassifier(n_estimators=50, n_jobs=-1, random_state=0)
    scores = cross_val_score(forest, np.hstack(list(filled.values())), labels, cv=folds)
    return base, float(scores.mean()), telling


def min_accuracy_of(base: float, reached: float) -> float:
    """Return what a useful model reaches: half of the way from always answering the most frequent class."""
    return round(base + max(reached - base, 0) / 2, 2)
