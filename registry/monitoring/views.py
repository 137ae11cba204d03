"""`/metrics`, for Prometheus: numbers only, no name of a job, an adapter or a person."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from registry.http.paths import METRICS
from registry.http.routes import StrictRoute, errors_in_json, operation_id, service
from registry.monitoring.service import Metrics

_TYPE = "text/plain; version=1.0.0; charset=utf-8"

router = APIRouter(
    tags=["health"],
    responses=errors_in_json(401, 429, 500, 503),
    route_class=StrictRoute,
    generate_unique_id_function=operation_id,
)

MetricsDep = Annotated[Metrics, service(Metrics)]


@router.get(METRICS, response_class=PlainTextResponse)
def read_metrics(metrics: MetricsDep) -> Response:
    """Metrics of the whole registry, in Prometheus' text format; any valid token may read them."""
    return PlainTextResponse(metrics.exposition(), media_type=_TYPE)
