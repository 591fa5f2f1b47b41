"""An accuracy, how it was measured, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

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
