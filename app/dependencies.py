"""What the routes are given: the model server, and the model that serves."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from app.serving.model_server import ModelServer, Served


# Async, although they await nothing: FastAPI calls sync dependencies in a thread, which costs more than a prediction.
async def _model_server(request: Request) -> ModelServer:
    return request.app.state.model_server


async def _served(request: Request) -> Served:
    return request.app.state.model_server.require()


CurrentServer = Annotated[ModelServer, Depends(_model_server)]
CurrentModel = Annotated[Served, Depends(_served)]
