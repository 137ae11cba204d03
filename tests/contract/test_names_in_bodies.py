"""What no adapter can be called, in every body that names one: the caller's mistake, whatever the route."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from fastapi.routing import APIRoute
from support.registries import World

from registry.app.openapi_examples import BODIES
from registry.app.rooms import ROOMS, routes_of

#: Not by grammar, by length, and as a path that leaves its folder.
WRONG = ["://", "a" * 129, "../team"]


def _naming() -> list[APIRoute]:
    routes = [route for room in ROOMS for route in routes_of(room)]
    return [route for route in routes if _places(BODIES.get(route.name))]


def _places(value: Any) -> list[dict[str, Any]]:
    """The objects in a body that name an adapter."""
    if isinstance(value, list):
        return [place for each in value for place in _places(each)]
    if not isinstance(value, dict):
        return []
    own = [value] if isinstance(value.get("adapter"), str) else []
    return own + [place for each in value.values() for place in _places(each)]


@pytest.mark.parametrize("route", _naming(), ids=lambda route: route.name)
def test_wrong_name_of_an_adapter_is_refused(embedded: World, route: APIRoute) -> None:
    for name in WRONG:
        body = copy.deepcopy(BODIES[route.name])
        for place in _places(body):
            place["adapter"] = name
        path = route.path.format(**dict.fromkeys(route.param_convertors, "1"))
        (method,) = route.methods
        answer = embedded.http.request(method, path, json=body)
        assert 400 <= answer.status_code < 500, (route.name, name, answer.text)
