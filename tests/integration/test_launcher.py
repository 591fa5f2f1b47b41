"""The launcher, from start to Ctrl-C, in a copy of the project with nothing made yet."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from penguins.registry import Keys, Registry
from penguins.schema import CSV_NAME, EXAMPLE, TABLE
from support import ROOT, code_blocks, connection_of, free_port

READY = "Ctrl-C stops it all."
RETRAINING = ROOT / "docs" / "retraining.md"
BEFORE_ED25519 = ROOT / "tests" / "unit" / "penguins" / "registry" / "before_ed25519"
TASKS = (
    *("check_source", "drop_schema", "create_raw_table", "load_raw_data"),
    *("preprocess", "train", "validate", "publish"),
)
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name in ("app", "config", "dags", "launcher", "plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def ports() -> dict[str, str]:
    return {"AIRFLOW_PORT": str(free_port()), "API_PORT": str(free_port())}


def fresh_copy(copy: Path, folder: Path) -> None:
    """Copy what git tracks of a copy that has run already."""
    shutil.copytree(copy, folder, ignore=shutil.ignore_patterns(".local", "models", "logs"))


def with_service(folder: Path, copy: Path, program: str) -> Path:
    """Make a fresh copy with another program in the place of the service."""
    fresh_copy(copy, folder)
    (folder / "app" / "__main__.py").write_text(program)
    return folder


def launch(start: Start, folder: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "MODEL"))}
    return start(sys.executable, "-m", "launcher", cwd=folder, env=inherited | env)


def output_until(launcher: subprocess.Popen[str], last: str = READY) -> str:
    """Return what the launcher printed until it was ready. It exits by itself if a step takes too long."""
    lines = []
    assert launcher.stdout
    for line in launcher.stdout:
        lines.append(line)
        if last in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def processes_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def goes_on(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE  # ended, but not yet noted by init
    except psutil.NoSuchProcess:
        return False


def stop(launcher: subprocess.Popen[str], number: int, folder: Path) -> str:
    """Send the signal, and check that neither a descendant nor anything else of the folder goes on."""
    family = psutil.Process(launcher.pid).children(recursive=True)
    assert len(family) >= 5
    launcher.send_signal(number)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, output
    assert [process for process in family if goes_on(process)] == []
    assert processes_in(folder) == []
    return output


# Another team's DAG, which knows no more of this one than its Asset.
LISTENER = """
from airflow.sdk import DAG, Asset, task

MODEL = Asset(name="penguin_model", uri="file://models/current")

with DAG(dag_id="listener", schedule=[MODEL]):

    @task
    def read(triggering_asset_events):
        (event,) = triggering_asset_events[MODEL]
        return event.extra

    read()
