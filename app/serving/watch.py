"""Looks at a volume that may hang.

A read that never returns cannot be interrupted. So each look has a thread of its own, and is left behind in it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

SECONDS_PER_STEP = 5.0
BYTES_PER_SECOND = 2**20  # a pickle that comes more slowly is not waited for
MAX_STUCK = 5


class GivenUpError(BaseException):
    """The look was given up: what it found comes too late. No `Exception`, so that nothing catches it by the way."""


class Look(threading.Thread):
    """One look in a thread of its own. Each of its steps has a time.

    Parameters
    ----------
    work : callable
        Is given this look, and calls `allow` before and after each step that may hang.
    """

    def __init__(self, work: Callable[[Look], None]) -> None:
        super().__init__(name="registry-look", daemon=True)
        self._work = work
        self._lock = threading.Lock()
        self._given_up = False
        self.allow()

    def allow(self, *, file_bytes: int = 0) -> None:
        """Give the next step its time, which a large file has more of. GivenUpError if the last one took longer."""
        self._allow(SECONDS_PER_STEP + file_bytes / BYTES_PER_SECOND)

    def no_more_reading(self) -> None:
        """Give the next step all the time it takes, because it waits for no volume. GivenUpError as `allow`."""
        self._allow(math.inf)

    def _allow(self, seconds: float) -> None:
        with self._lock:
            if self._given_up:
                raise GivenUpError
            self._until = time.monotonic() + seconds

    def run(self) -> None:
        try:
            self._work(self)
        except GivenUpError:
            pass
        except Exception:
            log.exception("checking the registry failed; trying again")

    def ends(self) -> bool:
        """Wait until it has ended, and return True; or False as soon as a step has taken too long."""
        while True:
            self.join(timeout=min(max(self._until - time.monotonic(), 0), 1))
            with self._lock:
                if not self.is_alive():
                    return True
                if time.monotonic() >= self._until:
                    self._given_up = True
                    return False


class Looks:
    """Makes one look after the other, whatever became of the last one.

    `seen` is the Unix time of the last one that found all well; `problem` says what is wrong since, or is None.
    """

    def __init__(self, work: Callable[[Look], None], root: Path, given_up: Callable[[], None]) -> None:
        self.seen = 0.0
        self.problem: str | None = None
        self._work = work
        self._root = root
        self._given_up = given_up
        self._stuck: list[Look] = []

    def look(self) -> None:
        """Make a look, and return when it has ended or was given up. Not while `MAX_STUCK` of them hang."""
        self._stuck = [look for look in self._stuck if look.is_alive()]
        if len(self._stuck) >= MAX_STUCK:
            return
        look = Look(self._work)
        look.start()
        if not look.ends():
            self._stuck.append(look)
            self._given_up()
            problem = f"{self._root} does not answer: looking at it took more than {SECONDS_PER_STEP:g} s"
            if self.problem != problem:  # log it once, however long it lasts
                log.error("%s; the next look is made all the same", problem)
            self.problem = problem

    def saw(self, problem: str | None) -> None:
        """Note what a look has found at its end."""
        self.problem = problem
        if problem is None:
            self.seen = time.time()
