"""The service as a process of its own, under load while bad and good versions arrive."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from penguins.compatibility import library_versions
from penguins.inference import TOLERANCE
from penguins.registry import Registry
from penguins.registry.pointer import move_pointer
from penguins.schema import CSV_NAME, EXAMPLE, FEATURES, MISSING, NUMBERS
from support import ROOT, Service, code_blocks, free_port

Publish = Callable[[], dict[str, Any]]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def service(registry: Registry, publish: Publish, start_process: Start) -> Service:
    """The service, with one model published."""
    return serve(registry, publish, start_process)


def serve(registry: Registry, publish: Publish, start_process: Start, **settings: str) -> Service:
    publish()
    service = start(registry, start_process, **settings)
    service.wait(lambda: service.client.get("/health/ready").is_success)
    return service


def start(registry: Registry, start_process: Start, **settings: str) -> Service:
    """Return the service as soon as it answers, with a model or without."""
    port = free_port()
    env = os.environ | {
        "MODELS_DIR": str(registry.root),
        "MODEL_PUBLIC_KEYS_FILE": str(registry.keys.public),
        "PYTHONPATH": str(ROOT / "plugins"),
        "API_PORT": str(port),
        "API_POLL_SECONDS": "0.05",
        "API_RETRY_SECONDS": "0.2",
        **settings,
    }
    service = Service(start_process(sys.executable, "-m", "app", cwd=ROOT, env=env), port)
    service.wait(lambda: service.client.get("/health/live").is_success)
    return service


class Load:
    """Clients that predict without a pause, and what they were answered."""

    def __init__(self, port: int, clients: int = 4) -> None:
        self.failures: list[str] = []
        self.versions: list[list[str]] = [[] for _ in range(clients)]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(port, n)) for n in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def _run(self, port: int, number: int) -> None:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post("/predict", json=EXAMPLE)
                    if answer.status_code == 200:
                        self.versions[number].append(answer.json()["model_version"])
                    else:
                        self.failures.append(answer.text)
                    ready = client.get("/health/ready")
                    if ready.status_code != 200:
                        self.failures.append(ready.text)
                except httpx2.HTTPError as error:
                    self.failures.append(repr(error))


def resign(registry: Registry, version: str, **changes: Any) -> None:
    """Change facts of a manifest and sign it again: the signature is valid, the content is not."""
    content = json.dumps(registry.manifest(version) | changes).encode()
    (registry.root / version / "manifest.json").write_bytes(content)
    (registry.root / version / "manifest.sig").write_bytes(registry.keys.sign(content))


def flipped(registry: Registry, version: str) -> None:
    path = registry.root / version / "model.pkl"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def unsigned(registry: Registry, version: str) -> None:
    (registry.root / version / "manifest.sig").unlink()


def other_libraries(registry: Registry, version: str) -> None:
    resign(registry, version, libraries={**library_versions(), "scikit-learn": "1.2.3"})


def other_golden_rows(registry: Registry, version: str) -> None:
    golden = registry.manifest(version)["golden"]
    golden["probabilities"][0] = golden["probabilities"][0][::-1]
    golden["labels"][0] = "Gentoo"
    resign(registry, version, golden=golden)


def no_manifest(registry: Registry, version: str) -> None:
    (registry.root / version / "manifest.json").unlink()


def no_folder(registry: Registry, version: str) -> None:
    shutil.rmtree(registry.root / version)


BAD: dict[Callable[[Registry, str], None], str] = {
    flipped: "sha256",
    unsigned: "manifest.sig cannot be read",
    other_libraries: "scikit-learn 1.2.3 (here",
    other_golden_rows: "golden row 1 gives",
    no_manifest: "manifest.json cannot be read",
    no_folder: "manifest.json cannot be read",
}


GOOD = 2  # versions that take over in between; each is compiled for two seconds


def test_under_load_good_versions_take_over_and_bad_ones_of_every_sort_do_not(
    service: Service, registry: Registry, publish: Publish, tmp_path: Path
) -> None:
    order = [registry.current()]
    with Load(service.port) as load:
        service.wait(lambda: all(load.versions))
        for spoil, reason in BAD.items():
            bad = registry.root / publish_unseen(registry, order[-1])
            spoil(registry, bad.name)
            # In one step, as a publisher does: half a pointer would be refused as well.
            move_pointer(registry.root, registry.keys, bad.name)
            assert reason in service.wait_for_rejection(bad.name)
            assert service.info()["version"] == order[-1]
            if len(order) <= GOOD:
                order.append(publish()["version"])
                service.wait_for_version(order[-1])
        rejections = service.metric("model_rejections_total")
    assert rejections == len(BAD)
    assert load.failures == []
    for versions in load.versions:
        assert [order.index(v) for v in versions] == sorted(order.index(v) for v in versions)
    assert {v for versions in load.versions for v in versions} == set(order)


def test_a_notebook_without_this_project_gives_the_same_probabilities(
    service: Service, registry: Registry, tmp_path: Path
) -> None:
    """What docs/running.md says, in an environment of its own: whatever the pickle names must be there."""
    [block] = code_blocks(ROOT / "docs" / "running.md", "python")
    block = block.replace("models/VERSION", str(registry.root / registry.current()))
    python = notebook(tmp_path / "notebook")
    result = subprocess.run(
        [python, "-I", "-c", f"{block}\nprint(probabilities.to_json(orient='records'))"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    rows = list(csv.DictReader((ROOT / "dags" / CSV_NAME).open(encoding="utf-8")))
    records = [
        {c.name: None if (v := row[c.name]) in MISSING else float(v) if c in NUMBERS else v for c in FEATURES}
        for row in rows
    ]
    measured = [any(record[c.name] is not None for c in NUMBERS) for record in records]
    asked = [record for record, asked in zip(records, measured, strict=True) if asked]
    answer = service.client.post("/predict/batch", json={"records": asked}).raise_for_status().json()
    in_notebook = [found for found, asked in zip(json.loads(result.stdout), measured, strict=True) if asked]
    assert sum(None in record.values() for record in asked) > 5
    for here, there in zip(in_notebook, answer["predictions"], strict=True):
        assert here == pytest.approx(there["probabilities"], abs=TOLERANCE)


def notebook(folder: Path) -> Path:
    """Make an environment with scikit-learn and pandas alone, as the project has them. Return its Python."""
    uv = [sys.executable, "-m", "uv"]
    if subprocess.run([*uv, "--version"], check=False, capture_output=True).returncode:
        pytest.skip("uv is not installed: it makes an empty environment in a second. It is among the dev dependencies")
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, folder], check=True, timeout=60)
    python = folder / "bin" / "python"
    wanted = [f"{name}=={version}" for name, version in library_versions().items() if name != "python"]
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, *wanted], check=True, timeout=120)
    return python


def publish_unseen(registry: Registry, like: str) -> str:
    """Publish a good version's model again while the pointer stays: it can be spoilt before the service looks."""
    before = (registry.root / "current").read_text()
    hidden = Registry(registry.root.parent / "hidden", registry.keys)
    hidden.root.mkdir(exist_ok=True)
    newest = registry.versions()[0]
    shutil.copytree(registry.root / newest, hidden.root / newest, dirs_exist_ok=True)
    manifest, pickled = registry.read(like)
    facts = {k: v for k, v in manifest.items() if k not in ("version", "created_at", "sha256", "size_bytes")}
    version = hidden.publish(pickled, facts)["version"]
    shutil.move(hidden.root / version, registry.root / version)
    assert (registry.root / "current").read_text() == before
    return version


