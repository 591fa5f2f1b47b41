"""POST /predict compared with an empty endpoint, the tutorials' endpoint and other model servers."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import pandas as pd
import pyarrow as pa

from benchmarks.servers import ROOT, Server, Window, free_port, summary
from penguins.api_keys import add_key
from penguins.data.cleaning import clean
from penguins.data.warehouse import compact
from penguins.evaluation.evaluate import evaluate
from penguins.registry import Keys, Registry
from penguins.schema import COLUMNS, CSV_NAME, EXAMPLE, FEATURES, MISSING, TARGET, Number
from penguins.training.pipeline import build_pipeline, fit, split

ROUNDS = 5
SECONDS = 2
SECONDS_OF_A_SWAP = 10
BATCH = 10_000
BATCH_CLIENTS = (0, 1, 2, 6)
CSV = ROOT / "dags" / CSV_NAME
PEERS = ROOT / "benchmarks" / "peers"
VENVS = ROOT / ".local" / "bench"
# The names of the results.
OURS = "POST /predict"
WITH_KEY = f"{OURS}, with a key"
WITH_JOURNAL = f"{OURS}, with a journal"
EMPTY = "an empty FastAPI endpoint"
TUTORIAL = "the tutorials' endpoint"
RAW = "a constant in raw ASGI"
LABELS = {"mlserver": "MLServer", "bentoml": "BentoML", "litserve": "LitServe", "mlflow": "MLflow"}
ORDINARY = "application/json; charset=utf-8"  # the shortcut does not handle this content type
JSON = "application/json"


@dataclass
class Contender:
    """A server, and the request for one prediction."""

    label: str
    server: Server
    body: Path
    content_type: str = JSON
    key: str = ""  # an API key


def publish_models(registry: Registry, seeds: tuple[int, ...]) -> list[str]:
    """Train and publish a forest with the DAG's defaults for each seed. Return the versions; the last one serves."""
    names = [c.name for c in COLUMNS]
    frame = pd.read_csv(CSV, header=0, names=names, na_values=list(MISSING), keep_default_na=False)
    raw = compact(pa.Table.from_pandas(frame))
    train, test = split(clean(raw), test_size=0.2, random_state=42)
    versions = []
    for seed in seeds:
        pickled = fit(
            build_pipeline(n_estimators=100, max_samples=100_000, random_state=seed, rows=train.num_rows), train
        )
        facts = evaluate(
            pickled,
            train,
            test,
            registry=registry,
            min_accuracy=0.9,
            max_accuracy_drop=1,
            random_state=42,
        )
        del facts["points"], facts["predictions"]  # which do not belong into the manifest
        data = {"sha256": hashlib.sha256(CSV.read_bytes()).hexdigest(), "rows": raw.num_rows}
        manifest = registry.publish(pickled, {**facts, "dag_run_id": f"bench {seed}", "data": data, "params": {}})
        versions.append(manifest["version"])
    return versions


