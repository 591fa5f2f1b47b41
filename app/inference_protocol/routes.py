"""The protocol's routes. Each of the model's is there twice: for the version that serves, named in the path or not."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response
from pydantic import BaseModel, Field

from app.dependencies import CurrentModel, CurrentServer, ObservedRequest
from app.errors import ServiceError
from app.guards.access import Keys, locked
from app.guards.bodies import add_schemas, described
from app.inference_protocol.inference import InferenceRequest, answer
from app.inference_protocol.tensors import PROBABILITIES, datatype_of
from penguins.schema import EXAMPLE, FEATURES, NAME, TARGET, Category, Number

PATH = f"/v2/models/{NAME}"
_LENGTH = "Inference-Header-Content-Length"


class Failure(BaseModel):
    error: str


class ResponseOutput(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[str | float] | None = Field(None, description="Flat, row by row.")


class InferenceResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[ResponseOutput]


Errors = dict[int | str, dict[str, Any]]
NOT_READY: Errors = {503: {"model": Failure, "description": "No model is ready yet. The body says what to do."}}
OTHER_VERSION: Errors = {404: {"model": Failure, "description": "Another version serves."}}
BAD_REQUEST: Errors = {
    400: {"model": Failure, "description": "It is not a request of the protocol, or not one for this model."},
    413: {"model": Failure, "description": "The body is too large."},
    415: {"model": Failure, "description": "The body is compressed, or a page in a browser sent it as something else."},
}
EXAMPLE_INPUTS = [
    {"name": c.name, "shape": [1], "datatype": datatype_of(c), "data": [EXAMPLE[c.name]]} for c in FEATURES
]
REQUEST_BODY = described({"$ref": "#/components/schemas/InferenceRequest"}, {"id": "1", "inputs": EXAMPLE_INPUTS})


class OtherVersionError(ServiceError):
    """The version in the path is not the one that serves."""

    status_code = 404


async def _same_version(
    version: Annotated[str, Path(description="The one that serves.")], served: CurrentModel
) -> None:
    if version != served.version:
        raise OtherVersionError(
            f"version {version[:80]!r} of {NAME} does not serve; {served.version} does. Without "
            "/versions/ in the path, whichever serves will answer."
        )


# Like all of health, these two need no key, and are not counted.
health = APIRouter(tags=["health"])
service = APIRouter(tags=["open inference protocol"])
model = APIRouter(tags=["open inference protocol"], responses=NOT_READY)


@health.get("/v2/health/live")
async def server_live() -> dict[str, bool]:
    """The process is running."""
    return {"live": True}


@health.get("/v2/health/ready", responses=NOT_READY)
async def server_ready(_: CurrentModel) -> dict[str, bool]:
    """A model is loaded, and it reproduces its golden rows."""
    return {"ready": True}


@service.get("/v2")
async def server_metadata() -> dict[str, Any]:
    """The server, and the extensions of the protocol that it has."""
    return {"name": NAME, "version": "1", "extensions": ["binary_tensor_data"]}


@model.get("")
async def model_metadata(served: CurrentModel) -> dict[str, Any]:
    """The model's tensors: an input for each column, the label and the probabilities as outputs."""
    classes = list(served.manifest["classes"])
    probabilities = {"name": PROBABILITIES, "datatype": "FP64", "shape": [-1, len(classes)]}
    return {
        "name": NAME,
        "versions": [served.version],
        "platform": "sklearn" if served.fallback else "onnx_onnxv1",
        "inputs": [_tensor(column) for column in FEATURES],
        "outputs": [_tensor(TARGET), {**probabilities, "parameters": {"classes": classes}}],
    }


@model.get("/ready")
async def model_ready(_: CurrentModel) -> dict[str, Any]:
    """The model is loaded, and it reproduces its golden rows."""
    return {"name": NAME, "ready": True}


@model.post("/infer", response_model=InferenceResponse, responses=BAD_REQUEST, openapi_extra=REQUEST_BODY)
async def infer(request: Request, served: CurrentModel, server: CurrentServer, observed: ObservedRequest) -> Response:
    """Predict up to 10,000 rows, a tensor for each column; in bytes behind the JSON as well."""
    body, header = await request.body(), request.headers.get(_LENGTH)
    answered, json_bytes = await anyio.to_thread.run_sync(
        answer, body, header, served, observed, limiter=server.batches
    )
    if json_bytes == len(answered):
        response = Response(answered, media_type="application/json")
    else:
        response = Response(answered, media_type="application/octet-stream", headers={_LENGTH: str(json_bytes)})
    observed.echo(response)
    return response


def add_routes(app: FastAPI, keys: Keys | None) -> None:
    """Add the protocol to an application, and the request's models to its OpenAPI."""
    protocol = APIRouter()
    protocol.include_router(service)
    protocol.include_router(model, prefix=PATH)
    protocol.include_router(
        model,
        prefix=f"{PATH}/versions/{{version}}",
        dependencies=[Depends(_same_version)],
        responses=OTHER_VERSION,
        generate_unique_id_function=lambda route: f"{route.name}_of_version",
    )
    app.include_router(protocol, **locked(keys, Failure))
    app.include_router(health)
    add_schemas(app, InferenceRequest)


def _tensor(column: Number | Category) -> dict[str, Any]:
    """Return a column's metadata. The protocol knows no `parameters`: what else is known of the column."""
    facts: dict[str, Any] = {"description": column.description, "required": column.required}
    if isinstance(column, Number):
        facts |= {"minimum": column.minimum, "maximum": column.maximum, "unit": column.unit}
    else:
        facts["values"] = list(column.values)
    return {"name": column.name, "datatype": datatype_of(column), "shape": [-1], "parameters": facts}
