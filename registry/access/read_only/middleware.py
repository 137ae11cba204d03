"""Refuses requests that would change something while the registry is read-only."""

from __future__ import annotations

import re

from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.access.read_only.service import ReadOnlySwitch
from registry.errors import ReadOnly
from registry.http.paths import area_of
from sdk.version import API

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Heartbeats are allowed, so that workers keep the jobs that they hold: an expired lease would restart a job from its
#: last checkpoint, and a heartbeat only adds events to that job. In an emergency, rights can still be taken away.
_LET_THROUGH = re.compile(rf"{API}/(jobs/[^/]+/heartbeat|tokens/([^/]+/)?revoke)")


class KeepReadOnly:
    """ASGI middleware behind the gatekeeper: answers 503 to requests that change something, while that is forbidden."""

    def __init__(self, app: ASGIApp, *, switch: ReadOnlySwitch) -> None:
        self._app = app
        self._switch = switch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        path = scope.get("path", "")
        changes = scope["type"] == "http" and scope["method"] not in _READS and area_of(path).keeps_state
        if changes and _LET_THROUGH.fullmatch(path) is None:
            try:
                if self._switch.is_known:
                    self._switch.require_off()
                else:
                    await run_in_threadpool(self._switch.require_off)
            except ReadOnly as error:
                answer = JSONResponse(error.reply().model_dump(), error.status, headers=error.headers)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)
