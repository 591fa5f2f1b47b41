"""Log the progress of a long task."""

from __future__ import annotations

import logging
import time

SECONDS_BETWEEN = 5

log = logging.getLogger(__name__)


class Progress:
    """Log rows done, rate and time left, at most every five seconds.

    Parameters
    ----------
    what : str
        What is done, in the word that starts the log line: ``read``.
    total : int
        Number of units in all.
    unit : str
        What is counted.
    """

    def __init__(self, what: str, total: int, unit: str = "rows") -> None:
        self.what, self.total, self.unit = what, total, unit
        self._started = time.monotonic()
        self._last_logged = self._started

    def at(self, done: int) -> None:
        """Log how far the task is, unless a line was logged a moment ago."""
        now = time.monotonic()
        if done <= 0 or now - self._last_logged < SECONDS_BETWEEN:
            return
        self._last_logged = now
        rate = done / (now - self._started)
        left = max(self.total - done, 0) / rate
        log.info(
            f"{self.what}: {done:,} of {self.total:,} {self.unit} ({done / self.total:.0%}), "
            f"{rate:,.{0 if rate >= 10 else 1}f} a second, {_duration(left)} left"
        )

    def done(self) -> None:
        """Log that the task is finished, and how long it took."""
        seconds = time.monotonic() - self._started
        log.info(f"{self.what}: {self.total:,} {self.unit} in {_duration(seconds)}")


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
