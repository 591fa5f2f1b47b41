"""Another table in a copy of the project: the one of docs/your-own-table.md, and awkward ones.

Nothing of the copy is changed but the declaration and the CSV.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penguins.journal.tables import URL
from penguins.registry import Registry
from penguins.schema import Category, Number
from support import OWN_TABLE, AirflowForTests, Service, code_blocks, connection_of, copy_project, declare, free_port

FEW_TREES = 10  # which are trained, compiled and proven sooner
Start = Callable[..., subprocess.Popen[str]]


@dataclass
class Fork:
    """A copy of the project, to be given another table."""

    root: Path
    airflow: AirflowForTests
    start_process: Start

    def declare(self, declaration: str) -> None:
        declare(self.root, declaration)

    def schema(self) -> dict[str, Any]:
        """Return what the copy's own schema says, as its own Python reads it."""
        code = (
            "import json; from dataclasses import asdict; from penguins.schema import *; "
            "meant = lambda c: {'meanings': list(getattr(c, 'meanings', {}).items())}; "
            "print(json.dumps({'target': asdict(TARGET) | meant(TARGET), 'example': EXAMPLE, 'csv': CSV_NAME, "
            "'features': [{**asdict(c), 'rule': c.rule, **meant(c)} for c in FEATURES]}))"
        )
        run = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"PYTHONPATH": str(self.root / "plugins")},
        )
        return json.loads(run.stdout)

    def train(self, connection: dict[str, Any], **params: Any) -> None:
        run = self.airflow.run_dag(connection, **params)
        assert run.returncode == 0, run.stdout

    @contextmanager
    def service(self) -> Iterator[Service]:
        """Serve from the copy, with a proven model or none."""
        port = free_port()
        env = {k: v for k, v in os.environ.items() if not k.startswith("API_")} | {
            "MODELS_DIR": str(self.airflow.models),
            "MODEL_PUBLIC_KEYS_FILE": str(self.airflow.keys.public),
            "PYTHONPATH": str(self.root / "plugins"),
            "API_PORT": str(port),
            URL: f"sqlite:///{self.root}/journal.db",
        }
        process = self.start_process(sys.executable, "-m", "app", cwd=self.root, env=env)
        service = Service(process, port)
        service.wait(lambda: service.client.get("/health/live").is_success)
        yield service
        service.client.close()
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def fork(tmp_path: Path, airflow: AirflowForTests, start_process: Start) -> Fork:
    root = tmp_path / "fork"
    copy_project(root)
    return Fork(root, airflow.of_copy(root), start_process)


@pytest.fixture
def sqlite(tmp_path: Path) -> dict[str, Any]:
    return {"conn_type": "sqlite", "host": str(tmp_path / "warehouse.db")}


