"""How far a long task is said to be. Time is the test's own: it stands still until it is moved."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from penguins.data import progress
from penguins.data.progress import SECONDS_BETWEEN, Progress

Pass = Callable[[float], None]


@pytest.fixture
def seconds_pass(monkeypatch: pytest.MonkeyPatch) -> Pass:
    """Move the clock, which starts at some number that is not 0."""
    now = 1000.0

    def seconds_pass(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    return seconds_pass


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, progress.__name__)
    return caplog


def test_a_line_says_what_is_done_of_the_total_percent_rate_and_time_left(
    seconds_pass: Pass, log: pytest.LogCaptureFixture
) -> None:
    task = Progress("read", 10_000_000)
    seconds_pass(10)
    task.at(2_500_000)
    task = Progress("trained", 100, "trees")
    seconds_pass(50)
    task.at(50)
    assert log.messages == [
        "read: 2,500,000 of 10,000,000 rows (25%), 250,000 a second, 30 s left",
        "trained: 50 of 100 trees (50%), 1.0 a second, 50 s left",
    ]


def test_nothing_is_said_before_the_time_and_between_two_lines(
    seconds_pass: Pass, log: pytest.LogCaptureFixture
) -> None:
    task = Progress("read", 100)
    for done in range(100):
        seconds_pass(SECONDS_BETWEEN * 0.009)
        task.at(done)
    assert log.messages == []
    task = Progress("read", 100)
    for done in (10, 11, 20):
        seconds_pass(SECONDS_BETWEEN if done % 10 == 0 else 0.1)
        task.at(done)
    assert [line.split(" of")[0] for line in log.messages] == ["read: 10", "read: 20"]


def test_the_rate_is_that_since_the_start(seconds_pass: Pass, log: pytest.LogCaptureFixture) -> None:
    task = Progress("read", 1000)
    for done in (100, 400):
        seconds_pass(10)
        task.at(done)
    assert log.messages[-1] == "read: 400 of 1,000 rows (40%), 20 a second, 30 s left"


def test_nothing_done_is_not_said(seconds_pass: Pass, log: pytest.LogCaptureFixture) -> None:
    """There is no rate, and so no time left."""
    task = Progress("read", 100)
    seconds_pass(60)
    task.at(0)
    assert log.messages == []


def test_more_than_the_total_leaves_no_time(seconds_pass: Pass, log: pytest.LogCaptureFixture) -> None:
    """The total may be an estimate: lines of a file are not always records."""
    task = Progress("checked", 100, "lines")
    seconds_pass(10)
    task.at(120)
    assert log.messages[0].endswith("0.0 s left")


def test_the_last_line_says_the_total_and_how_long_it_took(seconds_pass: Pass, log: pytest.LogCaptureFixture) -> None:
    table = [(0.04, "0.0 s"), (9.94, "9.9 s"), (10, "10 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3725, "62 min 5 s")]
    for seconds, _ in table:
        task = Progress("loaded", 10_000_000)
        seconds_pass(seconds)
        task.done()
    assert log.messages == [f"loaded: 10,000,000 rows in {said}" for _, said in table]


def test_the_last_line_comes_also_right_after_another(seconds_pass: Pass, log: pytest.LogCaptureFixture) -> None:
    task = Progress("loaded", 100)
    seconds_pass(SECONDS_BETWEEN)
    task.at(99)
    task.done()
    assert [line.split(" rows")[0] for line in log.messages] == ["loaded: 99 of 100", "loaded: 100"]
