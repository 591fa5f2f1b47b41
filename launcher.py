"""Run the whole project without Docker: Airflow, the API and a first model, until Ctrl-C. This is `make run`.

Takes AIRFLOW_PORT, API_PORT and MYSQL_URL (mysql://user:password@host:port/schema) from the environment.
State lies in .local/, models/ and logs/. Everything listens on 127.0.0.1 only.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import httpx2
import psutil

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "plugins"))

from penguins.inference import ModelError, check_columns, check_libraries  # noqa: E402
from penguins.registry import NoModelError, Registry, RegistryError  # noqa: E402
from penguins.schema import EXAMPLE, TARGET  # noqa: E402

LOCAL = ROOT / ".local"
COMPONENT_LOGS = ROOT / "logs" / "components"
DAG_ID = "modelo_penguin"
CONNECTION_ID = "mysql_default"
USER = PASSWORD = "airflow"  # noqa: S105 - the tutorial's, for 127.0.0.1 only
SECONDS_TO_START = 180
SECONDS_TO_TRAIN = 900
SECONDS_TO_STOP = 8  # the triggerer takes 10 to notice that its own child has ended; nothing of it is lost
PR_SET_CHILD_SUBREAPER = 36

started = time.monotonic()


class LaunchError(Exception):
    """Something that the user can mend; the message says how."""


class Stop(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)


def port_from_environment(name: str, default: int) -> int:
    """Return a port on which nothing listens yet, or raise LaunchError."""
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**16):
        raise LaunchError(f"{name} is {text!r}; accepted is a port from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(text)))
        except OSError as error:
            raise LaunchError(
                f"port {text} cannot be used: {error.strerror}. "
                f"Free it, or choose another: {name}={int(text) + 1} make run"
            ) from error
    return int(text)


def connection_from_environment() -> dict[str, Any]:
    """Return the Airflow connection: the MySQL that MYSQL_URL names, or the embedded SQLite."""
    url = os.environ.get("MYSQL_URL")
    if not url:
        return {"connection_id": CONNECTION_ID, "conn_type": "sqlite", "host": str(LOCAL / "warehouse.db")}
    try:
        parts = urlsplit(url)
        connection = {
            "connection_id": CONNECTION_ID,
            "conn_type": "mysql",
            "host": parts.hostname,
            "port": parts.port or 3306,
            "login": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "schema": unquote(parts.path.strip("/")),
            "extra": json.dumps({"client": "mysql-connector-python"}),
        }
    except ValueError as error:
        raise LaunchError(f"MYSQL_URL cannot be read: {error}") from error
    if parts.scheme != "mysql" or not all(connection[key] for key in ("host", "login", "schema")):
        raise LaunchError("MYSQL_URL is not complete; accepted is mysql://user:password@host:port/schema")
    _try_mysql(connection)
    return connection


def _try_mysql(connection: dict[str, Any]) -> None:
    import mysql.connector

    try:
        mysql.connector.connect(
            host=connection["host"],
            port=connection["port"],
            user=connection["login"],
            password=connection["password"],
            connection_timeout=10,
        ).close()
    except mysql.connector.Error as error:
        raise LaunchError(f"the MySQL of MYSQL_URL does not let us in: {error}") from error


def secret(path: Path) -> str:
    """Return a secret that is made at the first start: 32 random bytes in base64."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(urlsafe_b64encode(secrets.token_bytes(32)).decode())
    return path.read_text()


def environment(airflow_port: int, api_port: int, state: Path = LOCAL) -> dict[str, str]:
    """Return the environment of all that is started. `state` is the folder of its database and its secrets."""
    # Settings of another Airflow on this machine must not leak in, and compiled bytecode saves seconds at each start.
    foreign = ("AIRFLOW_", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    passwords = state / "airflow" / "passwords.json"
    passwords.parent.mkdir(exist_ok=True)
    passwords.write_text(json.dumps({USER: PASSWORD}))
    secret(state / "model_signing.key")  # the registry's default
    no_proxy = ",".join(filter(None, [inherited.get("NO_PROXY"), "127.0.0.1", "localhost"]))
    return inherited | {
        "AIRFLOW_HOME": str(state / "airflow"),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(airflow_port),
        "AIRFLOW__API__SECRET_KEY": secret(state / "api_secret"),
        "AIRFLOW__API_AUTH__JWT_SECRET": secret(state / "jwt_secret"),
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{airflow_port}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": secret(state / "fernet_key"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",  # as many idle workers are forked, 26 MB each
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(ROOT / "logs"),
        # A run that was cut off by a crash holds up the next one until its tasks are found; the default is 300 s.
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        # The scheduler's pause between two looks, which each task waits for. A look takes 10 ms: 8 % of a core.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.15",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # A task's supervisor may look once too early whether the task has ended, and looks again only after this many
        # seconds: with the default, 5, a run of eight tasks often stood still for as long.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "API_HOST": "127.0.0.1",
        "API_PORT": str(api_port),
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), str(ROOT / "config")]),
        "PYTHONUNBUFFERED": "1",
    }


