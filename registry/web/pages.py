"""How a page is answered: by a view that reads its query, calls one service and renders a template.

Every view of a page is a route of `pages()`. Whatever it raises becomes a page as well; whatever it changes comes as a form
that holds the session's CSRF token, and from a page of this origin, which is checked here, before the view is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.convertors import Convertor, register_url_convertor

from registry.errors import Forbidden, Invalid, RegistryError, TooLarge, WrongMediaType
from registry.http.rights import note_forbidden
from registry.http.routes import answered, apart
from registry.principal import Principal
from registry.web.forms import FormFields
from registry.web.rendering import link, render
from registry.web.signed_in import SignedIn
from sdk.schemas.codes import explain_validation

F = TypeVar("F", bound=FormFields)


#: Nothing runs, loads or is sent anywhere but to this origin, and no page of another site can hold ours.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # What a token may see isn't kept by anybody else, and is gone after the session.
    "Cache-Control": "no-store",
}
#: How long a form may be, in bytes.
_MOST_FORM_BYTES = 64 * 1024
_MOST_FIELDS = 100
_FORM = re.compile(r'application/x-www-form-urlencoded(?:\s*;\s*charset="?utf-8"?)?', re.IGNORECASE)
_TITLES = {
    401: "Sign in again",
    403: "Not allowed",
    404: "Not found",
    409: "Changed meanwhile",
    413: "Too long",
    421: "Another host",
    429: "Too often",
    500: "The registry failed",
    503: "Not available now",
}


class _VersionNumber(Convertor[int]):
    """The number of a version in an address; what has more digits is none, and Python refuses to read thousands of them."""

    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


# Known before any room's routes are made, as `{number:version}`.
register_url_convertor("version", _VersionNumber())


async def _visitor(request: Request) -> Principal:
    principal: Principal = request.scope["principal"]
    return principal


#: Who reads a page: the holder of the session's token, with the roles that it has now.
Visitor = Annotated[Principal, Depends(_visitor)]


def page(request: Request, template: str, *, status: int = 200, **shown: Any) -> Response:
    """Return a page: a template, with the reader and what their forms have to hold."""
    session: SignedIn | None = request.scope.get("session")
    who: Principal | None = request.scope.get("principal")
    text = render(
        template,
        request=request,
        who=who,
        csrf="" if session is None else session.csrf,
        **shown,
    )
    return Response(text, status, headers=HEADERS, media_type="text/html; charset=utf-8")


async def long_page(
    request: Request, template: str, shown: Callable[[], Mapping[str, Any]], *, is_long: bool
) -> Response:
    """Return a page that may take long to lay out: what it shows is found out, and written, in a thread and not while everybody
    waits; among other long work if it `is_long`.
    """

    def write() -> Response:
        return page(request, template, **shown())

    return await (apart(write, lane="reading long") if is_long else answered(write))


def moved(to: str) -> Response:
    """Return what a form that did something answers: go and look at this page."""
    return RedirectResponse(to, 303, headers=HEADERS)


async def pressed(request: Request, act: Callable[..., object], room: str, ident: str, *, who: Principal) -> Response:
    """Return what a form answers that is only a button: it does one thing to one job or sweep, whose page comes next."""
    form_of(request, FormFields)
    await answered(act, ident, who=who)
    return moved(link(room, ident))


def form_of(request: Request, kind: type[F]) -> F:
    """Return the checked form of a request. Raises Invalid."""
    try:
        return kind.model_validate(request.state.form)
    except ValidationError as error:
        message, param = explain_validation([{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()])
        raise Invalid(message, param=param) from None


class _OpenRoute(APIRoute):
    """A route of a page that is there without a session."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **given: Any) -> None:
        super().__init__(path, endpoint, **given)
        if self.methods is not None and "GET" in self.methods:
            self.methods.add("HEAD")

    async def form(self, request: Request) -> None:
        """Check the form of a request, before the view is called."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's documented way for a route to read requests differently."""
        handle = super().get_route_handler()

        async def respond(request: Request) -> Response:
            try:
                if request.method == "POST":
                    await self.form(request)
                answer = await handle(request)
                return _head_of(answer) if request.method == "HEAD" else answer
            except RegistryError as error:
                if isinstance(error, Forbidden):
                    note_forbidden(request.scope, error)
                return refusal(request, error)
            except RequestValidationError as error:
                message, param = explain_validation(list(error.errors()))
                return refusal(request, Invalid(message, param=param))

        return respond


class PageRoute(_OpenRoute):
    """A route of a page."""

    async def form(self, request: Request) -> None:
        """Keep the fields of a form of this session as `request.state.form`. Raises Invalid, TooLarge, Forbidden."""
        request.state.form = await _checked_form(request)


def _head_of(answer: Response) -> Response:
    """Return an answer without its body, which might have no end."""
    head = Response(status_code=answer.status_code, background=answer.background)
    head.raw_headers = answer.raw_headers
    return head


def refusal(request: Request, error: RegistryError) -> Response:
    """Return the page that says why there is none."""
    return failure(request, error.status, error.message, error.headers)


def failure(request: Request, status: int, message: str, headers: Mapping[str, str]) -> Response:
    """Return the page of an error with this HTTP status."""
    answer = page(request, "error.html", status=status, title=_TITLES.get(status, "Not possible"), message=message)
    answer.headers.update(headers)
    return answer


def pages() -> APIRouter:
    """The router of a room's pages. Views that ask the database are coroutines that call `answered` or `apart`."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


def open_pages() -> APIRouter:
    """The router of pages that are there without a session. Their forms hold no CSRF token, and they read them themselves."""
    return APIRouter(route_class=_OpenRoute, include_in_schema=False)


async def _checked_form(request: Request) -> dict[str, str]:
    """Return the fields of a form of this session. Raises Invalid, TooLarge, Forbidden."""
    session: SignedIn | None = request.scope.get("session")
    fields = await read_form(request)
    if session is None or not session.has_made(fields.pop("csrf", "")):
        raise Forbidden("this form is of another session; load the page again, and send it from there")
    return fields


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form, each given once. Raises Invalid, TooLarge, WrongMediaType."""
    if _FORM.fullmatch(request.headers.get("Content-Type", "")) is None:
        raise WrongMediaType("a form is sent as application/x-www-form-urlencoded, in UTF-8; send it from its page")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MOST_FORM_BYTES:
            raise TooLarge(f"a form has at most {_MOST_FORM_BYTES} bytes; shorten its texts")
    try:
        given = parse_qsl(
            body.decode("utf-8"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        raise Invalid("the form is not one of this registry's pages; load the page again") from None
    if len({name for name, _ in given}) != len(given):
        raise Invalid("a field of the form is given twice; load the page again")
    return dict(given)
