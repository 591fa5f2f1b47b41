"""The lock: with `API_KEYS_FILE`, whoever asks for more than health, metrics and pages needs a key."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from fastapi import Security
from fastapi.security import APIKeyHeader
from pydantic import BaseModel
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import problem
from penguins.api_keys import KeysError, digest, read_keys

log = logging.getLogger(__name__)

# What needs no key: these paths, and all below these folders.
OPEN = frozenset({"/", "/openapi.json", "/metrics", "/try"})
OPEN_FOLDERS = ("/health/", "/v2/health/", "/static-offline-docs/", "/try/")
HEADER = "X-API-Key"
# For OpenAPI and for Swagger's Authorize. `RequireKey` does the checking, because it comes before a body is read.
SCHEME = APIKeyHeader(name=HEADER, auto_error=False, description="From `python -m penguins.api_keys add NAME`.")
HOW = (
    f"Whoever runs this service makes one with `python -m penguins.api_keys add NAME`; send it in the header {HEADER}."
)

NAME_IN_SCOPE = "api_key_name"  # where the metrics find the name of the key
SECONDS_TO_LOOK = 1.0
_HEADER = HEADER.lower().encode()


class Keys:
    """The keys of a file. A thread reads it again each second; if it cannot be read, the last keys stay.

    Raises
    ------
    KeysError
        If the file cannot be read at the start: no service without the lock that was asked for.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._keys = _by_digest(file)
        self._problem = ""
        self._stop = threading.Event()

    def name_of(self, scope: Scope) -> str | None:
        """Return the name of the request's key, or None if it has no key, an unknown one, or two."""
        given = [value for name, value in scope["headers"] if name == _HEADER]
        if len(given) != 1:
            return None
        # How long this lookup takes depends on the hash of what came, which tells nothing about a key that is known.
        return self._keys.get(digest(given[0]))

    def start(self) -> None:
        self._stop.clear()
        threading.Thread(target=self._watch, name="keys", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def refresh(self) -> None:
        """Read the file again."""
        try:
            keys = _by_digest(self._file)
        except KeysError as error:  # tried again, but logged once
            if str(error) != self._problem:
                log.error("the keys from before stay valid: %s", error)
            self._problem = str(error)
            return
        if keys != self._keys:
            log.info("the keys were read again: there are %d", len(keys))
        self._keys, self._problem = keys, ""

    def _watch(self) -> None:
        while not self._stop.wait(SECONDS_TO_LOOK):
            self.refresh()


def _by_digest(file: Path) -> dict[bytes, str]:
    return {hashed: name for name, hashed in read_keys(file).items()}


def locked(keys: Keys | None, problem_model: type[BaseModel]) -> dict[str, Any]:
    """Return how a router is included so that OpenAPI says what `RequireKey` does: nothing, if there are no keys."""
    if keys is None:
        return {}
    no_key = {"model": problem_model, "description": "No key, or none that is known."}
    return {"dependencies": [Security(SCHEME)], "responses": {401: no_key}}


class RequireKey:
    """ASGI middleware that answers 401, before it reads a body, unless the path is open or the key is known."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope["path"]):
            name = self.keys.name_of(scope)
            if name is None:
                came = "the API key is not known here" if _has_key(scope) else "an API key is needed"
                answer = JSONResponse(problem(scope, f"{came}. {HOW}"), 401, {"WWW-Authenticate": "APIKey"})
                await answer(scope, receive, send)
                return
            scope[NAME_IN_SCOPE] = name
        await self.app(scope, receive, send)


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_FOLDERS)


def _has_key(scope: Scope) -> bool:
    return any(name == _HEADER for name, _ in scope["headers"])
