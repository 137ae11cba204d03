"""`/metrics`, for Prometheus: numbers only, no name of a job, an adapter or a person."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security.utils import get_authorization_scheme_param

from registry.errors import Unauthenticated
from registry.http import Given
from registry.texts import errors_in_json

_TYPE = "text/plain; version=1.0.0; charset=utf-8"

router = APIRouter(tags=["health"], responses=errors_in_json(401, 500, 503))


@router.get("/metrics", response_class=PlainTextResponse)
def read_metrics(request: Request, services: Given) -> Response:
    """What waits and runs, and what was counted, in Prometheus' text format; any token that is valid opens it."""
    if services.settings.auth == "token":
        scheme, secret = get_authorization_scheme_param(request.headers.get("Authorization"))
        try:
            services.tokens.check(secret if scheme.lower() == "bearer" else "")
        except Unauthenticated as error:
            return JSONResponse(error.reply().model_dump(), error.status, headers={"WWW-Authenticate": "Bearer"})
    return PlainTextResponse(services.metrics.exposition(), media_type=_TYPE)