def test_under_load_a_rollback_on_the_command_line_is_served(
    service: Service, registry: Registry, publish: Publish
) -> None:
    first = registry.current()
    second = publish()["version"]
    service.wait_for_version(second)
    env = os.environ | {"MODELS_DIR": str(registry.root), "MODEL_SIGNING_KEY_FILE": str(registry.keys.private)}
    with Load(service.port) as load:
        service.wait(lambda: all(load.versions))
        subprocess.run(
            [sys.executable, "-m", "penguins.registry", "activate", first],
            check=True,
            env=env | {"PYTHONPATH": str(ROOT / "plugins")},
            timeout=60,
            stdout=subprocess.DEVNULL,
        )
        service.wait_for_version(first)
    assert load.failures == []


@pytest.mark.parametrize("lost", ["pointer", "volume"])
def test_under_load_a_lost_pointer_or_volume_changes_nothing_and_is_found_again(
    service: Service, registry: Registry, publish: Publish, lost: str
) -> None:
    serving = registry.current()
    path = registry.root / "current" if lost == "pointer" else registry.root
    away = path.with_name("away")
    with Load(service.port) as load:
        service.wait(lambda: all(load.versions))
        path.rename(away)
        seen = len(load.versions[0])
        service.wait(lambda: len(load.versions[0]) > seen + 20)
        assert service.info()["version"] == serving
        away.rename(path)
        newer = publish()["version"]
        service.wait_for_version(newer)
    assert load.failures == []


