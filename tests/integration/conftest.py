"""A real database server, and an Airflow of its own for the tests."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest

from support import AirflowForTests, connection_of, free_port

SKIP = (
    "no MySQL server for the tests: install one (Debian: apt-get install mariadb-server), so that mysqld or mariadbd "
    "is on PATH, or name one in TEST_MYSQL_URL=mysql://user:password@host:port/schema, whose schema the tests drop"
)
PATH_OF_SERVERS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"])


@pytest.fixture(scope="session")
def mysql_url() -> Iterator[str]:
    """The URL of a schema on a real server, which the tests may drop."""
    if given := os.environ.get("TEST_MYSQL_URL"):
        yield given
        return
    server = shutil.which("mariadbd", path=PATH_OF_SERVERS) or shutil.which("mysqld", path=PATH_OF_SERVERS)
    if not server:
        pytest.skip(SKIP)
    # Not pytest's tmp_path: a socket's path is limited to about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="mysql-"))
    data, log, password, port = folder / "data", folder / "log", secrets.token_hex(16), free_port()
    (folder / "init.sql").write_text(
        "CREATE DATABASE penguins_test;\n"
        f"CREATE USER 'tester'@'%' IDENTIFIED BY '{password}';\n"
        "GRANT ALL ON penguins_test.* TO 'tester'@'%';\n"
        "CREATE DATABASE foreign_schema;\n"
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
        url = f"mysql://tester:{password}@127.0.0.1:{port}/penguins_test"
        _wait_for(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(folder)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    import mysql.connector

    to = connection_of(url)
    for _ in range(300):
        try:
            mysql.connector.connect(
                host=to["host"], port=to["port"], user=to["login"], password=to["password"], connection_timeout=5
            ).close()
        except mysql.connector.Error:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"the server did not answer within a minute:\n{log.read_text()}")


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> AirflowForTests:
    return AirflowForTests(tmp_path_factory.mktemp("airflow"))


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a program; it is asked to end after the test, if it has not."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: str, **options: Any) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        if process.stdout:
            process.stdout.close()
