"""Which model serves, which other versions there are, their reports, and whether the service is well."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Path
from starlette.responses import HTMLResponse

from app.dependencies import NOT_READY, CurrentModel, CurrentServer
from app.errors import NoReportError
from app.schemas import Health, ModelInfo, Problem, Rejection, Version
from app.serving.model_server import ModelServer
from penguins.registry import VERSION_PATTERN, Registry, RegistryError, waiting_versions
from penguins.report.page import HEADERS

UNREADABLE: dict[int | str, dict[str, Any]] = {
    503: {"model": Problem, "description": "The folder of the models cannot be read."}
}
# By reference, because FastAPI would document the errors of an HTML route as HTML too.
_PROBLEM = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
NO_REPORT: dict[int | str, dict[str, Any]] = {
    404: {"description": "No such version, or its report is missing or was changed.", **_PROBLEM}
}
NO_SERVING_REPORT = {**NO_REPORT, 503: {"description": NOT_READY[503]["description"], **_PROBLEM}}

VersionInPath = Annotated[
    str, Path(pattern=f"^{VERSION_PATTERN}$", description="As GET /models lists it, such as 20260131T235959Z-0123abcd.")
]

routes, health = APIRouter(tags=["model"]), APIRouter(tags=["health"])


@routes.get("/model-info", response_model=ModelInfo, responses=NOT_READY)
async def model_info(served: CurrentModel, server: CurrentServer) -> dict[str, Any]:
    """The serving model: its origin, its metrics, and the version rejected since, if any."""
    manifest, refused = served.manifest, server.refused
    return {
        **manifest,
        "warnings": manifest["metrics"].get("warnings", []),  # older versions have none
        "accuracy": manifest["metrics"]["accuracy"],
        "features": manifest["columns"],
        "predictor": "pipeline" if served.fallback else "onnx",
        "fallback": served.fallback,
        "rejected": Rejection(version=refused.version, reason=refused.reason) if refused else None,
    }


@routes.get("/models", responses=UNREADABLE)
async def models(server: CurrentServer) -> list[Version]:
    """The published versions, newest first, which of them is serving, and which wait to be activated."""
    return await anyio.to_thread.run_sync(_versions, server, limiter=server.reads)


@routes.get("/models/{version}/report", response_class=HTMLResponse, responses=NO_REPORT)
async def report_of(version: VersionInPath, server: CurrentServer) -> HTMLResponse:
    """The report published with a version."""
    return await anyio.to_thread.run_sync(_report, server.registry, version, limiter=server.reads)


@routes.get("/report", response_class=HTMLResponse, responses=NO_SERVING_REPORT)
async def report(served: CurrentModel, server: CurrentServer) -> HTMLResponse:
    """The serving model's report: scores, errors, feature importance and origin."""
    return await anyio.to_thread.run_sync(_report, server.registry, served.version, limiter=server.reads)


@health.get("/health/live", response_model_exclude_none=True)
async def live() -> Health:
    """The process is running."""
    return Health(status="alive")


@health.get("/health/ready", responses=NOT_READY, response_model_exclude_none=True)
async def ready(_: CurrentModel, server: CurrentServer) -> Health:
    """A model is loaded, and it reproduces its golden rows. `registry` says why no other one would take over."""
    return Health(status="ready", registry=server.problem)


def _report(registry: Registry, version: str) -> HTMLResponse:
    try:
        return HTMLResponse(registry.report(version), headers=HEADERS)
    except RegistryError as error:
        raise NoReportError(f"{error} GET /models says which versions there are.") from error


def _versions(server: ModelServer) -> list[Version]:
    serving, waiting = server.served.version if server.served else None, waiting_versions(server.registry)
    return [_version(server.registry, v, serving, v in waiting) for v in server.registry.versions()]


def _version(registry: Registry, version: str, serving: str | None, waiting: bool) -> Version:
    try:
        manifest = registry.manifest(version)
    except RegistryError as error:
        return Version(version=version, serving=version == serving, problem=str(error))
    return Version(
        version=version,
        serving=version == serving,
        waiting=waiting,
        created_at=manifest["created_at"],
        accuracy=manifest["metrics"]["accuracy"],
        dag_run_id=manifest["dag_run_id"],
    )
