"""What the tests on real servers share besides fixtures."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import httpx2

if TYPE_CHECKING:
    from penguins.registry import Registry

ROOT = Path(__file__).parents[1]
OWN_TABLE = ROOT / "docs" / "your-own-table.md"
_DECLARATION = re.compile(r"(# -+ your own table: replace from here\n)(.*)(# -+ to here\n)", re.DOTALL)


def copy_project(folder: Path) -> None:
    """Copy the files that git tracks, or would track, into a folder, as they are here."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for file in filter(lambda name: name and (ROOT / name).is_file(), listed.split("\0")):
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target)


def outside_make() -> dict[str, str]:
    """Return the environment without what `make test` tells a make that it starts, which would then say where it is."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def clone_project(folder: Path) -> None:
    """Copy the project into a checkout of its own, in which make finds this environment installed."""
    copy_project(folder)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "as it was"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True, capture_output=True, timeout=60)
    (folder / ".venv").symlink_to(sys.prefix)
    uv = folder / ".local" / "tools" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.touch()
    for older in (folder / "requirements-dev.txt", uv):  # than what was installed from them
        os.utime(older, (0, 0))


def empty_registry(folder: Path) -> Registry:
    """Return a registry in a folder, with keys of its own."""
    # Here, because a fork of this process that runs a copy's DAG must not have the project's own package yet.
    from penguins.registry import Keys, Registry

    registry = Registry(folder / "models", Keys(folder / "key", folder / "key.pub"))
    registry.init()
    return registry


def code_blocks(page: Path, language: str) -> list[str]:
    """Return a page's blocks of code in a language, in its order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def dashboard_queries(window: str) -> dict[tuple[str, str], str]:
    """Return the dashboard's queries with this $__rate_interval, by the panel's title and the legend."""
    panels = json.loads((ROOT / "monitoring" / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    targets = [(panel["title"], target) for panel in panels for target in panel.get("targets", [])]
    return {(title, t["legendFormat"]): t["expr"].replace("$__rate_interval", window) for title, t in targets}


def declaration(root: Path) -> str:
    """Return what stands between the two lines of dashes of a checkout's schema.py."""
    found = _DECLARATION.search((root / "plugins" / "penguins" / "schema.py").read_text("utf-8"))
    assert found
    return found[2].strip()


def declare(root: Path, declaration: str) -> None:
    """Put a declaration between the two lines of dashes of a copy's schema.py."""
    path = root / "plugins" / "penguins" / "schema.py"
    found = _DECLARATION.subn(lambda lines: f"{lines[1]}\n{declaration}\n\n{lines[3]}", path.read_text("utf-8"))
    assert found[1] == 1
    path.write_text(found[0], encoding="utf-8")


def free_port(preferred: int = 0) -> int:
    """Return a free port: the preferred one, if possible."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            return free_port()
        return probe.getsockname()[1]


def connection_of(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "conn_type": "mysql",
        "host": parts.hostname,
        "port": parts.port or 3306,
        "login": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "schema": parts.path.strip("/"),
        "extra": {"client": "mysql-connector-python"},
    }


# Forked with the libraries loaded, as a scheduler's tasks are. They are a quarter of what a run takes.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["cadwyn", "fastapi", "httpx", "pandas", "pyarrow.parquet", "sklearn.ensemble", "sqlalchemy.orm"]
)


def _run_airflow(arguments: tuple[str, ...], env: dict[str, str], output: Path) -> None:
    """Become `python -m airflow`, in a process that has imported neither Airflow nor this project."""
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(env)
    sys.path.insert(0, env["PYTHONPATH"])
    sys.argv[1:] = arguments
    runpy.run_module("airflow", run_name="__main__", alter_sys=True)


class AirflowForTests:
    """An Airflow with a database of its own, which runs the DAG with the connection that it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        self.keys = empty_registry(folder).keys
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIRFLOW_", "PYTHONDONTWRITEBYTECODE"))
        } | {
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
            "DATA_FOLDERS": tempfile.gettempdir(),
            "MODELS_DIR": str(self.models),
            "MODEL_SIGNING_KEY_FILE": str(self.keys.private),
            "PYTHONPATH": str(ROOT / "plugins"),
        }
        migration = self.run("db", "migrate")
        assert migration.returncode == 0, migration.stdout

    def run(self, *arguments: str, connection: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        env = self.env | ({"AIRFLOW_CONN_MYSQL_DEFAULT": json.dumps(connection)} if connection else {})
        output = self.folder / "output.txt"
        process = _forks.Process(target=_run_airflow, args=(arguments, env, output))
        process.start()
        process.join(timeout=300)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, 300, output.read_bytes())
        return subprocess.CompletedProcess(arguments, process.exitcode, output.read_text(encoding="utf-8"))

    def of_copy(self, root: Path) -> AirflowForTests:
        """Return an Airflow on the same database, with the DAG of a copy of the project, and models of its own."""
        other = copy.copy(self)
        other.models = root / "models"
        folders = {"AIRFLOW__CORE__DAGS_FOLDER": "dags", "AIRFLOW__CORE__PLUGINS_FOLDER": "plugins"}
        other.env = self.env | {name: str(root / folder) for name, folder in folders.items()}
        other.env |= {"MODELS_DIR": str(other.models), "PYTHONPATH": str(root / "plugins")}
        return other

    def run_dag(
        self, connection: dict[str, Any], dag_id: str = "modelo_penguin", /, **params: Any
    ) -> subprocess.CompletedProcess[str]:
        return self.run("dags", "test", dag_id, "--conf", json.dumps(params), connection=connection)


class Service:
    """A running service and a client of it."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def wait(self, ready: Callable[[], Any]) -> Any:
        """Return the first true value, within two minutes: a busy machine takes one to prove a model."""
        for _ in range(2400):
            assert self.process.poll() is None
            try:
                if value := ready():
                    return value
            except httpx2.TransportError:
                pass  # not listening yet
            time.sleep(0.05)
        raise AssertionError(self.client.get("/model-info").text)

    def info(self) -> dict[str, Any]:
        return self.client.get("/model-info").json()

    def wait_for_version(self, version: str) -> None:
        self.wait(lambda: self.info().get("version") == version)

    def wait_for_rejection(self, version: str) -> str:
        rejected = self.wait(lambda: (r := self.info()["rejected"]) and r["version"] == version and r)
        return rejected["reason"]

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        name = name if "{" in name else f'{name}{{model="modelo_penguin"}}'
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])
