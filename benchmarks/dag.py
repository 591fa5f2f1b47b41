"""How long a run of the DAG takes, compared with a DAG of eight tasks that do nothing.

A run lasts from `queued_at`, when the API server accepts the trigger, to `end_date`, when the scheduler sees that all
tasks have succeeded. Airflow itself records both.

Run on its own, this module measures an existing Airflow, such as the stack in Docker::

    PYTHONPATH=plugins python -m benchmarks.dag http://localhost:8080
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.servers import ROOT, free_port
from launcher.airflow import Airflow, start_airflow, start_triggerer
from launcher.environment import CONNECTION_ID, environment
from launcher.processes import Processes
from penguins.registry import Keys
from penguins.schema import NAME

NOOP = ROOT / "benchmarks" / "dags" / "noop.py"
NOOP_ID = NOOP.stem
ROUNDS = 5
ROUNDS_WITH_DEFAULTS = 3  # each takes longer than all the rounds above
SECONDS_OF_A_RUN = 180
SECONDS_IDLE = 20
# The settings of this project that affect a DAG's speed.
TUNED = (
    "AIRFLOW__CORE__PARALLELISM",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL",
)


def run(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure in a separate Airflow, first with this project's settings, then with Airflow's defaults."""
    shutil.copytree(ROOT / "dags", folder / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(NOOP, folder / "dags")
    port = free_port()
    env = environment(port, free_port(), folder) | {
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
        "MODELS_DIR": str(folder / "models"),
        "MODEL_SIGNING_KEY_FILE": str(folder / "model_signing.key"),
    }
    Keys(folder / "model_signing.key", folder / "model_signing.pub").create()
    results: dict[str, Any] = {}
    with _airflow(env, port, folder) as (airflow, processes):
        results |= alternate(airflow, (NOOP_ID, NAME), ROUNDS, say)
        say(f"the idle scheduler, {SECONDS_IDLE} s")
        results["idle_cpu"] = _idle_cpu(processes)
    defaults = {name: value for name, value in env.items() if name not in TUNED}
    defaults["PYTHONPATH"] = str(ROOT / "plugins")  # without config/airflow_local_settings.py
    with _airflow(defaults, port, folder) as (airflow, _):
        say("the same with Airflow's defaults")
        results["defaults"] = alternate(airflow, (NAME,), ROUNDS_WITH_DEFAULTS, say)
    return results


def goals(measured: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Return each measured ratio with its goal."""
    seconds = measured[NAME]["seconds"]
    return {
        "seconds of the DAG ÷ eight tasks that do nothing": (seconds / measured[NOOP_ID]["seconds"], "at most 1.25"),
        "seconds of the DAG ÷ the same under Airflow's defaults": (
            seconds / measured["defaults"][NAME]["seconds"],
            "at most 0.25",
        ),
        "cores that the scheduler takes while nothing runs": (measured["idle_cpu"], "under 0.1"),
    }


def table(measured: dict[str, Any]) -> str:
    """Return a table of how long the runs took."""
    rows = {
        "eight tasks that do nothing": measured[NOOP_ID],
        NAME: measured[NAME],
        f"{NAME} under Airflow's defaults": measured["defaults"][NAME],
    }
    head = f"\n{'a DAG from trigger to success, medians':<42}{'seconds':>9}{'spread':>8}"
    return "\n".join([head, *(f"{name:<42}{m['seconds']:9.2f}{m['spread']:8.0%}" for name, m in rows.items()), ""])


def alternate(airflow: Airflow, dag_ids: Sequence[str], rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the DAGs in turn. Return the median and the spread of each, by its id."""
    seconds: dict[str, list[float]] = {dag_id: [] for dag_id in dag_ids}
    for number in range(rounds + 1):
        for dag_id in dag_ids:
            took = _seconds(airflow, dag_id)
            say(f"{dag_id}, round {number} of {rounds}: {took:.2f} s")
            if number:  # the first round is the warm-up
                seconds[dag_id].append(took)
    return {dag_id: {"seconds": median(s), "spread": (max(s) - min(s)) / median(s)} for dag_id, s in seconds.items()}


def _seconds(airflow: Airflow, dag_id: str) -> float:
    run_id = airflow.trigger(dag_id)
    deadline = time.monotonic() + SECONDS_OF_A_RUN
    while time.monotonic() < deadline:
        time.sleep(0.5)
        found = airflow.get(f"dags/{dag_id}/dagRuns/{run_id}")
        if found["state"] == "success":
            queued, ended = (datetime.fromisoformat(found[when]) for when in ("queued_at", "end_date"))
            return (ended - queued).total_seconds()
        if found["state"] == "failed":
            break
    raise RuntimeError(f"the run {run_id} of {dag_id} is {found['state']}")


def _wait_for_dags(airflow: Airflow, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    # A DAG is stale if its file was only there for an earlier measurement.
    while not all(airflow.has_dag(dag) and not airflow.get(f"dags/{dag}")["is_stale"] for dag in (NOOP_ID, NAME)):
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"the DAGs {NOOP_ID} and {NAME} have not appeared at {airflow.url} after {seconds:.0f} s"
            )
        time.sleep(0.5)


@contextmanager
def _airflow(env: dict[str, str], port: int, folder: Path) -> Iterator[tuple[Airflow, Processes]]:
    """An Airflow as `make run` starts it, with all its components but without the model API."""
    lock = (folder / "lock").open("w")
    airflow = Airflow(f"http://127.0.0.1:{port}")
    processes = Processes(env, lock.fileno(), folder / "logs" / "components")
    try:
        start_airflow(processes, airflow)
        start_triggerer(processes)
        airflow.connect({"connection_id": CONNECTION_ID, "conn_type": "sqlite", "host": str(folder / "warehouse.db")})
        _wait_for_dags(airflow)
        yield airflow, processes
    finally:
        processes.stop()
        lock.close()


def _idle_cpu(processes: Processes) -> float:
    """Return the share of a core that the scheduler and its workers use when idle."""
    time.sleep(6)  # a supervisor may go on watching an ended task for 5 s
    parent = psutil.Process(processes.running["scheduler"].pid)

    def used() -> float:
        seconds = 0.0
        for process in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                # Includes the ended children, whose time would otherwise be lost.
                seconds += sum(process.cpu_times()[:4])
        return seconds

    before, started = used(), time.monotonic()
    time.sleep(SECONDS_IDLE)
    return (used() - before) / (time.monotonic() - started)


def main(url: str, dags: Path = ROOT / "dags") -> None:
    """Measure the Airflow at a URL. The DAG that does nothing is copied into its folder for that time."""
    airflow = Airflow(url)
    airflow.log_in()
    target = dags / NOOP.name
    shutil.copy(NOOP, target)
    try:
        _wait_for_dags(airflow)
        found = alternate(airflow, (NOOP_ID, NAME), ROUNDS, print)
    finally:
        target.unlink()
    for dag_id, figures in found.items():
        print(f"{dag_id:<16} {figures['seconds']:6.2f} s   spread {figures['spread']:.0%}")
    print(f"ratio            {found[NAME]['seconds'] / found[NOOP_ID]['seconds']:6.2f}")


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
