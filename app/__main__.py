"""Run the service: `python -m app`."""

from __future__ import annotations

import logging

import uvicorn

from app.settings import Settings

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
settings = Settings()
uvicorn.run(
    "app.main:create_app",
    factory=True,
    host=settings.host,
    port=settings.port,
    access_log=False,
    log_config=None,
)
