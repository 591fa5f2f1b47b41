"""`make bench`: what this project costs and what it gains, as ratios within one run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import serving
from benchmarks.servers import ROOT

RESULTS = ROOT / "benchmarks" / "results.json"
PLOT = ROOT / "images" / "bench.png"
OURS, EMPTY, TUTORIAL = "POST /predict", "an empty FastAPI endpoint", "the tutorials' endpoint"


def main() -> int:
    if not shutil.which("wrk"):
        print("make bench: wrk sends the requests, and is not installed (Debian: apt-get install wrk)", file=sys.stderr)
        return 1
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)

    peers = os.environ.get("PEERS") == "1"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        measured = serving.run(Path(folder), peers=peers, say=say)
    machine = {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("fastapi", "uvicorn", "scikit-learn", "onnxruntime")},
    }
    ratios = goals(measured)
    RESULTS.write_text(json.dumps({"machine": machine, "serving": measured, "ratios": ratios}, indent=2) + "\n")
    if peers:  # the picture in the README has them all
        plot(measured["predict"])
    print(table(measured["predict"]))
    for name, (reached, goal) in ratios.items():
        print(f"{name:<66} {reached:8.2f}   goal {goal}")
    print(f"\nwritten to {RESULTS.relative_to(ROOT)} after {time.monotonic() - started:.0f} s")
    return 0


def goals(measured: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Return each ratio that was reached, and the goal."""
    predict, batch, swap = measured["predict"], measured["batch"], measured["swap"]
    rows = [found["rows_per_second"] for found in batch.values()]
    return {
        "requests/s, POST /predict ÷ an empty FastAPI endpoint": (
            predict[OURS]["per_second"] / predict[EMPTY]["per_second"],
            "at least 1.3",
        ),
        "CPU per request, POST /predict ÷ an empty FastAPI endpoint": (
            predict[OURS]["cpu_us"] / predict[EMPTY]["cpu_us"],
            "at most 0.8",
        ),
        "requests/s, POST /predict ÷ the tutorials' endpoint": (
            predict[OURS]["per_second"] / predict[TUTORIAL]["per_second"],
            "at least 100",
        ),
        "rows/s, POST /predict/batch of 10,000 ÷ the DataFrame way": (rows[0] / rows[1], "at least 4"),
        "p99 with a swap ÷ p99 without": (swap["p99_ms_with_a_swap"] / swap["p99_ms"], "at most 3"),
        "seconds from a process's start to ready": (measured["start"]["seconds_to_ready"], "at most 5"),
    }


def table(predict: dict[str, Any]) -> str:
    """Return what was measured at 8 connections."""
    titles = f"{'req/s':>9}{'spread':>8}{'CPU µs':>9}{'p50 ms':>9}{'p99 ms':>9}{'MB':>6}"
    head = f"\n{'8 connections, one worker, medians':<36}{titles}"
    lines = [
        f"{label:<36}{m['per_second']:9.0f}{m['spread']:8.0%}{m['cpu_us']:9.0f}"
        f"{m['p50_ms']:9.2f}{m['p99_ms']:9.2f}{m['memory_mb']:6.0f}"
        for label, m in predict.items()
    ]
    return "\n".join([head, *lines, ""])


def plot(predict: dict[str, Any]) -> None:
    """Draw the requests a second, the most at the top, on a logarithmic axis: they span three orders of magnitude."""
    from matplotlib.figure import Figure

    ranked = sorted(predict.items(), key=lambda item: item[1]["per_second"])
    labels, rates = [label for label, _ in ranked], [m["per_second"] for _, m in ranked]
    figure = Figure(figsize=(8, 0.45 * len(ranked) + 1), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(labels, rates, color=["#0072b2" if label == OURS else "#999999" for label in labels])
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=4)
    axes.set_xscale("log")
    axes.set_xlabel("requests a second, 8 connections, one worker")
    axes.set_xlim(10, max(rates) * 4)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PLOT, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
