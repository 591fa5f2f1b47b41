"""What the tests on real servers share besides fixtures."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]


def free_port(preferred: int = 0) -> int:
    """Return a port on which nothing listens: the preferred one, if it can be had."""
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


class AirflowForTests:
    """An Airflow with a database of its own, which runs the DAG with the connection that it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        self.key_file = folder / "key"
        self.key_file.write_text(secrets.token_hex(32))
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
            "MODELS_DIR": str(self.models),
            "MODEL_SIGNING_KEY_FILE": str(self.key_file),
            "PYTHONPATH": str(ROOT / "plugins"),
        }
        migration = self.run("db", "migrate")
        assert migration.returncode == 0, migration.stdout

    def run(self, *arguments: str, connection: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        env = self.env | ({"AIRFLOW_CONN_MYSQL_DEFAULT": json.dumps(connection)} if connection else {})
        return subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            check=False,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )

    def run_dag(self, connection: dict[str, Any], **params: Any) -> subprocess.CompletedProcess[str]:
        return self.run("dags", "test", "modelo_penguin", "--conf", json.dumps(params), connection=connection)