"""


def wait_for(ready: Callable[[], Any], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := ready()):
        assert time.monotonic() < deadline
        time.sleep(0.25)
    return value


def logged_in(airflow_url: str) -> httpx2.Client:
    airflow = httpx2.Client(base_url=airflow_url, timeout=30)
    token = airflow.post("/auth/token", json={"username": "airflow", "password": "airflow"}).json()["access_token"]
    airflow.headers["Authorization"] = f"Bearer {token}"
    return airflow


@contextmanager
def query(mysql_url: str, sql: str) -> Iterator[Any]:
    import mysql.connector

    to = connection_of(mysql_url)
    with mysql.connector.connect(
        host=to["host"], port=to["port"], user=to["login"], password=to["password"], database=to["schema"]
    ) as database:
        cursor = database.cursor()
        cursor.execute(sql)
        yield cursor


def assert_another_dag_is_triggered_by_the_asset(airflow: httpx2.Client, info: dict[str, Any]) -> None:
    def ended() -> Any:
        runs = airflow.get("/api/v2/dags/listener/dagRuns").json().get("dag_runs", [])
        return [run for run in runs if run["state"] in ("success", "failed")]

    (run,) = wait_for(ended)
    assert (run["state"], run["run_type"]) == ("success", "asset_triggered")
    read = f"/api/v2/dags/listener/dagRuns/{run['dag_run_id']}/taskInstances/read/xcomEntries/return_value"
    assert airflow.get(read, params={"deserialize": True}).json()["value"] == {
        name: info[name] for name in ("version", "accuracy", "sha256")
    }


def put_what_trains_again(dags: Path) -> None:
    """Put the DAGs of docs/retraining.md there, and files for them. The weekly one is due at once, so it is paused."""
    weekly, on_new_file = code_blocks(RETRAINING, "python")
    paused = weekly.replace("catchup=False,", "catchup=False, is_paused_upon_creation=True,")
    assert paused != weekly
    (dags / "retrain_weekly.py").write_text(paused)
    (dags / "retrain_on_new_file.py").write_text(on_new_file)
    (dags / "incoming").mkdir()
    lines = (dags / CSV_NAME).read_text().splitlines(keepends=True)
    for name in ("penguins.csv", "arrived.csv"):
        (dags / "incoming" / name).write_text("".join([*lines, *lines[1:6]]))


def assert_it_trains_again_as_the_page_says(airflow: httpx2.Client, api_url: str, folder: Path) -> None:
    """By hand, by the schedule and by an event; each new version waits, which tells no other DAG anything."""

    def api(path: str) -> Any:
        return airflow.get(f"/api/v2/{path}").raise_for_status().json()

    def triggered(dag_id: str) -> tuple[dict[str, Any], str]:
        """Return a DAG's run, and the run of modelo_penguin that it triggered."""
        (run,) = wait_for(lambda: [r for r in api(f"dags/{dag_id}/dagRuns")["dag_runs"] if r["state"] == "success"])
        task = f"dags/{dag_id}/dagRuns/{run['dag_run_id']}/taskInstances/trigger"
        return run, api(f"{task}/xcomEntries/trigger_run_id?deserialize=true")["value"]

    def end_of(run_id: str) -> Any:
        def ended() -> Any:
            run = api(f"dags/modelo_penguin/dagRuns/{run_id}")
            return run["state"] in ("success", "failed") and (run["state"], run["conf"])

        return wait_for(ended, seconds=300)  # it may be the last of three

    served = httpx2.get(f"{api_url}/model-info", timeout=60).json()
    page = "".join(code_blocks(RETRAINING, "sh"))
    by_hand, event = (json.loads(re.findall(rf"-d '(\{{{first}.*\}})'", page)[0]) for first in ('"logical', '"asset'))
    (asset,) = api("assets?name_pattern=penguins_csv")["assets"]
    event |= {"asset_id": asset["id"], "extra": {"csv_path": "incoming/arrived.csv"}}
    airflow.post("/api/v2/assets/events", json=event).raise_for_status()
    run_by_hand = airflow.post("/api/v2/dags/modelo_penguin/dagRuns", json=by_hand).raise_for_status().json()
    airflow.patch("/api/v2/dags/retrain_weekly", json={"is_paused": False}).raise_for_status()

    scheduled, run_by_schedule = triggered("retrain_weekly")
    due = datetime.fromisoformat(scheduled["run_after"])
    assert (scheduled["run_type"], due.weekday(), due.hour, due.minute) == ("scheduled", 0, 3, 0)
    by_event, run_by_event = triggered("retrain_on_new_file")
    assert by_event["run_type"] == "asset_triggered"
    runs = {run_by_hand["dag_run_id"]: "penguins", run_by_schedule: "penguins", run_by_event: "arrived"}
    for run_id, file in runs.items():
        conf = {"csv_path": f"incoming/{file}.csv", "activate": False}
        assert end_of(run_id) == ("success", conf)

    models = httpx2.get(f"{api_url}/models", timeout=60).json()
    assert {m["dag_run_id"] for m in models if m["waiting"]} == set(runs)
    assert [m["version"] for m in models if m["serving"]] == [served["version"]]
    waiting = models[0]["version"]
    assert f"Version {waiting} waits to be activated" in airflow.get("/model-report/").text
    assert api("assets/events?source_dag_id=modelo_penguin")["total_entries"] == 1
    keys = Keys(folder / ".local" / "model_signing.key", folder / ".local" / "model_signing.pub")
    Registry(folder / "models", keys).activate(waiting)
    wait_for(lambda: httpx2.get(f"{api_url}/model-info", timeout=60).json()["version"] == waiting)


def assert_airflow_shows_the_report_to_users(airflow: httpx2.Client, api_url: str, info: dict[str, Any]) -> None:
    report = httpx2.get(f"{api_url}/report", timeout=60).content
    assert info["version"].encode() in report
    for path in ("/model-report/", f"/model-report/{info['version']}"):
        assert airflow.get(path).content == report
        assert httpx2.get(f"{airflow.base_url}".rstrip("/") + path, timeout=60).status_code == 401
    assert airflow.get("/api/v2/plugins/importErrors").json()["total_entries"] == 0
    plugins = {p["name"]: p for p in airflow.get("/api/v2/plugins").json()["plugins"]}
    views = [(v["name"], v["destination"]) for v in plugins["model_report"]["external_views"]]
    assert views == [("Penguin model", "nav"), ("Penguin model", "dag"), ("Try the model", "nav")]
    links = f"/api/v2/dags/modelo_penguin/dagRuns/{info['dag_run_id']}/taskInstances/publish/links"
    # The link is written after the task itself has ended.
    link = wait_for(lambda: airflow.get(links).json()["extra_links"]["Model report"])
    assert link == f"/plugin/model-report/model-report/{info['version']}"


