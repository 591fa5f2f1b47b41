"""Request and response bodies. Those with the table's columns are built from the schema."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    WithJsonSchema,
    create_model,
    model_validator,
)

from penguins.schema import FEATURES, NUMBERS, TARGET, Category, Number

MAX_RECORDS = 10_000
_NUMBERS = tuple(c.name for c in NUMBERS)


class _Record(BaseModel):
    # Strict: the string "39.1" is not a number, and true is not 1. A wrong type is a bug in the client: report it.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _has_a_measurement(self) -> Self:
        values = vars(self)
        for name in _NUMBERS:  # a plain loop for speed: it runs for each record of a batch
            if values[name] is not None:
                return self
        if _NUMBERS:
            raise ValueError(f"at least one of {', '.join(_NUMBERS)} must be a number, but all are null or left out")
        return self


def category(column: Category, description: str) -> tuple[Any, Any]:
    """Return the type and the field of a category. What a number or a boolean stands for takes its place."""
    kind: Any = Literal[column.values]
    if rest := column.rest:
        known = frozenset(column.values)
        kind = Annotated[
            kind,
            BeforeValidator(lambda v: rest if isinstance(v, str) and v not in known else v),
            WithJsonSchema({"type": "string", "examples": list(column.values)}),
        ]
        description += f" Any other text counts as {rest!r}."
    if meanings := column.meanings:
        kind = Annotated[kind, BeforeValidator(lambda v: meanings.get(v, v) if isinstance(v, int | float) else v)]
        description += f" Taken without quotes as well: {', '.join(map(json.dumps, meanings))}."
    return kind, Field(description=description)


def _field(column: Any) -> tuple[Any, Any]:
    if isinstance(column, Number):
        kind: Any = float
        text = f"{column.description} In {column.unit}." if column.unit else column.description
        field = Field(description=text, ge=column.minimum, le=column.maximum)
    else:
        kind, field = category(column, column.description)
    return (kind, field) if column.required else (Annotated[kind | None, field], None)


_LABEL: dict[str, Any] = {
    TARGET.name: (Literal[TARGET.values], Field(description="The predicted class.")),
    "probabilities": (dict[str, float], Field(description="The probability of each class; they add up to 1.")),
}
_VERSION: dict[str, Any] = {"model_version": (str, Field(description="The version that made this prediction."))}

_FEATURES: dict[str, Any] = {c.name: _field(c) for c in FEATURES}

Record: Any = create_model("Record", __base__=_Record, **_FEATURES)
RECORDS: Any = TypeAdapter(list[Record]).validator
Label: Any = create_model("Label", **_LABEL)
Prediction: Any = create_model("Prediction", **_LABEL, **_VERSION)
BatchPrediction: Any = create_model(
    "BatchPrediction", predictions=(list[Label], Field(description="In the order of the records.")), **_VERSION
)


class Batch(BaseModel):
    """Records to predict at once."""

    model_config = ConfigDict(extra="forbid")

    records: list[Record] = Field(min_length=1, max_length=MAX_RECORDS)


class Rejection(BaseModel):
    """A version that was rejected while the last good one kept serving."""

    version: str
    reason: str


class ModelInfo(BaseModel):
    """Facts from the serving version's manifest."""

    warnings: list[str] = Field(description="What the accuracy does not tell, such as a class that is never found.")
    version: str
    created_at: datetime
    accuracy: float = Field(description="Accuracy on the held-out rows.")
    metrics: dict[str, Any]
    features: list[dict[str, Any]]
    classes: list[str]
    params: dict[str, Any] = Field(description="Params of the DAG run.")
    data: dict[str, Any] = Field(description="SHA-256 and row count of the CSV.")
    rows: dict[str, int] = Field(description="Number of rows trained on and held out.")
    libraries: dict[str, str]
    sha256: str = Field(description="SHA-256 of the `.pkl`.")
    dag_run_id: str
    predictor: Literal["onnx", "pipeline"] = Field(description="What computes the predictions.")
    fallback: str | None = Field(description="Why the pipeline itself predicts, if it could not be compiled.")
    rejected: Rejection | None = Field(description="The last version rejected, if any, and why.")


class Version(BaseModel):
    """One published version. `problem` is the reason if it cannot be trusted."""

    version: str
    serving: bool
    waiting: bool = Field(False, description="Published without being activated, and newer than what serves.")
    created_at: datetime | None = None
    accuracy: float | None = None
    dag_run_id: str | None = None
    problem: str | None = None


class Health(BaseModel):
    status: Literal["alive", "ready"]
    registry: str | None = Field(None, description="What is wrong with the registry, while the model goes on serving.")


class Problem(BaseModel):
    detail: str


# For routes that read their body themselves: FastAPI does not know that it is checked.
INVALID = {"application/json": {"schema": {"$ref": "#/components/schemas/HTTPValidationError"}}}
# What any route with a body may answer, for OpenAPI.
BODY_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body cannot be parsed, for example because it is not UTF-8."},
    413: {"model": Problem, "description": "The body is too large."},
    415: {"model": Problem, "description": "The body is compressed, or a page in a browser sent it as something else."},
}
