"""The FastAPI application: `create_app` puts the service together, and these routes predict."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Body, FastAPI, Query, Request, Response
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from pydantic_core import to_json
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from app.dependencies import NOT_READY, CurrentModel, CurrentServer, ObservedRequest
from app.errors import add_error_handlers
from app.fast import loader
from app.fast.shortcut import FastPredict
from app.form.page import add_form
from app.guards.access import Keys, RequireKey, locked
from app.guards.admission import AdmitBody
from app.guards.bodies import add_schemas, batch_of, described
from app.guards.browsers import HeadAsGet, WithoutPrefix, add_swagger, allow_origins
from app.inference_protocol import routes as inference_protocol
from app.journal.feedback import Feedback
from app.journal.feedback import routes as feedback
from app.journal.journal import Journal
from app.journal.metrics import FeedbackMetrics
from app.monitoring.counts import Recorder
from app.monitoring.metrics import Metrics
from app.monitoring.port import MetricsPort, metrics_text
from app.monitoring.requests import CountRequests
from app.schemas import (
    BODY_ERRORS,
    Batch,
    BatchPrediction,
    Prediction,
    Problem,
    Record,
)
from app.serving.answers import answer_of
from app.serving.model_server import ModelServer
from app.serving.observers import Observe, Observed
from app.settings import Settings
from app.versions import health
from app.versions import routes as versions
from penguins.registry import Registry
from penguins.schema import EXAMPLE, NAME

DESCRIPTION = (
    f"Predicts with the model that the Airflow DAG `{NAME}` published last. "
    "Each response names the version that made it. For people there is [a form](try)."
)
Counted = Annotated[bool, Query(description="False for what-if questions, which are neither predictions nor drift.")]
# Not in the schema itself, where pydantic would sort the example's keys alphabetically.
ExampleRecord = Annotated[Record, Body(openapi_examples={"a record": {"value": EXAMPLE}})]
BATCH_BODY = described(
    {"$ref": "#/components/schemas/Batch"}, examples={"two records": {"value": {"records": [EXAMPLE, EXAMPLE]}}}
)

predictions = APIRouter(tags=["predict"])


def create_app(settings: Settings | None = None, registry: Registry | None = None) -> FastAPI:
    """Return the application. Without arguments, the environment configures it."""
    settings = settings or Settings()
    server = ModelServer(
        registry or Registry.from_environment(),
        loader,
        poll_seconds=settings.poll_seconds,
        retry_seconds=settings.retry_seconds,
    )

    keys = Keys(settings.keys_file) if settings.keys_file else None
    recorder = Recorder()
    observers: list[Observe] = [recorder.predicted]
    if journal := Journal.of(settings, recorder):
        observers.append(journal.predicted)
    metrics = Metrics(server, recorder, by_key=keys is not None, journal=journal is not None)
    if journal:
        metrics.registry.register(FeedbackMetrics(journal.engine, server))
    port = MetricsPort.of(metrics, settings)
    parts: list[Any] = [part for part in (server, metrics, keys, journal, port) if part]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for part in parts:
            await anyio.to_thread.run_sync(part.start)
        yield
        for part in reversed(parts):
            await anyio.to_thread.run_sync(part.stop)

    unnamed = Observed(observers)

    def observed(headers: Iterable[tuple[bytes, bytes]]) -> Observed:
        return Observed(observers, journal.request_id(headers)) if journal else unnamed

    app = FastAPIOffline(
        title=NAME,
        description=DESCRIPTION,
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        servers=[{"url": settings.root_path}] if settings.root_path else None,
        generate_unique_id_function=lambda route: route.name,  # a generated client's functions are called so
    )
    app.state.model_server, app.state.metrics, app.state.journal = server, metrics, journal
    app.state.observed = observed
    app.add_middleware(AdmitBody, max_bytes=settings.max_body_bytes)
    add_error_handlers(app)
    if keys:
        app.add_middleware(RequireKey, keys=keys)
    for router in (predictions, versions, feedback):
        app.include_router(router, **locked(keys, Problem))
    add_schemas(app, Batch, Feedback)
    inference_protocol.add_routes(app, keys)
    app.include_router(health)
    if not port:
        app.get("/metrics", name="metrics", tags=["health"], response_class=PlainTextResponse)(metrics_text)
    add_swagger(app, settings.root_path)
    add_form(app, max_body_bytes=settings.max_body_bytes)
    is_uncounted = {route.path: "health" in route.tags for route in app.routes if isinstance(route, APIRoute)}
    app.add_middleware(
        CountRequests,
        recorder=recorder,
        endpoints=[path for path, uncounted in is_uncounted.items() if not uncounted],
        excluded=[path for path, uncounted in is_uncounted.items() if uncounted],
    )
    app.add_middleware(HeadAsGet)
    # In front of all middleware, Starlette's own included: together they cost as much as a prediction.
    stack: ASGIApp = FastPredict(
        app.build_middleware_stack(), server, observed, recorder.answered, settings.max_body_bytes, keys
    )
    if settings.root_path:
        stack = WithoutPrefix(stack, settings.root_path)
    if settings.cors_origins:
        stack = allow_origins(stack, settings.cors_origins)
    app.middleware_stack = stack
    return app


@predictions.post("/predict", response_model=Prediction, responses={**NOT_READY, **BODY_ERRORS})
async def predict(
    record: ExampleRecord, served: CurrentModel, observed: ObservedRequest, response: Response
) -> dict[str, Any]:
    """Predict one record. Missing values are null, but at least one measurement is required."""
    observed.echo(response)

    def answer() -> dict[str, Any]:
        return answer_of(observed.tell(served.predict([vars(record)], batch=False)))

    if served.fallback:  # takes milliseconds, which would block the event loop
        return await anyio.to_thread.run_sync(answer)
    return answer()


@predictions.post(
    "/predict/batch",
    response_model=BatchPrediction,
    responses={**NOT_READY, **BODY_ERRORS},
    openapi_extra=BATCH_BODY,
)
async def predict_batch(
    request: Request, served: CurrentModel, server: CurrentServer, observed: ObservedRequest, counted: Counted = True
) -> Response:
    """Predict up to 10,000 records, in order, all with the same version."""
    body = await request.body()

    def answer() -> bytes:
        predicted = served.predict([vars(record) for record in batch_of(body)])
        return to_json(answer_of(observed.tell(predicted) if counted else predicted))

    response = Response(await anyio.to_thread.run_sync(answer, limiter=server.batches), media_type="application/json")
    if counted:
        observed.echo(response)
    return response
