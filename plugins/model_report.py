"""The page "Penguin model" in Airflow's navigation and on a DAG's page: the report of the serving model.

Above it stands which version waits to be activated, if one does.

Airflow's API server reads the report from the shared folder and serves it at its own address, so that it works on any
port. Like the rest of Airflow, it requires a login. "Try the model" leads on to the service's form, on the same host at
another port.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

from penguins.schema import ASSET
from penguins.schema import NAME as DAG_ID

if TYPE_CHECKING:
    from fastapi import FastAPI

PREFIX = "/model-report"
NAME, TRY = ASSET.replace("_", " ").capitalize(), "Try the model"
WAITS = (
    '<p role="status"><strong>Version {version} waits to be activated:</strong> it was published with '
    "<code>activate</code> off. <code>python -m penguins.registry activate {version}</code> makes it serve.</p>"
)
PLAIN_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>:root {{ color-scheme: light dark }} body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem;
margin: 15vh auto; padding: 0 1rem }}</style></head>
<body><main><h1>{title}</h1><p>{text}</p></main></body></html>"""


def create_app() -> FastAPI:
    """Return the application that serves the reports."""
    from html import escape

    from airflow.api_fastapi.core_api.security import get_user
    from fastapi import Depends, FastAPI, Request
    from starlette.responses import HTMLResponse, RedirectResponse, Response

    from penguins.registry import NoModelError, Registry, RegistryError, waiting_versions
    from penguins.report.page import HEADERS

    def page(title: str, text: str, status: int) -> HTMLResponse:
        return HTMLResponse(PLAIN_PAGE.format(title=title, text=escape(text)), status, HEADERS)

    def answer(version: str | None) -> HTMLResponse:
        registry = Registry.from_environment()
        try:
            report = registry.report(version or registry.current())
            waiting = [v for v in waiting_versions(registry) if version in (None, v)]
            notice = WAITS.format(version=waiting[0]) if waiting else ""
            return HTMLResponse(report.replace(b"<body>", f"<body>{notice}".encode(), 1), headers=HEADERS)
        except NoModelError as error:
            if registry.versions():
                return page("No model serves yet", str(error), 200)
            return page(
                "No model yet",
                f"Trigger the DAG {DAG_ID}. The report of the model that it publishes will appear here.",
                200,
            )
        except RegistryError as error:
            return page("No report", str(error), 404)

    app = FastAPI(title=NAME, openapi_url=None)
    logged_in = [Depends(get_user)]

    @app.get("/", response_model=None, dependencies=logged_in)
    def current() -> HTMLResponse:
        return answer(None)

    async def form(request: Request) -> Response:
        port = os.environ.get("API_PORT") or "8989"
        address = str(request.base_url.replace(port=int(port), path="/try"))
        if request.headers.get("sec-fetch-dest") == "document":
            return RedirectResponse(address)
        # Airflow shows a report in a frame, which may open no other page, and the form may not be framed.
        return page(TRY, f"The form is at {address}. Docs > {TRY} in Airflow's navigation opens it.", 200)

    # Without a login, because a link in a sandboxed frame does not send it. There is nothing here to protect.
    app.add_route("/try", form)

    @app.get("/{version}", response_model=None, dependencies=logged_in)
    def of_version(version: str) -> HTMLResponse:
        return answer(version)

    return app


class ModelReportPlugin(AirflowPlugin):
    """The plugin that Airflow loads."""

    name = "model_report"
    external_views = [  # noqa: RUF012 - as Airflow declares it
        {"name": NAME, "href": f"{PREFIX}/", "destination": "nav", "url_route": "model-report", "nav_top_level": True},
        {"name": NAME, "href": f"{PREFIX}/", "destination": "dag", "url_route": "model-report-of-dag"},
        # Without a url_route, it opens a page of its own. Not at the top, where Airflow 3.3 makes it a dead button.
        {"name": TRY, "href": f"{PREFIX}/try", "destination": "nav", "category": "docs"},
    ]

    # Every task process loads plugins, but only the API server reads this. Its imports take a second.
    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [{"app": create_app(), "url_prefix": PREFIX, "name": NAME}]
