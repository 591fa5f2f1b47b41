"""The bodies of requests and answers. Those with the table's columns are made from the schema."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from penguins.schema import FEATURES, NUMBERS, TARGET, Number

MAX_RECORDS = 10_000
_NUMBERS = tuple(c.name for c in NUMBERS)


class _Record(BaseModel):
    # Strict: the text "39.1" is no number and true is not 1. A wrong type is the client's bug, and better said.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _has_a_measurement(self) -> Self:
        values = vars(self)
        for name in _NUMBERS:  # a loop, because it runs for each record of a batch
            if values[name] is not None:
                return self
        if _NUMBERS:
            raise ValueError(f"at least one of {', '.join(_NUMBERS)} must be a number, all are null")
        return self


def _field(column: Any) -> tuple[Any, Any]:
    if isinstance(column, Number):
        kind: Any = float
        said = f"{column.description} In {column.unit}." if column.unit else column.description
        field = Field(description=said, ge=column.minimum, le=column.maximum)
    else:
        kind = Literal[column.values]
        field = Field(description=column.description)
    return (kind if column.required else kind | None), field


_LABEL: dict[str, Any] = {
    TARGET.name: (Literal[TARGET.values], Field(description="The predicted class.")),
    "probabilities": (dict[str, float], Field(description="Of every class; they add up to 1.")),
}
_VERSION: dict[str, Any] = {"model_version": (str, Field(description="The version that made this answer."))}

_FEATURES: dict[str, Any] = {c.name: _field(c) for c in FEATURES}

Record: Any = create_model("Record", __base__=_Record, **_FEATURES)
Label: Any = create_model("Label", **_LABEL)
Prediction: Any = create_model("Prediction", **_LABEL, **_VERSION)
BatchPrediction: Any = create_model(
    "BatchPrediction", predictions=(list[Label], Field(description="In the records' order.")), **_VERSION
)


class Batch(BaseModel):
    """Records to predict at once."""

    model_config = ConfigDict(extra="forbid")

    records: list[Record] = Field(min_length=1, max_length=MAX_RECORDS)


class Rejection(BaseModel):
    """A version that was refused, while the last good one went on."""

    version: str
    reason: str


class ModelInfo(BaseModel):
    """The facts of the serving version's manifest."""

    version: str
    created_at: datetime
    accuracy: float = Field(description="On the held-out rows.")
    metrics: dict[str, Any]
    features: list[dict[str, Any]]
    classes: list[str]
    params: dict[str, Any] = Field(description="The DAG run's params.")
    data: dict[str, Any] = Field(description="sha256 and rows of the CSV.")
    rows: dict[str, int] = Field(description="Rows trained on and held out.")
    libraries: dict[str, str]
    sha256: str = Field(description="Of the `.pkl`.")
    dag_run_id: str
    predictor: Literal["onnx", "pipeline"] = Field(description="What computes the predictions.")
    fallback: str | None = Field(description="Why the pipeline itself predicts, where it could not be compiled.")
    rejected: Rejection | None = Field(description="The newest version that was refused, if any, and why.")


class Version(BaseModel):
    """One published version. `problem` says what is wrong with one that cannot be trusted."""

    version: str
    serving: bool
    created_at: datetime | None = None
    accuracy: float | None = None
    dag_run_id: str | None = None
    problem: str | None = None


class Health(BaseModel):
    status: Literal["alive", "ready"]


class Problem(BaseModel):
    detail: str
