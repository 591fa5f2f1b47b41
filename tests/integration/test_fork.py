"""Another table in a copy of the project: the one of docs/your-own-table.md, and awkward ones.

Nothing of the copy is changed but the declaration and the CSV.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import Fork, Start, check_service

from penguins.registry import Registry
from penguins.schema import Category, Number
from support import OWN_TABLE, AirflowForTests, Service, clone_project, code_blocks, connection_of, outside_make

FEW_TREES = 10  # which are trained, compiled and proven sooner


@pytest.fixture
def fork(tmp_path: Path, airflow: AirflowForTests, start_process: Start) -> Fork:
    root = tmp_path / "fork"
    clone_project(root)
    return Fork(root, airflow.of_copy(root), start_process, root)


@pytest.fixture
def sqlite(tmp_path: Path) -> dict[str, Any]:
    return {"conn_type": "sqlite", "host": str(tmp_path / "warehouse.db")}


def predicted(fork: Fork, service: Service) -> float:
    """Return the share of the file's rows that the service predicts correctly."""
    schema = fork.schema()
    names, target = [f["name"] for f in schema["features"]], schema["target"]["name"]
    headers = {c["header"]: c["name"] for c in (*schema["features"], schema["target"])}
    numbers = {f["name"] for f in schema["features"] if "unit" in f}
    with (fork.root / "dags" / schema["csv"]).open(encoding="utf-8", newline="") as file:
        rows = [{headers[header]: value for header, value in row.items()} for row in csv.DictReader(file)]
    missing = {"unknown", ""}
    records = [
        {n: None if row[n] in missing else float(row[n]) if n in numbers else row[n] for n in names} for row in rows
    ]
    answer = service.client.post("/predict/batch", json={"records": records})
    assert answer.status_code == 200, answer.text
    labels = [p[target] for p in answer.json()["predictions"]]
    return sum(label == row[target] for label, row in zip(labels, rows, strict=True)) / len(rows)