def check_service(fork: Fork, service: Service) -> None:
    """Check the running service against the copy's declaration."""
    client, schema = service.client, fork.schema()
    target, features = schema["target"], schema["features"]
    info = service.info()
    assert info.get("predictor") == "onnx", info
    assert [f["name"] for f in info["features"]] == [f["name"] for f in features]
    assert info["classes"] == sorted(target["values"])

    openapi = client.get("/openapi.json").json()

    def example(path: str) -> Any:
        body = openapi["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        return next(iter(body["examples"].values()))["value"]

    assert example("/predict") == schema["example"]
    answer = client.post("/predict", json=example("/predict"))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert list(body) == [target["name"], "probabilities", "model_version"]
    assert list(body["probabilities"]) == info["classes"]
    assert sum(body["probabilities"].values()) == pytest.approx(1)
    # A content type that the shortcut leaves to the ordinary route.
    plain = {"content-type": "application/json; charset=utf-8"}
    assert client.post("/predict", content=json.dumps(example("/predict")), headers=plain).content == answer.content

    batch = client.post("/predict/batch", json=example("/predict/batch")).json()
    assert [p[target["name"]] for p in batch["predictions"]] == [body[target["name"]]] * 2

    for feature in features:
        number = "unit" in feature
        outside = [feature["maximum"] * 2 + 1 if number else "no such value", feature["minimum"] - 1 if number else ""]
        for value in [*outside, *([None] if feature["required"] else [])]:
            refused = client.post("/predict", json={**schema["example"], feature["name"]: value})
            assert refused.status_code == 422, refused.text
            [detail] = refused.json()["detail"]
            assert detail["loc"][:2] == ["body", feature["name"]]
            accepted = [feature["rule"]] if number else map(repr, feature["values"])
            assert all(said in detail["msg"] for said in accepted), detail
        if not feature["required"]:
            assert client.post("/predict", json={**schema["example"], feature["name"]: None}).status_code == 200

    check_meanings(service, schema)
    assert [v["serving"] for v in client.get("/models").json()] == [True]
    report = client.get("/report")
    assert report.status_code == 200, report.text
    assert all(f["name"] in report.text for f in features)
    form = client.get("/try").text
    assert all(f'data-column="{f["name"]}"' in form for f in features)


def check_meanings(service: Service, schema: dict[str, Any]) -> None:
    """Check that a number or boolean that looks like a value is taken for it, wherever one is sent."""
    client, target = service.client, schema["target"]

    def tensor(name: str, datatype: str, value: Any) -> dict[str, Any]:
        return {"name": name, "shape": [1], "datatype": datatype, "data": [value]}

    for feature in schema["features"]:
        for meaning, value in feature["meanings"]:
            as_text, as_sent = ({**schema["example"], feature["name"]: v} for v in (value, meaning))
            expected = client.post("/predict", json=as_text)
            for kind in ("application/json", "application/json; charset=utf-8"):  # the shortcut, and the ordinary route
                answer = client.post("/predict", content=json.dumps(as_sent), headers={"content-type": kind})
                assert (answer.status_code, answer.content) == (200, expected.content), as_sent
                records = json.dumps({"records": [as_text, as_sent]})
                batch = client.post("/predict/batch", content=records, headers={"content-type": kind}).json()
                assert batch["predictions"][0] == batch["predictions"][1], as_sent
            datatype = "BOOL" if isinstance(meaning, bool) else "INT64" if isinstance(meaning, int) else "FP64"
            inputs = [
                tensor(f["name"], "FP64" if "unit" in f else "BYTES", as_text[f["name"]])
                for f in schema["features"]
                if f is not feature
            ]
            inputs.append(tensor(feature["name"], datatype, meaning))
            outputs = client.post("/v2/models/modelo_penguin/infer", json={"inputs": inputs}).json()["outputs"]
            assert outputs[0]["data"] == [expected.json()[target["name"]]], as_sent
    for number, (meaning, value) in enumerate(target["meanings"]):
        name = {"X-Request-ID": f"asked-{number}"}
        answer = client.post("/predict", json=schema["example"], headers=name)
        outcomes = []
        for truth in (meaning, value):
            said = client.post("/feedback", json={"id": name["X-Request-ID"], target["name"]: truth})
            assert said.status_code == 200, said.text
            outcomes.append(said.json()["results"][0]["outcome"])
        assert outcomes == ["new", "repeated"]
        assert answer.json()[target["name"]] in target["values"]


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


def follow_the_page(fork: Fork) -> None:
    """Take the first two steps."""
    script, declaration = code_blocks(OWN_TABLE, "python")
    (fork.root / "make_loans.py").write_text(script, encoding="utf-8")
    subprocess.run(["sh", "-ec", code_blocks(OWN_TABLE, "sh")[0]], check=True, cwd=fork.root, timeout=60)
    fork.declare(declaration)


def test_the_page_does_what_it_says(fork: Fork, sqlite: dict[str, Any]) -> None:
    follow_the_page(fork)
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


def test_the_tests_that_the_page_names_pass_on_its_table(fork: Fork) -> None:
    follow_the_page(fork)
    _, *tests = shlex.split(code_blocks(OWN_TABLE, "sh")[3])
    run = subprocess.run(
        [sys.executable, *tests], check=False, cwd=fork.root, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stdout
    assert "skipped" not in run.stdout


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
        'MISSING = ("unknown", "")\nCSV_NAME = "own.csv"\nTABLE = "Own_Table"\nMIN_ACCURACY = 0.5\n'
        f"TARGET_NAME = {table[-1].name!r}\nCOLUMNS: tuple[Number | Category, ...] = {table!r}\n"
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
    fork.declare(code_blocks(OWN_TABLE, "python")[1])
    fork.airflow.models, fork.airflow.keys = registry.root, registry.keys
    with fork.service() as service:
        schema.write_text(penguins)  # which the running service does not notice
        refused = service.client.post("/predict", json={})
        assert refused.status_code == 503
        assert "trained on another table than the one with which this service was started" in refused.text
        assert "was changed since, start the service again" in refused.text
    with fork.service() as service:
        service.wait_for_version(version)
    fork.declare(code_blocks(OWN_TABLE, "python")[1])
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
