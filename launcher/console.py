"""What the launcher tells the user."""

from __future__ import annotations

import time

started = time.monotonic()


class LaunchError(Exception):
    """A problem that the user can fix; the message says how."""


class Stop(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)
