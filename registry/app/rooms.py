"""Every room that answers requests of the API, and which paths are whose.

A server imports all of them when it starts. A command over a folder asks for one or two things and ends: there a room is
imported when something that may be its own is asked for. Building all routes takes longer than answering one of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.app.lean_imports import lean_imports
from registry.http.paths import HEALTHZ, METRICS, PAGES, READYZ
from registry.http.rights import Rights
from sdk.version import API


class Room(NamedTuple):
    """The module with a room's `router`, and the paths of its routes: each with all that is below it."""

    views: str
    paths: tuple[str, ...]
    #: The methods of its routes; None: any.
    methods: frozenset[str] | None = None

    def may_answer(self, method: str, path: str) -> bool:
        """Whether a request may be for one of its routes."""
        return (self.methods is None or method in self.methods) and any(is_below(path, own) for own in self.paths)


def _below_api(views: str, *paths: str, methods: frozenset[str] | None = None) -> Room:
    return Room(f"registry.{views}", tuple(f"{API}/{path}" for path in paths), methods)


_READING, _CHANGING = frozenset({"GET"}), frozenset({"POST", "PATCH"})


#: Routes are tried in this order: the one that is requested most comes first.
ROOMS = (
    _below_api(
        "catalog.versions.views",
        *("resolve", "adapters", "versions", "version/norms", "version/claims"),
        methods=_READING,
    ),
    _below_api("catalog.bases.views", "bases", "base"),
    _below_api("catalog.publishing.views", "versions", "version/copy", methods=_CHANGING),
    _below_api("catalog.versions.probe_views", "version/served-probe"),
    _below_api("catalog.versions.state_views", "version", methods=_CHANGING),
    _below_api("catalog.aliases.views", "aliases"),
    _below_api("artifacts.views", "uploads", "manifests"),
    _below_api("datasets.views", "datasets"),
    _below_api("jobs.views", "jobs", "version/training-rows", "workers", "capacity", "devices"),
    _below_api("jobs.event_stream", "jobs"),
    _below_api("series.views", "jobs", "series", "version/series"),
    _below_api("sweeps.views", "sweeps", "jobs"),
    _below_api("promotion.views", "aliases", "promotions", "decisions"),
    _below_api("promotion.policies.views", "policies"),
    _below_api("promotion.approval_views", "approvals"),
    _below_api("promotion.probe_views", "probes"),
    _below_api("evaluations.views", "evaluations"),
    _below_api("evaluations.comparing.views", "evaluations"),
    _below_api("lineage.views", "lineage", "version/about"),
    _below_api("access.views", "whoami", "tokens"),
    _below_api("quotas.views", "quotas"),
    _below_api("access.audit.views", "audit"),
    _below_api("removal.views", "retention", "gc"),
    _below_api("search.views", "search"),
    _below_api("signatures.views", "manifests"),
    _below_api("promotion.statement_views", "aliases"),
    _below_api("serving.views", "serving"),
    _below_api("web.sessions.code_views", "sign-in-codes"),
    _below_api("web.reports.views", "reports"),
    Room("registry.monitoring.views", (METRICS,)),
    Room("registry.app.health", (HEALTHZ, READYZ)),
)


def routes_of(room: Room) -> list[APIRoute]:
    """Import a room and return its routes."""
    return [route for route in importlib.import_module(room.views).router.routes if isinstance(route, APIRoute)]


class OpenedRooms:
    """The routes of the rooms that an application has imported, which are those that its document describes."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._closed = list(ROOMS)
        self._lock = Lock()
        self.routes: list[APIRoute] = []
        self.rights = Rights([])

    def open_all(self) -> None:
        """Import every room."""
        self._open(ROOMS)

    def open_for(self, method: str, path: str) -> None:
        """Import rooms that may answer a request, one after the other until one does: all of them if no route does, since
        then the answer is about all of them. Pages are none of the API's.
        """
        if not self._closed or path.startswith(PAGES):
            return
        for room in ROOMS:
            if room.may_answer(method, path):
                self._open([room])
                if self._answers(method, path):
                    return
        self._open(ROOMS)

    def _answers(self, method: str, path: str) -> bool:
        return any(method in (route.methods or ()) and route.path_regex.match(path) for route in self.routes)

    def _open(self, rooms: Sequence[Room]) -> None:
        with self._lock, lean_imports():
            opened = [room for room in rooms if room in self._closed]
            # Not by `include_router`: with it, the first request would work out again, for all the routes that it is
            # compared with, what FastAPI had worked out when their views were imported. That takes 0.08 s.
            routes = [route for room in opened for route in routes_of(room)]
            self.routes.extend(routes)
            self.rights.add(routes)
            self._app.router.routes.extend(routes)
            self._closed = [room for room in self._closed if room not in opened]


class OpenRooms:
    """ASGI middleware: what may answer a request is imported before anything else looks for it."""

    def __init__(self, app: ASGIApp, *, rooms: OpenedRooms) -> None:
        self._app = app
        self._rooms = rooms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Import, and pass the request on. An import waits for no other process, so it needs no thread."""
        if scope["type"] == "http":
            self._rooms.open_for(scope["method"], scope["path"])
        await self._app(scope, receive, send)


def is_below(path: str, own: str) -> bool:
    """Whether a path is a room's own path or below it.

    >>> is_below("/api/v1/jobs", "/api/v1/jobs"), is_below("/api/v1/jobs/7", "/api/v1/jobs"), is_below("/ui/jobs", "/ui/jobs/")
    (True, True, False)
    """
    return path == own or path.startswith(own if own.endswith("/") else f"{own}/")
