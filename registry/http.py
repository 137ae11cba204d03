"""What every view shares: who is asking, the services, and how errors leave."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from registry.auth.service import LOCAL, Principal
from registry.errors import STATUS, RegistryError
from registry.services import Services
from sdk.schemas.codes import ErrorBody, ErrorCode, ErrorReply, explain_validation

VERSION = version("adapterctl")
VERSION_HEADER = "X-Adapterctl-Version"

_log = logging.getLogger(__name__)

#: For OpenAPI: every route may answer so.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply} for status in sorted({*STATUS.values()} - {500})
}


def services_of(request: Request) -> Services:
    """The services of this app."""
    services: Services = request.app.state.services
    return services


Given = Annotated[Services, Depends(services_of)]


def _principal(request: Request, services: Given) -> Principal:
    if services.settings.auth == "none":
        return LOCAL
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    return services.tokens.check(secret.strip() if scheme.lower() == "bearer" else None)


def _allowed(action: str) -> Any:
    def check(principal: Annotated[Principal, Depends(_principal)]) -> Principal:
        principal.require(action)
        return principal

    return Depends(check)


Reader = Annotated[Principal, _allowed("read")]
Writer = Annotated[Principal, _allowed("write")]
WorkerToken = Annotated[Principal, _allowed("work")]


def _reply(status: int, code: ErrorCode, message: str, param: str | None = None) -> JSONResponse:
    body = ErrorReply(error=ErrorBody(code=code.value, message=message, param=param))
    return JSONResponse(body.model_dump(), status_code=status)


def install_error_handlers(app: FastAPI) -> None:
    """Let every error leave as `{"error": {"code", "message", "param"}}`."""

    @app.exception_handler(RegistryError)
    async def _refused(_request: Request, error: RegistryError) -> JSONResponse:
        return JSONResponse(error.reply().model_dump(), status_code=error.status)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        message, param = explain_validation(list(error.errors()))
        return _reply(422, ErrorCode.INVALID, message, param)

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> JSONResponse:
        code = ErrorCode.NOT_FOUND if error.status_code == 404 else ErrorCode.INVALID
        return _reply(error.status_code, code, f"{error.detail}; see /docs for what this server offers")

    @app.exception_handler(Exception)
    async def _fault(_request: Request, error: Exception) -> JSONResponse:
        _log.error("unexpected error", exc_info=error)
        return _reply(500, ErrorCode.INTERNAL, "the registry failed unexpectedly; its log has the details")
