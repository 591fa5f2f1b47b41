"""The processes of the launcher: how they are started, watched and stopped."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import psutil

from launcher import ROOT
from launcher.console import LaunchError, Stop

COMPONENT_LOGS = ROOT / "logs" / "components"
SECONDS_TO_STOP = 8  # the triggerer takes 10 to notice that its own child has ended; killing it loses nothing
PR_SET_CHILD_SUBREAPER = 36


class Processes:
    """The processes that were started, and all their descendants."""

    def __init__(self, env: dict[str, str], logs: Path = COMPONENT_LOGS) -> None:
        self.env = env
        self.logs = logs
        self.stopping = False
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)
        if sys.platform == "linux":
            # Adopt the children of a child that died, so that stop() finds them.
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(self, name: str, *command: str) -> None:
        with self.log(name).open("wb") as log:
            # A new session: Ctrl-C reaches this launcher alone, which then stops the others in order.
            self.running[name] = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, name: str) -> None:
        """Wait for a command that ends by itself, and raise LaunchError if it failed."""
        while self.running[name].poll() is None:
            if self.stopping:
                raise Stop
            time.sleep(0.1)
        if code := self.running.pop(name).returncode:
            self._died(name, code)

    def check(self) -> None:
        """Raise LaunchError if a process has ended, and Stop if the user asked to stop."""
        if self.stopping:
            raise Stop
        for name, process in self.running.items():
            if (code := process.poll()) is not None:
                self._died(name, code)

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def stop(self) -> None:
        """Terminate everything, and kill what does not end in time, whatever its process group."""
        for process in self.running.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + SECONDS_TO_STOP
        while (left := _descendants()) and time.monotonic() < deadline:
            psutil.wait_procs(left, timeout=0.2)
            if all(process.poll() is not None for process in self.running.values()):
                deadline = min(deadline, time.monotonic() + 3)  # nobody tells orphans to end
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5)

    def _died(self, name: str, code: int) -> NoReturn:
        tail = self.log(name).read_text(errors="replace").splitlines()[-30:]
        raise LaunchError("\n".join([f"{name} ended with exit code {code}. The end of {self.log(name)}:", *tail]))


def _descendants() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def wait_until(what: str, ready: Callable[[], Any], processes: Processes, seconds: float) -> Any:
    """Return the first true value of `ready`. LaunchError on timeout, or if a process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        processes.check()
        try:
            if value := ready():
                return value
        except httpx2.TransportError:
            pass  # not listening yet
        time.sleep(0.25)
    raise LaunchError(f"{what} took more than {seconds:.0f} s. See {processes.logs}")