def test_a_first_start_trains_and_serves(start_process: Start, copy: Path, ports: dict[str, str]) -> None:
    (copy / "dags" / "listener.py").write_text(LISTENER)
    put_what_trains_again(copy / "dags")
    launcher = launch(start_process, copy, ports)
    output = output_until(launcher)
    for task in TASKS:
        assert f"{task:<18} success" in output
    airflow_url, api_url = (f"http://127.0.0.1:{port}" for port in ports.values())
    info = httpx2.get(f"{api_url}/model-info", timeout=60).json()
    assert info["accuracy"] >= 0.95
    assert httpx2.post(f"{api_url}/predict", json=EXAMPLE, timeout=60).json()["species"] == "Gentoo"

    airflow = logged_in(airflow_url)
    run = f"/api/v2/dags/modelo_penguin/dagRuns/{info['dag_run_id']}"
    assert airflow.get(run).json()["state"] == "success"
    instances = airflow.get(f"{run}/taskInstances").json()["task_instances"]
    assert {t["task_id"]: t["state"] for t in instances} == dict.fromkeys(TASKS, "success")
    assert airflow.get("/api/v2/connections/mysql_default").json()["conn_type"] == "sqlite"
    assert airflow.get("/api/v2/importErrors").json()["total_entries"] == 0
    assert_airflow_shows_the_report_to_users(airflow, api_url, info)
    assert_another_dag_is_triggered_by_the_asset(airflow, info)
    assert_it_trains_again_as_the_page_says(airflow, api_url, copy)
    for name in ("listener", "retrain_weekly", "retrain_on_new_file"):
        (copy / "dags" / f"{name}.py").unlink()

    addresses = set()
    for process in processes_in(copy):
        with suppress(psutil.NoSuchProcess):  # Airflow's that parse the DAGs come and go
            addresses |= {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}
    made = {path.name for path in copy.iterdir()}
    assert made == {"app", "config", "dags", "launcher", "plugins", ".local", "models", "logs"}

    refused = launch(start_process, copy, {"AIRFLOW_PORT": str(free_port()), "API_PORT": str(free_port())})
    said, _ = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert "running in this folder already" in said
    assert said.endswith(f"or `kill {launcher.pid}`\n")

    stop(launcher, signal.SIGINT, copy)


def test_a_second_start_reuses_the_model_and_a_mysql_server_takes_the_place_of_sqlite(
    start_process: Start, copy: Path, ports: dict[str, str], mysql_url: str
) -> None:
    """It goes on where the first start ended."""
    version = (copy / "models" / "current").read_text().splitlines()[0]
    with query(mysql_url, f"DROP TABLE IF EXISTS {TABLE}"):
        pass
    launcher = launch(start_process, copy, {**ports, "MYSQL_URL": mysql_url})
    output = output_until(launcher)
    assert "Training" not in output
    airflow_url, api_url = (f"http://127.0.0.1:{port}" for port in ports.values())
    assert httpx2.get(f"{api_url}/model-info", timeout=60).json()["version"] == version

    airflow = logged_in(airflow_url)
    runs = "/api/v2/dags/modelo_penguin/dagRuns"
    run_id = airflow.post(runs, json={"logical_date": None}).raise_for_status().json()["dag_run_id"]
    state = wait_for(lambda: (s := airflow.get(f"{runs}/{run_id}").json()["state"]) in ("success", "failed") and s)
    assert state == "success"
    with query(mysql_url, f"SELECT COUNT(*) FROM {TABLE}") as cursor:
        assert cursor.fetchone() == (344,)
    stop(launcher, signal.SIGTERM, copy)


def test_a_launcher_that_was_killed_takes_all_with_it_and_the_next_one_starts_on_its_ports(
    start_process: Start, copy: Path, ports: dict[str, str]
) -> None:
    """It goes on where the second start ended."""
    launcher = launch(start_process, copy, ports)
    output_until(launcher, "Airflow is healthy")
    assert len(psutil.Process(launcher.pid).children(recursive=True)) >= 5
    launcher.kill()
    following = launch(start_process, copy, ports)
    output_until(following)
    stop(following, signal.SIGTERM, copy)