def test_a_fifo_or_a_link_to_the_key_in_place_of_a_file_is_refused_and_then_the_watch_goes_on(
    service: Service, registry: Registry, publish: Publish
) -> None:
    serving, pointer, key = registry.current(), registry.root / "current", registry.keys.private.read_text()
    hidden = publish_unseen(registry, serving)
    with Load(service.port) as load:
        service.wait(lambda: all(load.versions))
        pointer.unlink()
        os.mkfifo(pointer)  # whoever opens it waits for somebody to write
        assert "it is a FIFO" in service.wait_for_rejection("current")
        pointer.unlink()
        pointer.symlink_to(registry.keys.private)
        service.wait(lambda: "it is a symbolic link" in service.wait_for_rejection("current"))
        assert key.splitlines()[1] not in service.client.get("/model-info").text
        assert "it is a symbolic link" in service.client.get("/health/ready").json()["registry"]
        pointer.unlink()
        (pickled := registry.root / hidden / "model.pkl").rename(registry.root / "away")
        os.mkfifo(pickled)
        move_pointer(registry.root, registry.keys, hidden)
        assert "it is a FIFO" in service.wait_for_rejection(hidden)
        assert service.info()["version"] == serving
        pickled.unlink()
        (registry.root / "away").rename(pickled)
        service.wait_for_version(hidden)
    assert load.failures == []


def test_a_body_of_100_mb_is_refused_while_it_is_read_and_memory_stays_flat(service: Service) -> None:
    process = psutil.Process(service.process.pid)
    before = process.memory_info().rss
    highest = before

    def pieces() -> Iterator[bytes]:
        nonlocal highest
        for _ in range(100):
            highest = max(highest, process.memory_info().rss)
            yield b" " * 2**20

    try:
        answer = service.client.post("/predict", content=pieces(), headers={"content-type": "application/json"})
        assert answer.status_code == 413
    except httpx2.WriteError:
        pass  # the service answered and hung up before all was sent
    assert max(highest, process.memory_info().rss) - before < 50 * 2**20
    assert service.client.post("/predict", json=EXAMPLE).status_code == 200


