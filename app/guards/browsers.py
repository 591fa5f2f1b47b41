"""What browsers and proxies ask for: Swagger's page, HEAD, other origins, and a prefix of the path."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Receive, Scope, Send

ASSETS = "/static-offline-docs"  # where fastapi-offline puts Swagger's files
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


def add_swagger(app: FastAPI, prefix: str) -> None:
    """Add Swagger's page at /. Its one inline script is allowed by its hash, and nothing comes from elsewhere."""

    page = bytes(
        get_swagger_ui_html(
            openapi_url=f"{prefix}{app.openapi_url}",
            title=f"{app.title} - Swagger UI",
            swagger_js_url=f"{prefix}{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{prefix}{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{prefix}{ASSETS}/favicon.png",
        ).body
    )
    (script,) = _INLINE.findall(page)
    script_hash = base64.b64encode(hashlib.sha256(script).digest()).decode()
    headers = {
        "Content-Security-Policy": f"default-src 'none'; script-src 'self' 'sha256-{script_hash}'; "
        "style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
    }

    @app.get("/", include_in_schema=False)
    async def swagger() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)


class HeadAsGet:
    """ASGI middleware that answers HEAD as GET. The server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


class WithoutPrefix:
    """ASGI middleware that takes a prefix off the path, unless the proxy in front has done so."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(f"{self.prefix}/"):
            scope = {**scope, "path": scope["path"].removeprefix(self.prefix)}
        await self.app(scope, receive, send)


def allow_origins(app: ASGIApp, origins: list[str]) -> ASGIApp:
    """Let pages of other origins ask: any method and header of this service, but no cookies, of which it has none."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Content-Type", "X-API-Key", "X-Request-ID", "Inference-Header-Content-Length"],
        expose_headers=["X-Request-ID", "Inference-Header-Content-Length"],
    )
