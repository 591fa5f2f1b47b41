"""A checkout with a table of its own, and what its service must be like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from penguins.journal.tables import URL
from support import AirflowForTests, Service, declare, free_port

Start = Callable[..., subprocess.Popen[str]]


@dataclass
class Fork:
    """A copy of the project, to be given another table."""

    root: Path
    airflow: AirflowForTests
    start_process: Start
    state: Path

    def declare(self, declaration: str) -> None:
        declare(self.root, declaration)

    def schema(self) -> dict[str, Any]:
        """Return what the copy's own schema says, as its own Python reads it."""
        code = (
            "import json; from dataclasses import asdict; from penguins.schema import *; "
            "meant = lambda c: {'meanings': list(getattr(c, 'meanings', {}).items())}; "
            "print(json.dumps({'name': NAME, 'target': asdict(TARGET) | meant(TARGET), 'example': EXAMPLE, "
            "'csv': CSV_NAME, 'features': [{**asdict(c), 'rule': c.rule, **meant(c)} for c in FEATURES]}))"
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
        run = self.airflow.run_dag(connection, self.schema()["name"], **params)
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
            URL: f"sqlite:///{self.state}/journal.db",
        }
        process = self.start_process(sys.executable, "-m", "app", cwd=self.root, env=env)
        service = Service(process, port)
        service.wait(lambda: service.client.get("/health/live").is_success)
        yield service
        service.client.close()
        process.terminate()
        process.wait(timeout=60)


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
        if feature.get("rest"):
            texts = ("no such value", feature["rest"])
            rare, as_rest = (client.post("/predict", json={**schema["example"], feature["name"]: t}) for t in texts)
            assert (rare.status_code, rare.content) == (200, as_rest.content)
            outside = []
        for value in [*outside, *([None] if feature["required"] else [])]:
            refused = client.post("/predict", json={**schema["example"], feature["name"]: value})
            assert refused.status_code == 422, refused.text
            [detail] = refused.json()["detail"]
            assert detail["loc"][:2] == ["body", feature["name"]]
            accepted = [feature["rule"]] if number else map(repr, feature["values"])
            assert all(said in detail["msg"] for said in accepted), detail
        if not feature["required"]:
            only = [f for f in features if "unit" in f] == [feature]  # and one measurement there must be
            without = client.post("/predict", json={**schema["example"], feature["name"]: None})
            assert without.status_code == (422 if only else 200), without.text

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
            outputs = client.post(f"/v2/models/{schema['name']}/infer", json={"inputs": inputs}).json()["outputs"]
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
