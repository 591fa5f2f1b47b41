"""What the routes are given: the model server, the model that serves, and who wants to know what it predicted."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from app.schemas import Problem
from app.serving.model_server import ModelServer, Served
from app.serving.observers import Observed


# Async, although they await nothing: FastAPI calls sync dependencies in a thread, which costs more than a prediction.
async def _model_server(request: Request) -> ModelServer:
    return request.app.state.model_server


async def _served(request: Request) -> Served:
    return request.app.state.model_server.require()


async def _observed(request: Request) -> Observed:
    return request.app.state.observed(request.scope["headers"])


CurrentServer = Annotated[ModelServer, Depends(_model_server)]
CurrentModel = Annotated[Served, Depends(_served)]
ObservedRequest = Annotated[Observed, Depends(_observed)]

# What a route with CurrentModel may answer, for OpenAPI.
NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"model": Problem, "description": "No model is ready yet. The body says what to do."}
}
