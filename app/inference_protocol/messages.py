"""The protocol's JSON objects. What a client sends besides is ignored, as other servers do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from penguins.schema import EXAMPLE, FEATURES, Number

Parameters = dict[str, Any]


class _Sent(BaseModel):
    model_config = ConfigDict(strict=True)


class RequestInput(_Sent):
    """A column of the table."""

    name: str
    shape: list[int] = Field(max_length=8, description="[rows] or [rows, 1].")
    datatype: str = Field(description="FP64 for a number, or another type of numbers; BYTES for a category.")
    parameters: Parameters | None = None
    data: list[Any] | None = Field(None, description="Flat or nested. Missing is null, or NaN, or an empty text.")


class RequestOutput(_Sent):
    name: str
    parameters: Parameters | None = None


class InferenceRequest(_Sent):
    id: str | None = Field(None, description="The response has the same.")
    parameters: Parameters | None = Field(None, description="The response has the same.")
    inputs: list[RequestInput] = Field(
        max_length=2 * len(FEATURES),
        description="One for each column, in any order. Those of columns that may be missing may be left out.",
    )
    outputs: list[RequestOutput] | None = Field(None, max_length=8, description="All, if there are none.")


class ResponseOutput(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: list[str | float] | None = Field(None, description="Flat, row by row.")


class InferenceResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[ResponseOutput]


class TensorMetadata(BaseModel):
    name: str
    datatype: Literal["FP64", "BYTES"]
    shape: list[int] = Field(description="-1 is any number.")
    parameters: Parameters = Field(description="Not of the protocol: what else is known of the column or the output.")


class ModelMetadata(BaseModel):
    name: str
    versions: list[str] = Field(description="The one that serves.")
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(BaseModel):
    name: str
    ready: bool


class ServerReady(BaseModel):
    ready: bool


class ServerLive(BaseModel):
    live: bool


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class Failure(BaseModel):
    error: str


EXAMPLE_REQUEST = {
    "id": "1",
    "inputs": [
        {
            "name": c.name,
            "shape": [1],
            "datatype": "FP64" if isinstance(c, Number) else "BYTES",
            "data": [EXAMPLE[c.name]],
        }
        for c in FEATURES
    ],
}
