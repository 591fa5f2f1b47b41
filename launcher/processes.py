"""The processes of the launcher: how they are started, watched and stopped."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import httpx2

from launcher import ROOT
from launcher.console import LaunchError, Stop
from launcher.keeper import end

COMPONENT_LOGS = ROOT / "logs" / "components"


class Processes:
    """The programs that were started, each with its descendants. They end with the launcher, however it ends.

    All of them inherit the descriptor `lock`.
    """

    def __init__(self, env: dict[str, str], lock: int, logs: Path = COMPONENT_LOGS) -> None:
        self.env = env
        self.lock = lock
        self.logs = logs
        self.stopping = False
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)
        self.keeper = self._popen("keeper", sys.executable, "-m", "launcher.keeper", stdin=subprocess.PIPE)

    def start(self, name: str, *command: str) -> None:
        self.running[name] = self._popen(name, *command)
        assert self.keeper.stdin
        self.keeper.stdin.write(b"%d\n" % self.running[name].pid)
        self.keeper.stdin.flush()

    def _popen(self, name: str, *command: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        with self.log(name).open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.env,
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self.lock],
                # Ctrl-C reaches this launcher alone, which then stops the others in order.
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
        for name, process in {**self.running, "keeper": self.keeper}.items():
            if (code := process.poll()) is not None:
                self._died(name, code)

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def stop(self) -> None:
        """Terminate everything, and kill what does not end in time, whatever its process group."""
        end({process.pid for process in self.running.values()})
        self.keeper.communicate(timeout=30)

    def _died(self, name: str, code: int) -> NoReturn:
        tail = self.log(name).read_text(errors="replace").splitlines()[-30:]
        raise LaunchError("\n".join([f"{name} ended with exit code {code}. The end of {self.log(name)}:", *tail]))


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
