"""The answers of /predict and /predict/batch, as the response bodies in app/schemas.py describe them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from app.serving.model_server import Predicted
from penguins.inference import Prediction
from penguins.schema import TARGET


def labels_of(predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    """Return what a response says of each prediction."""
    return [{TARGET.name: label, "probabilities": probabilities} for label, probabilities in predictions]


def answer_of(predicted: Predicted) -> dict[str, Any]:
    """Return the response body of /predict, or of /predict/batch."""
    served, _, predictions, batch = predicted
    if batch:
        return {"predictions": labels_of(predictions), "model_version": served.version}
    label, probabilities = predictions[0]  # not by `labels_of`: a single prediction must cost next to nothing
    return {TARGET.name: label, "probabilities": probabilities, "model_version": served.version}
