"""A temporary MySQL or MariaDB server, on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

from benchmarks.servers import free_port

SCHEMA = "penguins_test"
PATH_OF_SERVERS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"])


def find_server() -> str | None:
    """Return the path of mariadbd or mysqld, if one is installed."""
    return shutil.which("mariadbd", path=PATH_OF_SERVERS) or shutil.which("mysqld", path=PATH_OF_SERVERS)


@contextmanager
def running_server(server: str, more_sql: str = "") -> Iterator[str]:
    """Start a server on an empty data folder, run `more_sql`, and yield the URL of a schema with its own user."""
    # Not a folder of the caller: a socket path is limited to about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="mysql-"))
    data, log, password, port = folder / "data", folder / "log", secrets.token_hex(16), free_port()
    (folder / "init.sql").write_text(
        f"CREATE DATABASE {SCHEMA};\n"
        f"CREATE USER 'tester'@'%' IDENTIFIED BY '{password}';\n"
        f"GRANT ALL ON {SCHEMA}.* TO 'tester'@'%';\n"
        f"{more_sql}"
    )
    user = f"--user={getuser()}"
    if installer := shutil.which("mariadb-install-db", path=PATH_OF_SERVERS):
        prepare = [installer, "--no-defaults", user, f"--datadir={data}", "--skip-test-db"]
    else:
        prepare = [server, "--no-defaults", user, f"--datadir={data}", "--initialize-insecure"]
    subprocess.run(prepare, check=True, capture_output=True, timeout=120)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(server, "--no-defaults", user, f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1"),
                *("--local-infile=1", f"--socket={folder / 's'}", f"--init-file={folder / 'init.sql'}"),
                f"--pid-file={folder / 'pid'}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(port, password, process, log)
        yield f"mysql://tester:{password}@127.0.0.1:{port}/{SCHEMA}"
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(folder)


def _wait_for(port: int, password: str, process: subprocess.Popen[bytes], log: Path) -> None:
    import mysql.connector

    for _ in range(300):
        try:
            mysql.connector.connect(
                host="127.0.0.1", port=port, user="tester", password=password, connection_timeout=5
            ).close()
        except mysql.connector.Error:
            if process.poll() is not None:
                break
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"the server did not answer within a minute:\n{log.read_text()}")
