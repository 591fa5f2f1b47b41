"""The gate's rule, its figures and its words."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import binomtest

from penguins.evaluation.accuracy import Accuracy, Comparison, wilson
from penguins.evaluation.gate import Baseline, judge, outcome_of


def pairs(both: int, only_new: int, only_serving: int, neither: int = 0) -> Comparison:
    """Return the comparison of so many pairs of each kind."""
    right = np.repeat([True, True, False, False], [both, only_new, only_serving, neither])
    serving = np.repeat([True, False, True, False], [both, only_new, only_serving, neither])
    return Comparison.of(right, serving)


def test_wilsons_interval() -> None:
    for right, rows, low, high in (
        *((5, 10, 0.2366, 0.7634), (69, 69, 0.9473, 1), (0, 20, 0, 0.1611), (67, 69, 0.9003, 0.9920)),
        (0, 0, 0, 1),
    ):
        assert wilson(right, rows) == pytest.approx((low, high), abs=1e-4)


# Comparison


def test_the_counts_are_those_of_the_pairs() -> None:
    comparison = pairs(90, 3, 5, 2)
    assert asdict(comparison) == {
        "rows": 100,
        "right": 93,
        "serving_right": 95,
        "only_right": 3,
        "only_serving_right": 5,
    }
    assert comparison.difference == -0.02


def test_the_p_value_is_the_exact_one_sided_test_of_the_pairs_that_differ() -> None:
    assert pairs(300, 0, 0).p_value == 1
    for won, lost in ((0, 5), (2, 9), (9, 2), (7, 7)):
        expected = binomtest(lost, won + lost, 0.5, alternative="greater").pvalue
        assert pairs(300, won, lost).p_value == pytest.approx(expected)


def test_the_interval_holds_the_true_difference_nineteen_times_of_twenty() -> None:
    random, held = np.random.default_rng(0), 0
    for _ in range(500):
        right, serving = random.random(342) < 0.97, random.random(342) < 0.99
        low, high = Comparison.of(right, serving).interval
        held += low <= -0.02 <= high
    assert 0.92 < held / 500 < 0.98


def test_worse_is_beyond_the_margin_and_beyond_chance() -> None:
    for comparison, outcome in (
        (pairs(335, 0, 7), "worse"),  # 2.05 points, p 0.008
        (pairs(336, 0, 6), "not worse"),  # surely, and within the margin
        (pairs(318, 8, 16), "not worse"),  # 2.3 points, which chance may do: p 0.08
        (pairs(100_000, 0, 1000), "not worse"),
        (pairs(90, 0, 9), "worse"),  # few rows, and yet no doubt
        (pairs(97, 0, 2), "too few rows"),
        (pairs(0, 0, 0), "too few rows"),
        (pairs(100, 0, 0), "not worse"),
    ):
        assert outcome_of(comparison, 0.02) == outcome, comparison


def test_exactly_max_accuracy_drop_is_not_worse() -> None:
    """Whatever 0.95 - 0.93 is in binary."""
    for rows in (200, 1000, 5000):
        assert outcome_of(pairs(rows - rows // 50, 0, rows // 50), 0.02) == "not worse", rows
        assert outcome_of(pairs(rows - rows // 50 - 2, 0, rows // 50 + 2), 0.02) == "worse", rows


# judge


GOOD = Accuracy("cross-validation", 339, 342)
LIMITS = {"min_accuracy": 0.9, "max_accuracy_drop": 0.02}


def test_min_accuracy_passes_and_less_fails_also_against_a_worse_serving_version() -> None:
    assert judge(Accuracy("held-out", 90, 100), Baseline(), **LIMITS).passed
    verdict = judge(Accuracy("cross-validation", 300, 342), Baseline("v", comparison=pairs(200, 100, 0, 42)), **LIMITS)
    assert not verdict.passed
    assert verdict.reason == "accuracy 0.8772 (cross-validation, 342 rows) is below min_accuracy 0.9"


def test_a_worse_model_fails_and_every_figure_is_named() -> None:
    verdict = judge(GOOD, Baseline("20260101T000000Z-00000000", comparison=pairs(330, 0, 12)), **LIMITS)
    assert (verdict.passed, verdict.outcome, verdict.serving_accuracy) == (False, "worse", 1)
    for said in (
        "worse than the serving version 20260101T000000Z-00000000",
        "on 342 rows that neither was trained on",
        "the new model is right on 330",
        "only the new model is right on 0",
        "only the serving version 20260101T000000Z-00000000 on 12",
        "-3.51 percentage points",
        "max_accuracy_drop 0.02",
        "chance alone would explain it in 0.024 of 100 cases",
    ):
        assert said in verdict.reason, said


def test_a_model_that_is_not_worse_passes_and_says_how_sure_that_is() -> None:
    comparison = pairs(358, 2, 2, 1)
    verdict = judge(GOOD, Baseline("v", note="a note", comparison=comparison), **LIMITS)
    assert (verdict.passed, verdict.outcome, verdict.note) == (True, "not worse", "a note")
    assert "on 363 rows that neither was trained on, the new model is right on 360" in verdict.reason
    assert "(95 % interval -1.20 to +1.20)" in verdict.reason
    json.dumps(asdict(verdict), allow_nan=False)


def test_why_there_is_no_comparison_is_said() -> None:
    verdict = judge(GOOD, Baseline(outcome="first version", note="no version serves yet"), **LIMITS)
    assert verdict.passed
    assert verdict.reason.endswith("No comparison: no version serves yet")
