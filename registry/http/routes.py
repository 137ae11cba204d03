"""What every view shares: who is asking, the service it calls, and how errors are answered."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from inspect import iscoroutinefunction
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.db.paging import Cursor, Limit, Paging
from registry.errors import STATUS, Forbidden, Invalid, RegistryError
from registry.http.bodies import PARSED, Parsed, sized
from registry.http.lanes import Lane
from registry.http.refusals import refused
from registry.http.rights import May, note_forbidden, right_of
from registry.pools import Pool
from registry.principal import Principal
from registry.rows.reading_limits import MOST_HELD_BYTES, MOST_WORK
from sdk.formats.row_bounds import MOST_JOB_ROWS, MOST_TARGET_ROWS
from sdk.schemas.codes import ErrorBody, ErrorCode, ErrorReply, explain_validation
from sdk.version import API, VERSION

VERSION_HEADER = "X-Adapterctl-Version"
_VERSION_HEADER_LOWER = VERSION_HEADER.lower().encode()

_log = logging.getLogger(__name__)

# FastAPI names the field of a body, and ignores this warning while it makes the field. Our schemas are built on first use.
warnings.filterwarnings("ignore", message="The 'alias' attribute with value 'body'")

_SAYS = {
    401: "No token, or one that is unknown, expired or revoked.",
    403: "The token's role does not allow this there, or a quota is used up.",
    404: "Nothing has that name, or the token may not see it.",
    408: "A request that did not arrive in time.",
    409: "The state is not what the request assumes.",
    413: "A body that is too long.",
    415: "A body whose Content-Type is not `application/json`.",
    421: "A host for which this server does not answer.",
    422: "A value that breaks a rule, or bytes that are not what they should be.",
    429: "More requests than this token may send.",
    500: "A fault in the server; its log has the details.",
    503: "Database, storage or broker can't be used; the same request may succeed later.",
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string", "pattern": "^[0-9]+$"}}}
_HEADERS = {
    401: {"WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
#: For OpenAPI: the errors that every route may answer with. They name their schema, which the document adds: with its class,
#: FastAPI would make a field for each error of each route, which took a tenth of the time of a command over a folder.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": _SAYS[status],
        "headers": dict(_HEADERS.get(status, {})),
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}}},
    }
    for status in sorted({*STATUS.values()})
}


T = TypeVar("T")


def service(kind: type[T]) -> Any:
    """The dependency that gives a view this application's service of a class: `Annotated[Jobs, service(Jobs)]`."""

    # Not in a thread, which would cost more than the call.
    async def find(request: Request) -> T:
        return service_of(request, kind)

    return Depends(find)


def service_of(request: Request, kind: type[T]) -> T:
    """This application's service of a class."""
    found: T = request.app.state.by_class[kind]
    return found


#: Callers that may do so in some namespace. The services decide whether they may in the namespace that a request is
#: about.
Reader = Annotated[Principal, Depends(May("read"))]
Sender = Annotated[Principal, Depends(May("send"))]
Writer = Annotated[Principal, Depends(May("write"))]
Promoter = Annotated[Principal, Depends(May("promote"))]
WorkerToken = Annotated[Principal, Depends(May("work"))]
Gateway = Annotated[Principal, Depends(May("serve"))]
Admin = Annotated[Principal, Depends(May("admin"))]


async def _page(cursor: Cursor = None, limit: Limit = 100) -> Paging:
    return {"cursor": cursor, "limit": limit}


#: Which page of a list is asked for.
PageOf = Annotated[Paging, Depends(_page)]

#: What a push takes of memory at most while its files are read, whatever modules it has, beside its body and the names of
#: its tensors; and what a completion takes: rows are read one by one, each of at most 64 KiB.
PUSH_BYTES = 7 * 1024 * 1024
_HANDED_IN_BYTES = 4 * 1024 * 1024


def _lane(
    name: str,
    waits: str,
    item: str,
    *,
    at_once: int,
    newcomers: int = 1,
    item_bytes: int = 0,
    waiting: int = 256,
    wait_s: float = 300.0,
) -> Lane:
    """Return a lane for what one process does `at_once`: more would only share its cores and its memory.

    Many may be `waiting`: a pipeline may push a hundred adapters at once. They wait half of what clients wait for the
    answer, or less.
    """
    others = "a namespace that has none" if newcomers == 1 else "namespaces that have none"
    pool = Pool(
        name,
        waits=f"{waits}; {wait_s:g} s",
        at_once=f"{at_once}, and {newcomers} of {others}",
        item=item,
        share=f"by turns: at most {at_once // 2} while others wait, all when alone",
        most_bytes=(at_once + newcomers) * item_bytes,
    )
    return Lane(pool, at_once=at_once, newcomers=newcomers, waiting=waiting, wait_s=wait_s)


