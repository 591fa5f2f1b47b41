"""A server under test: its processes, and windows of load from wrk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import psutil

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Window:
    """The results of one window of load."""

    per_second: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


@dataclass
class Server:
    """A process that listens on `port`, and its children."""

    name: str
    command: Sequence[str]
    port: int
    path: str = "/predict"
    env: Mapping[str, str] = field(default_factory=dict)
    ready: str = "/openapi.json"
    log: Path | None = None
    seconds_to_start: float = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until `ready` answers 200."""
        started = time.monotonic()
        with (self.log or Path(os.devnull)).open("wb") as output:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env={**os.environ, **self.env}, stdout=output, stderr=subprocess.STDOUT
            )
        while time.monotonic() - started < 120:
            if self.process.poll() is not None:
                break
            try:
                if httpx2.get(self.url + self.ready, timeout=5, trust_env=False).is_success:
                    self.seconds_to_start = time.monotonic() - started
                    return
            except httpx2.TransportError:
                time.sleep(0.02)
        logged = self.log.read_text(errors="replace")[-3000:] if self.log else ""
        self.stop()
        raise RuntimeError(f"{self.name} did not start:\n{logged}")

    def stop(self) -> None:
        if self.process is None:
            return
        family = self.family()
        self.process.terminate()
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()
        self.process.wait(timeout=10)

    def family(self) -> list[psutil.Process]:
        assert self.process
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.family())

    def memory_mb(self) -> float:
        """Return the resident memory. Pages that its processes share count once."""
        return sum(process.memory_full_info().pss for process in self.family()) / 2**20

    def load(
        self,
        body: Path,
        *,
        seconds: int,  # wrk accepts whole seconds only
        connections: int = 8,
        content_type: str = "application/json",
        path: str | None = None,
        key: str = "",
    ) -> Window:
        """Send the body for that long. RuntimeError if a single request fails."""
        before = self.cpu_seconds()
        done = subprocess.run(
            [
                *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"),
                *("-s", str(ROOT / "benchmarks" / "wrk.lua"), self.url + (path or self.path)),
            ],
            env={**os.environ, "BODY": str(body), "CONTENT_TYPE": content_type, "KEY": key},
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + 60,
        )
        result: dict[str, Any] = json.loads(done.stdout.partition("RESULT ")[2])
        if result["failed"] or not result["requests"]:
            raise RuntimeError(f"{self.name}: {done.stdout}")
        return Window(
            per_second=result["requests"] / result["seconds"],
            cpu_us=(self.cpu_seconds() - before) / result["requests"] * 1e6,
            p50_ms=result["p50_ms"],
            p99_ms=result["p99_ms"],
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def summary(windows: Sequence[Window]) -> dict[str, float]:
    """Return the medians, and the spread of the rate: (largest - smallest) / median."""
    rates = [w.per_second for w in windows]
    return {
        "per_second": median(rates),
        "spread": (max(rates) - min(rates)) / median(rates),
        "cpu_us": median(w.cpu_us for w in windows),
        "p50_ms": median(w.p50_ms for w in windows),
        "p99_ms": median(w.p99_ms for w in windows),
    }