def test_what_a_killed_launcher_left_is_named_with_what_to_do_whatever_the_ports(
    start_process: Start, tmp_path: Path, copy: Path, ports: dict[str, str]
) -> None:
    """If its keeper is killed as well, nobody ends the others."""
    folder = with_service(tmp_path / "p", copy, "import time\ntime.sleep(300)\n")
    launcher = launch(start_process, folder, ports)
    output_until(launcher, "Preparing")
    (keeper,) = (p for p in psutil.Process(launcher.pid).children() if "launcher.keeper" in p.cmdline())
    launcher.send_signal(signal.SIGSTOP)
    keeper.kill()
    launcher.kill()
    other = {"AIRFLOW_PORT": str(free_port()), "API_PORT": str(free_port())}
    for chosen in (ports, other):
        said, _ = launch(start_process, folder, chosen).communicate(timeout=180)
        assert "was killed, and left processes that use its database" in said
    advised = re.findall(r"`(kill -9 [\d ]+)`", said)
    subprocess.run(["sh", "-c", *advised], check=True)
    wait_for(lambda: processes_in(folder) == [])


def write_main(folder: Path, *changes: str) -> None:
    """Write a main.py that changes the launcher before it runs it."""
    lines = ["import signal, sys", "from launcher import __main__ as launcher", *changes, "sys.exit(launcher.main())"]
    (folder / "main.py").write_text("\n".join(lines) + "\n")


def test_a_signal_that_comes_while_an_object_is_destroyed_is_not_lost(
    start_process: Start, tmp_path: Path, copy: Path, ports: dict[str, str]
) -> None:
    folder = tmp_path / "p"
    fresh_copy(copy, folder)
    write_main(
        folder,
        "class Destroyed:",
        "    def __del__(self): signal.raise_signal(signal.SIGINT)",
        "launcher.launch = lambda *_: Destroyed() and None",
    )
    launcher = start_process(sys.executable, "main.py", cwd=folder, env={**os.environ, **ports})
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 0, output
    assert "Exception ignored" in output  # Python itself lost the exception
    assert "Stopped" in output


def test_what_an_older_release_signed_is_signed_anew_before_anything_starts_or_the_start_is_refused(
    start_process: Start, tmp_path: Path, copy: Path, ports: dict[str, str]
) -> None:
    folder = tmp_path / "p"
    fresh_copy(copy, folder)
    shutil.copytree(BEFORE_ED25519 / "models", folder / "models")
    write_main(
        folder,
        "launcher.trained_version = lambda *_: None",  # these manifests say nothing of what trained them
        "launcher.start_airflow = lambda *_: signal.raise_signal(signal.SIGINT)",
    )
    (folder / ".local").mkdir()
    keys = Keys(folder / ".local" / "model_signing.key", folder / ".local" / "model_signing.pub")
    keys.private.write_text("neither")

    def start() -> tuple[int, str]:
        launcher = start_process(sys.executable, "main.py", cwd=folder, env={**os.environ, **ports})
        output, _ = launcher.communicate(timeout=120)
        return launcher.returncode, output

    code, output = start()
    assert code == 1
    assert f"make run: the signing key {keys.private} is neither an Ed25519 key in PEM nor one of an earlier" in output
    assert not (folder / "logs" / "components" / "api.log").exists()
    shutil.copy(BEFORE_ED25519 / "key", keys.private)
    registry = Registry(folder / "models", keys)
    (registry.root / registry.versions()[-1] / "manifest.json").write_text("{}")
    code, output = start()
    assert code == 0, output
    registry.read(registry.current())
    assert f"version {registry.versions()[-1]}: its manifest.sig cannot be read" in output


def test_where_what_serves_cannot_be_trusted_nothing_is_trained_and_all_else_starts(
    start_process: Start, tmp_path: Path, copy: Path, ports: dict[str, str]
) -> None:
    folder = tmp_path / "p"
    fresh_copy(copy, folder)
    write_main(
        folder,
        "launcher.start_airflow = lambda *_: None",
        "launcher.Airflow.connect = lambda *_: ''",
        "launcher.start_triggerer = lambda *_: signal.raise_signal(signal.SIGINT)",
    )
    (folder / "models").mkdir()
    (folder / "models" / "current").write_text("x\n")
    launcher = start_process(sys.executable, "main.py", cwd=folder, env={**os.environ, **ports})
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, output
    assert "Nothing is trained, because what serves cannot be trusted: the first line of" in output
    assert "ignore_untrusted_serving" in output


