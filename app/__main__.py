"""Run the service: `python -m app`."""

from __future__ import annotations

import gc
import logging
import os
from contextlib import nullcontext
from tempfile import TemporaryDirectory

import uvicorn
from fastapi import FastAPI

from app.main import create_app
from app.settings import SHARED_FOLDER, Settings

# In each worker as well: they import this module, and run none of what is under `if`.
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def application() -> FastAPI:
    """Return the application as a process serves it."""
    app = create_app()
    # What was imported lives as long as the process: to search it for garbage again and again takes a third of a
    # batch's time.
    gc.collect()
    gc.freeze()
    return app


if __name__ == "__main__":
    settings = Settings()
    # A single worker has nobody to share with, and no chance to remove a folder: uvicorn ends it by the signal it got.
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
