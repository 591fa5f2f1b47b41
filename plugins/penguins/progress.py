"""Say in the log how far a long task is."""

from __future__ import annotations

import logging
import time

SECONDS_BETWEEN = 5

log = logging.getLogger(__name__)


class Progress:
    """Log rows done, rate and time left, every five seconds at most.

    Parameters
    ----------
    what : str
        What is being done, as it shall stand in the log.
    total : int
        How many there are in all.
    unit : str
        Of what there are so many.
    """

    def __init__(self, what: str, total: int, unit: str = "rows") -> None:
        self.what, self.total, self.unit = what, total, unit
        self._started = time.monotonic()
        self._said = self._started

    def at(self, done: int) -> None:
        """Say how far it is, unless that was said a moment ago."""
        now = time.monotonic()
        if done <= 0 or now - self._said < SECONDS_BETWEEN:
            return
        self._said = now
        rate = done / (now - self._started)
        left = max(self.total - done, 0) / rate
        log.info(
            f"{self.what}: {done:,} of {self.total:,} {self.unit} ({done / self.total:.0%}), "
            f"{rate:,.{0 if rate >= 10 else 1}f} a second, {_said(left)} left"
        )

    def done(self) -> None:
        """Say that it is finished, and how long it took."""
        seconds = time.monotonic() - self._started
        log.info(f"{self.what}: {self.total:,} {self.unit} in {_said(seconds)}")


def _said(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
