"""The gate before publishing: is the new model good enough, and is it worse than the one that serves?

Two models are compared only on rows that neither was trained on. Each version keeps, for every row of its file,
whether a model that had not seen the row predicted it right (`Predictions`). Where the next version's file has the same
row, the two are set side by side; rows that are new to the serving version are predicted by its model itself.

The rule: a model is refused if its accuracy is under `min_accuracy`, or if on the rows compared it is right less often
than the serving model, by more than `max_accuracy_drop` and by more than chance explains.
"""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from penguins.inference import ModelError, check_columns
from penguins.registry import NoModelError, Registry, RegistryError

# How seldom chance alone may make a model look as much worse as it does, for it to be refused: 5 of 100 cases.
SIGNIFICANCE = 0.05
# With fewer, the difference of two models is noise: one row would be more than 0.01.
MIN_ROWS = 100
Z95 = 1.959964  # the normal distribution's 97.5 % quantile
ALL_KEYS = 2**64 - 1

Method = Literal["held-out", "cross-validation", "out-of-bag"]
Outcome = Literal["first version", "no comparison", "too few rows", "not worse", "worse"]


class GateError(RuntimeError):
    """The model is not good enough to be published."""


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, by Wilson: within 0 and 1, and not a mere point where all are right."""
    if rows == 0:
        return 0.0, 1.0
    share, z2 = right / rows, Z95**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z95 / (1 + z2 / rows) * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


@dataclass(frozen=True)
class Accuracy:
    """How many rows were predicted right by models that had not seen them, and how that was measured."""

    method: Method
    right: int
    rows: int

    @property
    def value(self) -> float:
        return self.right / max(self.rows, 1)

    def facts(self) -> dict[str, Any]:
        """Return it for the manifest, with Wilson's 95 % interval."""
        return {**asdict(self), "accuracy": self.value, "interval": list(wilson(self.right, self.rows))}


