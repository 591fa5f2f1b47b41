"""/metrics on a port of its own, so that whoever reaches the service need not reach its counts."""

from __future__ import annotations

import socket
import threading

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from app.guards.connections import BOUNDS
from app.monitoring.metrics import Metrics
from app.settings import Settings

SECONDS_TO_STOP = 1


def bound_socket(host: str, port: int, *, shared: bool) -> socket.socket:
    """Return a socket bound to the port. With `shared`, other workers may bind it as well. OSError if it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def metrics_text(request: Request) -> PlainTextResponse:
    """Requests, predictions, model and drift, for Prometheus."""
    return PlainTextResponse(request.app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


class MetricsPort:
    """A server of /metrics alone, in a thread. Of several workers any may be asked: each adds up the counts of all."""

    def __init__(self, metrics: Metrics, host: str, port: int, *, shared: bool) -> None:
        self._address = (host, port)
        self._shared = shared
        self._app = Starlette(routes=[Route("/metrics", metrics_text)])
        self._app.state.metrics = metrics

    @classmethod
    def of(cls, metrics: Metrics, settings: Settings) -> MetricsPort | None:
        """Return the port that the settings ask for, if any."""
        if not settings.metrics_port:
            return None
        return cls(metrics, settings.host, settings.metrics_port, shared=settings.workers > 1)

    def start(self) -> None:
        """Listen from now on, or raise OSError if the port is taken."""
        self._socket = bound_socket(*self._address, shared=self._shared)
        config = uvicorn.Config(self._app, lifespan="off", access_log=False, log_config=None, **BOUNDS)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="metrics-port", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(SECONDS_TO_STOP)
        self._socket.close()
