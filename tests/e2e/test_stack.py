"""The stack of docker-compose.yaml, from nothing: the tutorial in a browser, then what must hold whatever happens.

The tests build on each other, in the order of the file.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from secrets import token_urlsafe
from typing import Literal

import httpx2
import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from stack import LONG_LIVED, Stack, docker, needs_root
from support import ROOT, copy_project

OWN_HOST = re.compile(r"(https?|wss?)://localhost(:\d+)?/|data:|blob:")
PICTURES = ROOT / "images"
IN_INIT = ("run", "--rm", "--no-deps", "--entrypoint")
TASKS = (
    *("check_source", "drop_schema", "create_raw_table", "load_raw_data"),
    *("preprocess", "train", "validate", "publish"),
)


@pytest.fixture(scope="module")
def requests_to_others() -> list[str]:
    return []


@pytest.fixture(scope="module")
def page(requests_to_others: list[str]) -> Iterator[Page]:
    """A browser that reaches this machine only. Requests to other hosts are counted."""

    def only_here(route: Route) -> None:
        if OWN_HOST.match(route.request.url):
            # Not `continue_`: Chromium drops the requests that wait when an address appears on the machine or goes,
            # as with each container of the stack that another process tests meanwhile (ERR_NETWORK_CHANGED).
            headers = route.request.headers
            if route.request.is_navigation_request():
                headers["sec-fetch-dest"] = "document"  # which Chromium adds itself, but later
            route.fulfill(response=route.fetch(headers=headers, max_redirects=0, timeout=180_000))
        else:
            requests_to_others.append(route.request.url)
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox", "--disable-background-networking", "--disable-component-update"],
        )
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        context.route("**/*", only_here)
        page = context.new_page()
        page.set_default_timeout(120_000)
        expect.set_options(timeout=120_000)
        yield page
        context.unroute_all(behavior="ignoreErrors")
        browser.close()


def picture(page: Page, name: str) -> None:
    page.wait_for_load_state("networkidle")
    page.screenshot(path=PICTURES / name, animations="disabled")


def test_one_command_leaves_every_service_healthy(stack: Stack) -> None:
    health = stack.health()
    assert {s: health[s] for s in LONG_LIVED} == dict.fromkeys(LONG_LIVED, "healthy")
    assert stack.containers()["airflow-init"]["State"]["ExitCode"] == 0


def test_the_api_answers_503_with_the_hint_before_the_first_model(stack: Stack) -> None:
    for path in ("/model-info", "/health/ready"):
        answer = stack.api.get(path)
        assert answer.status_code == 503
        assert "trigger the DAG modelo_penguin" in answer.json()["detail"]


def test_log_in(stack: Stack, page: Page) -> None:
    page.goto(stack.airflow_url)
    page.fill("input[name=username]", "airflow")
    page.fill("input[name=password]", "airflow")
    page.get_by_role("button", name="Sign In").click()
    for part in ("MetaDatabase", "Scheduler", "Triggerer", "Dag Processor"):
        expect(page.get_by_text(part, exact=True)).to_be_visible()


def test_the_dag_is_in_the_list_and_not_paused(stack: Stack, page: Page) -> None:
    page.goto(f"{stack.airflow_url}/dags")
    expect(page.get_by_role("link", name="modelo_penguin").first).to_be_visible()
    expect(page.get_by_role("checkbox").first).to_be_checked()
    picture(page, "DAG.png")


def test_the_connection_is_there_and_its_test_succeeds(stack: Stack, page: Page) -> None:
    page.goto(f"{stack.airflow_url}/connections")
    row = page.get_by_role("row").filter(has_text="mysql_default")
    with page.expect_response("**/api/v2/connections/test") as tested:
        row.get_by_role("button", name="Test Connection").click()
    assert tested.value.json() == {"status": True, "message": "Connection successfully tested"}
    row.get_by_role("button", name="Edit Connection").click()
    dialog = page.get_by_role("dialog")
    for label, value in {"host": "mysql", "login": "mysqluser", "port": "3306", "schema": "mydatabase"}.items():
        expect(dialog.locator(f"input[name={label}]")).to_have_value(value)
    picture(page, "NewConnection.png")


def test_the_code_tab_shows_the_dag(stack: Stack, page: Page) -> None:
    page.goto(f"{stack.airflow_url}/dags/modelo_penguin/code")
    expect(page.get_by_text("Train the model from the raw CSV").first).to_be_visible()
    picture(page, "CodeDAG.png")


def test_trigger_with_the_form_runs_green_and_is_served_without_a_restart(stack: Stack, page: Page) -> None:
    api_started = stack.containers()["api"]["State"]["StartedAt"]
    page.goto(f"{stack.airflow_url}/dags/modelo_penguin")
    page.get_by_role("button", name="Trigger Dag").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Training").click()
    for title in ("Test size", "Random state", "Trees", "Rows per tree"):
        expect(dialog.get_by_role("spinbutton", name=title)).to_be_visible()
    dialog.get_by_role("spinbutton", name="Trees").fill("120")
    page.keyboard.press("Tab")
    picture(page, "TriggerDAG.png")
    with page.expect_response(re.compile(r"/dags/modelo_penguin/dagRuns$")) as triggered:
        dialog.get_by_role("button", name="Trigger", exact=True).click()
    run_id = triggered.value.json()["dag_run_id"]
    assert stack.wait_for_run(run_id) == "success"
    info = stack.wait_served(run_id)
    assert info["accuracy"] >= 0.95
    assert (info["predictor"], info["fallback"]) == ("onnx", None)
    assert info["params"]["n_estimators"] == 120
    assert stack.containers()["api"]["State"]["StartedAt"] == api_started


def test_the_graph_is_green(stack: Stack, page: Page) -> None:
    run_id = stack.api.get("/model-info").json()["dag_run_id"]
    page.set_viewport_size({"width": 2000, "height": 700})
    page.goto(f"{stack.airflow_url}/dags/modelo_penguin/runs/{run_id}")
    page.get_by_role("button", name=re.compile("Show Graph")).click()
    for task in TASKS:
        expect(page.get_by_text(task, exact=True).first).to_be_visible()
    picture(page, "TasksDAG.png")
    page.set_viewport_size({"width": 1400, "height": 900})
    instances = stack.airflow().get(f"dags/modelo_penguin/dagRuns/{run_id}/taskInstances").json()["task_instances"]
    assert {t["task_id"]: t["state"] for t in instances} == dict.fromkeys(TASKS, "success")


def test_a_second_version_is_compared_with_the_first_and_its_mistakes_are_shown(stack: Stack) -> None:
    first = stack.api.get("/model-info").json()
    run_id = stack.trigger(random_state=8)  # two of whose held-out rows are hard
    assert stack.wait_for_run(run_id) == "success"
    info = stack.wait_served(run_id)
    report = stack.api.get("/report").text
    mistaken = round((1 - info["accuracy"]) * info["rows"]["test"])
    assert mistaken > 0
    assert f"{mistaken} of them misclassified." in report
    comparison = info["metrics"]["gate"]["comparison"]
    assert info["metrics"]["gate"]["serving_version"] == first["version"]
    assert comparison["rows"] > 300
    assert f"<code>{first['version']}</code>" in report
    assert f"on {comparison['rows']} rows that neither was trained on" in report


def test_airflow_shows_the_report_in_the_navigation_on_the_dags_page_and_behind_publish(
    stack: Stack, page: Page
) -> None:
    info = stack.api.get("/model-info").json()
    report = page.frame_locator("iframe[title='Penguin model']")
    page.goto(stack.airflow_url)
    page.get_by_role("link", name="Penguin model").click()
    expect(report.get_by_role("heading", level=1)).to_be_visible()
    expect(report.get_by_text(info["version"]).first).to_be_visible()
    picture(page, "AirflowReport.png")
    page.goto(f"{stack.airflow_url}/dags/modelo_penguin")
    page.get_by_role("link", name="Penguin model").last.click()
    expect(page).to_have_url(re.compile(r"/dags/modelo_penguin/plugin/"))
    expect(report.get_by_text(info["version"]).first).to_be_visible()
    page.goto(f"{stack.airflow_url}/dags/modelo_penguin/runs/{info['dag_run_id']}/tasks/publish/details")
    page.get_by_role("link", name="Model report").click()
    expect(page).to_have_url(re.compile(rf"{info['version']}$"))
    expect(report.get_by_text(info["version"]).first).to_be_visible()


@pytest.mark.parametrize(
    ("name", "width", "height", "scheme", "whole"),
    [
        ("Report", 1100, 1640, "light", False),
        ("ReportDark", 1100, 1640, "dark", False),
        ("ReportNarrow", 390, 844, "light", True),
    ],
)
def test_the_report_fits_every_screen(
    stack: Stack, page: Page, name: str, width: int, height: int, scheme: Literal["light", "dark"], whole: bool
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{stack.api_url}/report")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.get_by_role("img")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 27)"}[scheme]
    page.screenshot(path=PICTURES / f"{name}.png", full_page=whole)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1400, "height": 900})


@pytest.mark.parametrize(("name", "width", "scheme"), [("Try", 1280, "light"), ("TryDark390", 390, "dark")])
def test_the_form_predicts_on_every_screen(
    stack: Stack, page: Page, name: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{stack.api_url}/try")
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_role("status")).to_contain_text("Gentoo")
    expect(page.get_by_role("img")).to_have_count(4)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1400, "height": 900})


def test_airflow_leads_to_the_form(stack: Stack, page: Page) -> None:
    page.goto(stack.airflow_url)
    page.get_by_role("button", name="Docs").click()
    with page.context.expect_page() as form:
        page.get_by_role("menuitem", name="Try the model").click()
    expect(form.value).to_have_url(f"{stack.api_url}/try")
    form.value.close()


def test_swagger_tries_out_model_info_and_predict(stack: Stack, page: Page) -> None:
    page.goto(stack.api_url)
    for operation, expected in (("/model-info", '"accuracy"'), ("/predict", '"Gentoo"')):
        block = page.locator(".opblock").filter(has=page.locator(f"[data-path='{operation}']"))
        block.locator(".opblock-summary-control").click()
        block.get_by_role("button", name="Try it out").click()
        block.get_by_role("button", name="Execute").click()
        answer = block.locator(".live-responses-table")
        expect(answer.locator(".response-col_status").last).to_contain_text("200")
        expect(answer.locator(".response-col_description").last).to_contain_text(expected)
    page.locator("[data-path='/model-info']").first.click()
    page.set_viewport_size({"width": 1400, "height": 1750})
    picture(page, "Swagger.png")


def test_the_browser_asked_no_other_host(requests_to_others: list[str], page: Page) -> None:
    page.goto("about:blank")  # the policy of the service's pages would forbid what shows that requests are counted
    page.evaluate("fetch('http://example.invalid/counted').catch(() => 0)")
    page.wait_for_timeout(500)
    assert requests_to_others == ["http://example.invalid/counted"]


def test_the_tables_are_in_mydatabase_and_the_pickle_on_the_volume(stack: Stack) -> None:
    assert stack.raw_rows() == 344
    current = (stack.folder / "models" / "current").read_text().splitlines()[0]
    assert (stack.folder / "models" / current / "model.pkl").stat().st_size > 10_000
    assert current == stack.api.get("/model-info").json()["version"]


def test_the_api_container_can_do_nothing_but_serve(stack: Stack) -> None:
    script = """
