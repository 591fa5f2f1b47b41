"""The Airflow that the launcher starts, and its REST API."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2

from launcher.console import LaunchError, say
from launcher.environment import CONNECTION_ID, PASSWORD, USER
from launcher.processes import Processes, wait_until

SECONDS_TO_START = 180
SECONDS_TO_TRAIN = 900


class Airflow:
    """A client of Airflow's REST API."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx2.Client(base_url=url, trust_env=False, timeout=30)

    def healthy(self) -> bool:
        response = self.client.get("/api/v2/monitor/health")
        return response.is_success and all(
            response.json()[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor")
        )

    def answers_tasks(self) -> bool:
        """Whether the API that tasks call answers. It makes its routes at its first request, which takes seconds."""
        return self.client.get("/execution/health").is_success

    def log_in(self) -> None:
        response = self.client.post("/auth/token", json={"username": USER, "password": PASSWORD})
        response.raise_for_status()
        self.client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"

    def get(self, path: str) -> Any:
        response = self.client.get(f"/api/v2/{path}")
        response.raise_for_status()
        return response.json()

    def connect(self, connection: dict[str, Any]) -> str:
        """Create the connection, or keep the existing one unless MYSQL_URL is set. Return what was done."""
        path = f"/api/v2/connections/{CONNECTION_ID}"
        present = self.client.get(path)
        if present.status_code == 404:
            self.client.post("/api/v2/connections", json=connection).raise_for_status()
            return "created"
        if connection["conn_type"] == "mysql":
            self.client.patch(path, json=connection).raise_for_status()
            return "set from MYSQL_URL"
        return "left unchanged"

    def has_dag(self, dag_id: str) -> bool:
        if errors := self.get("importErrors")["import_errors"]:
            raise LaunchError(f"the DAG cannot be imported:\n{errors[0]['stack_trace']}")
        return self.client.get(f"/api/v2/dags/{dag_id}").is_success

    def trigger(self, dag_id: str) -> str:
        self.client.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()
        response = self.client.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None})
        response.raise_for_status()
        return response.json()["dag_run_id"]

    def follow(self, dag_id: str, run_id: str, processes: Processes) -> None:
        """Report each task as it ends. LaunchError with the failed task's log if the run fails."""
        run, reported = f"dags/{dag_id}/dagRuns/{run_id}", set()

        def ended() -> str | None:
            tasks = self.get(f"{run}/taskInstances")["task_instances"]
            for task in sorted(tasks, key=lambda t: t["end_date"] or ""):
                if (
                    task["state"] in ("success", "failed", "up_for_retry")
                    and (key := (task["task_id"], task["state"], task["try_number"])) not in reported
                ):
                    reported.add(key)
                    say(f"  {task['task_id']:<18} {task['state']:<8} {task['duration'] or 0:5.1f} s")
            # The run's own state is a second request, which takes the tasks' time while they run.
            state = self.get(run)["state"] if all(task["end_date"] for task in tasks) else None
            return state if state in ("success", "failed") else None

        if wait_until(f"the run {run_id}", ended, processes, SECONDS_TO_TRAIN) == "failed":
            raise LaunchError(f"the run {run_id} failed.\n{self._failed_log(run)}")

    def _failed_log(self, run: str) -> str:
        for task in self.get(f"{run}/taskInstances")["task_instances"]:
            if task["state"] == "failed":
                log = self.get(f"{run}/taskInstances/{task['task_id']}/logs/{task['try_number']}?full_content=true")
                return "\n".join([f"The log of {task['task_id']}:", *_log_lines(log["content"])])
        return ""


def _log_lines(content: list[Any]) -> Iterator[str]:
    """Yield a task's log as lines, without what its pages fold away and without warnings of the libraries."""
    for entry in content:
        if not isinstance(entry, dict):
            yield str(entry)
            continue
        if entry.get("logger") == "py.warnings" or str(entry.get("event")).startswith(("::group::", "::endgroup::")):
            continue
        yield f"  {entry.get('level', ''):<8} {entry.get('event', '')}".rstrip()
        for error in entry.get("error_detail") or []:
            yield f"           {error['exc_type']}: {error['exc_value']}"


def start_airflow(processes: Processes, airflow: Airflow) -> None:
    """Start the components that a run needs, wait until they are healthy, and log in."""
    migrated = Path(processes.env["AIRFLOW_HOME"]) / "migrated"
    if migrated.exists() and migrated.read_text() != version("apache-airflow"):
        _migrate(processes, migrated)
    processes.start("api-server", "airflow", "api-server")
    # A new database is made beside it: most of its start is imports, and it needs no tables before it is asked.
    if is_new := not migrated.exists():
        _migrate(processes, migrated)
    say("Starting Airflow: api-server, scheduler, dag-processor")
    # Without log servers, which would listen on every address. The logs are on this machine anyway.
    processes.start("scheduler", "airflow", "scheduler", "--skip-serve-logs")
    processes.start("dag-processor", "airflow", "dag-processor")
    if is_new:  # a run comes at once, whose first task would wait for it
        wait_until("starting Airflow's API", airflow.answers_tasks, processes, SECONDS_TO_START)
    wait_until("starting Airflow", airflow.healthy, processes, SECONDS_TO_START)
    airflow.log_in()


def _migrate(processes: Processes, migrated: Path) -> None:
    say("Preparing Airflow's database")
    processes.start("db-migrate", "airflow", "db", "migrate")
    processes.finish("db-migrate")
    migrated.write_text(version("apache-airflow"))


def start_triggerer(processes: Processes) -> None:
    processes.start("triggerer", "airflow", "triggerer", "--skip-serve-logs")
