"""`make bench`: this project measured against alternatives, as ratios within one run."""

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

from benchmarks import dag, data, gate, serving
from benchmarks.servers import ROOT
from benchmarks.serving import OURS

RESULTS = ROOT / "benchmarks" / "results.json"
PLOT = ROOT / "images" / "bench.png"


def main() -> int:
    for program, does in {"wrk": "sends the requests", "mysql": "loads a table for comparison"}.items():
        if not shutil.which(program):
            print(
                f"make bench: {program}, which {does}, is not installed (Debian: wrk, mariadb-server)", file=sys.stderr
            )
            return 1
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)

    peers = os.environ.get("PEERS") == "1"
    parts: dict[str, tuple[Any, Any]] = {}  # each part's module, and what it measured
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        parts["serving"] = serving, serving.run(_within(folder, "serving"), peers=peers, say=say)
        parts["data"] = data, data.run(_within(folder, "data"), sizes=os.environ.get("SIZES") == "1", say=say)
        parts["dag"] = dag, dag.run(_within(folder, "dag"), say)
        parts["gate"] = gate, gate.run(_within(folder, "gate"), full=os.environ.get("GATE") == "1", say=say)
    machine = {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("apache-airflow", "fastapi", "uvicorn", "scikit-learn", "onnxruntime")},
    }
    ratios = {name: row for module, measured in parts.values() for name, row in module.goals(measured).items()}
    results = {"machine": machine, **{name: measured for name, (_, measured) in parts.items()}, "ratios": ratios}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    if peers:  # the plot in the README shows all of them
        plot(results["serving"]["predict"])
    for module, measured in parts.values():
        print(module.table(measured))
    for name, (reached, goal) in ratios.items():
        print(f"{name:<66} {reached:8.2f}   goal {goal}")
    print(f"\nwritten to {RESULTS.relative_to(ROOT)} after {time.monotonic() - started:.0f} s")
    return 0


def _within(folder: str, name: str) -> Path:
    path = Path(folder, name)
    path.mkdir()
    return path


def plot(predict: dict[str, Any]) -> None:
    """Plot the requests per second, highest on top. They span three orders of magnitude, so the axis is logarithmic."""
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
