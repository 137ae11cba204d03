"""The OpenAPI document: what the routes say about themselves, and what holds for all of them.

Descriptions of fields are the `#:` comments of the schemas, so that each is written once.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.openapi.utils import get_openapi
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from registry.app.openapi_examples import BODIES, PARAMETERS
from registry.http.paths import area_of
from registry.http.routes import VERSION_HEADER
from sdk.schemas.codes import ErrorReply
from sdk.schemas.field_comments import field_comments
from sdk.schemas.wire import Wire

DESCRIPTION = """A registry of LoRA adapters: bases, adapters and their versions, aliases, datasets, jobs, evaluations.

**Tokens.** Every route below `/api/v1` needs `Authorization: Bearer TOKEN`. A token has a role in one or more
namespaces; whatever it may not read is answered with 404, and changes to what it may only read with 403.

**Names.** A ref is `NAME`, `NAME@vN`, `NAME@ALIAS`, `NAME@latest` or `NAME@sha256:DIGITS`; a name may have a namespace, as
`team/code-review`. What a member of a sweep has made is `sweep:ID/N`. Names are sent in queries and bodies, since they may contain a `/`.

**Errors** are `{"error": {"code", "message", "param"}}`. The code is stable, the message one sentence that ends with what
to do next, and `param` the field at fault.

**Lists** come in pages: `next` of a page is the `cursor` of the following one, and null on the last.

**Bodies** are JSON in UTF-8, sent as `application/json`, and strict: unknown fields, coerced types, NaN and duplicate
keys are refused.

**Files** do not pass through the API. `POST /uploads` says where to send each with PUT, and which are already stored;
`GET /manifests/{digest}/files` says where to fetch each from.

**Repeating a request.** `POST /jobs`, `POST /sweeps`, retries, claims and new tokens take an `Idempotency-Key`: sent again with the same key, a
request makes nothing twice. Every other change is idempotent by digest or compare-and-set.
"""
TAGS = [
    {"name": "catalog", "description": "Bases, adapters, versions, aliases."},
    {"name": "artifacts", "description": "Sending files, and finding them."},
    {"name": "signatures", "description": "Who vouches for which version's files."},
    {
        "name": "promotion",
        "description": "What must hold before an alias moves, what was decided, and who vouches for what it names.",
    },
    {"name": "datasets", "description": "Rows to train on and to score with."},
    {"name": "jobs", "description": "Training, evaluation, merge and preview: for clients, and for workers."},
    {"name": "sweeps", "description": "Trainings with several settings, and which of them is the best."},
    {"name": "evaluations", "description": "Scores of versions and bare bases."},
    {"name": "lineage", "description": "What was made from what."},
    {"name": "reports", "description": "What there is to know of versions, sweeps and decisions, in one file to send."},
    {"name": "search", "description": "Finding versions by what is known about them."},
    {"name": "serving", "description": "For gateways: which version each name means, and who may ask for it."},
    {"name": "people", "description": "Tokens, quotas, the audit trail."},
    {"name": "removal", "description": "Retention rules and garbage collection."},
    {"name": "health", "description": "For those who run the server."},
]

_BEARER = "HTTPBearer"
_TOKEN = {"type": "http", "scheme": "bearer", "description": "A token of `adapterctl token create`."}


def describe(app: FastAPI, open_all: Callable[[], None]) -> None:
    """Let the application's document say all that a client's author needs; `open_all` adds the routes that are not there yet.

    It takes a second to make, and most servers are never asked for it: so it is only made when somebody asks, and in a
    thread, so that others are answered meanwhile.
    """
    making = threading.Lock()

    def document() -> dict[str, Any]:
        with making:
            if app.openapi_schema is None:
                open_all()
                made = get_openapi(
                    title=app.title,
                    version=app.version,
                    description=app.description,
                    tags=app.openapi_tags,
                    routes=app.routes,
                )
                for path, operations in made["paths"].items():
                    for operation in operations.values():
                        _complete(path, operation)
                components = made["components"]
                components["securitySchemes"] = {_BEARER: _TOKEN}
                # Every route names it for its errors.
                errors = ErrorReply.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
                schemas = {**components["schemas"], **errors.pop("$defs"), ErrorReply.__name__: errors}
                # As FastAPI writes the others.
                schemas = jsonable_encoder(schemas, exclude_none=True)
                components["schemas"] = dict(sorted(schemas.items()))
                _describe_fields(components["schemas"])
                app.openapi_schema = made
            return app.openapi_schema

    # FastAPI's documented way to extend the document.
    app.openapi = document  # type: ignore[method-assign]
    (made_in_the_loop,) = [route for route in app.router.routes if getattr(route, "path", None) == app.openapi_url]
    assert isinstance(made_in_the_loop, Route)
    answer = made_in_the_loop.endpoint

    async def openapi(request: Request) -> Response:
        await run_in_threadpool(document)
        response: Response = await answer(request)
        return response

    place = app.router.routes.index(made_in_the_loop)
    app.router.routes[place] = Route(made_in_the_loop.path, openapi, include_in_schema=False)


def _complete(path: str, operation: dict[str, Any]) -> None:
    for response in operation["responses"].values():
        headers = response.setdefault("headers", {})
        headers[VERSION_HEADER] = {
            "description": "The server's version; one minor version apart still understand each other.",
            "schema": {"type": "string"},
        }
    if "requestBody" in operation and operation["operationId"] in BODIES:
        operation["requestBody"]["content"]["application/json"]["example"] = BODIES[operation["operationId"]]
    for parameter in operation.get("parameters", []):
        given = parameter["name"] in PARAMETERS and not {"example", "examples"} & set(parameter)
        if given and "examples" not in parameter["schema"]:
            parameter["example"] = PARAMETERS[parameter["name"]]
    if area_of(path).wants_token:
        # The gatekeeper checks the token; as a dependency of each route it would be read from its header twice.
        operation["security"] = [{_BEARER: []}]


def _describe_fields(schemas: dict[str, Any]) -> None:
    """Give each property of a schema the comment above its field."""
    for model in _models(Wire):
        # The name of a page of something is written with brackets.
        schema = schemas.get(re.sub(r"[^A-Za-z0-9._-]", "_", model.__name__), {})
        for field, comment in field_comments(model).items():
            if field in schema.get("properties", {}):
                schema["properties"][field].setdefault("description", comment)


def _models(model: type[Wire]) -> Iterator[type[Wire]]:
    for child in model.__subclasses__():
        yield child
        yield from _models(child)