def test_a_run_that_fails_ends_the_launcher_with_the_tasks_log(
    start_process: Start, tmp_path: Path, copy: Path, ports: dict[str, str]
) -> None:
    folder = tmp_path / "p"
    fresh_copy(copy, folder)
    schema = folder / "plugins" / "penguins" / "schema.py"
    schema.write_text(schema.read_text().replace("MIN_ACCURACY = 0.9\n", "MIN_ACCURACY = 1\n"))
    launcher = launch(start_process, folder, ports)
    output, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 1
    assert "validate           failed" in output
    _, log = output.split("The log of validate:\n")
    assert "min_accuracy" in log
    assert "  info     DAG bundles loaded: dags-folder\n" in log
    for noise in ("::group::", "::endgroup::", "  warning ", "deprecated"):
        assert noise not in log
    assert processes_in(folder) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("39.1", "thirty", "line 2, column culmen_length_mm: 'thirty'; the rule is a number from 10 to 100 mm"),
        ("species,", "kind,", "line 1: the header lacks 'species'; it has, and the declaration does not, 'kind'"),
        ("", "", "No such file or directory"),
    ],
    ids=["a cell", "a header", "no file"],
)
def test_a_file_that_a_run_would_refuse_is_said_before_anything_starts(
    start_process: Start, tmp_path: Path, copy: Path, ports: dict[str, str], old: str, new: str, said: str
) -> None:
    fresh_copy(copy, tmp_path / "p")
    csv = tmp_path / "p" / "dags" / "penguins_size.csv"
    csv.write_text(csv.read_text().replace(old, new, 1)) if old else csv.unlink()
    launcher = launch(start_process, tmp_path / "p", ports)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert said in output
    assert "`make check` looks again, without a start" in output
    assert "Starting" not in output


@pytest.mark.parametrize("taken", ["AIRFLOW_PORT", "API_PORT"])
def test_a_taken_port_is_said_before_anything_starts(
    start_process: Start, tmp_path: Path, copy: Path, ports: dict[str, str], taken: str
) -> None:
    fresh_copy(copy, tmp_path / "p")
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(ports[taken])))
        other.listen()
        launcher = launch(start_process, tmp_path / "p", ports)
        output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert f"port {ports[taken]} cannot be used: Address already in use" in output
    assert f"{taken}={int(ports[taken]) + 1} make run" in output
    assert [path.name for path in (tmp_path / "p" / ".local").iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AIRFLOW_PORT": "eighty"}, "AIRFLOW_PORT is 'eighty'; it must be a port from 1 to 65535"),
        ({"AIRFLOW_PORT": "8181", "API_PORT": "8181"}, "are both 8181"),
        ({"MYSQL_URL": "mysql://user@host"}, "the form is mysql://user:password@host:port/schema"),
        ({"MYSQL_URL": "mysql://user:pw@127.0.0.1:1/schema"}, "cannot connect to the MySQL server of MYSQL_URL"),
    ],
)
def test_settings_that_make_no_sense_are_said_before_anything_starts(
    start_process: Start, tmp_path: Path, copy: Path, ports: dict[str, str], variables: dict[str, str], said: str
) -> None:
    fresh_copy(copy, tmp_path / "p")
    launcher = launch(start_process, tmp_path / "p", ports | variables)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert said in output
    assert "Starting" not in output


def test_a_mistake_in_the_declaration_is_one_line_and_nothing_starts(
    start_process: Start, tmp_path: Path, copy: Path, ports: dict[str, str]
) -> None:
    fresh_copy(copy, tmp_path / "p")
    schema = tmp_path / "p" / "plugins" / "penguins" / "schema.py"
    schema.write_text(schema.read_text().replace("minimum=10,", "minimum=101,", 1))
    launcher = launch(start_process, tmp_path / "p", ports)
    output, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert re.fullmatch(
        r"\nmake run: plugins/penguins/schema.py, line \d+, column 'culmen_length_mm': "
        r"minimum is 101 and maximum 100; .*\n",
        output,
    )
    assert not (tmp_path / "p" / ".local").exists()


def test_a_program_that_dies_ends_the_launcher_with_its_log(
    start_process: Start, tmp_path: Path, copy: Path, ports: dict[str, str]
) -> None:
    folder = with_service(tmp_path / "p", copy, "raise SystemExit('the api broke')\n")
    launcher = launch(start_process, folder, ports)
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 1
    assert "api ended with exit code 1" in output
    assert "the api broke" in output
    assert processes_in(folder) == []
