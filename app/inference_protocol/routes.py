"""The protocol's routes. Each of the model's is there twice: for the version that serves, named in the path or not."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response

from app.dependencies import CurrentModel, CurrentRequest, CurrentServer
from app.errors import ServiceError
from app.guards.access import Keys, locked
from app.guards.bodies import add_schemas, described
from app.inference_protocol.inference import MODEL, answer
from app.inference_protocol.messages import (
    EXAMPLE_REQUEST,
    Failure,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    TensorMetadata,
)
from app.inference_protocol.tensors import PROBABILITIES
from penguins.schema import FEATURES, TARGET, Category, Number

PATH = f"/v2/models/{MODEL}"
EXTENSIONS = ["binary_tensor_data"]
_LENGTH = "Inference-Header-Content-Length"
Errors = dict[int | str, dict[str, Any]]
NOT_READY: Errors = {503: {"model": Failure, "description": "No model is ready yet. The body says what to do."}}
OTHER_VERSION: Errors = {404: {"model": Failure, "description": "Another version serves."}}
BAD_REQUEST: Errors = {
    400: {"model": Failure, "description": "It is not a request of the protocol, or not one for this model."},
    413: {"model": Failure, "description": "The body is too large."},
    415: {"model": Failure, "description": "The body is compressed, or a page in a browser sent it as something else."},
}
REQUEST_BODY = described({"$ref": "#/components/schemas/InferenceRequest"}, EXAMPLE_REQUEST)


class OtherVersionError(ServiceError):
    """The version in the path is not the one that serves."""

    status_code = 404


async def _same_version(
    version: Annotated[str, Path(description="The one that serves.")], served: CurrentModel
) -> None:
    if version != served.version:
        raise OtherVersionError(
            f"version {version[:80]!r} of {MODEL} does not serve; {served.version} does. Without "
            "/versions/ in the path, whichever serves will answer."
        )


VERSIONED = [Depends(_same_version)]


# Like all of health, these two need no key, and are not counted.
health = APIRouter(tags=["health"])
model = APIRouter(tags=["open inference protocol"])


@health.get("/v2/health/live")
async def server_live() -> ServerLive:
    """The process is running."""
    return ServerLive(live=True)


@health.get("/v2/health/ready", responses=NOT_READY)
async def server_ready(_: CurrentModel) -> ServerReady:
    """A model is loaded, and it reproduces its golden rows."""
    return ServerReady(ready=True)


@model.get("/v2")
async def server_metadata() -> ServerMetadata:
    """The server, and the extensions of the protocol that it has."""
    return ServerMetadata(name=MODEL, version="1", extensions=EXTENSIONS)


@model.get(
    f"{PATH}/versions/{{version}}",
    name="model_metadata_of_version",
    responses=NOT_READY | OTHER_VERSION,
    dependencies=VERSIONED,
)
@model.get(PATH, responses=NOT_READY)
async def model_metadata(served: CurrentModel) -> ModelMetadata:
    """The model's tensors: an input for each column, the label and the probabilities as outputs."""
    classes = list(served.manifest["classes"])
    return ModelMetadata(
        name=MODEL,
        versions=[served.version],
        platform="sklearn" if served.fallback else "onnx_onnxv1",
        inputs=[_tensor(column) for column in FEATURES],
        outputs=[
            _tensor(TARGET),
            TensorMetadata(
                name=PROBABILITIES, datatype="FP64", shape=[-1, len(classes)], parameters={"classes": classes}
            ),
        ],
    )


@model.get(
    f"{PATH}/versions/{{version}}/ready",
    name="model_version_ready",
    responses=NOT_READY | OTHER_VERSION,
    dependencies=VERSIONED,
)
@model.get(f"{PATH}/ready", responses=NOT_READY)
async def model_ready(_: CurrentModel) -> ModelReady:
    """The model is loaded, and it reproduces its golden rows."""
    return ModelReady(name=MODEL, ready=True)


@model.post(
    f"{PATH}/versions/{{version}}/infer",
    name="infer_by_version",
    response_model=InferenceResponse,
    responses=NOT_READY | BAD_REQUEST | OTHER_VERSION,
    openapi_extra=REQUEST_BODY,
    dependencies=VERSIONED,
)
@model.post(
    f"{PATH}/infer",
    response_model=InferenceResponse,
    responses=NOT_READY | BAD_REQUEST,
    openapi_extra=REQUEST_BODY,
)
async def infer(request: Request, served: CurrentModel, server: CurrentServer, observed: CurrentRequest) -> Response:
    """Predict up to 10,000 rows, a tensor for each column; in bytes behind the JSON as well."""
    body, header = await request.body(), request.headers.get(_LENGTH)
    answered = await anyio.to_thread.run_sync(answer, body, header, served, observed, limiter=server.batches)
    if answered.json_bytes is None:
        response = Response(answered.body, media_type="application/json")
    else:
        headers = {_LENGTH: str(answered.json_bytes)}
        response = Response(answered.body, media_type="application/octet-stream", headers=headers)
    observed.echo(response)
    return response


def add_routes(app: FastAPI, keys: Keys | None) -> None:
    """Add the protocol to an application, and the request's models to its OpenAPI."""
    app.include_router(model, **locked(keys, Failure))
    app.include_router(health)
    add_schemas(app, InferenceRequest)


def _tensor(column: Number | Category) -> TensorMetadata:
    datatype: Literal["FP64", "BYTES"] = "FP64" if isinstance(column, Number) else "BYTES"
    return TensorMetadata(name=column.name, datatype=datatype, shape=[-1], parameters=_facts(column))


def _facts(column: Number | Category) -> dict[str, Any]:
    facts: dict[str, Any] = {"description": column.description, "required": column.required}
    if isinstance(column, Number):
        return facts | {"minimum": column.minimum, "maximum": column.maximum, "unit": column.unit}
    return facts | {"values": list(column.values)}
