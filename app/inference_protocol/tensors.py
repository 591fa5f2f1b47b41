"""From tensors to records and back: a tensor is a column, as JSON or as bytes behind the JSON."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.errors import ServiceError
from app.schemas import MAX_RECORDS
from penguins.inference import Prediction
from penguins.schema import FEATURES, TARGET, Category, Number

PROBABILITIES = "probabilities"
# Little-endian, as the binary extension says. What is no FP64 becomes one.
NUMERIC = {
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}
_DTYPES = {**NUMERIC, "BOOL": np.dtype("?")}
_COLUMNS: dict[str, Number | Category] = {c.name: c for c in FEATURES}
_LENGTH = struct.Struct("<I")


class InferenceError(ServiceError):
    """The request is not one of the protocol, or not one for this model."""

    status_code = 400


Parameters = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]


class _Sent(BaseModel):
    """What a client sends. Other fields are ignored, as other servers do."""

    model_config = ConfigDict(strict=True)


class RequestInput(_Sent):
    """A column of the table."""

    name: str
    shape: list[int] = Field(max_length=8, description="[rows] or [rows, 1].")
    datatype: str = Field(description="FP64 for a number, or another type of numbers; BYTES for a category.")
    parameters: Parameters = Field({}, description="`binary_data_size` says how many bytes behind the JSON it is.")
    data: list[Any] | None = Field(None, description="Flat or nested. Missing is null, or NaN, or an empty text.")


class RequestOutput(_Sent):
    name: str
    parameters: Parameters = {}


def datatype_of(column: Number | Category) -> str:
    return "FP64" if isinstance(column, Number) else "BYTES"


def records_of(inputs: Sequence[RequestInput], behind: memoryview | None) -> list[dict[str, Any]]:
    """Return the rows that the tensors hold, with None for what is missing. No value is checked yet.

    Parameters
    ----------
    inputs : sequence of RequestInput
        One for each column of the schema.
    behind : memoryview, optional
        The bytes behind the JSON, which the inputs share out in their order.

    Raises
    ------
    InferenceError
        If a tensor is unknown, absent or given twice, or its shape, datatype and data do not fit each other.
    """
    columns: dict[str, list[Any]] = {}
    for tensor in inputs:
        column = _COLUMNS.get(tensor.name)
        if column is None or tensor.name in columns:
            wrong = "there are two of it" if column else "there is no such input"
            raise InferenceError(f"input {tensor.name[:80]!r}: {wrong}. The inputs are {', '.join(_COLUMNS)}.")
        try:
            rows = _rows(tensor, len(next(iter(columns.values()), [])))
            size = _binary_size(tensor, column, behind)
            if size is None:
                values = _json_values(tensor, rows)
            else:
                chunk, behind = behind[:size], behind[size:]  # type: ignore[index]
                values = _texts(chunk, rows) if tensor.datatype == "BYTES" else _numbers(chunk, rows, tensor.datatype)
        except ValueError as error:
            raise InferenceError(f"input {tensor.name} {error}") from None
        columns[tensor.name] = _with_none(values, tensor, column)
    required = [name for name, column in _COLUMNS.items() if column.required or not columns]
    if absent := [name for name in required if name not in columns]:
        raise InferenceError(f"no input {', '.join(absent)}. Only columns that may be missing may be left out.")
    if behind:
        raise InferenceError(
            f"behind the JSON are {len(behind)} bytes more than the inputs' binary_data_size add up to"
        )
    left_out = dict.fromkeys(name for name in _COLUMNS if name not in columns)
    return [dict(zip(columns, row, strict=True)) | left_out for row in zip(*columns.values(), strict=True)]


def _rows(tensor: RequestInput, before: int) -> int:
    rows, *others = tensor.shape or [0]
    if others not in ([], [1]) or not 1 <= rows <= MAX_RECORDS:
        raise ValueError(f"has the shape {tensor.shape[:5]}; it must be [n] or [n, 1], n from 1 to {MAX_RECORDS}")
    if before not in (0, rows):
        raise ValueError(f"has {rows} rows, the inputs before it {before}")
    return rows


def _binary_size(tensor: RequestInput, column: Number | Category, behind: memoryview | None) -> int | None:
    """Return how many bytes behind the JSON are the tensor's, or None if its data are in the JSON."""
    accepted = [*NUMERIC] if isinstance(column, Number) else ["BYTES", *(_DTYPES if column.meanings else ())]
    if tensor.datatype not in accepted:
        raise ValueError(f"has the datatype {tensor.datatype[:20]!r}; accepted: {', '.join(accepted)}")
    if "shared_memory_region" in tensor.parameters:
        raise ValueError("asks for shared memory: there is no shared memory here; send the data in the request")
    size = tensor.parameters.get("binary_data_size")
    if (size is None) == (tensor.data is None):
        raise ValueError("needs either data or the parameter binary_data_size")
    if size is None:
        return None
    if behind is None:
        raise ValueError(
            "has a binary_data_size, but the header Inference-Header-Content-Length, which says where the JSON ends, "
            "is not there"
        )
    if type(size) is not int or not 0 <= size <= len(behind):
        raise ValueError(f"has the binary_data_size {str(size)[:20]}, but {len(behind)} bytes are left")
    return size


