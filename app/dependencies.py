"""What the routes are given: the model server, and the model that serves."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from app.journal.journal import Journal, Note
from app.serving.model_server import ModelServer, Served


# Async, although they await nothing: FastAPI calls sync dependencies in a thread, which costs more than a prediction.
async def _model_server(request: Request) -> ModelServer:
    return request.app.state.model_server


async def _served(request: Request) -> Served:
    return request.app.state.model_server.require()


async def _note(request: Request) -> Note | None:
    journal: Journal | None = request.app.state.journal
    return journal.note(request.scope["headers"]) if journal else None


CurrentServer = Annotated[ModelServer, Depends(_model_server)]
CurrentModel = Annotated[Served, Depends(_served)]
CurrentNote = Annotated[Note | None, Depends(_note)]