def run(folder: Path, *, peers: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything about serving. Return the results by name."""
    say("training three models")
    registry = Registry(folder / "models", Keys(folder / "key", folder / "key.pub"))
    registry.init()
    versions = publish_models(registry, (1, 2, 3))
    env = {
        "MODELS_DIR": str(registry.root),
        "MODEL_PUBLIC_KEYS_FILE": str(registry.keys.public),
        "PYTHONPATH": str(ROOT / "plugins"),
        "VERSION": versions[-1],
    }
    one, many = folder / "one.json", folder / "many.json"
    one.write_text(json.dumps(EXAMPLE))
    many.write_text(json.dumps({"records": _records(BATCH)}))

    results: dict[str, Any] = {}
    service = _service(env, folder)
    say("starting the service several times")
    results["start"] = _starts(service)
    with ExitStack() as stack:
        locked, key = _locked(env, folder)
        noting = _noting(env, folder)
        for server in (service, locked, noting):
            server.start()
            stack.callback(server.stop)
        contenders = [
            Contender(OURS, service, one),
            Contender(WITH_KEY, locked, one, key=key),
            Contender(WITH_JOURNAL, noting, one),
            Contender(f"{OURS}, ordinary route", service, one, ORDINARY),
        ]
        for name, label in {
            "empty": EMPTY,
            "tutorial": TUTORIAL,
            "raw": RAW,
        }.items():
            server = _uvicorn(name, env, folder)
            server.start()
            stack.callback(server.stop)
            contenders.append(Contender(label, server, one))
        if peers:
            _, pickled = registry.read(versions[-1])
            (folder / "model.pkl").write_bytes(pickled)
            for contender in _peers(folder, say):
                contender.server.start()
                stack.callback(contender.server.stop)
                contenders.append(contender)
        for contender in contenders:
            _check(contender)
        results["predict"] = _alternate(contenders, say)
        for other in (locked, noting):  # they have the same registry, and would open each version as well
            other.stop()
        tutorial = next(c.server for c in contenders if c.label == TUTORIAL)
        results["batch"] = _batches(service, tutorial, many, say)
        results["beside"] = _beside_batches(service, one, many, say)
        results["swap"] = _swaps(service, registry, versions, one, say)
    return results


def goals(measured: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Return each measured ratio with its goal."""
    predict, batch, swap, beside = (measured[part] for part in ("predict", "batch", "swap", "beside"))
    ours, empty, raw = (predict[label]["cpu_us"] for label in (OURS, EMPTY, RAW))
    one_client = beside["1"]["batches_per_second"]
    rows = [found["rows_per_second"] for found in batch.values()]
    return {
        f"requests/s, {OURS} ÷ {EMPTY}": (
            predict[OURS]["per_second"] / predict[EMPTY]["per_second"],
            "at least 1.3",
        ),
        "CPU per request beyond raw ASGI's, ours ÷ the empty endpoint's": ((ours - raw) / (empty - raw), "at most 0.6"),
        "p99, ours ÷ the empty endpoint's": (predict[OURS]["p99_ms"] / predict[EMPTY]["p99_ms"], "at most 1"),
        f"requests/s, {OURS} ÷ {TUTORIAL}": (
            predict[OURS]["per_second"] / predict[TUTORIAL]["per_second"],
            "at least 100",
        ),
        "requests/s, with an API key ÷ without": (
            predict[WITH_KEY]["per_second"] / predict[OURS]["per_second"],
            "at least 0.9",
        ),
        "requests/s, with a journal ÷ without": (
            predict[WITH_JOURNAL]["per_second"] / predict[OURS]["per_second"],
            "at least 0.9",
        ),
        "rows/s, POST /predict/batch of 10,000 ÷ the DataFrame way": (rows[0] / rows[1], "at least 4"),
        "ms, p99 of single predictions beside clients of batches": (
            max(found["p99_ms"] for found in beside.values()),
            "at most 20",
        ),
        "batches/s of several clients ÷ of one": (
            min(found["batches_per_second"] for clients, found in beside.items() if clients not in ("0", "1"))
            / one_client,
            "at least 0.95",
        ),
        "p99 with a swap ÷ p99 without": (swap["p99_ms_with_a_swap"] / swap["p99_ms"], "at most 3"),
        "seconds from a process's start to ready": (measured["start"]["seconds_to_ready"], "at most 5"),
    }


def table(measured: dict[str, Any]) -> str:
    """Return a table of what was measured at 8 connections."""
    titles = f"{'req/s':>9}{'spread':>8}{'CPU µs':>9}{'p50 ms':>9}{'p99 ms':>9}{'MB':>6}"
    head = f"\n{'8 connections, one worker, medians':<36}{titles}"
    lines = [
        f"{label:<36}{m['per_second']:9.0f}{m['spread']:8.0%}{m['cpu_us']:9.0f}"
        f"{m['p50_ms']:9.2f}{m['p99_ms']:9.2f}{m['memory_mb']:6.0f}"
        for label, m in measured["predict"].items()
    ]
    lines.append(f"\n{'single predictions beside batches of 10,000':<44}{'p50 ms':>9}{'p99 ms':>9}{'batches/s':>11}")
    for clients, m in measured["beside"].items():
        figures = f"{m['p50_ms']:9.2f}{m['p99_ms']:9.2f}{m['batches_per_second']:11.1f}"
        lines.append(f"{clients + ' clients that send batches':<44}{figures}")
    return "\n".join([head, *lines, ""])


def _records(count: int) -> list[dict[str, Any]]:
    """Return records close to the schema's example, with some values missing."""
    draw = random.Random(0)
    return [
        {
            c.name: (
                min(max(round(draw.gauss(c.example, (c.maximum - c.minimum) / 50), 1), c.minimum), c.maximum)
                if isinstance(c, Number)
                else draw.choice(c.values)
            )
            if c.required or draw.random() < 0.99
            else None
            for c in FEATURES
        }
        for _ in range(count)
    ]


def _service(env: dict[str, str], folder: Path) -> Server:
    port = free_port()
    return Server(
        "the service",
        [sys.executable, "-m", "app"],
        port,
        env={**env, "API_PORT": str(port)},
        ready="/health/ready",
        log=folder / "service.log",
    )


def _locked(env: dict[str, str], folder: Path) -> tuple[Server, str]:
    """Return the service with a lock, and a key to it."""
    key = add_key(folder / "api_keys", "bench")
    locked = _service({**env, "API_KEYS_FILE": str(folder / "api_keys")}, folder)
    locked.log = folder / "locked.log"
    return locked, key


def _noting(env: dict[str, str], folder: Path) -> Server:
    """Return the service with a journal."""
    noting = _service({**env, "API_JOURNAL_URL": f"sqlite:///{folder}/journal.db"}, folder)
    noting.log = folder / "noting.log"
    return noting


def _uvicorn(name: str, env: dict[str, str], folder: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"benchmarks.endpoints:{name}", "--port", str(port), "--no-access-log"]
    return Server(name, command, port, env=env, log=folder / f"{name}.log")


def _starts(service: Server) -> dict[str, float]:
    seconds = []
    for _ in range(3):
        service.start()
        service.stop()
        seconds.append(service.seconds_to_start)
    return {"seconds_to_ready": median(seconds)}


def _check(contender: Contender) -> None:
    """Send one request, and check that the right class comes back: only working servers are measured."""
    headers = {"content-type": contender.content_type, "x-api-key": contender.key}
    url = contender.server.url + contender.server.path
    answer = httpx2.post(url, content=contender.body.read_bytes(), headers=headers, timeout=60, trust_env=False)
    constant = contender.server.name in ("empty", "raw")
    if not answer.is_success or not (constant or TARGET.example in answer.text or "[0.0, 0.0, 1.0]" in answer.text):
        raise RuntimeError(f"{contender.label} answers {answer.status_code} {answer.text[:2000]}")


def _alternate(contenders: list[Contender], say: Callable[[str], None]) -> dict[str, Any]:
    windows: dict[str, list[Window]] = {c.label: [] for c in contenders}
    for c in contenders:
        c.server.load(c.body, seconds=1, content_type=c.content_type, key=c.key)
    for number in range(1, ROUNDS + 1):
        say(f"POST /predict, round {number} of {ROUNDS}")
        for c in contenders:
            windows[c.label].append(c.server.load(c.body, seconds=SECONDS, content_type=c.content_type, key=c.key))
    return {c.label: {**summary(windows[c.label]), "memory_mb": c.server.memory_mb()} for c in contenders}


def _batches(service: Server, tutorial: Server, body: Path, say: Callable[[str], None]) -> dict[str, Any]:
    windows: dict[str, list[Window]] = {"POST /predict/batch": [], "the DataFrame way": []}
    for number in range(ROUNDS + 1):
        say(f"batches of {BATCH} records, round {number} of {ROUNDS}")
        for label, server in zip(windows, (service, tutorial), strict=True):
            window = server.load(body, seconds=SECONDS, connections=1, path="/predict/batch")
            if number:  # the first round is the warm-up
                windows[label].append(window)
    return {
        label: {**(s := summary(found)), "rows_per_second": s["per_second"] * BATCH} for label, found in windows.items()
    }


def _beside_batches(service: Server, one: Path, many: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the latency of single predictions beside clients that send batches without a pause, and their rate alone.

    One client sends the singles. The numbers of batch clients alternate.
    """
    alone: dict[int, list[Window]] = {clients: [] for clients in BATCH_CLIENTS if clients}
    singles: dict[int, list[Window]] = {clients: [] for clients in BATCH_CLIENTS}
    for number in range(1, ROUNDS + 1):
        say(f"single predictions beside batches, round {number} of {ROUNDS}")
        for clients in BATCH_CLIENTS:
            with ThreadPoolExecutor(1) as beside:
                if clients:
                    batches = partial(service.load, many, connections=clients, path="/predict/batch")
                    alone[clients].append(batches(seconds=SECONDS))
                    sending = beside.submit(batches, seconds=SECONDS + 1)
                    time.sleep(0.3)
                singles[clients].append(service.load(one, seconds=SECONDS, connections=1))
                if clients:
                    sending.result(timeout=60)
    return {
        str(clients): {
            "p50_ms": median(w.p50_ms for w in windows),
            "p99_ms": median(w.p99_ms for w in windows),
            "batches_per_second": median(w.per_second for w in alone[clients]) if clients else 0.0,
        }
        for clients, windows in singles.items()
    }


def _swaps(
    service: Server, registry: Registry, versions: list[str], body: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Compare windows in which a version takes over with windows in which none does."""
    quiet, swapping, backwards, took = [], [], 0, []
    order = [versions[-1]]
    for number in range(1, ROUNDS + 1):
        say(f"a swap under load, round {number} of {ROUNDS}")
        quiet.append(service.load(body, seconds=SECONDS_OF_A_SWAP))
        # Three in turn: the service keeps only two, so it has to open and compile the third again.
        order.append(versions[number % len(versions) - 1])
        with _Watch(service) as watch:
            registry.activate(order[-1])
            swapping.append(service.load(body, seconds=SECONDS_OF_A_SWAP))
        if watch.versions[-1] != order[-1]:
            raise RuntimeError(f"{order[-1]} did not take over within {SECONDS_OF_A_SWAP} s: {watch.versions}")
        took.append(watch.seconds)
        backwards += watch.versions != order[-2:]
    return {
        "p99_ms": median(w.p99_ms for w in quiet),
        "p99_ms_with_a_swap": median(w.p99_ms for w in swapping),
        "seconds_to_serve": median(took),
        "backwards": backwards,
    }


class _Watch:
    """A client that keeps sending requests, and notes which versions answer, without repeats."""

    def __init__(self, service: Server) -> None:
        self.url = service.url + service.path
        self.versions: list[str] = []
        self.seconds = 0.0
        self._error: httpx2.HTTPError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> _Watch:
        self._thread.start()
        while not self.versions and self._thread.is_alive():
            time.sleep(0.001)
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            self._watch()
        except httpx2.HTTPError as error:
            self._error = error

    def _watch(self) -> None:
        with httpx2.Client(trust_env=False, timeout=30) as client:
            while not self._stop.wait(0.01):
                version = client.post(self.url, json=EXAMPLE).raise_for_status().json()["model_version"]
                if [version] != self.versions[-1:]:
                    if self.versions:
                        self.seconds = time.monotonic() - self._started
                    self.versions.append(version)


def _peers(folder: Path, say: Callable[[str], None]) -> list[Contender]:
    """Return the other model servers. Each has its own virtual environment; all serve the same pickle."""
    numbers = {c.name: float(c.example) if isinstance(c, Number) else c.example for c in FEATURES}
    tensors = [
        {
            "name": c.name,
            "shape": [1],
            **(
                {"datatype": "FP64"}
                if isinstance(c, Number)
                else {"datatype": "BYTES", "parameters": {"content_type": "str"}}
            ),
            "data": [numbers[c.name]],
        }
        for c in FEATURES
    ]
    outputs = [{"name": "predict"}, {"name": "predict_proba"}]
    v2 = {"parameters": {"content_type": "pd"}, "inputs": tensors, "outputs": outputs}
    asked = {
        "mlserver": ("/v2/models/penguins/infer", v2, "/v2/models/penguins/ready"),
        "bentoml": ("/predict", {"record": EXAMPLE}, "/readyz"),
        "litserve": ("/predict", EXAMPLE, "/health"),
        "mlflow": ("/invocations", {"dataframe_records": [EXAMPLE]}, "/ping"),
    }
    found = []
    for name, (path, body, ready) in asked.items():
        say(f"installing {name}")
        python = _venv(name)
        port = free_port()
        (folder / name).mkdir()
        (folder / f"{name}.json").write_text(json.dumps(body))
        server = Server(
            name,
            [str(python), str(PEERS / f"{name}_server.py"), str(folder / "model.pkl"), str(port), str(folder / name)],
            port,
            path=path,
            ready=ready,
            env={"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""},
            log=folder / f"{name}.log",
        )
        found.append(Contender(LABELS[name], server, folder / f"{name}.json"))
    return found


def _venv(name: str) -> Path:
    venv, uv = VENVS / name, ROOT / ".local" / "tools" / "bin" / "uv"
    requirements = PEERS / f"{name}.txt"
    for command in (
        [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, venv],
        [uv, "pip", "install", "--quiet", "--python", venv / "bin" / "python", "--requirement", requirements],
    ):
        subprocess.run([str(part) for part in command], check=True, timeout=600)
    return venv / "bin" / "python"
