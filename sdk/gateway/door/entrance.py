"""What a gateway answers before its engine is up: that it is alive, and not ready yet."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sdk.gateway.door.refusals import Declined

#: Whether the process is alive. `transformers chat` asks for the second one.
ALIVE = ("/healthz", "/health")
READY = "/readyz"
_WHY = "the engine is being started"


class Entrance:
    """The application that is served: until there is a door, it lets nobody in."""

    def __init__(self) -> None:
        #: All requests but the first two go there, once it is there.
        self.door: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["path"] in ALIVE:
            await JSONResponse({"status": "ok"})(scope, receive, send)
        elif self.door is not None:
            await self.door(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == READY:
            await JSONResponse({"ready": False, "reason": _WHY}, status_code=503)(scope, receive, send)
        else:
            wait = {"Retry-After": "5", "Connection": "close"}
            refused = Declined(503, "unavailable", f"{_WHY}; try again in some seconds", headers=wait)
            await refused.response()(scope, receive, send)
