"""From tensors to records and back: a tensor is a column, as JSON or as bytes behind the JSON."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from app.errors import ServiceError
from app.inference_protocol.messages import RequestInput, RequestOutput
from app.schemas import MAX_RECORDS
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
        rows = _rows(tensor)
        first = len(next(iter(columns.values()), [])) or rows
        if rows != first:
            raise InferenceError(f"input {tensor.name} has {rows} rows, the inputs before it {first}")
        _check_datatype(tensor, column)
        size = _binary_size(tensor, behind)
        if size is None:
            values = _flat(tensor, rows)
        else:
            chunk, behind = behind[:size], behind[size:]  # type: ignore[index]
            values = (_texts if tensor.datatype == "BYTES" else _numbers)(tensor, chunk, rows)
        columns[tensor.name] = _with_none(values, tensor, column)
    required = [name for name, column in _COLUMNS.items() if column.required or not columns]
    if absent := [name for name in required if name not in columns]:
        raise InferenceError(f"no input {', '.join(absent)}. Only columns that may be missing may be left out.")
    rows = len(next(iter(columns.values())))
    columns |= {name: [None] * rows for name in _COLUMNS if name not in columns}
    if behind:
        raise InferenceError(
            f"behind the JSON are {len(behind)} bytes more than the inputs' binary_data_size add up to"
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _rows(tensor: RequestInput) -> int:
    rows, *others = tensor.shape or [0]
    if others not in ([], [1]) or not 1 <= rows <= MAX_RECORDS:
        raise InferenceError(
            f"input {tensor.name} has the shape {tensor.shape[:5]}; it must be [n] or [n, 1], n from 1 to {MAX_RECORDS}"
        )
    return rows


def _check_datatype(tensor: RequestInput, column: Number | Category) -> None:
    accepted = [*NUMERIC] if isinstance(column, Number) else ["BYTES", *(_DTYPES if column.meanings else ())]
    if tensor.datatype not in accepted:
        raise InferenceError(
            f"input {tensor.name} has the datatype {tensor.datatype[:20]!r}; accepted: {', '.join(accepted)}"
        )


def _binary_size(tensor: RequestInput, behind: memoryview | None) -> int | None:
    """Return how many bytes behind the JSON are the tensor's, or None if its data are in the JSON."""
    parameters = tensor.parameters or {}
    if "shared_memory_region" in parameters:
        raise InferenceError(f"input {tensor.name}: there is no shared memory here; send the data in the request")
    size = parameters.get("binary_data_size")
    if (size is None) == (tensor.data is None):
        raise InferenceError(f"input {tensor.name} needs either data or the parameter binary_data_size")
    if size is None:
        return None
    if behind is None:
        raise InferenceError(
            f"input {tensor.name} has a binary_data_size, but the header Inference-Header-Content-Length, which says "
            "where the JSON ends, is not there"
        )
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(behind):
        raise InferenceError(
            f"input {tensor.name} has the binary_data_size {str(size)[:20]}, but {len(behind)} bytes are left"
        )
    return size


def _flat(tensor: RequestInput, rows: int) -> list[Any]:
    data = tensor.data or []
    if len(tensor.shape) == 2 and data and all(isinstance(item, list) and len(item) == 1 for item in data):
        data = [item[0] for item in data]
    if len(data) != rows:
        raise InferenceError(f"input {tensor.name} has the shape {tensor.shape}, but {len(data)} values")
    if "INT" in tensor.datatype and (bad := next((v for v in data if isinstance(v, float)), None)) is not None:
        raise InferenceError(f"input {tensor.name} is {tensor.datatype}, but holds {bad}; FP64 holds any number")
    return data


def _numbers(tensor: RequestInput, chunk: memoryview, rows: int) -> list[float]:
    dtype = _DTYPES[tensor.datatype]
    if len(chunk) != rows * dtype.itemsize:
        raise InferenceError(
            f"input {tensor.name} has {len(chunk)} bytes; {rows} rows of {tensor.datatype} take {rows * dtype.itemsize}"
        )
    return np.frombuffer(chunk, dtype).tolist()


def _texts(tensor: RequestInput, chunk: memoryview, rows: int) -> list[str]:
    """Return texts that each come after their length in bytes, of four bytes itself."""
    texts: list[str] = []
    start = 0
    try:
        for _ in range(rows):
            (length,) = _LENGTH.unpack_from(chunk, start)
            start += _LENGTH.size
            texts.append(str(chunk[start : start + length], "utf-8"))
            start += length
        if start != len(chunk):
            raise ValueError("too short or too long")
    except (struct.error, ValueError):
        raise InferenceError(
            f"input {tensor.name} has {len(chunk)} bytes, which are not {rows} texts in UTF-8, each after its length"
        ) from None
    return texts


def _with_none(values: list[Any], tensor: RequestInput, column: Number | Category) -> list[Any]:
    """Return the values with None for NaN, and for an empty text unless it is one of the categories."""
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
    if not requested:
        return dict.fromkeys((TARGET.name, PROBABILITIES), binary)
    found: dict[str, bool] = {}
    for output in requested:
        parameters = output.parameters or {}
        if output.name not in (TARGET.name, PROBABILITIES) or output.name in found:
            wrong = "it is asked for twice" if output.name in found else "there is no such output"
            raise InferenceError(
                f"output {output.name[:80]!r}: {wrong}. The outputs are {TARGET.name}, {PROBABILITIES}."
            )
        for absent in ("classification", "shared_memory_region"):
            if parameters.get(absent):
                raise InferenceError(f"output {output.name}: there is no {absent} here; leave that parameter out")
        found[output.name] = parameters.get("binary_data", binary) is True
    return found


def outputs_of(
    predictions: Sequence[dict[str, Any]], requested: Mapping[str, bool]
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield each output as the protocol's object, and the bytes that go behind the JSON.

    Parameters
    ----------
    predictions : sequence of dict
        As in the response of /predict/batch.
    requested : mapping of str to bool
        From `requested_outputs`.
    """
    for name, binary in requested.items():
        data: list[Any] = [prediction[name] for prediction in predictions]
        found = {"name": name, "datatype": "BYTES", "shape": [len(data)]}
        if name == PROBABILITIES:
            found |= {"datatype": "FP64", "shape": [len(data), len(data[0])]}
            data = [value for row in data for value in row.values()]
        if binary:
            content = _bytes_of(data)
            yield {**found, "parameters": {"binary_data_size": len(content)}}, content
        else:
            yield {**found, "data": data}, b""


def _bytes_of(data: Sequence[Any]) -> bytes:
    if isinstance(data[0], str):
        texts = [text.encode() for text in data]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    return np.array(data, NUMERIC["FP64"]).tobytes()
