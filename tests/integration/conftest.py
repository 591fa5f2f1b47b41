"""A real database server, and an Airflow of its own for the tests."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.mysql import SCHEMA, find_server, running_server
from support import AirflowForTests

SKIP = (
    "no MySQL server for the tests: install one (Debian: apt-get install mariadb-server), so that mysqld or mariadbd "
    "is on PATH, or name one in TEST_MYSQL_URL=mysql://user:password@host:port/schema, whose schema the tests drop"
)
# Characters that would break a URL's login and password if they were not quoted.
AWKWARD_USER = {"login": "te@st:er/#%?&+ %41", "password": "p@ss:wo/rd#%?&=+ %41"}


@pytest.fixture(scope="session")
def mysql_url() -> Iterator[str]:
    """The URL of a schema on a real server, which the tests may drop."""
    if given := os.environ.get("TEST_MYSQL_URL"):
        yield given
        return
    server = find_server()
    if not server:
        pytest.skip(SKIP)
    user = f"'{AWKWARD_USER['login']}'@'%'"
    with running_server(
        server,
        f"CREATE USER {user} IDENTIFIED BY '{AWKWARD_USER['password']}';\n"
        f"GRANT ALL ON {SCHEMA}.* TO {user};\n"
        "CREATE DATABASE foreign_schema;\n",
    ) as url:
        yield url


@pytest.fixture(scope="module")
def own_mysql_url() -> Iterator[str]:
    """The URL of a schema on a server of a module's own, whose user may do everything."""
    server = find_server()
    if not server:
        pytest.skip("no mysqld or mariadbd on PATH, which these tests stop and set (Debian: mariadb-server)")
    with running_server(server, "GRANT ALL ON *.* TO 'tester'@'%' WITH GRANT OPTION;\n") as url:
        yield url


@pytest.fixture
def awkward_user(mysql_url: str) -> dict[str, str]:
    """The login and password of a user of the same schema, full of characters that mean something in a URL."""
    if os.environ.get("TEST_MYSQL_URL"):
        pytest.skip("the server that TEST_MYSQL_URL names has no such user")
    return AWKWARD_USER


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> AirflowForTests:
    return AirflowForTests(tmp_path_factory.mktemp("airflow"))


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a program. It is terminated after the test if it is still running."""
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