import json, pathlib
mounts = {m[1]: m[3].split(",")[0] for m in map(str.split, open("/proc/mounts"))}
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/1/status").read_text().splitlines())
refused = []
public = "/srv/public-keys/model_signing.pub"
for path in ("/srv/new", "/srv/models/new", "/srv/models/current", "/srv/app/main.py", "/srv/.local/new", public):
    try:
        open(path, "a").close()
    except OSError:
        refused.append(path)
print(json.dumps([mounts, {k: v.split()[-1] for k, v in status.items() if v.split()}, refused]))
"""
    mounts, status, refused = json.loads(stack.compose("exec", "-T", "api", "python", "-c", script))
    read_only = ("/", "/srv/models", "/srv/.local", "/srv/public-keys")
    assert {path: mounts[path] for path in read_only} == dict.fromkeys(read_only, "ro")
    assert len(refused) == 6
    assert status["Uid"] == "10001"
    for capabilities in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[capabilities], base=16) == 0
    assert status["NoNewPrivs"] == "1"


def test_every_container_reaches_what_it_needs_and_nothing_else_and_may_do_nothing(stack: Stack) -> None:
    ports = {"postgres": 5432, "mysql": 3306, "airflow-apiserver": 8080, "api": 8989}
    expected: dict[str, set[str]] = {
        "api": set(),
        "airflow-apiserver": {"postgres", "mysql"},
        "airflow-scheduler": {"postgres", "mysql", "airflow-apiserver"},
        "airflow-dag-processor": {"postgres", "airflow-apiserver"},
        "airflow-triggerer": {"postgres", "airflow-apiserver"},
        "postgres": {"airflow-apiserver"},  # the networks that they share with it go both ways
        "mysql": {"airflow-apiserver"},
    }
    assert set(expected) == set(LONG_LIVED)
    assert stack.reached(expected, ports) == expected
    # Nor through the host, where Airflow's port is published on the loopback address.
    networks = stack.containers()["api"]["NetworkSettings"]["Networks"].values()
    [gateway] = [network["Gateway"] for network in networks]
    port = stack.airflow_url.rpartition(":")[2]
    code = f"import socket; print(socket.socket().connect_ex(({gateway!r}, {port})))"
    assert int(stack.compose("exec", "-T", "api", "python", "-c", code)) == errno.ECONNREFUSED


def add_api_key(stack: Stack, name: str) -> str:
    said = stack.compose(*IN_INIT, "python", "airflow-init", "-m", "penguins.api_keys", "add", name)
    assert "started with API_KEYS_FILE=/srv/.local/api_keys" in said
    return re.findall(r"^[\w-]{43}$", said, re.MULTILINE)[0]


def test_every_container_sees_the_secrets_and_data_that_it_needs_and_no_others(stack: Stack) -> None:
    add_api_key(stack, "lab")
    airflow = {"Fernet key": "r", "JWT secret": "r", "session secret": "r"}
    verifies = {"public keys": "r", "models": "r"}
    assert stack.seen(LONG_LIVED) == {
        "api": {**verifies, "API keys": "r"},
        "airflow-apiserver": {**airflow, **verifies},
        "airflow-scheduler": {**airflow, **verifies, "signing key": "r", "models": "rw", "CSV": "r"},
        "airflow-dag-processor": {**airflow, "CSV": "r"},
        "airflow-triggerer": {**airflow, "CSV": "r"},
        "postgres": {"Postgres": "rw"},
        "mysql": {"MySQL": "rw"},
    }


@needs_root
def test_no_container_has_a_way_out(stack: Stack) -> None:
    assert stack.with_a_way_out(LONG_LIVED) == set()


def test_only_the_init_keeps_capabilities_and_only_these(stack: Stack) -> None:
    for service, container in stack.containers().items():
        host = container["HostConfig"]
        kept = [capability.removeprefix("CAP_") for capability in host["CapAdd"] or []]
        needed = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"] if service == "airflow-init" else []
        assert (host["CapDrop"], kept) == (["ALL"], needed), service
        assert (host["ReadonlyRootfs"], host["SecurityOpt"]) == (True, ["no-new-privileges:true"]), service


def test_the_api_image_holds_no_tests_of_its_libraries(stack: Stack) -> None:
    code = (
        "import pathlib, sklearn; packages = pathlib.Path(sklearn.__file__).parents[1]; "
        "print(len(list(packages.glob('*'))) > 50, [str(p) for p in packages.rglob('tests')])"
    )
    assert stack.compose("exec", "-T", "api", "python", "-c", code).strip() == "True []"


def test_the_airflow_image_keeps_every_version_that_it_is_published_with(stack: Stack) -> None:
    (base,) = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    published, built = (
        set(docker("run", "--rm", "--entrypoint", "pip", image, "freeze").splitlines())
        for image in (base, f"{stack.project}-airflow")
    )
    assert len(published) > 100
    assert published - built == set()


def test_ports_are_bound_to_this_machine_only_unless_asked_otherwise(stack: Stack) -> None:
    bound = {
        service: [port["HostIp"] for ports in c["HostConfig"]["PortBindings"].values() for port in ports]
        for service, c in stack.containers().items()
        if c["HostConfig"]["PortBindings"]
    }
    assert bound == {"airflow-apiserver": ["127.0.0.1"], "api": ["127.0.0.1"]}
    stack.env["BIND_ADDRESS"] = "0.0.0.0"
    asked = stack.services()
    del stack.env["BIND_ADDRESS"]
    assert asked["api"]["ports"][0]["host_ip"] == "0.0.0.0"


def secrets_of(stack: Stack) -> list[str]:
    files = "secrets/fernet_key secrets/jwt_secret secrets/api_secret_key .local/model_signing.key"
    # The signing key is PEM: the second of three lines.
    read = f"for f in {files}; do grep -v -- ----- $f; done"
    return stack.compose("exec", "-T", "airflow-scheduler", "bash", "-c", read).split()


def test_secrets_are_random_and_in_no_configuration_or_image(stack: Stack) -> None:
    secrets = secrets_of(stack)
    assert len(set(secrets)) == 4
    config = stack.compose("config")
    for service, container in stack.containers().items():
        described = json.dumps(container)
        history = docker("history", "--no-trunc", container["Image"])
        for secret in secrets:
            assert len(secret) >= 44
            assert secret not in config, service
            assert secret not in described, service
            assert secret not in history, service


def test_the_api_has_the_public_keys_alone_and_can_forge_nothing(stack: Stack) -> None:
    found = stack.compose(
        "exec", "-T", "api", "sh", "-c", "ls /srv/public-keys; ls -d /opt/airflow 2>/dev/null || true"
    )
    assert found.split() == ["model_signing.pub"]
    verified = stack.compose("exec", "-T", "api", "python", "-m", "penguins.registry", "verify")
    serving = stack.api.get("/model-info").json()["version"]
    assert f"* {serving}  accuracy" in verified
    activate = f"python -m penguins.registry activate {serving} 2>&1 || true"
    assert "It is only where models are published" in stack.compose("exec", "-T", "api", "sh", "-c", activate)


def test_the_idle_stack_fits_a_laptop(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    ids = stack.compose("ps", "--quiet").split()
    stats = docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", *ids)
    with capsys.disabled():
        print(f"\n{stats}")
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    used = [re.search(r" ([\d.]+)([KMG]iB) /", line) for line in stats.splitlines()]
    assert len(used) == len(LONG_LIVED)
    assert sum(float(m[1]) * units[m[2]] for m in used if m) < 3 * 2**30


def test_everything_outlives_down_and_up_and_what_a_user_changed_stays(stack: Stack) -> None:
    airflow = stack.airflow()
    key = add_api_key(stack, "ship")
    # As an older release left it: the next start moves it.
    stack.compose(*IN_INIT, "mv", "airflow-init", "/srv/.local/api_keys", "/opt/airflow/.local/")
    changed = {"connection_id": "mysql_default", "conn_type": "mysql", "description": "mine"}
    airflow.patch("connections/mysql_default?update_mask=description", json=changed).raise_for_status()
    before = (secrets_of(stack), stack.api.get("/model-info").json(), stack.raw_rows())
    runs = airflow.get("dags/modelo_penguin/dagRuns").json()["dag_runs"]
    stack.compose("down")
    stack.env["AIRFLOW_PASSWORD"] = stack.password = token_urlsafe()  # the user still has the tutorial's
    stack.env["API_KEYS_FILE"] = ".local/api_keys"
    stack.compose("up", "airflow-init")
    stack.up()
    assert stack.api.get("/model-info").status_code == 401
    stack.api.headers["X-API-Key"] = key
    after = (secrets_of(stack), stack.api.get("/model-info").json(), stack.raw_rows())
    assert after == before
    tutorial = {"username": "airflow", "password": "airflow"}
    assert httpx2.post(f"{stack.airflow_url}/auth/token", json=tutorial, timeout=60).status_code == 401
    airflow = stack.airflow()
    connection = airflow.get("connections/mysql_default").json()
    assert (connection["description"], connection["host"], connection["login"]) == ("mine", "mysql", "mysqluser")
    assert airflow.get("dags/modelo_penguin/dagRuns").json()["dag_runs"] == runs
    assert before[1]["dag_run_id"] in [run["dag_run_id"] for run in runs]


def test_crashed_containers_come_back_and_the_next_run_is_green(stack: Stack) -> None:
    """Without the databases: test_stack_faults.py kills those in the middle of a run."""
    crashed = {service: stack.crash(service) for service in LONG_LIVED if service not in ("mysql", "postgres")}
    for service, started in crashed.items():
        stack.wait_healthy(service, started)
    run_id = stack.trigger()
    assert stack.wait_for_run(run_id) == "success"
    stack.wait_served(run_id)


def test_a_table_is_declared_with_docker_alone(stack: Stack, tmp_path: Path) -> None:
    fork, csv = tmp_path / "fork", tmp_path / "my table.csv"
    copy_project(fork)
    csv.write_text("size;kind\n" + "".join(f"{n},5;{'big' if n > 60 else 'small'}\n" for n in range(120)))
    mount, user = f"{csv}:/csv/{csv.name}:ro", str(os.getuid())
    command = ["run", "--rm", "--user", user, "--volume", mount, "table", f"/csv/{csv.name}", "--target", "kind"]
    printed = stack.compose("--project-directory", str(fork), *command)
    assert "it alone tells the target" in printed
    assert 'FILE = FileFormat(delimiter=";", decimal=",")' in (fork / "plugins/penguins/schema.py").read_text()
    assert (fork / "plugins/penguins/schema.py.before").read_text() == (ROOT / "plugins/penguins/schema.py").read_text()
    assert (fork / "dags" / csv.name).read_text() == csv.read_text()
