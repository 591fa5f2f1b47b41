"""The form in Chromium, before services that really answer: one for penguins, one for the loans of the page in docs."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

import app.form.page
import app.guards.bodies
from app.form.page import HEADERS, WORDS, heading, preferred
from app.main import create_app
from app.settings import Settings
from penguins.registry import Registry
from penguins.schema import EXAMPLE, FEATURES, NUMBERS, TARGET, Number
from support import OWN_TABLE, ROOT, code_blocks, empty_registry, free_port

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="neither chromium nor google-chrome is on PATH")
PATIENCE = 60  # seconds, for a machine that does much else
SMALL = 6_000  # bytes, in which there is no room for every curve
LEFT, RIGHT, TOP, BOTTOM = 40, 312, 20, 132  # of a plot, in form.js
Opened = Callable[..., Any]
CLIENT = httpx2.Client(timeout=PATIENCE)


@contextmanager
def served(registry: Registry, **settings: Any) -> Iterator[str]:
    """Serve on a free port, and give the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = create_app(Settings(**settings), registry)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)


@pytest.fixture(scope="module", autouse=True)
def loans_started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The table of the page in a copy of the service. It trains while the first tests run."""
    folder, port = tmp_path_factory.mktemp("loans"), free_port()
    shutil.copytree(ROOT / "app", folder / "app")
    shutil.copytree(ROOT / "plugins" / "penguins", folder / "plugins" / "penguins")
    (folder / "dags").mkdir()
    [script] = code_blocks(OWN_TABLE, "python")
    paths = [folder, folder / "plugins", ROOT / "tests"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    table = ["-m", "penguins.table", "loans.csv", "--target", "repaid", "--force"]
    for command in (["-c", script], table):
        subprocess.run([sys.executable, *command], check=True, cwd=folder, env=env, timeout=120)
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("serve_own_table.py")), str(folder), str(port)],
        cwd=folder,
        env=env,
    ) as process:
        yield process, f"http://127.0.0.1:{port}"
        process.terminate()


@pytest.fixture(scope="module")
def loans(loans_started: tuple[subprocess.Popen[bytes], str]) -> str:
    process, address = loans_started
    for _ in range(600):
        assert process.poll() is None
        try:
            if CLIENT.get(f"{address}/health/ready").is_success:
                return address
        except httpx2.TransportError:
            pass  # still training
        time.sleep(0.1)
    raise AssertionError("the loans are not served")


@pytest.fixture(scope="module")
def penguins(published: Registry) -> Iterator[str]:
    with served(published) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE * 1000)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opened]:
    """Open a page. In the end, nothing may have been asked of others, gone wrong or been forbidden by its policy."""
    wrong: list[str] = []
    contexts = []

    def note(text: str, *, unless: tuple[str, ...] = ()) -> None:
        if not text.startswith(unless):
            wrong.append(text)

    def goto(address: str, path: str = "/try", **options: Any) -> Page:
        context = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("request", lambda request: note(request.url, unless=(address, "data:")))
        page.on("pageerror", lambda error: note(str(error)))
        # What Chromium itself notes of a status that the tests ask for, is none of the page's.
        page.on("console", lambda message: note(message.text, unless=("Failed to load resource",)))
        page.goto(f"{address}{path}")
        return page

    yield goto
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.mark.parametrize("prefix", ["", "/birds"])
def test_swagger_sends_the_example_under_its_policy(opened: Opened, published: Registry, prefix: str) -> None:
    with served(published, root_path=prefix) as address:
        page = opened(address + prefix, path="/")
        operation = page.locator("#operations-predict-predict")
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_role("button", name="Execute").click()
        expect(operation.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
        expect(operation.locator(".live-responses-table .response-col_description").last).to_contain_text("Gentoo")


def predict(page: Page) -> Any:
    """Press the button, and return what was answered."""
    with page.expect_response("**/predict") as response:
        page.get_by_role("button", name="Predict").click()
    return response.value


def field(page: Page, name: str) -> Any:
    return page.locator(f"[data-column={name}]")


def percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def rows_predicted(address: str) -> float:
    lines = CLIENT.get(f"{address}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("model_predictions_total{"))


@pytest.mark.parametrize("table", ["penguins", "loans"])
def test_the_answer_is_that_of_predict_and_the_curves_are_those_of_one_batch(
    opened: Opened, request: pytest.FixtureRequest, table: str
) -> None:
    address = request.getfixturevalue(table)
    openapi = CLIENT.get(f"{address}/openapi.json").json()
    body = openapi["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    (example,) = (e["value"] for e in body["examples"].values())
    properties = openapi["components"]["schemas"]["Record"]["properties"]
    before = rows_predicted(address)
    page = opened(address)
    with page.expect_response("**/predict/batch*") as batch:
        answered = predict(page)
    expect(page.locator("#curves")).to_be_visible()
    assert rows_predicted(address) == before + 1, "what-if questions are no predictions"
    assert answered.request.post_data_json == example
    for name, value in example.items():
        check_field(page, name, value, properties[name])

    answer = CLIENT.post(f"{address}/predict", json=example).json()
    target = next(key for key in answer if key not in ("probabilities", "model_version"))
    chosen, probabilities = answer[target], answer["probabilities"]
    expect(page.get_by_role("status")).to_have_text(f"{chosen} {percent(probabilities[chosen])}")
    declared = openapi["components"]["schemas"]["Prediction"]["properties"][target]["enum"]
    bars = [f"{label}{percent(probabilities[label])}" for label in declared if label in probabilities]
    expect(page.locator("#bars li")).to_have_text(bars)
    headline = CLIENT.get(f"{address}/model-info").json()["metrics"]["headline"]
    expect(page.locator("#model")).to_contain_text(answer["model_version"])
    expect(page.locator("#model")).to_contain_text(f"{percent(headline['accuracy'])} of {headline['rows']} rows")

    # What another client is told about the same values.
    records = batch.value.request.post_data_json["records"]
    predictions = CLIENT.post(f"{address}/predict/batch", json={"records": records}).json()["predictions"]
    said = [{**p, "label": p[target], "record": r} for p, r in zip(predictions, records, strict=True)]
    assert page.locator("#curves > div").count() == len(example)
    for name, present in example.items():
        cell = page.locator(f"[data-of={name}]")
        count = cell.locator("li").count() or len((cell.locator("polyline").last.get_attribute("points") or "").split())
        own, said = said[:count], said[count:]
        assert all({**s["record"], name: present} == example for s in own)
        assert present in [s["record"][name] for s in own]
        check = check_choices if isinstance(present, str) else check_curve
        check(cell, own, name, present)
    assert said == []


def check_field(page: Page, name: str, value: Any, described: dict[str, Any]) -> None:
    """Its description, range and unit, its choices, a way to say that it is missing if it may be; and the example."""
    own, allowed = field(page, name), described.get("anyOf", [described])
    assert described["description"].split(" In ")[0] in own.inner_text()
    assert own.locator("[data-missing]").count() == ({"type": "null"} in allowed), name
    if isinstance(value, str):
        expect(own.get_by_role("radio", checked=True)).to_have_value(value)
        assert [r.get_attribute("value") for r in own.locator("input:not([data-missing])").all()] == allowed[0]["enum"]
    else:
        expect(page.get_by_label(name)).to_have_value(f"{value:g}")
        unit = described["description"].rpartition(" In ")[2].rstrip(".")
        assert f"{allowed[0]['minimum']:g} to {allowed[0]['maximum']:g} {unit}".rstrip() in own.inner_text()


def check_choices(cell: Locator, said: list[dict[str, Any]], name: str, present: str) -> None:
    for row, one in zip(cell.locator("li").all_inner_texts(), said, strict=True):
        value = one["record"][name]
        assert row.split("\n")[0] == (value or "not measured") + (" now" if value == present else "")
        assert row.endswith(f"{one['label']} {percent(one['probabilities'][one['label']])}")


def check_curve(cell: Locator, said: list[dict[str, Any]], name: str, present: float) -> None:
    values = [s["record"][name] for s in said]
    low, high = values[0], values[-1]
    assert len(values) > 100
    expect(cell.locator("text.value")).to_have_text(f"{present:g}")
    lines = cell.locator("polyline").evaluate_all("all => all.map(e => [e.dataset.class, e.getAttribute('points')])")
    chosen = lines[-1][0]
    for label, points in lines:
        for point, value, one in zip(points.split(), values, said, strict=True):
            x, y = map(float, point.split(","))
            assert x == pytest.approx(LEFT + (value - low) / (high - low) * (RIGHT - LEFT), abs=0.06)
            assert y == pytest.approx(BOTTOM - one["probabilities"][label] * (BOTTOM - TOP), abs=0.06)
    shares = [s["probabilities"][chosen] for s in said]
    told = cell.get_by_role("img").get_attribute("aria-label") or ""
    assert f"highest, {percent(max(shares))}, at {values[shares.index(max(shares))]:g}" in told
    first, last = said[0]["label"], said[-1]["label"]
    assert (f"{first} up to" if first != last else f"{first} throughout") in cell.inner_text()


def test_not_measured_is_null_and_a_comma_is_a_decimal_one(opened: Opened, penguins: str) -> None:
    page = opened(penguins)
    field(page, "culmen_depth_mm").get_by_label("not measured").check()
    expect(page.get_by_label("culmen_depth_mm")).to_be_disabled()
    field(page, "sex").get_by_label("not measured").check()
    page.get_by_label("flipper_length_mm").fill(" ")
    page.get_by_label("culmen_length_mm").fill("38,25")
    answered = predict(page)
    record = {**EXAMPLE, "culmen_length_mm": 38.25, "culmen_depth_mm": None, "flipper_length_mm": None, "sex": None}
    assert answered.request.post_data_json == record
    label = CLIENT.post(f"{penguins}/predict", json=record).json()[TARGET.name]
    expect(page.get_by_role("status")).to_contain_text(label)
    expect(page.locator("[data-of=culmen_depth_mm]")).to_contain_text(f"Now not measured: {label}")
    expect(page.locator("[data-of=culmen_depth_mm] .value")).to_have_count(0)
    expect(page.locator("[data-of=culmen_length_mm] .value")).to_have_text("38.25")
    field(page, "culmen_depth_mm").get_by_label("not measured").uncheck()
    expect(page.get_by_label("culmen_depth_mm")).to_be_enabled()
    expect(page.get_by_text("The values have changed since")).to_be_visible()


def test_an_error_stands_at_its_field_in_the_words_of_the_422(opened: Opened, penguins: str) -> None:
    page = opened(penguins)
    wrong = {"culmen_length_mm": 5, "body_mass_g": "4,500"}
    for name, value in wrong.items():
        page.get_by_label(name).fill(str(value))
    assert predict(page).status == 422
    said = CLIENT.post(f"{penguins}/predict", json={**EXAMPLE, **wrong}).json()["detail"]
    assert [error["loc"][1] for error in said] == list(wrong)
    for error in said:
        entry = page.get_by_label(error["loc"][1])
        expect(entry).to_have_attribute("aria-invalid", "true")
        expect(entry).to_have_accessible_description(re.compile(re.escape(error["msg"])))
        expect(field(page, error["loc"][1]).get_by_text(error["msg"])).to_be_visible()
    expect(page.locator("[aria-invalid]")).to_have_count(len(wrong))
    expect(page.get_by_label("culmen_length_mm")).to_be_focused()
    expect(page.get_by_role("alert")).to_be_hidden()

    page.get_by_label("culmen_length_mm").fill("46.1")
    page.get_by_label("body_mass_g").fill("4500")
    assert predict(page).status == 200
    expect(page.locator("[aria-invalid]")).to_have_count(0)

    for column in NUMBERS:
        field(page, column.name).get_by_label("not measured").check()
    assert predict(page).status == 422
    nothing = {**EXAMPLE, **{c.name: None for c in NUMBERS}}
    (whole,) = CLIENT.post(f"{penguins}/predict", json=nothing).json()["detail"]
    expect(page.get_by_role("alert")).to_have_text(whole["msg"])
    expect(page.get_by_role("alert")).to_be_focused()


def test_what_is_pressed_while_an_answer_is_still_being_shown_is_asked_next(opened: Opened, penguins: str) -> None:
    page, held = opened(penguins), list[Any]()
    page.route("**/predict/batch*", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks what it is given
    assert predict(page).status == 200
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "true")
    for _ in range(600):
        if held:
            break
        page.wait_for_timeout(100)
    page.get_by_label("body_mass_g").fill("4321")
    with page.expect_response("**/predict") as response:
        page.get_by_role("button", name="Predict").click()
        page.unroute("**/predict/batch*")  # which lets go what it held
    assert response.value.request.post_data_json["body_mass_g"] == 4321
    expect(page.locator("#answer")).not_to_have_attribute("aria-busy", "true")


def test_without_a_model_a_service_or_an_answer_the_page_says_so(opened: Opened, penguins: str, tmp_path: Path) -> None:
    with served(empty_registry(tmp_path)) as empty:
        page = opened(empty)
        expect(page.get_by_role("alert")).to_contain_text("trigger the DAG modelo_penguin")
        assert predict(page).status == 503
        expect(page.get_by_role("alert")).to_contain_text("trigger the DAG modelo_penguin")
    page = opened(penguins)
    page.route("**/predict", lambda route: route.fulfill(status=500, body="<html>"))
    predict(page)
    expect(page.get_by_role("alert")).to_contain_text("status 500")
    page.route("**/predict", lambda route: route.abort())
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    page.unroute("**/predict")
    predict(page)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_service_with_a_lock_is_given_the_key_which_the_tab_forgets(opened: Opened, penguins: str) -> None:
    hint, keys = "send a key as X-API-Key", []

    def locked(route: Any) -> None:
        keys.append(route.request.headers.get("x-api-key"))
        if keys[-1] == "right":
            route.continue_()
        else:
            route.fulfill(status=401, json={"detail": hint})

    page = opened(penguins)
    expect(page.locator("#key-value")).to_be_hidden()
    page.route(re.compile(r"/(predict|predict/batch|model-info)(\?|$)"), locked)
    page.reload()
    key = page.get_by_label("API key")
    expect(page.get_by_role("alert")).to_have_text(hint)
    for value in ("wrong", "right"):
        key.fill(value)
        key.press("Enter")
        expect(page.get_by_role("status") if value == "right" else page.get_by_role("alert")).not_to_be_empty()
    expect(page.get_by_role("status")).to_contain_text(TARGET.example)
    expect(key).to_be_hidden()
    assert keys[:3] == [None, "wrong", "right"]
    page.reload()
    predict(page)
    assert keys[-1] == "right"
    assert page.evaluate("[localStorage.length, document.cookie, Object.values(sessionStorage)]") == [0, "", ["right"]]


def test_a_keyboard_is_enough(opened: Opened, penguins: str) -> None:
    page = opened(penguins)

    def focused() -> str:
        return page.evaluate(
            "(e => e.closest('[data-column]')?.dataset.column + (e.matches('[type=checkbox]') ? '?' : ''))"
            "(document.activeElement)"
        )

    way = []
    for _ in range(len(FEATURES) + len([c for c in NUMBERS if not c.required])):
        page.keyboard.press("Tab")
        way.append(focused())
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", way
        if way[-1] == "island":
            page.keyboard.press("ArrowDown")
        elif way[-1] == "culmen_length_mm":
            page.keyboard.type("37.5")
        elif way[-1] == "body_mass_g?":
            page.keyboard.press("Space")
    assert way == [n for c in FEATURES for n in ([c.name, f"{c.name}?"] if isinstance(c, Number) else [c.name])]
    with page.expect_response("**/predict") as response:
        page.keyboard.press("Enter")
    changed = {"island": "Dream", "culmen_length_mm": 37.5, "body_mass_g": None}
    assert response.value.request.post_data_json == {**EXAMPLE, **changed}
    expect(page.get_by_role("status")).to_contain_text(response.value.json()[TARGET.name])


def test_it_speaks_the_browsers_language(opened: Opened, penguins: str) -> None:
    for header, language in {
        "es": "es",
        "es-MX,es;q=0.9,en;q=0.8": "es",
        "de-DE, ES;q=0.5": "es",
        "en-US,es;q=0.9": "en",
        "fr": "en",
        "*": "en",
        "": "en",
    }.items():
        assert preferred(header) == language, header
        answer = CLIENT.get(f"{penguins}/try", headers={"accept-language": header})
        assert f'<html lang="{language}">' in answer.text
    assert WORDS["es"].keys() == WORDS["en"].keys()
    page = opened(penguins, locale="es-MX")
    page.get_by_role("button", name="Predecir").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Probar el modelo")
    expect(page.locator("[data-of=body_mass_g]")).to_contain_text("Ahora 4500")
    expect(page.locator("#model")).to_contain_text("Exactitud en validación cruzada")
    expect(page.locator("[data-of=sex] li").last).to_contain_text("sin medir")


@pytest.mark.parametrize("table", ["penguins", "loans"])
def test_axe_finds_nothing_light_or_dark_narrow_or_wide(
    opened: Opened, request: pytest.FixtureRequest, table: str
) -> None:
    page = opened(request.getfixturevalue(table))
    predict(page)
    expect(page.locator("#curves")).to_be_visible()
    # With everything in sight that the page can show: an answer, an error at a field, an alert and the key.
    page.locator("[inputmode=decimal]").first.fill("much")
    predict(page)
    page.evaluate(
        "document.getElementById('problem').textContent = 'no'; document.getElementById('key').hidden = false"
    )
    for width, scheme in ((390, "light"), (390, "dark"), (1280, "dark"), (1280, "light")):
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page).response
        assert [(v["id"], v["nodes"][0]["html"]) for v in found["violations"]] == [], (width, scheme)
        assert len(found["passes"]) > 20
        assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_batch_is_no_larger_than_the_service_takes(opened: Opened, published: Registry) -> None:
    with served(published, max_body_bytes=SMALL) as address:
        page = opened(address)
        with page.expect_response("**/predict/batch*") as batch:
            predict(page)
        assert batch.value.status == 200
        assert len(batch.value.request.post_data) < SMALL
        expect(page.locator("#curves > div")).to_have_count(2)
        expect(page.get_by_text("The columns after Culmen length are left out")).to_be_visible()


def test_a_batch_holds_no_more_values_than_the_service_takes(
    opened: Opened, published: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a table of a hundred columns."""
    for module in (app.form.page, app.guards.bodies):
        monkeypatch.setattr(module, "MAX_VALUES", 100)
    with served(published) as address:
        page = opened(address)
        with page.expect_response("**/predict/batch*") as batch:
            predict(page)
        assert batch.value.status == 200
        expect(page.get_by_text("are left out")).to_be_visible()


def test_the_page_and_its_files_come_with_their_policy_and_are_found(penguins: str) -> None:
    with httpx2.Client(base_url=penguins, timeout=PATIENCE) as client:
        answer = client.get("/try")
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "script-src 'self'; style-src 'self'; connect-src 'self'" in answer.headers["content-security-policy"]
        for address in re.findall(r'(?:src|href)="(try/[^"]+)"', answer.text):
            assert client.get(f"/{address}").is_success
        assert not re.search(r"<style|style=|<script(?! src)|\son\w+=", answer.text)
        assert "[a form](try)" in client.get("/openapi.json").json()["info"]["description"]
        assert client.get("/models/20260101T000000Z-0123abcd/try", follow_redirects=True).url.path == "/try"


def test_a_heading_is_the_name_without_its_unit() -> None:
    for name, unit, words in (
        ("body_mass_g", "g", "Body mass"),
        ("amount_eur", "EUR", "Amount"),
        ("big", "g", "Big"),
        ("share", "", "Share"),
        ("A__b_", "", "A  b"),
    ):
        column = Number(name=name, description="", unit=unit, minimum=0, maximum=1, example=0)
        assert heading(column) == words
