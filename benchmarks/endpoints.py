"""The endpoints that POST /predict is compared with. Each is an ASGI application for uvicorn."""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from app.schemas import Batch, BatchPrediction, Prediction, Record
from penguins.registry import Registry
from penguins.schema import TARGET

CONSTANT = {
    TARGET.name: TARGET.values[0],
    "probabilities": {name: float(name == TARGET.values[0]) for name in TARGET.values},
    "model_version": "none",
}
LABEL = json.dumps({TARGET.name: TARGET.values[0]}, separators=(",", ":")).encode()

empty = FastAPI()


@empty.post("/predict", response_model=Prediction)
async def constant(record: Record) -> dict[str, Any]:  # noqa: ARG001
    return CONSTANT


tutorial = FastAPI()


@tutorial.post("/predict", response_model=Prediction)
def predict_from_frame(record: Record) -> dict[str, Any]:
    return {**_predict([record])[0], "model_version": os.environ["VERSION"]}


@tutorial.post("/predict/batch", response_model=BatchPrediction)
def predict_batch_from_frame(batch: Batch) -> dict[str, Any]:
    return {"predictions": _predict(batch.records), "model_version": os.environ["VERSION"]}


def _predict(records: list[Any]) -> list[dict[str, Any]]:
    import pandas as pd

    pipeline = _pipeline()
    frame = pd.DataFrame([record.model_dump() for record in records])
    labels, probabilities = pipeline.predict(frame), pipeline.predict_proba(frame)
    return [
        {TARGET.name: label, "probabilities": dict(zip(pipeline.classes_, row, strict=True))}
        for label, row in zip(labels, probabilities, strict=True)
    ]


@cache
def _pipeline() -> Any:
    from penguins.inference import unpickle

    _, pickled = Registry.from_environment().read(os.environ["VERSION"])
    return unpickle(pickled)


async def raw(_: Scope, receive: Receive, send: Send) -> None:
    """Answer every request with a constant: the most that uvicorn can do."""
    await receive()
    headers = [(b"content-length", b"%d" % len(LABEL)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": LABEL})