def filled(head: bytes, value: bytes, tail: bytes) -> bytes:
    """Return a body of 4 MiB that repeats a value."""
    return head + value * ((4 * 2**20 - len(head) - len(tail)) // len(value)) + tail


KEYS = b",".join(b'"%06x":1' % number for number in range(370_000))  # 4 MB
INFER = "/v2/models/modelo_penguin/infer"
HOSTILE: dict[str, tuple[str, bytes]] = {
    "empty objects in a record": ("/predict", filled(b'{"a":[', b"{},", b"0]}")),
    "empty lists in a record": ("/predict/batch", filled(b'{"records":[{"a":[', b"[],", b"0]}]}")),
    "empty records": ("/predict/batch", filled(b'{"records":[', b"{},", b"{}]}")),
    "numbers as records": ("/predict/batch", filled(b'{"records":[', b"1,", b"1]}")),
    "a record of many fields": ("/predict/batch", b'{"records":[{%b}]}' % KEYS),
    "a batch of many fields": ("/predict/batch", b"{%b}" % KEYS),
    "10,000 records of nothing": ("/predict/batch", b'{"records":[%b]}' % b",".join([b"{}"] * 10_000)),
    "nothing closed": ("/predict/batch", filled(b'{"records":[', b"[", b"")),
    "many inputs": (INFER, filled(b'{"inputs":[', b"{},", b"{}]}")),
    "many parameters": (INFER, b'{"inputs":[],"parameters":{%b}}' % KEYS),
    "a shape of lists": (
        INFER,
        filled(b'{"inputs":[{"name":"island","datatype":"BYTES","data":[],"shape":[', b"[],", b"0]}]}"),
    ),
    "much feedback": ("/feedback", filled(b"[", b"{},", b"{}]")),
    "feedback of many fields": ("/feedback", b"[{%b}]" % KEYS),
}


def peak(process: int, *, anew: bool = False) -> int:
    """Return the most memory that a process has had, in bytes, since it was asked to count anew."""
    if anew:
        Path(f"/proc/{process}/clear_refs").write_text("5")
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much memory a process has had at most")
def test_no_body_takes_much_memory(registry: Registry, publish: Publish, start_process: Start, tmp_path: Path) -> None:
    service = serve(registry, publish, start_process, API_JOURNAL_URL=f"sqlite:///{tmp_path}/journal.db")
    rest = peak(service.process.pid, anew=True)
    for name, (path, body) in HOSTILE.items():
        answer = service.client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 413, 422), (name, answer.text)
        assert len(answer.content) < 50_000, name
        assert peak(service.process.pid) - rest < 150 * 2**20, name
    assert service.client.post("/predict", json=EXAMPLE).status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much memory a process has had at most")
def test_many_readers_of_large_files_take_turns(service: Service, registry: Registry) -> None:
    """A manifest and a report as large as they may be, each asked for by many at once."""
    version = service.info()["version"]
    (registry.root / version / "manifest.json").write_bytes(4 * filled(b'{"a":[', b"{},", b"0]}"))
    (registry.root / version / "report.html").write_bytes(b"x" * 2**22)
    rest = peak(service.process.pid, anew=True)
    with ThreadPoolExecutor(20) as threads:
        address = f"http://127.0.0.1:{service.port}"
        for path, status in (("/models", 200), ("/report", 404)):
            answers = threads.map(lambda path: httpx2.get(address + path, timeout=120), [path] * 20)
            assert {answer.status_code for answer in answers} == {status}
    assert peak(service.process.pid) - rest < 150 * 2**20