#: One for what may take minutes, since bases have many files; and one for completions, whose rows a tenant's own worker
#: makes.
_APART = {
    "reading": _lane(
        "reading",
        "pushes, checkpoints, datasets: their files are read, hashed and inspected",
        f"the bytes of its files, once, in pieces of 1 MiB, {PUSH_BYTES // 1024**2} MiB of memory besides names of tensors; halves of "
        "a module up to 64 MiB each, in temporary files",
        at_once=4,
        item_bytes=PUSH_BYTES,
    ),
    "reading long": _lane(
        "reading long",
        "bases with files, `compare`, slices of scores",
        f"the bytes of a base's files; few scores in the server, {MOST_HELD_BYTES // 1024**2} MiB of memory; otherwise "
        f"{MOST_WORK:,} rows times pairs of targets, read apart",
        at_once=2,
        item_bytes=MOST_HELD_BYTES,
    ),
    "handing in": _lane(
        "handing in",
        "completions of jobs, for the namespaces of the jobs: results are verified and recorded",
        f"the bytes of its files, once; {MOST_TARGET_ROWS:,} rows of a target and {MOST_JOB_ROWS:,} in all, 4 µs each",
        at_once=2,
        item_bytes=_HANDED_IN_BYTES,
    ),
    # More than two submits that plan would only take the interpreter from all others.
    "planning": _lane(
        "planning",
        "jobs that are submitted: they are examined over their bases",
        "one base of 4 MiB of tensors at a time, 3 s; 2,000,000 steps for a pattern, and for ranks",
        at_once=2,
        wait_s=30.0,
    ),
}
#: Fewer than connections to the database, so that some are left for all else that asks it. As many wait as may come from
#: a few addresses: an answer takes milliseconds.
_answering = _lane(
    "answering",
    "all other requests that ask the database",
    "one view: its statements, for which PostgreSQL may take 5 s each",
    at_once=10,
    newcomers=2,
    waiting=1000,
    wait_s=15.0,
)
Pool(
    "threads of the server",
    waits="checks of tokens and the read-only switch, events of jobs; views, which have had their turn",
    at_once="40",
    item="one read of the database by key, or a view",
    share="none is needed: views leave 28 of them free, and what else takes one is a read by key, or counted (streams, waits)",
)


async def apart(
    call: Callable[..., T],
    *,
    lane: Literal["reading", "reading long", "handing in", "planning"] = "reading",
    holder: str | None = None,
    **given: Any,
) -> T:
    """Call a function that reads whole files, or plans, in separate threads: however many wait for one, other requests
    are answered.

    Each `lane` has its own threads. `holder` is the namespace that the work is for, if it isn't for the caller's own.
    Raises RateLimited, Unavailable if the turn doesn't come in time.
    """
    return await _APART[lane].run(call, holder=holder, **given)


async def answered(call: Callable[..., T], *given: Any, **named: Any) -> T:
    """Call a function that asks the database, as views that aren't coroutines are called: by turns.

    Raises RateLimited, Unavailable if the turn doesn't come in time.
    """
    async with _answering.turn():
        return await run_in_threadpool(call, *given, **named)


def written(answer: BaseModel, status: int) -> Response:
    """Write an answer that its type has checked; otherwise FastAPI would check it and take it apart again."""
    return Response(answer.model_dump_json(by_alias=True), status, media_type="application/json")


#: How many errors in a body are listed one by one. Listing half a million takes seconds.
_TOLD_FAULTS = 1000


class _CheckedRequest(Request):
    """A request whose body is the checked value, and is not read again."""

    async def json(self) -> Any:
        return self.scope[PARSED].value