@dataclass(frozen=True)
class Predictions:
    """Whether rows were predicted right by a model that had not seen them, each distinct row once.

    Attributes
    ----------
    keys : numpy.ndarray of uint64, shape (n_rows,)
        As `training.row_keys` gives them, ascending.
    right : numpy.ndarray of bool, shape (n_rows,)
    judged : numpy.ndarray of bool, shape (n_rows,)
        False where every tree was shown the row: then nothing can be said of it, but that the model knows it.
    limit : int
        The file's rows with keys up to this one are all here. A larger file has a sample: those with the least keys,
        so that the next version's sample holds the same rows.
    """

    keys: np.ndarray
    right: np.ndarray
    judged: np.ndarray
    limit: int = ALL_KEYS

    def to_bytes(self) -> bytes:
        """Return them as Parquet: under 1 MB for 100,000 rows, and nothing in it that a row could be read from."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        right = pa.array(self.right, mask=~self.judged)
        table = pa.table({"key": self.keys, "right": right}, metadata={"limit": str(self.limit)})
        file = io.BytesIO()
        pq.write_table(
            table, file, use_dictionary=False, compression="zstd", column_encoding={"key": "DELTA_BINARY_PACKED"}
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Predictions:
        """Return what `to_bytes` wrote."""
        import pyarrow.parquet as pq

        table = pq.read_table(io.BytesIO(content))
        limit = int(table.schema.metadata[b"limit"])
        right = table["right"]
        return cls(table["key"].to_numpy(), right.fill_null(False).to_numpy(), right.is_valid().to_numpy(), limit)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same rows, none of which either was trained on.

    Attributes
    ----------
    rows, new_rows : int
        How many in all, and how many of them the serving version's file did not have.
    right, serving_right : int
        How many each model predicted right.
    only_right, only_serving_right : int
        How many one predicted right and the other did not.
    """

    rows: int
    new_rows: int
    right: int
    serving_right: int
    only_right: int
    only_serving_right: int

    @classmethod
    def of(cls, right: np.ndarray, serving_right: np.ndarray) -> Comparison:
        """Count rows from two arrays of bool, shape (n_rows,)."""
        return cls(
            rows=len(right),
            new_rows=0,
            right=int(right.sum()),
            serving_right=int(serving_right.sum()),
            only_right=int((right & ~serving_right).sum()),
            only_serving_right=int((serving_right & ~right).sum()),
        )

    def with_new_rows(self, others: Comparison) -> Comparison:
        """Return both together, with the others as rows that the serving version's file did not have."""
        counts = {name: count + getattr(others, name) for name, count in asdict(self).items()}
        return Comparison(**{**counts, "new_rows": self.new_rows + others.rows})

    @property
    def difference(self) -> float:
        """The new model's accuracy less the serving one's; 0 without a row."""
        return (self.right - self.serving_right) / max(self.rows, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """The difference's 95 % interval, by Agresti and Min (2005): half a row more of each kind of pair."""
        rows, won, lost = self.rows + 2, self.only_right + 0.5, self.only_serving_right + 0.5
        half = Z95 * math.sqrt(won + lost - (won - lost) ** 2 / rows) / rows
        middle = (won - lost) / rows
        return max(middle - half, -1.0), min(middle + half, 1.0)

    @property
    def p_value(self) -> float:
        """How often chance alone makes an equally good model look this much worse: McNemar's test, exact, one-sided."""
        from scipy.stats import binom

        differing = self.only_right + self.only_serving_right
        return float(binom.sf(self.only_serving_right - 1, differing, 0.5))

    def outcome(self, max_accuracy_drop: float) -> Outcome:
        """Return what the rows say of the new model."""
        rounding = 1e-9  # 0.95 - 0.93 is a little more than 0.02
        if -self.difference > max_accuracy_drop + rounding and self.p_value < SIGNIFICANCE:
            return "worse"
        return "too few rows" if self.rows < MIN_ROWS else "not worse"

    def facts(self) -> dict[str, Any]:
        """Return it for the manifest, with what follows from the counts."""
        derived = {"difference": self.difference, "interval": list(self.interval), "p_value": self.p_value}
        return {**asdict(self), **derived}

    def sentence(self, new: str, serving: str) -> str:
        """Return the counts in words, with the two models called as given."""
        low, high = self.interval
        of_them_new = f" ({self.new_rows:,} of them new to {serving})" if self.new_rows else ""
        return (
            f"on {self.rows:,} rows that neither was trained on{of_them_new}, {new} is right on {self.right:,} and "
            f"{serving} on {self.serving_right:,}; {new} alone is right on {self.only_right:,}, {serving} alone on "
            f"{self.only_serving_right:,}; the difference is {100 * self.difference:+.2f} percentage points, with 95 % "
            f"confidence between {100 * low:+.2f} and {100 * high:+.2f}"
        )


def compare_kept(new: Predictions, old: Predictions) -> tuple[Comparison, np.ndarray]:
    """Compare two versions on the rows that both have judged; and say which rows of `new` the old one's file lacked."""
    place = np.searchsorted(old.keys, new.keys).clip(max=len(old.keys) - 1)
    known = old.keys[place] == new.keys
    both = known & new.judged & old.judged[place]
    # What the old version has not kept, although it would have, was not in its file: its model never saw it.
    unknown = ~known & (new.keys <= old.limit)
    return Comparison.of(new.right[both], old.right[place[both]]), unknown


@dataclass(frozen=True)
class Rival:
    """The serving version as far as it can be compared with.

    Attributes
    ----------
    version : str or None
    outcome : str
        Why there is no comparison, where there is none.
    note : str
        The same in words; or what else there is to say of the comparison.
    comparison : Comparison or None
    """

    version: str | None = None
    outcome: Outcome = "no comparison"
    note: str = ""
    comparison: Comparison | None = None


def serving_manifest(registry: Registry) -> tuple[dict[str, Any] | None, Rival]:
    """Return the serving version's manifest; or None, and why a new version is compared with nothing.

    There are no other reasons: whatever else goes wrong, fails the run.
    """
    version = None
    try:
        version = registry.current()
        manifest = registry.manifest(version)
        check_columns(manifest)
    except NoModelError:
        return None, Rival(outcome="first version", note="no version serves yet")
    except RegistryError as error:
        return None, Rival(version, note=f"the serving version cannot be trusted: {error}")
    except ModelError as error:
        note = f"this is the first version of this table; the serving version {version} was {error}"
        return None, Rival(version, outcome="first version", note=note)
    return manifest, Rival(version)


@dataclass(frozen=True)
class Verdict:
    """What the gate says, and by which figures.

    Attributes
    ----------
    accuracy, method : float, str
        What `min_accuracy` was held against.
    serving_accuracy : float or None
        The serving version's, on the rows compared.
    comparison : dict or None
        As `Comparison.facts` gives it.
    """

    passed: bool
    outcome: Outcome
    reason: str
    note: str
    accuracy: float
    method: Method
    min_accuracy: float
    max_accuracy_drop: float
    serving_version: str | None
    serving_accuracy: float | None
    comparison: dict[str, Any] | None


def judge(accuracy: Accuracy, rival: Rival, *, min_accuracy: float, max_accuracy_drop: float) -> Verdict:
    """Pass a model that reaches `min_accuracy` and is not worse than the rival, by the rule at the top."""
    comparison, serving = rival.comparison, f"the serving version {rival.version}"
    outcome = comparison.outcome(max_accuracy_drop) if comparison else rival.outcome
    measured = f"accuracy {accuracy.value:.4f} ({accuracy.method}, {accuracy.rows:,} rows)"
    compared = comparison.sentence("the new model", serving) if comparison else rival.note
    if accuracy.value < min_accuracy:
        reason = f"{measured} is under min_accuracy {min_accuracy:g}"
    elif comparison and outcome == "worse":
        reason = (
            f"worse than {serving}: {compared}. That is more than max_accuracy_drop {max_accuracy_drop:g} allows, and "
            f"chance alone would do it in {100 * comparison.p_value:.2g} of 100 cases (accepted are {SIGNIFICANCE:.0%})"
        )
    elif outcome == "too few rows":
        reason = (
            f"{measured} reaches min_accuracy {min_accuracy:g}. That alone decides, because too few rows can be "
            f"compared: {compared}; needed are {MIN_ROWS}"
        )
    elif comparison:
        reason = f"{measured} reaches min_accuracy {min_accuracy:g}. Not worse than {serving}: {compared}"
    else:
        reason = f"{measured} reaches min_accuracy {min_accuracy:g}. Compared with nothing: {compared}"
    return Verdict(
        passed=accuracy.value >= min_accuracy and outcome != "worse",
        outcome=outcome,
        reason=reason,
        note=rival.note,
        accuracy=accuracy.value,
        method=accuracy.method,
        min_accuracy=min_accuracy,
        max_accuracy_drop=max_accuracy_drop,
        serving_version=rival.version,
        serving_accuracy=comparison.serving_right / comparison.rows if comparison and comparison.rows else None,
        comparison=comparison.facts() if comparison else None,
    )