def test_clients_that_send_nothing_more_do_not_keep_others_waiting(service: Service) -> None:
    body = json.dumps(EXAMPLE).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    slow = [socket.create_connection(("127.0.0.1", service.port), timeout=30) for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(head.encode() + body[:10])
        assert service.client.post("/predict", json=EXAMPLE).status_code == 200
        slow[0].sendall(body[10:])
        assert slow[0].recv(100).startswith(b"HTTP/1.1 200")
    finally:
        for connection in slow:
            connection.close()
    assert service.client.post("/predict", json=EXAMPLE).status_code == 200


def test_while_the_first_version_loads_every_503_says_so(
    registry: Registry, publish: Publish, start_process: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    service = start(registry, start_process, API_WORKERS="2", TMPDIR=str(folder))
    (shared,) = folder.glob("modelo_penguin-*")
    paths = ["/health/ready", "/model-info", "/report", "/v2/health/ready", "/v2/models/modelo_penguin/ready"]

    def answers() -> list[httpx2.Response]:
        """Return the answers on new connections, each of which may go to any worker."""
        url = f"http://127.0.0.1:{service.port}"
        predicted = httpx2.post(f"{url}/predict", json=EXAMPLE, timeout=60)
        return [predicted, *(httpx2.get(url + path, timeout=60) for path in paths)]

    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever compiles waits for it
        assert all("trigger the DAG" in answer.text for answer in answers())
        said = f"version {publish()['version']} was published, and has been loading since 20"
        service.wait(lambda: all(said in answer.text for _ in range(3) for answer in answers()))
        assert {answer.status_code for answer in answers()} == {503}
    service.wait(lambda: all(answer.is_success or "/report" in str(answer.url) for answer in answers()))


def waiting_compiler(service: Service) -> psutil.Process:
    (compiler,) = psutil.Process(service.process.pid).children()
    assert "app.fast.compiler" in compiler.cmdline()
    return compiler


@pytest.mark.parametrize("killed", [False, True])
def test_a_first_version_is_compiled_by_the_process_that_waits_and_without_it_all_the_same(
    registry: Registry, publish: Publish, start_process: Start, killed: bool
) -> None:
    service = start(registry, start_process)
    compiler = waiting_compiler(service)
    if killed:
        compiler.kill()
    version = publish()["version"]
    service.wait_for_version(version)
    assert service.info()["predictor"] == "onnx"
    assert psutil.Process(service.process.pid).children() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_compiler_that_waits_ends_with_the_service(
    registry: Registry, start_process: Start, number: signal.Signals
) -> None:
    service = start(registry, start_process)
    compiler = waiting_compiler(service)
    service.process.send_signal(number)
    service.process.wait(timeout=60)
    _, alive = psutil.wait_procs([compiler], timeout=60)
    assert alive == []


@pytest.mark.parametrize(("workers", "number"), [("1", signal.SIGTERM), ("2", signal.SIGINT)])
def test_nothing_is_left_behind(
    registry: Registry, publish: Publish, start_process: Start, tmp_path: Path, workers: str, number: int
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    service = serve(registry, publish, start_process, API_WORKERS=workers, TMPDIR=str(folder), HOME=str(folder))
    family = psutil.Process(service.process.pid).children(recursive=True)
    service.process.send_signal(number)
    service.process.wait(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    assert list(folder.iterdir()) == []


def test_several_workers_swap_each_by_itself_and_count_together(
    registry: Registry, publish: Publish, start_process: Start
) -> None:
    service = serve(registry, publish, start_process, API_WORKERS="2")
    predicted = 'model_requests_total{endpoint="/predict",model="modelo_penguin",status="200"}'

    def answers() -> list[dict[str, Any]]:
        """Return the answers on many new connections, each of which may go to any worker."""
        return [httpx2.get(f"http://127.0.0.1:{service.port}/model-info", timeout=60).json() for _ in range(20)]

    def loads() -> float:
        return service.metric("model_loads_total")

    def workers() -> list[psutil.Process]:
        children = psutil.Process(service.process.pid).children()
        return [c for c in children if "spawn_main" in " ".join(c.cmdline())]

    service.wait(lambda: loads() == 2)
    assert len(workers()) == 2
    for _ in range(40):
        assert httpx2.post(f"http://127.0.0.1:{service.port}/predict", json=EXAMPLE, timeout=60).is_success
    service.wait(lambda: service.metric("model_drift_rows") == 40)
    assert service.metric(predicted) == 40
    newer = publish()["version"]
    service.wait(lambda: {a["version"] for a in answers()} == {newer})
    service.wait(lambda: loads() == 4 and service.metric("model_drift_rows") == 0)
    assert service.metric("model_fallback") == 0

    bad = publish_unseen(registry, newer)
    flipped(registry, bad)
    move_pointer(registry.root, registry.keys, bad)
    service.wait(lambda: all(a["rejected"] for a in answers()))
    assert {(a["version"], a["rejected"]["version"]) for a in answers()} == {(newer, bad)}
    service.wait(lambda: service.metric("model_rejections_total") == 2)

    registry.activate(newer)
    service.wait(lambda: not any(a["rejected"] for a in answers()))
    killed, other = workers()
    killed.kill()
    service.wait(lambda: loads() == 5 and len(workers()) == 2)
    assert other in workers()
    assert service.metric(predicted) == 40  # also of the one that is gone
    with Load(service.port) as load:
        service.wait(lambda: all(load.versions))
    assert load.failures == []

    family = psutil.Process(service.process.pid).children(recursive=True)
    service.process.terminate()
    service.process.wait(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