def follow_the_page(fork: Fork) -> str:
    """Take its first steps. Return what they print."""
    (fork.root / "make_loans.py").write_text(code_blocks(OWN_TABLE, "python")[0], encoding="utf-8")
    steps = ["sh", "-ec", code_blocks(OWN_TABLE, "sh")[1]]
    done = subprocess.run(
        steps, cwd=fork.root, env=outside_make(), check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_does_what_it_says(fork: Fork, sqlite: dict[str, Any]) -> None:
    printed = [line.rstrip() for line in follow_the_page(fork).splitlines()]
    shown = re.search(r"^```\n(column .*?)^```$", OWN_TABLE.read_text(), re.MULTILINE | re.DOTALL)
    assert shown
    assert printed == shown[1].splitlines()
    fork.train(sqlite)
    with fork.service() as service:
        check_service(fork, service)
        assert predicted(fork, service) > 0.9
        _, url, *_, body = shlex.split(code_blocks(OWN_TABLE, "sh")[2])
        answer = service.client.post(url.partition("8989")[2], json=json.loads(body)).json()
    expected = json.loads(code_blocks(OWN_TABLE, "json")[0])
    assert answer.pop("model_version") != expected.pop("model_version")
    assert answer["repaid"] == expected["repaid"]
    assert list(answer["probabilities"]) == list(expected["probabilities"])


def a_number(name: str, minimum: float, maximum: float, **more: Any) -> Number:
    middle = (minimum + maximum) / 2
    return Number(name=name, description=name, unit="", minimum=minimum, maximum=maximum, example=middle, **more)


def a_category(name: str, *values: str, **more: Any) -> Category:
    return Category(name=name, description=name, values=values, example=values[-1], **more)


Table = tuple[Number | Category, ...]
NO_NUMBERS = "no numbers, values and headers with commas, quotes, umlauts and blanks"
NO_CATEGORIES = "no categories, a binary target like a number, numbers negative, large and small"
# Awkward in several ways each, because a run of the DAG takes its time. The target is the last column.
TABLES: dict[str, Table] = {
    NO_CATEGORIES: (
        a_number("depth", -11034, -0.5),
        a_number("income", -1e6, 1234567, required=True),
        a_number("area", 0, 1e12),
        a_number("share", 0, 1e-6),
        a_category("default", "0", "1", required=True),
    ),
    NO_NUMBERS: (
        a_category(
            "street",
            "Große Straße 1, Köln",
            'the "old" one',
            "l'été",
            "a;b|c\\d",
            " padded ",
            "日本",
            header='Straße, "Ort"',
        ),
        a_category("size", "S", "M", "L", required=True),
        a_category("kind", "größer, gleich", "kleiner '<'", 'so "lala"', required=True, header="l'année / año"),
    ),
    "many categories and classes, some like numbers, names with capitals and of Python, SQL and pydantic": (
        *(a_number(name, 0, 1) for name in ("Body_Mass_2", "class", "json", "model_type")),
        a_number("od280", 0, 1, header="OD280/OD315 of diluted wines"),
        *(a_category(name, *(f"{name} {n}" for n in range(40))) for name in ("SELECT", "order", "copy")),
        a_category("flag", "False", "True"),
        a_category("level", "01", "02", "2.5", required=True),
        a_category("Target_Class", *(f"class {n:02}" for n in range(12)), required=True),
    ),
}


def rows_of(table: Table) -> Iterator[list[Any]]:
    """Yield rows in which the class tells roughly where each value lies; one in thirty is missing."""
    draw = random.Random(3)
    *features, target = table
    assert isinstance(target, Category)
    for number in range(30 * len(target.values)):
        place = number % len(target.values)
        row: list[Any] = []
        for column in features:
            at = min(max((place + draw.uniform(0.1, 0.9)) / len(target.values), 0), 1)
            if not column.required and draw.random() < 1 / 30:
                row.append(draw.choice(["unknown", ""]))
            elif isinstance(column, Number):
                row.append(repr(column.minimum + at * (column.maximum - column.minimum)))
            else:
                row.append(column.values[int(at * len(column.values))])
        yield [*row, target.values[place]]


def put(fork: Fork, table: Table) -> None:
    """Give the copy a table and its CSV."""
    with (fork.root / "dags" / "own.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([c.header for c in table])
        writer.writerows(rows_of(table))
    fork.declare(
        f'MISSING = ("unknown", "")\nNAME = {f"own_{len(table)}"!r}\n'
        'CSV_NAME = "own.csv"\nFILE = FileFormat()\nTABLE = "Own_Table"\n'
        f"MIN_ACCURACY = 0.5\nTARGET_NAME = {table[-1].name!r}\n"
        f"COLUMNS: tuple[Number | Category | Ignored, ...] = {table!r}\n"
    )


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_other_tables_are_trained_and_served(
    fork: Fork, sqlite: dict[str, Any], request: pytest.FixtureRequest, table: Table
) -> None:
    """What is awkward about text goes through MySQL, what is awkward about names through SQLite."""
    put(fork, table)
    of_text = table in (TABLES[NO_NUMBERS], TABLES[NO_CATEGORIES])
    connection = connection_of(request.getfixturevalue("mysql_url")) if of_text else sqlite
    fork.train(connection, n_estimators=FEW_TREES)
    with fork.service() as service:
        check_service(fork, service)
        assert predicted(fork, service) > 0.8
    # That all arrived is proven by the run itself: it counts rows, and refuses a category that it does not know.
    registry = Registry(fork.airflow.models, fork.airflow.keys)
    manifest = registry.manifest(registry.current())
    assert sum(manifest["rows"].values()) == manifest["data"]["rows"]


def test_the_model_of_another_table_is_refused(
    fork: Fork, registry: Registry, publish: Callable[[], dict[str, Any]]
) -> None:
    """The penguins' model is still there on the first morning: it must be neither served nor taken for trained."""
    version = publish()["version"]
    schema = fork.root / "plugins" / "penguins" / "schema.py"
    penguins = schema.read_text()
    follow_the_page(fork)
    loans = schema.read_text()
    fork.airflow.models, fork.airflow.keys = registry.root, registry.keys
    with fork.service() as service:
        schema.write_text(penguins)  # which the running service does not notice
        refused = service.client.post("/predict", json={})
        assert refused.status_code == 503
        assert "trained on another table than the one with which this service was started" in refused.text
        assert "was changed since, start the service again" in refused.text
    with fork.service() as service:
        service.wait_for_version(version)
    schema.write_text(loans)
    code = (
        "from launcher.__main__ import trained_version; from penguins.registry import Registry; "
        "print(trained_version(Registry.from_environment()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=fork.root,
        env=os.environ | {"MODELS_DIR": str(registry.root), "MODEL_PUBLIC_KEYS_FILE": str(registry.keys.public)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "The existing model cannot be used: trained on another table" in run.stdout
    assert run.stdout.endswith("None\n")
