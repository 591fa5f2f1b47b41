"""The settings that the launcher reads from its environment, and the environment that its processes get."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from launcher import ROOT
from launcher.console import LaunchError

LOCAL = ROOT / ".local"
CONNECTION_ID = "mysql_default"
AUTH_MANAGER = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
USER = PASSWORD = "airflow"  # noqa: S105 - the tutorial's, for 127.0.0.1 only


def port_from_environment(name: str, default: int) -> int:
    """Return a free port, or raise LaunchError."""
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**16):
        raise LaunchError(f"{name} is {text!r}; it must be a port from 1 to 65535")
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
        raise LaunchError("MYSQL_URL is incomplete; the form is mysql://user:password@host:port/schema")
    _check_mysql(connection)
    return connection


def _check_mysql(connection: dict[str, Any]) -> None:
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
        raise LaunchError(f"cannot connect to the MySQL server of MYSQL_URL: {error}") from error


def secret(path: Path, size: int = 32) -> str:
    """Return a secret, created at the first start: random bytes in base64, 32 of them as Fernet requires."""
    if not path.exists() or not path.stat().st_size:
        path.touch(mode=0o600)
        path.write_text(urlsafe_b64encode(secrets.token_bytes(size)).decode())
    return path.read_text()


def shared_settings() -> dict[str, str]:
    """Return the settings shared with the stack, from config/airflow.env."""
    lines = (ROOT / "config" / "airflow.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def environment(airflow_port: int, api_port: int, state: Path = LOCAL) -> dict[str, str]:
    """Return the environment of every process. `state` is the folder of Airflow's database and the secrets."""
    # Settings of another Airflow on this machine must not leak in. Compiled bytecode saves seconds at each start.
    foreign = ("AIRFLOW_", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    passwords = state / "airflow" / "passwords.json"
    passwords.parent.mkdir(exist_ok=True)
    passwords.write_text(json.dumps({USER: PASSWORD}))
    no_proxy = ",".join(filter(None, [inherited.get("NO_PROXY"), "127.0.0.1", "localhost"]))
    return (
        inherited
        | shared_settings()
        | {
            "AIRFLOW_HOME": str(state / "airflow"),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(airflow_port),
            "AIRFLOW__API__SECRET_KEY": secret(state / "api_secret"),
            "AIRFLOW__API_AUTH__JWT_SECRET": secret(state / "jwt_secret", 48),  # 64 characters: PyJWT warns of less
            "AIRFLOW__CORE__AUTH_MANAGER": AUTH_MANAGER,
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{airflow_port}/execution/",
            "AIRFLOW__CORE__FERNET_KEY": secret(state / "fernet_key"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(ROOT / "logs"),
            "API_HOST": "127.0.0.1",
            "API_PORT": str(api_port),
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), str(ROOT / "config")]),
            "PYTHONUNBUFFERED": "1",
        }
    )
