"""Run the service: `python -m app`."""

from __future__ import annotations

import gc
import logging
import os
from contextlib import nullcontext
from tempfile import TemporaryDirectory

import uvicorn
from fastapi import FastAPI

from app import SHARED_FOLDER
from app.main import create_app
from app.settings import Settings

# At module level, because the workers import this module and skip the block under `if`.
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def application() -> FastAPI:
    """Return the application that each process serves."""
    app = create_app()
    # Imported objects live as long as the process. Scanning them for garbage takes a third of a batch's time.
    gc.collect()
    gc.freeze()
    return app


if __name__ == "__main__":
    settings = Settings()
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
        )
