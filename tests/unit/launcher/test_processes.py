"""What the launcher starts ends with it, however it ends. Real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support import ROOT

# A program that ignores SIGTERM, with a child, one in a session of its own, and one whose parent has ended.
TREE = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleep = [sys.executable, "-c", "import time; time.sleep(300)", sys.argv[1]]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
subprocess.run([sys.executable, "-c", "import subprocess, sys; subprocess.Popen(sys.argv[1:])", *sleep])
time.sleep(300)
"""
LAUNCHER = """
import os, sys, time
from pathlib import Path
from launcher.processes import Processes
folder, tree = sys.argv[1:]
with open(f"{folder}/lock", "w") as lock:
    processes = Processes(dict(os.environ), lock.fileno(), Path(folder))
    processes.start("finished", sys.executable, "-c", "")
    processes.finish("finished")
    processes.start("tree", sys.executable, "-c", tree, folder)
    sys.stdin.readline()
    processes.stop()
"""


def named_after(folder: Path) -> list[psutil.Process]:
    """Return the processes that have the folder among their arguments."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and str(folder) in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for_number(folder: Path, number: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while len(found := named_after(folder)) != number:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A launcher of five processes, itself among them."""
    command = (sys.executable, "-c", LAUNCHER, str(tmp_path), TREE)
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)
    try:
        wait_for_number(tmp_path, 5)
        yield process
    finally:
        for left in named_after(tmp_path):
            left.kill()
        process.communicate(timeout=60)


def test_everything_ends_when_the_launcher_stops(launcher: subprocess.Popen[bytes], tmp_path: Path) -> None:
    launcher.communicate(b"\n", timeout=60)
    assert launcher.returncode == 0
    wait_for_number(tmp_path, 0)  # the keeper ends when it sees that the launcher has


def test_everything_ends_when_the_launcher_is_killed(launcher: subprocess.Popen[bytes], tmp_path: Path) -> None:
    launcher.kill()
    wait_for_number(tmp_path, 0)
