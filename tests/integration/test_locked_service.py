"""The service with keys, two workers and a port for /metrics; Swagger's Authorize in a browser."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import psutil
import pytest
from playwright.sync_api import expect, sync_playwright

from app.inference_protocol.routes import EXAMPLE_INPUTS
from penguins.api_keys import add_key, remove_key
from penguins.schema import EXAMPLE, TARGET
from support import ROOT, Service, empty_registry, free_port


class Locked(NamedTuple):
    service: Service
    metrics_url: str
    keys_file: Path
    key: str


def environment(folder: Path, **settings: str) -> dict[str, str]:
    folders = {"MODELS_DIR": str(folder / "models"), "MODEL_PUBLIC_KEYS_FILE": str(folder / "key.pub")}
    return os.environ | folders | {"PYTHONPATH": str(ROOT / "plugins"), **settings}


@pytest.fixture(scope="module")
def locked(trained: tuple[bytes, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("locked")
    empty_registry(folder).publish(*trained)
    key, port, metrics_port = add_key(folder / "api_keys", "lab"), free_port(), free_port()
    settings = {"API_PORT": str(port), "API_METRICS_PORT": str(metrics_port), "API_WORKERS": "2"}
    env = environment(folder, API_KEYS_FILE=str(folder / "api_keys"), **settings)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app"], cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, text=True
        )
    family: list[psutil.Process] = []
    try:
        service = Service(process, port)
        service.wait(lambda: service.client.get("/health/ready").is_success)
        yield Locked(service, f"http://127.0.0.1:{metrics_port}/metrics", folder / "api_keys", key)
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        process.wait(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def predict(locked: Locked, key: str) -> int:
    """Ask on a new connection, which may go to any worker."""
    url = f"http://127.0.0.1:{locked.service.port}/predict"
    return httpx2.post(url, json=EXAMPLE, headers={"X-API-Key": key}, timeout=60).status_code


def test_all_workers_count_by_key_on_the_port_of_the_metrics_and_only_there(locked: Locked) -> None:
    assert locked.service.client.get("/metrics").status_code == 404
    assert [predict(locked, locked.key) for _ in range(30)] == [200] * 30
    line = 'model_requests_total{endpoint="/predict",key="lab",model="modelo_penguin",status="200"} 30.0'
    for _ in range(10):  # each on a new connection as well
        locked.service.wait(lambda: line in httpx2.get(locked.metrics_url, timeout=60).text.splitlines())
    other = httpx2.get(locked.metrics_url.replace("/metrics", "/model-info"), timeout=60)
    assert other.status_code == 404
    second = add_key(locked.keys_file, "ship")
    locked.service.wait(lambda: {predict(locked, second) for _ in range(10)} == {200})
    remove_key(locked.keys_file, "ship")
    locked.service.wait(lambda: {predict(locked, second) for _ in range(10)} == {401})


def test_swaggers_authorize_sends_the_key(locked: Locked) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)
        page.goto(f"http://127.0.0.1:{locked.service.port}/")
        operation = page.locator(".opblock", has=page.get_by_text("/predict", exact=True))
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Try it out").click()
        for key, status in ((None, 401), (locked.key, 200)):
            if key:
                page.get_by_role("button", name="Authorize").first.click()
                dialog = page.locator(".modal-ux")
                dialog.locator("input").fill(key)
                dialog.get_by_role("button", name="Apply credentials").click()
                dialog.get_by_role("button", name="Close").click()
            with page.expect_response("**/predict") as answered:
                operation.get_by_role("button", name="Execute").click()
            assert answered.value.status == status
            body = operation.locator(".live-responses-table").get_by_text(re.compile(TARGET.name if key else "detail"))
            expect(body.first).to_be_visible()
        assert json.loads(answered.value.text())[TARGET.name] == TARGET.example
        browser.close()


def test_a_typed_client_is_made_from_the_openapi_without_a_warning_and_predicts(
    locked: Locked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{locked.service.port}"
    (tmp_path / "openapi.json").write_text(locked.service.client.get("/openapi.json").text)
    made = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning", "--meta", "none"),
            *("--path", "openapi.json", "--output-path", "penguin_client"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},  # for ruff
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (made.returncode, "arning" in made.stdout + made.stderr) == (0, False), made.stdout + made.stderr
    monkeypatch.syspath_prepend(str(tmp_path))
    client, models = (importlib.import_module(f"penguin_client{part}") for part in ("", ".models"))
    predict = importlib.import_module("penguin_client.api.predict.predict")
    infer = importlib.import_module("penguin_client.api.open_inference_protocol.infer")

    body = models.Record.from_dict(EXAMPLE)
    with client.AuthenticatedClient(url, token=locked.key, prefix="", auth_header_name="X-API-Key") as knows:
        answer = predict.sync(client=knows, body=body)
        assert isinstance(answer, models.Prediction)
        assert getattr(answer, TARGET.name).value == TARGET.example
        asked = models.InferenceRequest.from_dict({"inputs": EXAMPLE_INPUTS})
        (label, probabilities) = infer.sync(client=knows, body=asked).outputs
        assert label.data == [TARGET.example]
        assert probabilities.data == list(answer.probabilities.to_dict().values())
    refused = predict.sync(client=client.Client(url), body=body)
    assert isinstance(refused, models.Problem)
    assert "add NAME" in refused.detail


def test_a_service_that_could_not_do_what_was_asked_for_says_so_in_a_line_and_ends(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        wrong = {
            "does not start without its lock: the keys": {"API_KEYS_FILE": str(tmp_path / "none")},
            f"API_METRICS_PORT is {port}, which cannot be used": {"API_METRICS_PORT": port},
            "API_ROOT_PATH is 'penguins': ": {"API_ROOT_PATH": "penguins"},
            "API_JOURNAL_URL is no URL of a database": {"API_JOURNAL_URL": "journal.db"},
            "API_JOURNAL_DIR and API_JOURNAL_MB: of an earlier release. The journal is in a database now": {
                "API_JOURNAL_DIR": str(tmp_path),
                "API_JOURNAL_MB": "1",
            },
        }
        ended = {
            said: subprocess.Popen(
                [sys.executable, "-m", "app"],
                cwd=ROOT,
                env=environment(tmp_path, API_WORKERS="2", **settings),
                stderr=subprocess.PIPE,
                text=True,
            )
            for said, settings in wrong.items()
        }
        for said, process in ended.items():
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 1
            assert said in errors
            assert len(errors.splitlines()) == 1