class StrictRoute(APIRoute):
    """A route that gets the value of `body` from the strict parser, and checks it against its type once."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's documented way for a route to read requests differently."""
        handle = super().get_route_handler()
        taken = get_type_hints(self.endpoint, include_extras=True).get("body")
        checker: TypeAdapter[Any] | None = None if taken is None else TypeAdapter(taken)
        if checker is None and self.body_field is not None:
            raise TypeError(f"the route {self.path} takes a body by another name than `body`, which nobody would check")
        if checker is not None and right_of(self) is None:
            raise TypeError(
                f"the route {self.path} takes a body, but nothing says who may send it; add a `who` to its view"
            )
        in_turn = handle if iscoroutinefunction(self.endpoint) else _by_turns(handle)

        async def strictly(request: Request) -> Response:
            parsed: Parsed | None = request.scope.get(PARSED)
            if parsed is None or checker is None:
                return await in_turn(request)
            # FastAPI gets an instance of the type, so it checks nothing more.
            checked = await sized(parsed.size_bytes, _checked, checker, parsed.value)
            request.scope[PARSED] = parsed._replace(value=checked)
            return await in_turn(_CheckedRequest(request.scope, request.receive))

        return strictly


def _by_turns(handle: Callable[[Request], Coroutine[Any, Any, Response]]) -> Callable[[Request], Awaitable[Response]]:
    """A view that FastAPI runs in a thread gets it by turns."""

    async def in_turn(request: Request) -> Response:
        async with _answering.turn():
            return await handle(request)

    return in_turn


def _checked(checker: TypeAdapter[Any], value: Any) -> Any:
    try:
        return checker.validate_python(value)
    except ValidationError as error:
        if error.error_count() > _TOLD_FAULTS:
            raise Invalid(
                f"the body breaks its schema in {error.error_count()} places; see the schema in /docs, and send a shorter "
                "one to see where"
            ) from None
        faults = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in faults]) from None


def room(path: str, tag: str) -> APIRouter:
    """The router of a room below `/api/v1`: every route wants a token and may answer with any of `ERRORS`."""
    return APIRouter(
        prefix=f"{API}{path}",
        tags=[tag],
        responses=ERRORS,
        route_class=StrictRoute,
        generate_unique_id_function=operation_id,
    )


def operation_id(route: APIRoute) -> str:
    """The name of an operation in generated clients: it is the view's name, which is therefore never changed."""
    return route.name


class SayVersion:
    """ASGI middleware: every answer names the server's version, which clients compare with their own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the header."""

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (_VERSION_HEADER_LOWER, VERSION.encode())]
            await send(message)

        await self._app(scope, receive, say if scope["type"] == "http" else send)


def _documented_methods(request: Request) -> str:
    """The methods of all routes that match a path."""
    routes: list[APIRoute] = request.app.state.documented
    found = [route.methods or () for route in routes if route.path_regex.match(request.url.path)]
    return ", ".join(sorted({method for methods in found for method in methods}))


def _reply(status: int, code: ErrorCode, message: str, param: str | None = None) -> JSONResponse:
    body = ErrorReply(error=ErrorBody(code=code.value, message=message, param=param))
    return JSONResponse(body.model_dump(), status_code=status)


def _body_of(request: Request) -> type[BaseModel] | None:
    """The record that a route takes as its body; None if it takes none, or one of several."""
    field = getattr(request.scope.get("route"), "body_field", None)
    kind = None if field is None else field.field_info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error as `{"error": {"code", "message", "param"}}`."""

    @app.exception_handler(RegistryError)
    async def _refused(request: Request, error: RegistryError) -> JSONResponse:
        if isinstance(error, Forbidden):
            note_forbidden(request.scope, error)
        return refused(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        message, param = explain_validation(list(error.errors()), _body_of(request))
        return _reply(422, ErrorCode.INVALID, message, param)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        code = ErrorCode.NOT_FOUND if error.status_code == 404 else ErrorCode.INVALID
        reply = _reply(error.status_code, code, f"{error.detail}; see /docs for what this server offers")
        if error.status_code == 405:
            # Each method is a route of its own, but the error only knows the first one.
            allowed = _documented_methods(request) or (error.headers or {}).get("Allow", "")
            reply.headers["Allow"] = allowed
        return reply

    @app.exception_handler(Exception)
    async def _fault(_request: Request, error: Exception) -> JSONResponse:
        _log.error("unexpected error", exc_info=error)
        return _reply(500, ErrorCode.INTERNAL, "the registry failed unexpectedly; its log has the details")


def errors_in_json(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: the responses of a route that answers with text, for these errors, or for all if none is named."""
    return {
        status: {**said, "headers": dict(said["headers"])}
        for status, said in ERRORS.items()
        if not statuses or status in statuses
    }
