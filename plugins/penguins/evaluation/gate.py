"""The gate before publishing: is the new model good enough, and is it worse than the serving model?

Two models are compared only on rows that neither was trained on. For every row of its file, each version keeps whether
a model that had not seen the row predicted it correctly (`predictions.py`). If the next version's file has the same
row, the two predictions are compared.

The rule: a model is refused if its accuracy is below `min_accuracy`, or if on the compared rows it is less accurate
than the serving model, by more than `max_accuracy_drop` and by more than chance explains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from penguins.evaluation.accuracy import Accuracy, Comparison, Method

# The significance level: chance alone must explain the drop in fewer than 5 of 100 cases for a model to be refused.
SIGNIFICANCE = 0.05
# With fewer rows, the difference between two models is noise: one row is more than 0.01.
MIN_ROWS = 100

Outcome = Literal["first version", "no comparison", "too few rows", "not worse", "worse"]


class GateError(RuntimeError):
    """The model is not good enough to be published."""


@dataclass(frozen=True)
class Baseline:
    """The serving version, as far as a new model can be compared with it.

    Attributes
    ----------
    version : str or None
    outcome : str
        Why there is no comparison, if there is none.
    note : str
        The reason in words, or a remark on the comparison.
    comparison : Comparison or None
    """

    version: str | None = None
    outcome: Outcome = "no comparison"
    note: str = ""
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Verdict:
    """The gate's decision and the figures behind it.

    Attributes
    ----------
    accuracy, method : float, str
        What was compared with `min_accuracy`.
    serving_accuracy : float or None
        The serving version's, on the compared rows.
    comparison : dict or None
        As returned by `Comparison.facts`.
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


def outcome_of(comparison: Comparison, max_accuracy_drop: float) -> Outcome:
    """Return the outcome for the new model."""
    rounding = 1e-9  # 0.95 - 0.93 is a little more than 0.02
    if -comparison.difference > max_accuracy_drop + rounding and comparison.p_value < SIGNIFICANCE:
        return "worse"
    return "too few rows" if comparison.rows < MIN_ROWS else "not worse"


def judge(accuracy: Accuracy, baseline: Baseline, *, min_accuracy: float, max_accuracy_drop: float) -> Verdict:
    """Pass a model that reaches `min_accuracy` and is not worse than the baseline, by the rule at the top."""
    comparison, serving = baseline.comparison, f"the serving version {baseline.version}"
    outcome = outcome_of(comparison, max_accuracy_drop) if comparison else baseline.outcome
    measured = f"accuracy {accuracy.value:.4f} ({accuracy.method}, {accuracy.rows:,} rows)"
    compared = comparison.sentence("the new model", serving) if comparison else baseline.note
    if accuracy.value < min_accuracy:
        reason = f"{measured} is below min_accuracy {min_accuracy:g}"
    elif comparison and outcome == "worse":
        reason = (
            f"worse than {serving}: {compared}. This is more than max_accuracy_drop {max_accuracy_drop:g} allows, and "
            f"chance alone would explain it in {100 * comparison.p_value:.2g} of 100 cases (limit {SIGNIFICANCE:.0%})"
        )
    elif outcome == "too few rows":
        reason = (
            f"{measured} reaches min_accuracy {min_accuracy:g}. Only this decides, because too few rows can be "
            f"compared (at least {MIN_ROWS} are needed): {compared}"
        )
    elif comparison:
        reason = f"{measured} reaches min_accuracy {min_accuracy:g}. Not worse than {serving}: {compared}"
    else:
        reason = f"{measured} reaches min_accuracy {min_accuracy:g}. No comparison: {compared}"
    return Verdict(
        passed=accuracy.value >= min_accuracy and outcome != "worse",
        outcome=outcome,
        reason=reason,
        note=baseline.note,
        accuracy=accuracy.value,
        method=accuracy.method,
        min_accuracy=min_accuracy,
        max_accuracy_drop=max_accuracy_drop,
        serving_version=baseline.version,
        serving_accuracy=comparison.serving_right / comparison.rows if comparison and comparison.rows else None,
        comparison=comparison.facts() if comparison else None,
    )