class Processes:
    """What was started, and all that this started in turn."""

    def __init__(self, env: dict[str, str], logs: Path = COMPONENT_LOGS) -> None:
        self.env = env
        self.logs = logs
        self.stopping = False
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)
        if sys.platform == "linux":
            # Children of a child that died become ours, so that stop() finds them.
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(self, name: str, *command: str) -> None:
        with self.log(name).open("wb") as log:
            # A session of its own: Ctrl-C reaches this launcher alone, which then stops the others in order.
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
        """Raise LaunchError if anything that should serve has ended, and Stop if the user asked for it."""
        if self.stopping:
            raise Stop
        for name, process in self.running.items():
            if (code := process.poll()) is not None:
                self._died(name, code)

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def stop(self) -> None:
        """Ask all to end, and kill what has not done so in time, whatever its process group."""
        for process in self.running.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + SECONDS_TO_STOP
        while (left := _descendants()) and time.monotonic() < deadline:
            psutil.wait_procs(left, timeout=0.2)
            if all(process.poll() is not None for process in self.running.values()):
                deadline = min(deadline, time.monotonic() + 3)  # orphans have nobody to tell them
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
    """Return the first true value that `ready` gives; LaunchError when the time is over or a process ended."""
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


class Airflow:
    """The REST API of the Airflow that was started."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx2.Client(base_url=url, trust_env=False, timeout=30)

    def healthy(self) -> bool:
        response = self.client.get("/api/v2/monitor/health")
        return response.is_success and all(
            response.json()[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor")
        )

    def log_in(self) -> None:
        response = self.client.post("/auth/token", json={"username": USER, "password": PASSWORD})
        response.raise_for_status()
        self.client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"

    def get(self, path: str) -> Any:
        response = self.client.get(f"/api/v2/{path}")
        response.raise_for_status()
        return response.json()

    def connect(self, connection: dict[str, Any]) -> str:
        """Make the connection, or leave the one that is there unless MYSQL_URL asks for another; say what it is."""
        path = f"/api/v2/connections/{CONNECTION_ID}"
        present = self.client.get(path)
        if present.status_code == 404:
            self.client.post("/api/v2/connections", json=connection).raise_for_status()
            return "made"
        if connection["conn_type"] == "mysql":
            self.client.patch(path, json=connection).raise_for_status()
            return "set from MYSQL_URL"
        return "kept as it was"

    def has_dag(self, dag_id: str = DAG_ID) -> bool:
        if errors := self.get("importErrors")["import_errors"]:
            raise LaunchError(f"the DAG cannot be imported:\n{errors[0]['stack_trace']}")
        return self.client.get(f"/api/v2/dags/{dag_id}").is_success

    def trigger(self, dag_id: str = DAG_ID) -> str:
        self.client.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()
        response = self.client.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None})
        response.raise_for_status()
        return response.json()["dag_run_id"]

    def follow(self, run_id: str, processes: Processes) -> None:
        """Say each task's end as it comes; LaunchError with the failed task's log if the run fails."""
        run, said = f"dags/{DAG_ID}/dagRuns/{run_id}", set()

        def ended() -> str | None:
            state = self.get(run)["state"]
            for task in sorted(self.get(f"{run}/taskInstances")["task_instances"], key=lambda t: t["end_date"] or ""):
                if (
                    task["state"] in ("success", "failed", "up_for_retry")
                    and (key := (task["task_id"], task["state"], task["try_number"])) not in said
                ):
                    said.add(key)
                    say(f"  {task['task_id']:<18} {task['state']:<8} {task['duration'] or 0:5.1f} s")
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
    for entry in content:
        if not isinstance(entry, dict):
            yield str(entry)
            continue
        yield f"  {entry.get('level', ''):<8} {entry.get('event', '')}".rstrip()
        for error in entry.get("error_detail") or []:
            yield f"           {error['exc_type']}: {error['exc_value']}"


def trained_version(registry: Registry) -> str | None:
    """Return the version that serves, if it is whole and the API will take it; say what is wrong with it otherwise."""
    try:
        serving = registry.current()
        manifest, _ = registry.read(serving)
        check_libraries(manifest)
        check_columns(manifest)
    except NoModelError:
        return None
    except (RegistryError, ModelError) as error:
        say(f"The model that is there cannot be used: {error}")
        return None
    return serving


def start_airflow(processes: Processes, airflow: Airflow) -> None:
    """Start the components that a run needs, wait until they are healthy, and log in."""
    migrated = Path(processes.env["AIRFLOW_HOME"]) / "migrated"
    if not migrated.exists() or migrated.read_text() != version("apache-airflow"):
        say("Preparing Airflow's database")
        processes.start("db-migrate", "airflow", "db", "migrate")
        processes.finish("db-migrate")
        migrated.write_text(version("apache-airflow"))
    say("Starting Airflow: api-server, scheduler, dag-processor")
    processes.start("api-server", "airflow", "api-server")
    # Their log servers would listen on every address. The logs are on this machine anyway.
    processes.start("scheduler", "airflow", "scheduler", "--skip-serve-logs")
    processes.start("dag-processor", "airflow", "dag-processor")
    wait_until("Airflow's start", airflow.healthy, processes, SECONDS_TO_START)
    airflow.log_in()


def start_triggerer(processes: Processes) -> None:
    processes.start("triggerer", "airflow", "triggerer", "--skip-serve-logs")


def launch(processes: Processes, airflow: Airflow, api_url: str, connection: dict[str, Any]) -> None:
    """Start everything in order, train if need be, and say what there is."""
    processes.start("api", sys.executable, "-m", "app")
    start_airflow(processes, airflow)
    say(f"Airflow is healthy; connection {CONNECTION_ID} ({connection['conn_type']}): {airflow.connect(connection)}")

    registry = Registry.from_environment()
    if not (serving := trained_version(registry)):
        wait_until(f"the DAG {DAG_ID}", airflow.has_dag, processes, SECONDS_TO_START)
        run_id = airflow.trigger()
        say(f"Training: run {run_id} of {DAG_ID}")
        airflow.follow(run_id, processes)
        serving = registry.current()
    # Last, for no task of this DAG waits for it; without it, Airflow's home page shows a red triggerer.
    start_triggerer(processes)

    api = httpx2.Client(base_url=api_url, trust_env=False, timeout=30)

    def served() -> Any:
        response = api.get("/model-info")
        return response.is_success and response.json()["version"] == serving and response.json()

    info = wait_until(f"the API's load of version {serving}", served, processes, 60)
    answer = api.post("/predict", json=EXAMPLE).raise_for_status().json()
    held_out, surest = info["rows"]["test"], info["metrics"].get("headline")  # older versions have none
    say(f"The API serves version {serving}: accuracy {info['accuracy']:.4f} on {held_out} held-out rows")
    if surest:
        low, high = surest["interval"]
        say(
            f"  {surest['method']}: {surest['accuracy']:.4f} of {surest['rows']} rows, interval {low:.4f} to {high:.4f}"
        )
    label = answer[TARGET.name]
    say(f"A sample: {json.dumps(EXAMPLE)}")
    say(f"  is {label}, with probability {answer['probabilities'][label]:.2f}")
    print(
        f"\n  Airflow      {airflow.url}   ({USER} / {PASSWORD})"
        f"\n  API          {api_url}   (Swagger UI)"
        f"\n  model        {api_url}/model-info"
        f"\n  report       {api_url}/report"
        f"\n  logs         {COMPONENT_LOGS.parent}"
        "\n\n  Ctrl-C stops it all.\n",
        flush=True,
    )


@contextmanager
def only_one() -> Iterator[None]:
    """Hold the lock of this checkout's state: two launchers on one database would spoil it."""
    LOCAL.mkdir(exist_ok=True)
    with (LOCAL / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaunchError("`make run` is running in this folder already. Stop that one first.") from None
        yield


def main() -> int:
    processes: Processes | None = None

    def stop(*_: Any) -> NoReturn:
        # Raised while an object is being destroyed, it would be lost: the loops look at the mark as well.
        if processes:
            processes.stopping = True
        raise Stop

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        signal.signal(number, stop)
    try:
        airflow_port = port_from_environment("AIRFLOW_PORT", 8080)
        api_port = port_from_environment("API_PORT", 8989)
        if airflow_port == api_port:
            raise LaunchError(f"AIRFLOW_PORT and API_PORT are both {api_port}; choose two")
        with only_one():
            connection = connection_from_environment()
            processes = Processes(environment(airflow_port, api_port))
            try:
                launch(
                    processes, Airflow(f"http://127.0.0.1:{airflow_port}"), f"http://127.0.0.1:{api_port}", connection
                )
                while True:
                    processes.check()
                    time.sleep(0.5)
            finally:
                for number in signals:
                    signal.signal(number, signal.SIG_IGN)
                say("Stopping")
                processes.stop()
                say("Stopped")
    except Stop:
        return 0
    except (LaunchError, httpx2.HTTPError) as error:
        print(f"\nmake run: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
