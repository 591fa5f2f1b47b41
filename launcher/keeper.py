"""Ends what the launcher started: called by the launcher when it stops, and by a process of its own if it was killed.

That process is `python -m launcher.keeper`. Its standard input is a pipe from the launcher: each line is the process ID
of a program that was started, and where it ends, so did the launcher.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

SECONDS_TO_STOP = 8  # the triggerer takes 10 to notice that its own child has ended; killing it loses nothing


def end(leaders: set[int]) -> None:
    """Terminate the leaders of these sessions, and kill what does not end in time, orphans among it."""
    programs = _members(leaders)
    sessions = set(leaders)
    for process in programs:
        with suppress(psutil.Error, OSError):  # it, or a child, has just ended
            sessions |= {os.getsid(child.pid) for child in process.children(recursive=True)}
    for process in programs:
        if process.pid in leaders:
            with suppress(psutil.Error):
                process.terminate()
    deadline = time.monotonic() + SECONDS_TO_STOP
    while (left := _members(sessions)) and time.monotonic() < deadline + 5:
        if leaders.isdisjoint(process.pid for process in left):
            deadline = min(deadline, time.monotonic() + 3)  # nobody tells orphans to end
        if time.monotonic() > deadline:
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
        psutil.wait_procs(left, timeout=0.2)


def _members(sessions: set[int]) -> list[psutil.Process]:
    """Return the processes of these sessions that go on. A process is in its parent's, whatever became of that."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def holders_of(path: Path) -> list[str]:
    """Return the IDs of the other processes that have this file open."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and any(file.path == str(path) for file in process.open_files()):
                found.append(str(process.pid))
    return found


def main() -> None:
    started = []
    for line in sys.stdin:
        with suppress(psutil.NoSuchProcess):
            started.append(psutil.Process(int(line)))
    # The ID of one that has ended may be that of somebody else's process by now.
    end({leader.pid for leader in started if leader.is_running() or not psutil.pid_exists(leader.pid)})


if __name__ == "__main__":
    main()
