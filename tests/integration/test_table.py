"""`make table` on files as people have them: the fork is trained, served, and its tests pass without touching one."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from forks import Fork, Start, check_service
from sklearn import datasets

from penguins.registry import Registry
from support import AirflowForTests, clone_project, connection_of, outside_make

FEW_TREES = 10
A_TEST_OF_PENGUINS = "tests/unit/penguins/data/test_progress.py"


def wine(path: Path) -> None:
    """Semicolons, decimal commas, Windows-1252."""
    frame = datasets.load_wine(as_frame=True).frame
    frame["Variedad"] = frame.pop("target").map({0: "Barolo", 1: "Grignolino", 2: "Viña"})
    frame = frame.rename(columns={"alcohol": "Graduación (%)"})
    frame.to_csv(path, sep=";", decimal=",", index=False, encoding="cp1252")


def digits(path: Path) -> None:
    """Tabs, an index without a header, 120 columns, an integer for the class."""
    frame = datasets.load_digits(as_frame=True).frame.astype(int)
    draw = random.Random(1)
    for number in range(55):
        frame[f"noise {number}"] = [round(draw.gauss(), 3) for _ in range(len(frame))]
    frame.sample(700, random_state=1).reset_index(drop=True).to_csv(path, sep="\t")


def customers(path: Path) -> None:
    """A byte order mark, CRLF, line feeds and quotes within quotes, thousands, ?, a date, an id, 60 towns."""
    draw = random.Random(1)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(["Id", "Notes", "Precio ($)", "Sector", "Since", "Town", "Churn"])
        for number in range(600):
            price, sector = draw.lognormvariate(8, 1), draw.choice(["bank", "food", "law", "?"])
            churn = "yes" if (price > 3000) != (draw.random() < 0.05) else "no"
            town = f"town {min(int(draw.expovariate(0.1)), 59)}"
            note = f'note {number}\nthe "second" line'
            since = f"2025-0{draw.randint(1, 9)}-11"
            writer.writerow([1000 + 7 * number, note, f"{price:,.0f}", sector, since, town, churn])


Write = Callable[[Path], None]
FILES: dict[str, tuple[Write, str, str]] = {
    "wine": (wine, "Los vinos.csv", "variedad"),
    "digits": (digits, "digits.tsv", "target"),
    "customers": (customers, "customers.csv", "Churn"),
}


@pytest.fixture
def fork(tmp_path: Path, airflow: AirflowForTests, start_process: Start) -> Fork:
    root = tmp_path / "a fork"
    clone_project(root)
    return Fork(root, airflow.of_copy(root), start_process, root)


def make(root: Path, goal: str, **variables: str) -> str:
    """Call make as a person would. Return what it prints."""
    command = ["make", goal, *(f"{name}={value}" for name, value in variables.items())]
    done = subprocess.run(
        command, cwd=root, env=outside_make(), check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("write", "name", "target"), FILES.values(), ids=FILES)
def test_a_forks_own_table_and_its_tests_are_green_from_the_first_minute(
    fork: Fork, tmp_path: Path, write: Write, name: str, target: str
) -> None:
    write(tmp_path / name)
    make(fork.root, "table", CSV=str(tmp_path / name), TARGET=target)
    assert "rows fit the declaration" in make(fork.root, "check")
    tests = [sys.executable, "tests/run.py", A_TEST_OF_PENGUINS]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "AIRFLOW", "PYTHONPATH"))}
    done = subprocess.run(tests, cwd=fork.root, env=env, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(" passed") == 2, done.stdout
    types = [sys.executable, "-m", "mypy", "plugins/penguins/schema.py"]
    assert subprocess.run(types, cwd=fork.root, check=False, timeout=300).returncode == 0


@pytest.mark.parametrize("kind", ["wine", "customers"])
def test_what_mysql_cannot_read_by_itself_reaches_it_with_its_values_not_its_spellings(
    fork: Fork, tmp_path: Path, mysql_url: str, kind: str
) -> None:
    write, name, target = FILES[kind]
    write(tmp_path / name)
    make(fork.root, "table", CSV=str(tmp_path / name), TARGET=target)
    connection = connection_of(mysql_url)
    fork.train(connection, n_estimators=FEW_TREES)
    with fork.service() as service:
        check_service(fork, service)
    registry = Registry(fork.airflow.models, fork.airflow.keys)
    manifest = registry.manifest(registry.current())
    assert sum(manifest["rows"].values()) == manifest["data"]["rows"]
    if kind == "wine":
        columns = "graduacion, malic_acid, variedad"
        expected: tuple[Any, ...] = (14.23, 1.71, "Barolo")
    else:
        with (tmp_path / name).open(encoding="utf-8-sig", newline="") as file:
            _, (number, notes, price, *_) = islice(csv.reader(file), 2)
        columns, expected = "id_2, notes, precio", (number, notes, float(price.replace(",", "")))
    statement = f"SELECT {columns} FROM {fork.schema()['name']}_raw ORDER BY row_id LIMIT 1"
    assert first_row(connection, statement) == expected


def first_row(connection: dict[str, Any], statement: str) -> Any:
    import mysql.connector

    with (
        mysql.connector.connect(
            host=connection["host"],
            port=connection["port"],
            user=connection["login"],
            password=connection["password"],
            database=connection["schema"],
        ) as session,
        session.cursor() as cursor,
    ):
        cursor.execute(statement)
        return cursor.fetchall()[0]
