"""An accuracy and the comparison of two: how they were measured, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Z95 = 1.959964  # the normal distribution's 97.5 % quantile

Method = Literal["held-out", "cross-validation", "out-of-bag"]


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion: within 0 and 1, and not a single point if all are right."""
    if rows == 0:
        return 0.0, 1.0
    share, z2 = right / rows, Z95**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z95 / (1 + z2 / rows) * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


@dataclass(frozen=True)
class Accuracy:
    """How many rows were predicted correctly by models that had not seen them, and how this was measured."""

    method: Method
    right: int
    rows: int

    @property
    def value(self) -> float:
        return self.right / max(self.rows, 1)

    def facts(self) -> dict[str, Any]:
        """Return the manifest's entry, with Wilson's 95 % interval."""
        return {**asdict(self), "accuracy": self.value, "interval": list(wilson(self.right, self.rows))}


@dataclass(frozen=True)
class Comparison:
    """Two models on the same rows, which neither was trained on.

    Attributes
    ----------
    rows : int
        Rows compared.
    right, serving_right : int
        Rows that each model predicted correctly.
    only_right, only_serving_right : int
        Rows that one model predicted correctly and the other did not.
    """

    rows: int
    right: int
    serving_right: int
    only_right: int
    only_serving_right: int

    @classmethod
    def of(cls, right: np.ndarray, serving_right: np.ndarray) -> Comparison:
        """Count the rows, given two arrays of bool, shape (n_rows,)."""
        return cls(
            rows=len(right),
            right=int(right.sum()),
            serving_right=int(serving_right.sum()),
            only_right=int((right & ~serving_right).sum()),
            only_serving_right=int((serving_right & ~right).sum()),
        )

    @property
    def difference(self) -> float:
        """The new model's accuracy minus the serving model's; 0 without rows."""
        return (self.right - self.serving_right) / max(self.rows, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """The difference's 95 % interval, by Agresti and Min (2005), who add half a row to each kind of pair."""
        rows, won, lost = self.rows + 2, self.only_right + 0.5, self.only_serving_right + 0.5
        half = Z95 * math.sqrt(won + lost - (won - lost) ** 2 / rows) / rows
        middle = (won - lost) / rows
        return max(middle - half, -1.0), min(middle + half, 1.0)

    @property
    def p_value(self) -> float:
        """The chance that an equally good model looks this much worse: McNemar's exact test, one-sided."""
        from scipy.stats import binom

        differing = self.only_right + self.only_serving_right
        return float(binom.sf(self.only_serving_right - 1, differing, 0.5))

    def facts(self) -> dict[str, Any]:
        """Return the manifest's entry, with the statistics derived from the counts."""
        derived = {"difference": self.difference, "interval": list(self.interval), "p_value": self.p_value}
        return {**asdict(self), **derived}

    def sentence(self, new: str, serving: str) -> str:
        """Return the counts in words, with the given names for the two models."""
        low, high = self.interval
        return (
            f"on {self.rows:,} rows that neither was trained on, {new} is right on {self.right:,} and "
            f"{serving} on {self.serving_right:,}; only {new} is right on {self.only_right:,}, only {serving} on "
            f"{self.only_serving_right:,}; the difference is {100 * self.difference:+.2f} percentage points (95 % "
            f"interval {100 * low:+.2f} to {100 * high:+.2f})"
        )
