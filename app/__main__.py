"""Run the service: `python -m app`."""

from __future__ import annotations

import gc
import logging
import os
import sys
from contextlib import nullcontext
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from app import SHARED_FOLDER
from app.guards.connections import BOUNDS
from app.journal.journal import Journal
from app.main import create_app
from app.monitoring.counts import Recorder
from app.monitoring.port import bound_socket
from app.settings import Settings
from penguins.api_keys import KeysError, read_keys
from penguins.journal.tables import EXAMPLE_URL, URL, JournalError

JOURNAL_NOW = (
    f"The journal is in a database now: set {URL}, for example to {EXAMPLE_URL}, and API_JOURNAL_ROWS for its size. "
    "docs/journal.md says how the files are taken over."
)

# At module level, because the workers import this module and skip the block under `if`.
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def application() -> FastAPI:
    """Return the application that each process serves."""
    app = create_app()
    # Imported objects live as long as the process. Scanning them for garbage takes a third of a batch's time.
    gc.collect()
    gc.freeze()
    return app


def said(fault: Any) -> str:
    """Return one of pydantic's errors about the settings, in the words of whoever set them."""
    name = str(fault["loc"][0])
    return f"API_{name.upper()} is {fault['input']!r}: {fault['msg']}. {Settings.model_fields[name].description}"


def check(settings: Settings) -> None:
    """End the process with one line if it could not do what was asked for: workers would be started again and again."""
    try:
        if settings.keys_file:
            read_keys(settings.keys_file)
        if settings.metrics_port == settings.port:
            sys.exit(f"API_METRICS_PORT and API_PORT are both {settings.port}; choose two different ones")
        if settings.metrics_port:
            bound_socket(settings.host, settings.metrics_port, shared=False).close()
        if old := [name for name in ("API_JOURNAL_DIR", "API_JOURNAL_MB") if os.environ.get(name)]:
            sys.exit(f"{' and '.join(old)}: of an earlier release. {JOURNAL_NOW}")
        Journal.of(settings, Recorder())
    except KeysError as error:
        sys.exit(f"the service does not start without its lock: {error}")
    except JournalError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"API_METRICS_PORT is {settings.metrics_port}, which cannot be used: {error.strerror}")


if __name__ == "__main__":
    try:
        settings = Settings()
    except ValidationError as error:
        sys.exit("\n".join(map(said, error.errors())))
    check(settings)
    # A single worker shares with nobody, and could not remove the folder: uvicorn re-raises the signal that stops it.
    with TemporaryDirectory(prefix="modelo_penguin-") if settings.workers > 1 else nullcontext() as folder:
        if folder:
            os.environ[SHARED_FOLDER] = folder
        uvicorn.run(
            "app.__main__:application",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            access_log=False,
            log_config=None,
            **BOUNDS,
        )
