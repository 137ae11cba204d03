"""Which right a request needs, as the view that it is for declares: checked before the request's body is read.

The views' own declaration is the only one: `routes.Writer` and its like are dependencies that say which right they ask
for, and here a request is compared with the routes to see which view it is for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import Scope

from registry.errors import Forbidden
from registry.http.refusals import REFUSALS
from registry.principal import Principal


class May:
    """The dependency of a view whose callers must have a right in some namespace.

    The services decide whether they have it in the namespace that a request is about.
    """

    def __init__(self, action: str) -> None:
        self.action = action

    async def __call__(self, request: Request) -> Principal:
        """Return the caller. Raises Forbidden."""
        principal: Principal = request.scope["principal"]
        principal.require_anywhere(self.action)
        return principal


def right_of(route: APIRoute) -> str | None:
    """Return the right that a route's view asks for; None if it asks for none."""
    return next((each.call.action for each in route.dependant.dependencies if isinstance(each.call, May)), None)


class Rights:
    """The right that each of an application's routes asks for."""

    def __init__(self, routes: Sequence[APIRoute]) -> None:
        #: By method, in the order in which the application tries them.
        self._paths: dict[str, list[tuple[re.Pattern[str], str | None]]] = {}
        self.add(routes)

    def add(self, routes: Sequence[APIRoute]) -> None:
        """Add routes, which are tried after those that are there."""
        for route in routes:
            for method in route.methods or ():
                self._paths.setdefault(method, []).append((route.path_regex, right_of(route)))

    def require(self, scope: Scope) -> None:
        """Raise Forbidden if the caller has the right that the request needs in no namespace.

        A request that no route takes needs none: it is answered with 404 or 405.
        """
        for path, action in self._paths.get(scope["method"], ()):
            if path.match(scope["path"]):
                if action is not None:
                    principal: Principal = scope["principal"]
                    principal.require_anywhere(action)
                return


def note_forbidden(scope: Scope, error: Forbidden) -> None:
    """Count and log a request that was refused for lack of a role."""
    who: Principal | None = scope.get("principal")
    name, token_id = ("nobody", None) if who is None else (who.name, who.token_id)
    # The path without its query, which may contain a signature.
    asked = f"{scope['method']} {scope['path'][:200]!a}"
    REFUSALS.note("forbidden", f"{token_id}", "refused %s to %a (token %s): %s", asked, name, token_id, error.message)