def _json_values(tensor: RequestInput, rows: int) -> list[Any]:
    data = tensor.data or []
    if len(tensor.shape) == 2 and all(isinstance(item, list) and len(item) == 1 for item in data):
        data = [item[0] for item in data]
    if len(data) != rows:
        raise ValueError(f"has the shape {tensor.shape}, but {len(data)} values")
    if "INT" in tensor.datatype and (bad := next((v for v in data if isinstance(v, float)), None)) is not None:
        raise ValueError(f"is {tensor.datatype}, but holds {bad}; FP64 holds any number")
    return data


def _numbers(chunk: memoryview, rows: int, datatype: str) -> list[float]:
    dtype = _DTYPES[datatype]
    if len(chunk) != rows * dtype.itemsize:
        raise ValueError(f"has {len(chunk)} bytes; {rows} rows of {datatype} take {rows * dtype.itemsize}")
    return np.frombuffer(chunk, dtype).tolist()


def _texts(chunk: memoryview, rows: int) -> list[str]:
    """Return texts that each come after their length in bytes, of four bytes itself."""
    texts: list[str] = []
    start = 0
    with suppress(struct.error, UnicodeDecodeError):
        for _ in range(rows):
            (length,) = _LENGTH.unpack_from(chunk, start)
            start += _LENGTH.size
            texts.append(str(chunk[start : start + length], "utf-8"))
            start += length
        if start == len(chunk):
            return texts
    raise ValueError(f"has {len(chunk)} bytes, which are not {rows} texts in UTF-8, each after its length")


def _with_none(values: list[Any], tensor: RequestInput, column: Number | Category) -> list[Any]:
    """Return the values with None for NaN; of texts, for an empty one unless it is one of the categories."""
    if isinstance(column, Number) or tensor.datatype != "BYTES":
        return [None if value != value else value for value in values]  # noqa: PLR0124 - only NaN differs from itself
    return values if "" in column.values else [None if value == "" else value for value in values]


def requested_outputs(requested: Sequence[RequestOutput] | None, *, binary: bool) -> dict[str, bool]:
    """Return the names of the outputs to send, and whether as bytes. `binary` holds where an output says nothing else.

    Raises
    ------
    InferenceError
        If there is no such output, one is asked for twice, or in a way that is not there.
    """
    found: dict[str, bool] = {}
    for output in requested or ():
        if output.name not in (TARGET.name, PROBABILITIES) or output.name in found:
            wrong = "it is asked for twice" if output.name in found else "there is no such output"
            raise InferenceError(
                f"output {output.name[:80]!r}: {wrong}. The outputs are {TARGET.name}, {PROBABILITIES}."
            )
        for absent in ("classification", "shared_memory_region"):
            if output.parameters.get(absent):
                raise InferenceError(f"output {output.name}: there is no {absent} here; leave that parameter out")
        found[output.name] = output.parameters.get("binary_data", binary) is True
    return found or dict.fromkeys((TARGET.name, PROBABILITIES), binary)


def output_of(name: str, predictions: Sequence[Prediction], *, binary: bool) -> tuple[dict[str, Any], bytes]:
    """Return one output as the protocol's object, and the bytes that go behind the JSON."""
    data: list[Any]
    if name == PROBABILITIES:
        classes = len(predictions[0].probabilities)
        data = [value for prediction in predictions for value in prediction.probabilities.values()]
        found = {"name": name, "datatype": "FP64", "shape": [len(predictions), classes]}
    else:
        data = [prediction.label for prediction in predictions]
        found = {"name": name, "datatype": "BYTES", "shape": [len(data)]}
    if not binary:
        return {**found, "data": data}, b""
    if name == PROBABILITIES:
        content = np.array(data, NUMERIC["FP64"]).tobytes()
    else:
        content = b"".join(_LENGTH.pack(len(text)) + text for text in map(str.encode, data))
    return {**found, "parameters": {"binary_data_size": len(content)}}, content
